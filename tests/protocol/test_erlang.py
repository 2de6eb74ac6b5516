"""Sessions over TCP with a real Erlang, which reads their output, and vice versa."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quicdist.etf import Atom, Export, Pid, Reference
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.errors import HandshakeRefused
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import SendHandshake
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.signals import NO_PAYLOAD, SPAWN_LINKED, Message, Signal, SpawnReply
from tests.protocol import forms as c
from tests.protocol.forms import RegSend
from tests.protocol.talk import FORMS, acceptor, initiator, node
from tests.protocol.tcp_node import PORT_NAME, TcpNode, erl_args, listener
from tests.support.erlang import Erlang
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.erlang

ECHO = Atom("echo")
START = """
register(echo, spawn(fun Loop() ->
    receive {From, Term} -> From ! {self(), Term}, Loop() end
end)), <<>>.
"""
MIB = bytes(range(256)) * 4096


class Peer:
    """A real Erlang node, and the listening socket of this node."""

    def __init__(self) -> None:
        self.server = listener()
        self.port = self.server.getsockname()[1]
        self.name = f"otp{self.port}@127.0.0.1"
        self.erlang = Erlang(*erl_args(self.name, "secret", self.port))
        self.erlang.eval(START)

    def close(self) -> None:
        self.erlang.close()
        self.server.close()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    one = Peer()
    yield one
    one.close()


_numbers = itertools.count(1)


def our_name() -> str:
    """Returns a new node name, because Erlang may still be removing the previous one."""
    return f"py{next(_numbers)}@{PORT_NAME}"


def dialed(peer: Peer, name: str, flags: Flag = DEFAULT_FLAGS) -> TcpNode:
    """Yields a connection that this node dialed."""
    session = initiator(node(name, flags=flags), expected_peer=peer.name)
    tcp = TcpNode.dial(session, peer.port)
    tcp.shake()
    return tcp


def answered(peer: Peer, name: str, flags: Flag = DEFAULT_FLAGS) -> TcpNode:
    """Yields a connection that Erlang dialed."""
    peer.erlang.eval(f"spawn(fun() -> net_kernel:connect_node('{name}') end), <<>>.")
    sock, _ = peer.server.accept()
    tcp = TcpNode(acceptor(node(name, flags=flags), expected_peer=peer.name), sock)
    tcp.shake()
    return tcp


def pid(name: str, number: int = 1) -> Pid:
    return Pid(Atom(name), number, 0, 77)


def echo(tcp: TcpNode, me: Pid, term: Any) -> Any:
    """Returns how Erlang prints a term."""
    tcp.send(RegSend(me, ECHO), (me, term))
    return tcp.receive_for(me)[1]


def echo_pid(tcp: TcpNode, me: Pid) -> Pid:
    tcp.send(RegSend(me, ECHO), (me, 0))
    found = tcp.receive_for(me)[0]
    assert isinstance(found, Pid)
    return found


# -- handshakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [dialed, answered])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_both_ways(
    peer: Peer, form: str, connect: Callable[[Peer, str, Flag], TcpNode]
) -> None:
    name = our_name()
    me = pid(name)
    with connect(peer, name, FORMS[form]) as tcp:
        since_28 = Flag.ALTACT_SIG | Flag.NATIVE_RECORDS
        assert tcp.session.flags | since_28 == FORMS[form]
        assert tcp.session.peer.name == peer.name
        for term in (1, "ž", [Atom("x"), me], {Atom("k"): (1.5, [b"v"])}, MIB, [Atom("x")] * 300):
            expected = term.encode() if isinstance(term, str) else term
            assert echo(tcp, me, term) == expected


def test_erlang_finds_out_about_a_wrong_cookie(peer: Peer) -> None:
    session = initiator(node(our_name(), cookie="public"))
    with TcpNode.dial(session, peer.port) as tcp, pytest.raises(EOFError):
        tcp.shake()


def test_we_find_out_about_a_wrong_cookie(peer: Peer) -> None:
    name = our_name()
    peer.erlang.eval(f"spawn(fun() -> net_kernel:connect_node('{name}') end), <<>>.")
    sock, _ = peer.server.accept()
    with (
        TcpNode(acceptor(node(name, cookie="public")), sock) as tcp,
        pytest.raises(HandshakeRefused, match="another cookie"),
    ):
        tcp.shake()


def test_erlang_names_us(peer: Peer) -> None:
    flags = DEFAULT_FLAGS | Flag.NAME_ME
    with TcpNode.dial(initiator(node(PORT_NAME, flags=flags)), peer.port) as tcp:
        connected = tcp.shake()
        assert connected.local_name.endswith("@" + PORT_NAME)
        me = Pid(Atom(connected.local_name), 1, 0, connected.local_creation)
        assert echo(tcp, me, [me]) == [me]


def test_we_name_an_erlang() -> None:
    server = listener()
    port = server.getsockname()[1]
    with Erlang(*erl_args("undefined@127.0.0.1", "secret", port)) as erlang:
        erlang.eval(f"spawn(fun() -> net_kernel:connect_node('py@{PORT_NAME}') end), <<>>.")
        sock, _ = server.accept()
        server.close()
        decision = Named("ours@127.0.0.1", 5)
        with TcpNode(acceptor(node(f"py@{PORT_NAME}")), sock, decision) as tcp:
            connected = tcp.shake()
            assert (connected.peer.name, connected.peer.creation) == ("ours@127.0.0.1", 5)
            me = pid(f"py@{PORT_NAME}")
            erlang.eval(START)
            assert echo(tcp, me, 1) == 1
            assert echo_pid(tcp, me).node == "ours@127.0.0.1"
            assert erlang.eval("atom_to_list(node()).").decode() == "ours@127.0.0.1"


def test_an_old_connection_gives_way_to_a_new_one(peer: Peer) -> None:
    name = our_name()
    me = pid(name)
    with dialed(peer, name) as old:
        assert echo(old, me, 1) == 1
        with dialed(peer, name) as new:
            assert echo(new, me, 2) == 2
        with pytest.raises(EOFError):
            old.receive()


def test_erlang_answers_alive_that_its_old_connection_stands(peer: Peer) -> None:
    """A listener that considers itself connected sends `alive`, which Erlang handles."""
    name = our_name()
    peer.erlang.eval(f"spawn(fun() -> net_kernel:connect_node('{name}') end), <<>>.")
    sock, _ = peer.server.accept()
    with TcpNode(acceptor(node(name)), sock, decision=Status.ALIVE) as tcp:
        tcp.shake()
        assert echo(tcp, pid(name), 1) == 1


def test_the_greater_name_s_attempt_survives(peer: Peer) -> None:
    """Both dial at once: `py` is greater than `otp`, so the attempt of `py` continues."""
    name = our_name()
    peer.erlang.eval(f"spawn(fun() -> net_kernel:connect_node('{name}') end), <<>>.")
    theirs, _ = peer.server.accept()
    theirs.settimeout(PATIENCE)
    with theirs, theirs.makefile("rb") as stream:
        # Waits for Erlang's name first, which avoids a race with this node's name.
        assert len(stream.read(17 + len(peer.name))) == 17 + len(peer.name)
        with TcpNode.dial(initiator(node(name)), peer.port) as ours:
            (first,) = ours.session.start()
            assert isinstance(first, SendHandshake)
            ours.socket.sendall(len(first.data).to_bytes(2, "big") + first.data)
            assert ours.stream.read(18) == b"\0\x10sok_simultaneous"
            # Erlang has abandoned its own attempt and sends nothing more on it.
            assert stream.read() == b""


# -- atoms --------------------------------------------------------------------------------------


def test_a_flood_of_atoms_both_ways(peer: Peer) -> None:
    name = our_name()
    me = pid(name)
    with dialed(peer, name) as tcp:
        for start in range(0, 100_000, 200):
            # Most atoms are new and some are repeated, so both caches replace entries.
            message = [Atom(f"flood_{number}") for number in range(start, start + 200)]
            message += [Atom(f"stay_{number}") for number in range(40)]
            assert echo(tcp, me, message) == message


def test_one_message_with_more_atoms_than_a_header_holds(peer: Peer) -> None:
    name = our_name()
    me = pid(name)
    with dialed(peer, name) as tcp:
        message = [Atom(f"many_{number}") for number in range(10_000)]
        for _ in range(3):
            assert echo(tcp, me, message) == message


def test_long_atoms_both_ways(peer: Peer) -> None:
    name = our_name()
    me = pid(name)
    with dialed(peer, name) as tcp:
        for letters in ("x", "ž", "🐘"):
            message = [Atom(letters * size) for size in (1, 63, 64, 127, 128, 254, 255)]
            assert echo(tcp, me, message) == message
            assert echo(tcp, me, message) == message


# -- fragments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["fragments", "both"])
def test_fragments_of_several_messages_mingle(peer: Peer, form: str) -> None:
    name = our_name()
    senders = [pid(name, number) for number in range(1, 6)]
    with dialed(peer, name, FORMS[form]) as tcp:
        waiting = [
            tcp.session.frames(
                tcp.session.encode(Message(me, ECHO), (me, [Atom(f"of_{me.id}"), MIB]))
            )
            for me in senders
        ]
        while waiting:
            turn = waiting.pop(0)
            parts = next(turn, None)
            if parts is not None:
                tcp.send_frame(parts)
                waiting.append(turn)
        answers = {}
        for _ in senders:
            event = tcp.receive()
            assert isinstance(event.signal, Message)
            answers[event.signal.to] = _second(event.payload)
    assert answers == {me: [Atom(f"of_{me.id}"), MIB] for me in senders}


def _second(pair: Any) -> Any:
    return pair[1]


def test_large_messages_of_several_erlang_processes(peer: Peer) -> None:
    name = our_name()
    me = pid(name)
    spawn = """
        To = persistent_term:get(us),
        [spawn(fun() ->
            Bin = binary:copy(<<N>>, 1 bsl 20),
            [To ! {N, M, Bin, list_to_atom("from_" ++ integer_to_list(N))} || M <- lists:seq(1, 3)]
         end) || N <- lists:seq(1, 8)], <<>>.
    """
    with dialed(peer, name) as tcp:
        _introduce(peer, tcp, me)
        peer.erlang.eval(spawn)
        seen: dict[int, list[int]] = {}
        for _ in range(24):
            number, count, binary, atom = tcp.receive_for(me)
            assert binary == bytes([number]) * 2**20
            assert atom == f"from_{number}"
            seen.setdefault(number, []).append(count)
    assert seen == {number: [1, 2, 3] for number in range(1, 9)}


def _introduce(peer: Peer, tcp: TcpNode, me: Pid) -> None:
    """Stores this process's pid in the persistent_term `us` for Erlang source."""
    peer.erlang.eval("""
        register(keeper, spawn(fun() -> receive T -> persistent_term:put(us, T) end end)), <<>>.
    """)
    tcp.send(RegSend(me, Atom("keeper")), me)
    peer.erlang.eval("""
        (fun Wait() -> case whereis(keeper) of undefined -> <<>>; _ -> Wait() end end)().
    """)


# -- control messages ---------------------------------------------------------------------------


def test_links_monitors_and_spawns_as_a_real_node_answers_them(peer: Peer) -> None:
    name = our_name()
    me, gl = pid(name), pid(name, 2)
    ref = Reference(Atom(name), (1, 2, 3), 77)

    def spawned(tcp: TcpNode, *opts: Any) -> Pid:
        mfa = (Atom("timer"), Atom("sleep"), 1)
        tcp.send(c.SpawnRequest(ref, me, gl, mfa, list(opts)), [Atom("infinity")])
        event = tcp.receive()
        assert isinstance(event.signal, SpawnReply)
        assert isinstance(event.signal.result, Pid)
        assert event.signal.flags == (SPAWN_LINKED if opts else 0)
        return event.signal.result

    def received(tcp: TcpNode) -> tuple[Signal, Any]:
        event = tcp.receive()
        assert isinstance(event, MessageReceived)
        return event.signal, event.payload

    kill = Atom("kill")
    with dialed(peer, name) as tcp:
        one = spawned(tcp)
        tcp.send(c.MonitorP(me, one, ref))
        tcp.send(c.PayloadExit2(me, one), kill)
        assert received(tcp) == c.meaning(c.PayloadMonitorPExit(one, me, ref), Atom("killed"))

        two = spawned(tcp, Atom("link"))
        tcp.send(c.UnlinkId(7, me, two))
        assert received(tcp) == c.meaning(c.UnlinkIdAck(7, two, me), NO_PAYLOAD)
        tcp.send(c.Link(me, two))
        tcp.send(c.PayloadExit2(me, two), Atom("reason"))
        assert received(tcp) == c.meaning(c.PayloadExit(two, me), Atom("reason"))

        tcp.send(c.MonitorP(me, Atom("nobody"), ref))
        down = c.PayloadMonitorPExit(Atom("nobody"), me, ref)
        assert received(tcp) == c.meaning(down, Atom("noproc"))
        tcp.send(c.SpawnRequest(ref, me, gl, (Atom("m"), Atom("f"), 0), [Atom("bad")]), [])
        assert received(tcp) == c.meaning(c.SpawnReply(ref, me, 0, Atom("badopt")), NO_PAYLOAD)
        assert echo(tcp, me, Export(Atom("m"), Atom("f"), 1)) == Export(Atom("m"), Atom("f"), 1)


def test_a_real_node_survives_every_message_that_it_knows(peer: Peer) -> None:
    """The BEAM closes the connection on an invalid control message."""
    name = our_name()
    me = pid(name)
    ref = Reference(Atom(name), (1, 2, 3), 77)
    with dialed(peer, name) as tcp:
        target = echo_pid(tcp, me)
        alias = Reference(target.node, (1, 2, 3), target.creation)
        token = (0, 0, 1, me, 0)
        messages: list[tuple[c.Control, Any]] = [
            (c.Send(target), 1),
            (c.RegSend(me, Atom("nobody")), 1),
            (c.RegSendTT(me, Atom("nobody"), token), 1),
            (c.SendTT(target, token), 1),
            (c.SendSender(me, target), 1),
            (c.SendSenderTT(me, target, token), 1),
            (c.AliasSend(me, alias), 1),
            (c.AliasSendTT(me, alias, token), 1),
            (c.GroupLeader(me, target), NO_PAYLOAD),
            (c.Exit(me, target, Atom("x")), NO_PAYLOAD),
            (c.ExitTT(me, target, token, Atom("x")), NO_PAYLOAD),
            (c.PayloadExit(me, target), Atom("x")),
            (c.PayloadExitTT(me, target, token), Atom("x")),
            (c.Exit2(me, target, Atom("normal")), NO_PAYLOAD),
            (c.Exit2TT(me, target, token, Atom("normal")), NO_PAYLOAD),
            (c.PayloadExit2(me, target), Atom("normal")),
            (c.PayloadExit2TT(me, target, token), Atom("normal")),
            (c.DemonitorP(me, target, ref), NO_PAYLOAD),
            (c.DemonitorP(me, Atom("nobody"), ref), NO_PAYLOAD),
            (c.MonitorPExit(me, target, ref, Atom("x")), NO_PAYLOAD),
            (c.PayloadMonitorPExit(me, target, ref), Atom("x")),
            (c.UnlinkIdAck(9, me, target), NO_PAYLOAD),
            (c.SpawnReply(alias, target, 0, Atom("x")), NO_PAYLOAD),
            (c.SpawnReplyTT(alias, target, 0, me, token), NO_PAYLOAD),
        ]
        if Flag.ALTACT_SIG in tcp.session.flags:
            messages.append((c.AltactSigSend(c.ALTACT_PRIO, me, target), 1))
        for control, payload in messages:
            tcp.send(control, payload)
            assert echo(tcp, me, type(control).__name__.encode()), control
