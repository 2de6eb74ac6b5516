"""A stock Erlang node can do to another only what the policy of the other's gateway allows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from quicdist import Identity, Node, Trust
from quicdist.cluster.otp_names import OTP_NAMES
from quicdist.etf import Atom, Pid, Reference, Term, decode
from quicdist.gateway import Mode, PeerRules, Pids, Policy
from quicdist.protocol.signals import NO_PAYLOAD
from tests.protocol import forms as ctl
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl, loopback_settings
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.erlang

SERVER = """
Server = fun Loop() ->
    receive
        {'$gen_call', From, {whoami, B}} -> gen_server:reply(From, {self(), byte_size(B)});
        {Pid, answer_by_pid} -> Pid ! {the_answer, 42};
        {system, _, _} -> exit(reached)
    end,
    Loop()
end,
[register(Name, spawn(Server)) || Name <- [counter, hidden]],
timer:start(),
[].
"""


@dataclass(frozen=True)
class Filtered:
    """Two nodes: `peer` sends requests to `node`, whose gateway has a policy."""

    peer: Erlang
    node: Erlang
    peer_name: str
    node_name: str


def show(source: str) -> str:
    return f'io_lib:format("~0tp", [begin {source} end]).'


def ask(erlang: Erlang, source: str, data: bytes = b"") -> str:
    return erlang.eval(show(source), data).decode()


def filtered(stack: ExitStack, policy: Policy) -> Filtered:
    peer_gateway = stack.enter_context(GatewayThread())
    node_gateway = stack.enter_context(GatewayThread(replace(loopback_settings(), policy=policy)))
    peer = stack.enter_context(gatewayed_erl(peer_gateway))
    node = stack.enter_context(gatewayed_erl(node_gateway))
    for erlang in (peer, node):
        erlang.eval(SERVER)
    return Filtered(peer, node, peer_gateway.name, node_gateway.name)


RULES = PeerRules(
    nodes=("*@127.0.0.1",), names=("counter", "sub*"), calls=("lists:*", "erlang:node")
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Filtered]:
    with ExitStack() as stack:
        yield filtered(stack, Policy((RULES,)))


def test_a_ping_is_answered_both_ways(pair: Filtered) -> None:
    assert ask(pair.peer, f"net_adm:ping('{pair.node_name}')") == "pong"
    assert ask(pair.node, f"net_adm:ping('{pair.peer_name}')") == "pong"


def test_a_listed_name_is_called_with_more_than_a_fragment(pair: Filtered) -> None:
    big = f"gen_server:call({{counter, '{pair.node_name}'}}, {{whoami, <<0:(8*1000000)>>}})"
    assert ask(pair.peer, f"{{P, N}} = {big}, {{node(P), N}}") == f"{{'{pair.node_name}',1000000}}"


def test_another_name_is_as_if_there_were_no_such_process(pair: Filtered) -> None:
    call = f"catch gen_server:call({{hidden, '{pair.node_name}'}}, {{whoami, <<0:8000000>>}})"
    assert ask(pair.peer, call).startswith("{'EXIT',{noproc,")
    assert (
        ask(
            pair.peer,
            f"M = monitor(process, {{hidden, '{pair.node_name}'}}),"
            "receive {'DOWN', M, process, {hidden, _}, Reason} -> Reason end",
        )
        == "noproc"
    )


def test_listed_functions_alone_are_called(pair: Filtered) -> None:
    node = f"'{pair.node_name}'"
    assert ask(pair.peer, f"rpc:call({node}, lists, sum, [[1,2,3]])") == "6"
    assert ask(pair.peer, f"erpc:call({node}, erlang, node, [])") == node
    assert ask(pair.peer, f"rpc:block_call({node}, lists, sum, [[1,2,3]])") == "6"
    assert ask(pair.peer, f'rpc:call({node}, os, cmd, ["id"])') == "{badrpc,notsup}"
    refused = ask(pair.peer, f"catch erpc:call({node}, fun() -> 1 end)")
    assert refused.startswith("{'EXIT',{{erpc,notsup},")
    assert ask(pair.peer, f"rpc:sbcast([{node}], hidden, 1)") == f"{{[],[{node}]}}"
    gone = ask(pair.peer, f'rpc:block_call({node}, os, cmd, ["id"])')
    assert gone.startswith("{badrpc,{'EXIT',{noproc,")


def test_processes_are_spawned_of_listed_functions_alone(pair: Filtered) -> None:
    node = f"'{pair.node_name}'"
    spawned = ask(
        pair.peer,
        f"{{P, M}} = spawn_monitor({node}, lists, sort, [[2,1]]),"
        f"receive {{'DOWN', M, process, P, R}} -> {{node(P), R}} end",
    )
    assert spawned == f"{{{node},normal}}"
    refused = ask(
        pair.peer,
        f"process_flag(trap_exit, true), P = spawn_link({node}, erlang, halt, []),"
        "receive {'EXIT', P, R} -> R end",
    )
    assert refused == "notsup"
    assert ask(pair.node, "alive") == "alive"


def test_pids_are_no_way_around(pair: Filtered) -> None:
    pids = ask(pair.node, "[pid_to_list(whereis(N)) || N <- [rex, hidden, code_server]]")
    node = f"'{pair.node_name}'"
    # A peer knows its own pids; it builds those of another node from the name and creation.
    creation = ask(pair.node, "erlang:system_info(creation)")
    for pid in pids.strip("[]").split(","):
        _, number, serial = pid.strip('"<>').split(".")
        reached = ask(
            pair.peer,
            f"Name = atom_to_binary({node}), P = binary_to_term(<<131, 88, 119, (byte_size(Name)),"
            f"Name/binary, {number}:32, {serial}:32, {creation}:32>>),"
            "process_flag(trap_exit, true), M = monitor(process, P), link(P), exit(P, kill),"
            "P ! {self(), {call, erlang, halt, [], user}},"
            "One = receive {'DOWN', M, process, P, Down} -> Down end,"
            "Two = receive {'EXIT', P, Why} -> Why end, {One, Two}",
        )
        assert reached == "{noproc,noproc}"
    assert ask(pair.node, "[is_pid(whereis(N)) || N <- [rex, hidden, code_server]]") == (
        "[true,true,true]"
    )


def test_sys_reaches_nobody(pair: Filtered) -> None:
    server = f"{{counter, '{pair.node_name}'}}"
    assert ask(pair.peer, f"catch sys:get_state({server})").startswith("{'EXIT',{noproc,")
    assert ask(pair.peer, f"element(2, gen_server:call({server}, {{whoami, <<>>}}))") == "0"


def test_who_called_out_is_answered(pair: Filtered) -> None:
    peer = f"'{pair.peer_name}'"
    assert ask(pair.node, f"rpc:call({peer}, os, getpid, []) =/= os:getpid()") == "true"
    answered = ask(
        pair.node,
        f"{{hidden, {peer}}} ! {{self(), answer_by_pid}},receive {{the_answer, N}} -> N end",
    )
    assert answered == "42"
    exited = ask(
        pair.node,
        f"process_flag(trap_exit, true), P = spawn_link({peer}, fun() -> exit(enough) end),"
        "receive {'EXIT', P, R} -> R end",
    )
    assert exited == "enough"


def test_a_fun_in_the_arguments_of_a_listed_function_is_no_shell(pair: Filtered) -> None:
    node = f"'{pair.node_name}'"
    assert ask(pair.peer, f'rpc:call({node}, lists, map, [fun os:cmd/1, ["id"]])') == (
        "{badrpc,notsup}"
    )
    assert ask(pair.peer, f"rpc:call({node}, lists, map, [fun(X) -> X end, [1]])") == (
        "{badrpc,notsup}"
    )


# -- what a stock node would not send -----------------------------------------------------------


@dataclass
class Attacker:
    """A Python node that sends arbitrary control messages to `node`."""

    attacker: Node
    node: Erlang
    node_name: str

    @property
    def me(self) -> Pid:
        return self.attacker.pid

    def send(self, control: ctl.Control, payload: Any = NO_PAYLOAD) -> None:
        peer = self.attacker._running.connections.up[Atom(self.node_name)]
        peer.outbox.put(self.me, ctl.encode(peer.session, control, payload), None)

    async def ask(self, source: str) -> str:
        return await asyncio.to_thread(ask, self.node, source)

    async def passed(self) -> None:
        """Waits until sent messages are processed, by a ping after them."""
        assert await self.attacker.ping(self.node_name, timeout=PATIENCE)


@contextlib.asynccontextmanager
async def attacker(rules: PeerRules) -> AsyncIterator[Attacker]:
    with ExitStack() as stack:
        settings = replace(loopback_settings(), policy=Policy((rules,)))
        gateway = await asyncio.to_thread(GatewayThread, settings)
        stack.callback(gateway.close)
        node = stack.enter_context(gatewayed_erl(gateway, cookie="attacked"))
        await asyncio.to_thread(node.eval, SERVER)
        identity = Identity.ephemeral(["127.0.0.1"])
        async with Node(
            "0@127.0.0.1", cookie="attacked", identity=identity, trust=Trust.nothing()
        ) as mine:
            await mine.connect(gateway.name)
            yield Attacker(mine, node, gateway.name)


async def test_a_wrong_trace_token_does_not_end_the_node() -> None:
    async with attacker(RULES) as one:
        sender = (one.me, one.attacker.system.identifiers.reference())
        # The server receives the token with the message, and answers with it.
        call = (Atom("$gen_call"), sender, (Atom("whoami"), b""))
        for token in (Atom("token"), 1, (0, 0, one.me, 0, 0)):
            one.send(ctl.RegSendTT(one.me, Atom("counter"), token), call)
            one.send(ctl.RegSendTT(one.me, Atom("hidden"), token), call)
        await one.passed()
        assert await one.ask("is_pid(whereis(counter))") == "true"


async def test_no_peer_fills_the_atom_table() -> None:
    async with attacker(RULES) as one:
        before = int(await one.ask("erlang:system_info(atom_count)"))
        sender = (one.me, Reference(one.me.node, (1, 2, 3), one.me.creation))
        for number in range(20):
            atoms: list[Term] = [Atom(f"flood_{number}_{index}") for index in range(1500)]
            ping = (Atom("$gen_call"), sender, (Atom("is_auth"), atoms))
            one.send(ctl.RegSend(one.me, Atom("net_kernel")), ping)
            one.send(ctl.RegSend(one.me, Atom("counter")), atoms)
            one.send(ctl.RegSend(one.me, Atom("counter")), atoms[:900])
        await one.passed()
        after = int(await one.ask("erlang:system_info(atom_count)"))
        assert after - before < RULES.new_atoms + 2000


async def test_the_timer_server_is_no_shell() -> None:
    async with attacker(RULES) as one:
        async with one.attacker.mailbox(name="x") as inbox:
            there = f"{{x, '{one.attacker.name}'}}"
            await one.ask(f"timer:send_after(1, {there}, whereis(timer_server))")
            server = await inbox.receive(timeout=PATIENCE)
        now = int(await one.ask("erlang:monotonic_time(millisecond)"))
        apply: Term = (Atom("apply_once"), (now, 0, (Atom("erlang"), Atom("halt"), [])))
        request = (Atom("$gen_call"), (one.me, one.attacker.system.identifiers.reference()), apply)
        one.send(ctl.SendSender(one.me, server), request)
        one.send(ctl.Send(server), request)
        await one.passed()
        assert await one.ask("is_process_alive(whereis(timer_server))") == "true"


async def test_no_message_ends_a_process_in_the_name_of_its_parent() -> None:
    rules = replace(RULES, names=("counter", "application_controller"))
    async with attacker(rules) as one:
        init = await one.ask("pid_to_list(whereis(init))")
        assert init == '"<0.0.0>"'
        creation = int(await one.ask("erlang:system_info(creation)"))
        parents = [Pid(Atom(one.node_name), number, 0, creation) for number in range(60)]
        for parent in parents:
            gone = (Atom("EXIT"), parent, Atom("killed"))
            one.send(ctl.RegSend(one.me, Atom("application_controller")), gone)
            one.send(
                ctl.AltactSigSend(ctl.ALTACT_NAME, one.me, Atom("application_controller")), gone
            )
        await one.passed()
        assert await one.ask("is_pid(whereis(application_controller))") == "true"


async def test_no_alias_is_guessed() -> None:
    async with attacker(RULES) as one:
        await one.ask(
            "spawn(fun() -> register(asker, self()), persistent_term:put(ref, alias()),"
            " receive M -> register(struck, self()), receive after infinity -> M end"
            " end end)"
        )
        words = await one.ask("timer:sleep(0), length(ref_to_list(persistent_term:get(ref)))")
        assert int(words) > 0
        raw = await asyncio.to_thread(one.node.eval, "term_to_binary(persistent_term:get(ref)).")
        alias = decode(raw)
        assert isinstance(alias, Reference)
        for control in (
            ctl.AliasSend(one.me, alias),
            ctl.AliasSendTT(one.me, alias, 1),
            ctl.AltactSigSend(ctl.ALTACT_ALIAS, one.me, alias),
        ):
            one.send(control, (alias, Atom("forged")))
        await one.passed()
        assert await one.ask("whereis(struck)") == "undefined"


async def test_no_answer_of_a_server_goes_where_the_peer_may_not_send() -> None:
    async with attacker(replace(RULES, names=("store",))) as one:
        await one.ask(
            "register(store, spawn(fun() -> (fun Loop(Value) -> receive"
            " {'$gen_call', From, {put, New}} -> gen_server:reply(From, ok), Loop(New);"
            " {'$gen_call', From, get} -> gen_server:reply(From, Value), Loop(Value)"
            " end end)(5) end))"
        )
        store, get = ctl.RegSend(one.me, Atom("store")), Atom("get")
        one.send(store, (Atom("$gen_call"), (Atom("init"), Atom("stop")), get))
        halt: Term = (Atom("cast"), Atom("erlang"), Atom("halt"), [], one.me)
        mine = (one.me, one.attacker.system.identifiers.reference())
        one.send(store, (Atom("$gen_call"), mine, (Atom("put"), halt)))
        one.send(store, (Atom("$gen_call"), (Atom("rex"), Atom("$gen_cast")), get))
        await one.passed()
        assert await one.ask("gen_server:call(store, get), is_pid(whereis(init))") == "true"


async def test_a_heap_size_by_way_of_net_kernel_does_not_end_the_node() -> None:
    async with attacker(RULES) as one:
        options: Term = [(Atom("min_heap_size"), (1 << 59) - 1)]
        spawn: tuple[Term, ...] = (
            *(Atom("spawn_opt"), Atom("erlang"), Atom("node"), [], options, Atom("nolink")),
        )
        mine = (one.me, one.attacker.system.identifiers.reference())
        message = (Atom("$gen_call"), mine, (*spawn, one.me))
        one.send(ctl.RegSend(one.me, Atom("net_kernel")), message)
        await one.passed()
        assert await one.ask("node()") == f"'{one.node_name}'"


async def test_an_alias_is_not_learned_from_an_answer_that_repeats_it() -> None:
    async with attacker(PeerRules(nodes=("*@127.0.0.1",))) as one:
        await one.ask(
            "spawn(fun() -> persistent_term:put(ref, alias()),"
            " receive M -> persistent_term:put(struck, M) end end)"
        )
        await one.ask("timer:sleep(200)")
        raw = await asyncio.to_thread(one.node.eval, "term_to_binary(persistent_term:get(ref)).")
        alias = decode(raw)
        assert isinstance(alias, Reference)
        ping = (Atom("$gen_call"), (one.me, alias), (Atom("is_auth"), one.me.node))
        one.send(ctl.RegSend(one.me, Atom("net_kernel")), ping)
        await one.passed()
        one.send(ctl.AliasSend(one.me, alias), (alias, Atom("forged")))
        await one.passed()
        assert await one.ask("persistent_term:get(struck, none)") == "none"


@pytest.mark.parametrize("pids", [Pids.CALLERS, Pids.ANY])
async def test_no_pid_that_was_guessed_is_given_to_otp(pids: Pids) -> None:
    """OTP sends to a pid in a request: output, answers, and the messages of pg."""
    names = ("handlers", "scope_of_pg")
    async with attacker(PeerRules(nodes=("*",), names=names, calls=("io:*",), pids=pids)) as one:
        await one.ask("{ok, _} = gen_event:start({local, handlers})")
        await one.ask("{ok, _} = pg:start(scope_of_pg)")
        await one.ask(
            "register(victim, spawn(fun() -> (fun Loop(N) -> receive"
            " {count, From} -> From ! N, Loop(N);"
            " {io_request, From, As, _} -> From ! {io_reply, As, ok}, Loop(N + 1);"
            " _ -> Loop(N + 1) end end)(0) end))"
        )
        raw = await asyncio.to_thread(one.node.eval, "term_to_binary(whereis(victim)).")
        victim = decode(raw)
        format_: tuple[Term, ...] = (Atom("io"), Atom("format"), ["printed"])
        call, cast = Atom("$gen_call"), Atom("$gen_cast")
        rex, net_kernel = Atom("rex"), Atom("net_kernel")
        options: list[Term] = []

        def caller() -> Term:
            return one.me, one.attacker.system.identifiers.reference()

        messages: list[tuple[Atom, Term]] = [
            (rex, (call, caller(), (Atom("call"), *format_, victim))),
            (rex, (call, caller(), (Atom("block_call"), *format_, victim))),
            (rex, (cast, (Atom("cast"), *format_, victim))),
            (rex, (one.me, (Atom("call"), *format_, victim))),
            (net_kernel, (call, caller(), (Atom("spawn"), *format_, victim))),
            (
                net_kernel,
                (call, caller(), (Atom("spawn_opt"), *format_, options, Atom("nolink"), victim)),
            ),
            (Atom("handlers"), (b"any", (victim, Atom("tag")), Atom("which_handlers"))),
            (Atom("handlers"), (one.me, (Atom("victim"), Atom("tag")), Atom("get_modules"))),
            (Atom("scope_of_pg"), (Atom("discover"), victim)),
        ]
        assert isinstance(victim, Pid)
        for name, message in messages:
            one.send(ctl.RegSend(one.me, name), message)
        mfa = (Atom("io"), Atom("format"), 1)
        reference = one.attacker.system.identifiers.reference()
        one.send(ctl.SpawnRequest(reference, one.me, victim, mfa, []), ["printed"])
        await one.passed()

        async def received() -> int:
            count = "victim ! {count, self()}, receive N when is_integer(N) -> N end"
            return int(await one.ask(count))

        if pids is Pids.CALLERS:
            assert await received() == 0
            return

        async def all_came() -> bool:
            return await received() > len(messages)

        await until(all_came, pause=0.2)


def test_every_name_of_otp_is_known_as_one(pair: Filtered) -> None:
    source = (
        "[application:ensure_all_started(A) || A <- [sasl, ssl, os_mon, mnesia]], timer:start(),"
        'lists:join(" ", [atom_to_list(Name) || Name <- registered()]).'
    )
    registered = set(pair.node.eval(source).decode().split())
    assert {"rex", "net_kernel", "counter"} <= registered
    assert registered - OTP_NAMES == {"counter", "hidden"}


def test_whom_no_entry_fits_is_turned_away() -> None:
    with ExitStack() as stack:
        strangers = PeerRules(nodes=("*@10.0.0.*",), names=("counter",))
        pair = filtered(stack, Policy((strangers,)))
        assert ask(pair.peer, f"net_adm:ping('{pair.node_name}')") == "pang"
        assert ask(pair.node, f"net_adm:ping('{pair.peer_name}')") == "pang"


def test_a_policy_that_logs_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        nothing = PeerRules(nodes=("*@127.0.0.1",), ping=False)
        pair = filtered(stack, Policy((nothing,), Mode.LOG))
        assert ask(pair.peer, f"rpc:call('{pair.node_name}', erlang, node, [])") == (
            f"'{pair.node_name}'"
        )
        call = f"gen_server:call({{counter, '{pair.node_name}'}}, {{whoami, <<0:8000000>>}})"
        assert ask(pair.peer, f"element(2, {call})") == "1000000"
    assert "would be refused: a call of erlang:node" in caplog.text
    assert "would be refused: a message to counter" in caplog.text


def test_any_pid_when_the_policy_says_so() -> None:
    with ExitStack() as stack:
        rules = replace(RULES, pids=Pids.ANY)
        pair = filtered(stack, Policy((rules,)))
        call = f"gen_server:call({{counter, '{pair.node_name}'}}, {{whoami, <<>>}})"
        assert (
            ask(pair.peer, f"{{P, _}} = {call}, element(2, gen_server:call(P, {{whoami, <<1>>}}))")
            == "1"
        )
