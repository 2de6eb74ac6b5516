"""The frames that a policy filter passes or answers, tested without a carrier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.cluster.access_rules import RUNTIME_TAGS
from quicdist.cluster.policy import Mode, PeerRules, Pids, Policy
from quicdist.etf import Atom, Export, ImproperList, NativeRecord, Pid, encode_bare
from quicdist.gateway import reachability
from quicdist.gateway.policy_filter import PolicyFilter
from quicdist.gateway.term_scanner import AtomBudget, TermScanner, Unreadable
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.errors import DistError, HandshakeRefused, ProtocolError
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.signals import NO_PAYLOAD, NO_TOKEN, Message, SpawnReply
from tests.gateway.filtered import OWN, PEER, Filtered, pid, reference
from tests.protocol import forms as ctl
from tests.protocol.strategies import FIELDS, controls, terms
from tests.protocol.talk import FORMS, frames

RULES = PeerRules(nodes=("peer@*",), names=("counter", "stats_*"), calls=("calc:*", "os:getpid"))
ALL = PeerRules(
    nodes=("*",),
    names=("counter", "kitchen"),
    calls=("*",),
    links=True,
    exits=True,
    group_leaders=True,
    system_messages=True,
    pids=Pids.ANY,
)
NOTHING = PeerRules(nodes=("*",), ping=False, monitors=False)

SENDER = pid(PEER)
SERVER = pid(OWN, 5)
MREF = reference(PEER)
NOPROC = Atom("noproc")
GEN_CALL = Atom("$gen_call")
CALC = Atom("calc")
ALIAS_TAG = ImproperList([Atom("alias")], reference(OWN))
SYSTEM = Atom("system")


def call(request: Any, monitor: Any = None) -> Any:
    return (GEN_CALL, (SENDER, monitor or ImproperList([Atom("alias")], MREF)), request)


def to(name: str) -> ctl.RegSend:
    return ctl.RegSend(SENDER, Atom(name))


def spawn(module: str, function: str, arity: int) -> ctl.SpawnRequest:
    mfa = (Atom(module), Atom(function), arity)
    return ctl.SpawnRequest(MREF, SENDER, SENDER, mfa, [Atom("monitor")])


def down(target: Any) -> ctl.PayloadMonitorPExit:
    return ctl.PayloadMonitorPExit(target, SENDER, MREF)


# -- the handshake ------------------------------------------------------------------------------


@pytest.mark.parametrize("peer_dials", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_atom_cache_is_taken_out_of_both_nodes_flags(form: str, peer_dials: bool) -> None:
    pair = Filtered(RULES, flags=FORMS[form], peer_dials=peer_dials)
    for session in (pair.peer, pair.node):
        assert Flag.DIST_HDR_ATOM_CACHE not in session.flags
        assert (Flag.FRAGMENTS in session.flags) == (Flag.FRAGMENTS in FORMS[form])
        assert Flag.SPAWN in session.flags
    (event,) = pair.peer_says(to("counter"), Atom("hello"))
    assert isinstance(event, MessageReceived)
    assert (event.signal, event.payload) == ctl.meaning(to("counter"), Atom("hello"))


def test_capabilities_that_nobody_knows_yet_are_taken_out() -> None:
    policy_filter = PolicyFilter(Policy((RULES,)), OWN, dialed_peer=None)
    offered = int(DEFAULT_FLAGS) | 1 << 29 | 1 << 60
    name = hs.build_name(hs.Name(offered, 5, PEER))
    passed = policy_filter.from_peer(HandshakePacket(name)).forward
    assert passed is not None
    found = hs.parse_name(passed.data)
    assert found == hs.Name(int(DEFAULT_FLAGS & ~Flag.DIST_HDR_ATOM_CACHE), 5, PEER)


def test_the_old_name_message_and_its_complement_are_read_too() -> None:
    policy_filter = PolicyFilter(Policy((RULES,)), OWN, dialed_peer=None)
    name = hs.build_name_v5(hs.NameV5(5, int(DEFAULT_FLAGS), PEER))
    passed = policy_filter.from_peer(HandshakePacket(name)).forward
    assert passed is not None
    found = hs.parse_name(passed.data)
    assert isinstance(found, hs.NameV5)
    assert not found.flags & Flag.DIST_HDR_ATOM_CACHE
    high = hs.build_complement(hs.Complement(int(Flag.ALIAS) | 1 << 60, 5))
    passed = policy_filter.from_peer(HandshakePacket(high)).forward
    assert passed is not None
    assert hs.parse_complement(passed.data) == hs.Complement(int(Flag.ALIAS), 5)


def test_whom_no_entry_fits_is_not_allowed() -> None:
    strangers = Policy((PeerRules(nodes=("other@*",)),))
    with pytest.raises(HandshakeRefused, match="no entry of the policy matches peer@x") as caught:
        Filtered(strangers)
    assert caught.value.answer == b"snot_allowed"
    with pytest.raises(HandshakeRefused):
        Filtered(strangers, peer_dials=False)


def test_a_peer_that_is_given_its_name_is_known_by_that() -> None:
    policy_filter = PolicyFilter(Policy((RULES,)), OWN, dialed_peer=None)
    asking = hs.Name(int(DEFAULT_FLAGS | Flag.NAME_ME), 0, "x")
    policy_filter.from_peer(HandshakePacket(hs.build_name(asking)))
    policy_filter.from_node(HandshakePacket(hs.build_status(hs.Named("peer@x", 4))))
    other = PolicyFilter(Policy((RULES,)), OWN, dialed_peer=None)
    other.from_peer(HandshakePacket(hs.build_name(asking)))
    with pytest.raises(HandshakeRefused):
        other.from_node(HandshakePacket(hs.build_status(hs.Named("other@x", 4))))


def test_frames_before_the_end_of_the_handshake_are_not_read() -> None:
    policy_filter = PolicyFilter(Policy((ALL,)), OWN, dialed_peer=None)
    name = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 5, PEER))
    policy_filter.from_peer(HandshakePacket(name))
    with pytest.raises(ProtocolError, match="before the end of the handshake"):
        policy_filter.from_peer(FramePacket(b"\x83D\0"))


def test_who_answers_for_another_or_twice_is_dropped() -> None:
    name = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 5, OWN))
    policy_filter = PolicyFilter(Policy((ALL,)), OWN, dialed_peer=PEER)
    policy_filter.from_node(HandshakePacket(name))
    challenge = hs.Challenge(int(DEFAULT_FLAGS), 1, 1, PEER)
    other = hs.build_challenge(replace(challenge, name="other@x"))
    with pytest.raises(ProtocolError, match="answers for peer@x"):
        policy_filter.from_peer(HandshakePacket(other))
    policy_filter.from_peer(HandshakePacket(hs.build_challenge(challenge)))
    with pytest.raises(ProtocolError, match="second challenge"):
        policy_filter.from_peer(HandshakePacket(hs.build_challenge(replace(challenge, flags=0))))


# -- names --------------------------------------------------------------------------------------


def test_messages_go_to_listed_names() -> None:
    pair = Filtered(RULES)
    for name in ("counter", "stats_today"):
        (event,) = pair.peer_says(to(name), call(1))
        assert isinstance(event, MessageReceived)
    for name in ("kitchen", "code_server", "counter2"):
        assert pair.answer(to(name), call(1)) is None


def test_only_names_written_out_open_otp_s_own() -> None:
    pair = Filtered(PeerRules(nodes=("*",), names=("kitchen*", "logger")))
    assert pair.peer_says(to("kitchen_2"), 1)
    assert pair.peer_says(to("logger"), 1)
    for name in ("code_server", "kernel_sup", "init", "global_name_server", "rex", "net_kernel"):
        assert pair.answer(to(name), 1) is None


def test_a_monitor_of_another_name_finds_no_process() -> None:
    pair = Filtered(RULES)
    assert pair.peer_says(ctl.MonitorP(SENDER, Atom("counter"), MREF))
    event = pair.answer(ctl.MonitorP(SENDER, Atom("kitchen"), MREF))
    assert event is not None
    assert (event.signal, event.payload) == ctl.meaning(down(Atom("kitchen")), NOPROC)


def test_the_reason_goes_into_the_control_message_where_the_peer_wants_it_there() -> None:
    pair = Filtered(RULES, flags=DEFAULT_FLAGS & ~Flag.EXIT_PAYLOAD)
    event = pair.answer(ctl.MonitorP(SENDER, Atom("kitchen"), MREF))
    assert event is not None
    assert (event.signal, event.payload) == ctl.meaning(
        ctl.MonitorPExit(Atom("kitchen"), SENDER, MREF, NOPROC)
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_system_message_is_no_message(form: str) -> None:
    pair = Filtered(RULES, flags=FORMS[form])
    event = pair.answer(to("counter"), (SYSTEM, (SENDER, MREF), Atom("get_state")))
    assert event is not None
    assert event.signal == ctl.signal(down(Atom("counter")))
    assert pair.answer(to("counter"), (SYSTEM, 1, 2)) is None
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), reference(OWN))
    assert pair.answer(ctl.AliasSend(SENDER, reference(OWN)), (SYSTEM, 1, 2)) is None
    assert pair.answer(to("counter"), (SYSTEM, 1)) is None
    assert pair.peer_says(to("counter"), (b"system", 1, 2))
    open_to_sys = Filtered(replace(RULES, system_messages=True), flags=FORMS[form])
    assert open_to_sys.peer_says(to("counter"), (SYSTEM, 1, 2))


# -- calls --------------------------------------------------------------------------------------

SPAWNS: dict[str, Callable[[Any, Any], tuple[ctl.Control, Any]]] = {
    "erpc": (lambda m, f: (spawn("erpc", "execute_call", 4), [MREF, m, f, [1, 2]])),
    "erpc:cast": (lambda m, f: (spawn("erpc", "execute_cast", 3), [m, f, [1, 2]])),
    "spawn": (lambda m, f: (spawn(m, f, 2), [1, 2])),
}
REQUESTS: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda m, f: call((Atom("call"), m, f, [], SENDER)),
    "block_call": lambda m, f: call((Atom("block_call"), m, f, [], SENDER), MREF),
    "cast": lambda m, f: (Atom("$gen_cast"), (Atom("cast"), m, f, [], SENDER)),
    "C node": lambda m, f: (SENDER, (Atom("call"), m, f, [], Atom("user"))),
    "old spawn": lambda m, f: call((Atom("spawn_opt"), m, f, [], [], Atom("link"), SENDER)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", SPAWNS)
def test_listed_functions_are_spawned_by_whatever_way(way: str, form: str) -> None:
    pair = Filtered(RULES, flags=FORMS[form])
    control, payload = SPAWNS[way](Atom("calc"), Atom("add"))
    assert pair.peer_says(control, payload)
    for module, function in (("os", "cmd"), ("calc2", "add"), ("erlang", "apply")):
        control, payload = SPAWNS[way](Atom(module), Atom(function))
        event = pair.answer(control, payload)
        assert event is not None
        assert event.signal == SpawnReply(MREF, SENDER, 0, Atom("notsup"))


@pytest.mark.parametrize("way", REQUESTS)
@pytest.mark.parametrize("name", ["rex", "net_kernel"])
def test_listed_functions_are_asked_for_by_whatever_way(name: str, way: str) -> None:
    pair = Filtered(RULES)
    assert pair.peer_says(to(name), REQUESTS[way](Atom("os"), Atom("getpid")))
    event = pair.answer(to(name), REQUESTS[way](Atom("os"), Atom("cmd")))
    if way == "C node" and name == "rex":
        assert event is not None
        assert isinstance(event.signal, Message)
        assert event.signal.to == SENDER
        assert event.payload == (Atom("rex"), (Atom("badrpc"), Atom("notsup")))
    elif REQUESTS[way](1, 2)[0] == GEN_CALL:
        assert event is not None
        assert (event.signal, event.payload) == ctl.meaning(down(Atom(name)), NOPROC)
    else:
        assert event is None


@pytest.mark.parametrize(
    "payload",
    [
        Atom("stop"),
        call(Atom("stop")),
        call((Atom("call"), b"calc", b"add", [])),
        (Atom("$gen_cast"), call((Atom("call"), Atom("calc"), Atom("add"), []))),
        (SENDER, (Atom("sbcast"), Atom("kitchen"), 1)),
        (SENDER, (Atom("sbcast"), (Atom("counter"), Atom(PEER)), 1)),
        (SENDER, (Atom("send"), Atom("rex"), 1)),
        (SYSTEM, (SENDER, MREF), Atom("get_state")),
        (Atom("EXIT"), SENDER, Atom("kill")),
        [Atom("call")],
        (1, (Atom("call"), Atom("calc"), Atom("add"), [])),
    ],
)
def test_nothing_else_is_asked_of_rex(payload: Any) -> None:
    pair = Filtered(replace(RULES, calls=("calc:*",)))
    pair.answer(to("rex"), payload)


def test_what_rex_may_pass_on_and_answer() -> None:
    pair = Filtered(RULES)
    assert pair.peer_says(to("rex"), (SENDER, (Atom("sbcast"), Atom("counter"), 1)))
    assert pair.peer_says(to("rex"), (SENDER, Atom("features_request")))


def test_who_has_rex_pass_on_to_another_name_is_told_that_there_is_none() -> None:
    pair = Filtered(RULES)
    event = pair.answer(to("rex"), (SENDER, (Atom("sbcast"), Atom("kitchen"), 1)))
    assert event is not None
    assert event.payload == (Atom("rex"), Atom(OWN), (Atom("nonexisting_name"), Atom("kitchen")))


def test_a_list_written_in_pieces_hides_no_function() -> None:
    """Three elements with a tail of one element are a list of four in Erlang."""
    pair = Filtered(RULES)
    harmless, meant = Atom("calc"), Atom("os")
    pieces = b"l\0\0\0\x02" + encode_bare(MREF) + encode_bare(meant)
    pieces += encode_bare([Atom("cmd"), [[105, 100]]])
    control = spawn("erpc", "execute_call", 4)
    frame = b"\x83D\0" + encode_bare(control.to_tuple())
    assert pair.bring(frame + encode_bare([MREF, harmless, Atom("add"), []]))
    assert pair.bring(frame + pieces) == []


def test_with_all_functions_allowed_none_is_read() -> None:
    pair = Filtered(replace(RULES, calls=("*",), system_messages=True))
    unreadable = b"\xff\xff"
    for control in (spawn("erpc", "execute_call", 4), to("rex")):
        frame = FramePacket(b"\x83D\0" + encode_bare(control.to_tuple()) + unreadable)
        assert pair.policy_filter.from_peer(frame).forward == frame


def test_a_ping_passes_unless_it_may_not() -> None:
    ping = call((Atom("is_auth"), Atom(PEER)))
    monitor = ctl.MonitorP(SENDER, Atom("net_kernel"), MREF)
    pair = Filtered(PeerRules(nodes=("*",)))
    assert pair.peer_says(monitor)
    assert pair.peer_says(to("net_kernel"), ping)
    for rules in (NOTHING, replace(NOTHING, calls=("calc:*",), monitors=True)):
        assert Filtered(rules).answer(to("net_kernel"), ping) is not None
    assert Filtered(NOTHING).answer(monitor) is not None


# -- processes without a name -------------------------------------------------------------------

REACHED: dict[str, tuple[ctl.Control, Any]] = {
    "send": (ctl.Send(SERVER), 1),
    "send, sender": (ctl.SendSender(SENDER, SERVER), 1),
    "send, altact": (ctl.AltactSigSend(0, SENDER, SERVER), 1),
    "exit": (ctl.PayloadExit2(SENDER, SERVER), Atom("kill")),
    "exit, old": (ctl.Exit2(SENDER, SERVER, Atom("kill")), NO_PAYLOAD),
    "exit, altact": (ctl.AltactSigSend(ctl.ALTACT_EXIT, SENDER, SERVER), Atom("kill")),
    "group leader": (ctl.GroupLeader(SENDER, SERVER), NO_PAYLOAD),
    "link": (ctl.Link(SENDER, SERVER), NO_PAYLOAD),
    "monitor": (ctl.MonitorP(SENDER, SERVER, MREF), NO_PAYLOAD),
}
ANSWERS = {
    "link": ctl.meaning(ctl.PayloadExit(SERVER, SENDER), NOPROC),
    "monitor": ctl.meaning(down(SERVER), NOPROC),
}


@pytest.mark.parametrize("way", REACHED)
def test_a_pid_is_reached_once_its_process_has_called_out(way: str) -> None:
    rules = replace(RULES, links=True, exits=True, group_leaders=True)
    pair = Filtered(rules)
    event = pair.answer(*REACHED[way])
    assert (event and (event.signal, event.payload)) == ANSWERS.get(way)
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), (SERVER, 1))
    assert pair.peer_says(*REACHED[way])


@pytest.mark.parametrize("way", ["exit", "exit, old", "exit, altact", "group leader", "link"])
def test_what_harms_a_process_needs_more_than_its_pid(way: str) -> None:
    pair = Filtered(replace(RULES, pids=Pids.ANY))
    event = pair.answer(*REACHED[way])
    assert (event and (event.signal, event.payload)) == ANSWERS.get(way)


@pytest.mark.parametrize(
    ("said", "payload"),
    [
        (ctl.SendSender(SERVER, SENDER), 1),  # an answer, as rex gives one
        (ctl.AliasSend(SERVER, MREF), 1),
        (ctl.RegSend(SERVER, Atom("global_name_server")), SERVER),
        (ctl.RegSend(SERVER, Atom("rex")), SERVER),  # as rex_nodes_observer
        (ctl.RegSend(SERVER, Atom("whoever")), 1),  # as timer_server, for others
        (ctl.RegSend(SERVER, Atom("whoever")), (GEN_CALL, (SERVER, ALIAS_TAG), 1)),
        (ctl.RegSend(SERVER, Atom("whoever")), (GEN_CALL, (SERVER, reference(OWN)), 1)),
        (ctl.MonitorP(SERVER, SENDER, reference(OWN)), NO_PAYLOAD),
    ],
)
def test_who_only_answers_is_not_reached(said: ctl.Control, payload: Any) -> None:
    pair = Filtered(RULES)
    pair.node_says(said, payload)
    assert pair.answer(ctl.SendSender(SENDER, SERVER), 1) is None


@pytest.mark.parametrize(
    ("said", "payload"),
    [
        (ctl.RegSend(SERVER, Atom("whoever")), [{Atom("me"): SERVER}]),
        (ctl.AltactSigSend(ctl.ALTACT_NAME, SERVER, Atom("whoever")), SERVER),
        (ctl.SpawnRequest(MREF, SERVER, SERVER, (CALC, CALC, 1), []), [SERVER]),
        (ctl.SpawnReply(MREF, SENDER, 0, SERVER), NO_PAYLOAD),
    ],
)
def test_who_calls_out_or_was_spawned_is_reached(said: ctl.Control, payload: Any) -> None:
    pair = Filtered(RULES)
    pair.node_says(said, payload)
    assert pair.peer_says(ctl.SendSender(SENDER, SERVER), 1)
    assert pair.answer(ctl.SendSender(SENDER, pid(OWN, 6)), 1) is None
    assert pair.answer(ctl.SendSender(SENDER, pid("third@x", 5)), 1) is None


@pytest.mark.parametrize("tag", [ALIAS_TAG, reference(OWN)])
def test_a_call_is_answered_by_pid_once_with_its_tag(tag: Any) -> None:
    pair = Filtered(RULES)
    pair.node_says(ctl.RegSend(SERVER, Atom("net_kernel")), (GEN_CALL, (SERVER, tag), 1))
    answer = ctl.SendSender(SENDER, SERVER)
    assert pair.answer(answer, (reference(OWN, 7), 1)) is None
    assert pair.answer(ctl.SendSender(SENDER, pid(OWN, 6)), (tag, 1)) is None
    assert pair.peer_says(answer, (tag, Atom("yes")))
    assert pair.answer(answer, (tag, Atom("yes"))) is None


def test_who_asks_for_features_is_told_them_once() -> None:
    pair = Filtered(RULES)
    pair.node_says(ctl.RegSend(SERVER, Atom("rex")), (SERVER, Atom("features_request")))
    reply = (Atom("features_reply"), Atom(PEER), [Atom("erpc")])
    assert pair.answer(ctl.SendSender(SENDER, SERVER), (SENDER, 1)) is None
    assert pair.peer_says(ctl.SendSender(SENDER, SERVER), reply)
    assert pair.answer(ctl.SendSender(SENDER, SERVER), reply) is None


def test_of_many_who_call_out_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "MAX_PROCESSES", 10)
    pair = Filtered(RULES)
    for number in range(12):
        pair.node_says(ctl.RegSend(pid(OWN, number), Atom("whoever")), pid(OWN, number))
        if number == 9:
            assert pair.peer_says(ctl.SendSender(SENDER, pid(OWN, 0)), 1)
    reached = [
        bool(pair.policy_filter.from_peer(FramePacket(frame)).forward)
        for number in range(12)
        for frame in frames(pair.peer, ctl.SendSender(SENDER, pid(OWN, number)), 1)
    ]
    assert reached == [True, False, False] + [True] * 9


# -- every form, refused and passed --------------------------------------------------------------

TOKEN = Atom("token")
NAME = Atom("counter")
MFA = (CALC, Atom("add"), 1)

FORM_OF: dict[type[ctl.Control], ctl.Control] = {
    type(form): form
    for form in (
        ctl.Link(SENDER, SERVER),
        ctl.Send(SERVER),
        ctl.RegSend(SENDER, NAME),
        ctl.GroupLeader(SENDER, SERVER),
        ctl.Exit2(SENDER, SERVER, NOPROC),
        ctl.SendTT(SERVER, TOKEN),
        ctl.RegSendTT(SENDER, NAME, TOKEN),
        ctl.Exit2TT(SENDER, SERVER, TOKEN, NOPROC),
        ctl.MonitorP(SENDER, SERVER, MREF),
        ctl.MonitorPExit(SENDER, SERVER, reference(OWN), NOPROC),
        ctl.SendSender(SENDER, SERVER),
        ctl.SendSenderTT(SENDER, SERVER, TOKEN),
        ctl.PayloadExit2(SENDER, SERVER),
        ctl.PayloadExit2TT(SENDER, SERVER, TOKEN),
        ctl.PayloadMonitorPExit(SENDER, SERVER, reference(OWN)),
        ctl.SpawnRequest(MREF, SENDER, SENDER, MFA, []),
        ctl.SpawnRequestTT(MREF, SENDER, SENDER, MFA, [], TOKEN),
        ctl.SpawnReply(reference(OWN), SERVER, 0, SENDER),
        ctl.SpawnReplyTT(reference(OWN), SERVER, 0, SENDER, TOKEN),
        ctl.AliasSend(SENDER, reference(OWN)),
        ctl.AliasSendTT(SENDER, reference(OWN), TOKEN),
        ctl.AltactSigSend(ctl.ALTACT_ALIAS, SENDER, reference(OWN)),
    )
}
"""Signals that a peer may send only if a rule or an earlier signal of the node allows it."""

UNTIES = (
    *(ctl.Exit, ctl.ExitTT, ctl.PayloadExit, ctl.PayloadExitTT, ctl.Unlink, ctl.UnlinkId),
    *(ctl.UnlinkIdAck, ctl.DemonitorP),
)
"""Signals that end a link or monitor and have no effect without one."""

ALTACTS = [
    ctl.AltactSigSend(address | bits, SENDER, to, TOKEN)
    for address, to in (
        (0, SERVER),
        (ctl.ALTACT_NAME, NAME),
        (ctl.ALTACT_ALIAS, reference(OWN)),
    )
    for bits in range(4)
    for bits in (bits & 1 | (bits & 2), bits | ctl.ALTACT_EXIT)
]

OPEN = replace(RULES, links=True, exits=True, group_leaders=True)


def opened(rules: PeerRules = OPEN) -> Filtered:
    """The node has sent the peer a pid, an alias, a monitor and a spawn request."""
    pair = Filtered(rules)
    own = reference(OWN)
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), (SERVER, own))
    pair.node_says(ctl.MonitorP(SERVER, SENDER, own))
    pair.node_says(ctl.SpawnRequest(own, SERVER, SERVER, MFA, []), [1])
    return pair


def said(control: ctl.Control) -> tuple[ctl.Control, Any]:
    is_spawn = isinstance(control, ctl.SpawnRequest | ctl.SpawnRequestTT)
    payload: Any = [1] if is_spawn else 1
    return control, payload if control.HAS_PAYLOAD else NO_PAYLOAD


def test_every_form_is_tried() -> None:
    kinds = {*FORM_OF, *UNTIES, ctl.NodeLink}
    assert kinds == set(ctl.ALL)


EVERY = [*FORM_OF.values(), *ALTACTS]


@pytest.mark.parametrize("control", EVERY, ids=str)
def test_every_form_is_refused_unless_something_allows_it(control: ctl.Control) -> None:
    Filtered(NOTHING).answer(*said(control))
    (event,) = opened().peer_says(*said(control))
    assert isinstance(event, MessageReceived)
    assert getattr(event.signal, "token", NO_TOKEN) is NO_TOKEN


@pytest.mark.parametrize("control", EVERY, ids=str)
def test_no_form_reaches_a_third_node_s_process(control: ctl.Control) -> None:
    third = {"to_pid": pid("third@x"), "alias": reference("third@x")}
    values = {name: to for name, to in third.items() if hasattr(control, name)}
    if isinstance(control, ctl.AltactSigSend) and not isinstance(control.to, Atom):
        values = {"to": pid("third@x") if isinstance(control.to, Pid) else reference("third@x")}
    if values:
        opened(replace(OPEN, pids=Pids.ANY)).answer(*said(replace(control, **values)))


@given(st.data())
def test_what_unties_passes_to_the_node_s_own_processes(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(UNTIES))
    control = as_peer(data.draw(st.builds(kind, *FIELDS[kind])))
    payload = data.draw(terms) if control.HAS_PAYLOAD else NO_PAYLOAD
    receiver = "to_proc" if isinstance(control, ctl.DemonitorP) else "to_pid"
    values: dict[str, Any] = {receiver: SERVER}
    control = replace(control, **values)
    assert Filtered(NOTHING).peer_says(control, payload)


@given(controls, terms)
def test_without_rules_nothing_new_passes(control: ctl.Control, payload: Any) -> None:
    """With any field values, only signals that end links or monitors pass."""
    pair = Filtered(NOTHING)
    control = as_peer(control)
    if not isinstance(control, UNTIES):
        pair.answer(control, payload if control.HAS_PAYLOAD else NO_PAYLOAD)


@given(controls, terms)
def test_nobody_speaks_for_another(control: ctl.Control, payload: Any) -> None:
    pair = Filtered(ALL)
    sender = getattr(control, "from_pid", None) or getattr(control, "from_proc", None)
    said = (control, payload) if control.HAS_PAYLOAD else (control,)
    if isinstance(sender, Pid):
        with pytest.raises(ProtocolError, match="in another node's name"):
            pair.peer_says(*said)


def as_peer(control: ctl.Control) -> ctl.Control:
    """Repeats the test with a process of the peer."""
    senders = {"from_pid": SENDER, "from_proc": SENDER}
    return replace(control, **{name: to for name, to in senders.items() if hasattr(control, name)})


def test_an_unknown_kind_is_dropped() -> None:
    pair = Filtered(ALL)
    frame = b"\x83D\0" + encode_bare((99, SENDER))
    assert pair.bring(frame) == []
    assert pair.notes == ["refused: a control message of an unknown kind (99)"]


# -- what is in a message -----------------------------------------------------------------------

FUN = Export(Atom("os"), Atom("cmd"), 1)
DEEP = [1, (b"x" * 300, {Atom("f"): [2.5, 1 << 80, ImproperList([1], FUN)]})]


@pytest.mark.parametrize("way", SPAWNS)
def test_no_fun_goes_along_with_a_call(way: str) -> None:
    pair = Filtered(RULES)
    control, payload = SPAWNS[way](CALC, Atom("add"))
    assert pair.peer_says(control, payload)
    arguments = [*payload[:-1], DEEP]
    event = pair.answer(control, arguments)
    assert event is not None
    assert event.signal == SpawnReply(MREF, SENDER, 0, Atom("notsup"))
    assert Filtered(replace(RULES, funs=True)).peer_says(control, arguments)


def test_no_fun_goes_to_a_name() -> None:
    pair = Filtered(RULES)
    event = pair.answer(to("counter"), call(DEEP))
    assert event is not None
    assert (event.signal, event.payload) == ctl.meaning(down(NAME), NOPROC)
    assert pair.answer(to("rex"), call((Atom("call"), CALC, CALC, [DEEP], SENDER))) is not None


def test_a_fun_in_a_later_fragment_ends_the_connection() -> None:
    pair = Filtered(RULES, fragment_size=50)
    pair.peer_says(to("counter"), [bytes(500), 1])
    with pytest.raises(ProtocolError, match="a fun in a later fragment"):
        pair.peer_says(to("counter"), [bytes(500), FUN])


def new_atoms(count: int, start: int = 0) -> list[Atom]:
    return [Atom(f"new_{number}") for number in range(start, start + count)]


def test_new_atoms_are_bounded_by_message_and_connection() -> None:
    pair = Filtered(replace(RULES, new_atoms=1500))
    assert pair.answer(to("counter"), new_atoms(1200)) is None
    assert pair.peer_says(to("counter"), new_atoms(900))
    assert pair.peer_says(to("counter"), new_atoms(900))
    assert pair.answer(to("counter"), new_atoms(900, 900)) is None
    assert pair.peer_says(to("counter"), new_atoms(500, 900))


def test_all_connections_share_what_the_node_has_room_for() -> None:
    budget = AtomBudget(limit=100)
    first, second = Filtered(RULES), Filtered(RULES)
    first.policy_filter._atoms = second.policy_filter._atoms = budget
    assert first.peer_says(to("counter"), new_atoms(80))
    assert second.peer_says(to("counter"), new_atoms(80))
    assert second.answer(to("counter"), new_atoms(80, 80)) is None


def test_atoms_are_counted_wherever_they_are() -> None:
    hidden = [
        (pid("a@b"), reference("c@d"), {Atom("e"): Atom("f")}),
        ImproperList([Atom("g")], Atom("h")),
    ]
    scanner = TermScanner()
    data = encode_bare(hidden)
    assert scanner.feed(data) == len(data)
    assert scanner.atoms == {b"a@b", b"c@d", b"e", b"f", b"g", b"h"}


@given(terms, st.integers(1, 60))
def test_a_term_in_pieces_is_scanned_as_one_whole(term: Any, step: int) -> None:
    data = encode_bare(term)
    whole, pieces = TermScanner(), TermScanner()
    assert whole.feed(data) == len(data)
    assert whole.is_done
    for start in range(0, len(data), step):
        assert not pieces.is_done
        pieces.feed(data[start : start + step])
    assert pieces.is_done
    assert pieces.atoms == whole.atoms


@given(st.binary(max_size=100))
def test_hostile_terms_raise_nothing_but_our_own_error(data: bytes) -> None:
    scanner = TermScanner()
    try:
        end = scanner.feed(data)
    except Unreadable:
        return
    assert end <= len(data)


def test_answers_with_too_many_atoms_end_the_connection() -> None:
    pair = opened(replace(OPEN, new_atoms=10))
    with pytest.raises(ProtocolError, match="new atoms than the peer may bring in an answer"):
        pair.peer_says(ctl.AliasSend(SENDER, reference(OWN)), new_atoms(11))


def test_a_name_that_a_peer_gives_itself_is_an_atom_too() -> None:
    budget = AtomBudget(limit=1)
    for name in ("one@x", "one@x"):
        hello = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 5, name))
        policy_filter = PolicyFilter(Policy((ALL,)), OWN, dialed_peer=None, atoms=budget)
        policy_filter.from_peer(HandshakePacket(hello))
    hello = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 5, "two@x"))
    policy_filter = PolicyFilter(Policy((ALL,)), OWN, dialed_peer=None, atoms=budget)
    with pytest.raises(HandshakeRefused, match="new atoms"):
        policy_filter.from_peer(HandshakePacket(hello))


# -- messages with a meaning in OTP --------------------------------------------------------


@pytest.mark.parametrize("tag", sorted(RUNTIME_TAGS))
@pytest.mark.parametrize("control", [to("counter"), ctl.SendSender(SENDER, SERVER)], ids=str)
def test_what_the_runtime_sends_is_no_peer_s_to_send(control: ctl.Control, tag: str) -> None:
    for pids in Pids:
        pair = opened(replace(OPEN, pids=pids))
        for rest in ((), (SENDER, Atom("reason")), (1, 2, 3, 4)):
            pair.answer(control, (Atom(tag), *rest))
    assert opened(replace(OPEN, system_messages=True)).peer_says(control, (Atom(tag), SERVER, 1))


def test_old_tags_and_large_tuples_hide_no_exit() -> None:
    pair = Filtered(RULES)
    head = b"\x83D\0" + encode_bare(to("counter").to_tuple())
    rest = encode_bare(SERVER) + encode_bare(NOPROC)
    for atom in (b"w\x04", b"v\0\x04", b"s\x04", b"d\0\x04"):
        for group in (b"h\x03", b"i\0\0\0\x03"):
            assert pair.bring(head + group + atom + b"EXIT" + rest) == []


def test_a_call_to_a_caller_is_no_answer() -> None:
    """`timer_server` runs what it is asked to."""
    to_server = ctl.SendSender(SENDER, SERVER)
    request = call((Atom("apply_once"), (0, 0, (Atom("os"), Atom("cmd"), [[105, 100]]))))
    event = opened().answer(to_server, request)
    assert event is not None
    assert event.payload == NOPROC
    assert opened().answer(to_server, (Atom("$gen_cast"), 1)) is None
    assert opened(replace(OPEN, pids=Pids.PARTNERS)).peer_says(to_server, request)
    child = Filtered(OPEN)
    child.node_says(ctl.SpawnReply(MREF, SENDER, 0, SERVER))
    assert child.peer_says(to_server, request)


@pytest.mark.parametrize(
    "payload",
    [
        call((Atom("is_auth"), new_atoms(1))),
        call((Atom("is_auth"), Atom("third@x"))),
        call((Atom("is_auth"), Atom(PEER), 1)),
        (GEN_CALL, (pid("third@x"), MREF), (Atom("is_auth"), Atom(PEER))),
        (GEN_CALL, SENDER, (Atom("is_auth"), Atom(PEER))),
        (Atom("$gen_cast"), (Atom("is_auth"), Atom(PEER))),
        (SENDER, (Atom("is_auth"), Atom(PEER))),
        (Atom("is_auth"), Atom(PEER)),
        call((Atom("spawn"), CALC, CALC, [], SENDER, 1)),
        (SENDER, (Atom("sbcast"), NAME, (Atom("EXIT"), SERVER, 1))),
    ],
)
@pytest.mark.parametrize("name", ["rex", "net_kernel"])
def test_requests_to_otp_pass_in_their_exact_shape(name: str, payload: Any) -> None:
    Filtered(RULES).answer(to(name), payload)


# -- aliases, monitors, spawn requests ----------------------------------------------------------


def test_only_aliases_pass_that_the_node_has_sent() -> None:
    pair = Filtered(RULES)
    seen, other = reference(OWN, 1), reference(OWN, 2)
    assert pair.answer(ctl.AliasSend(SENDER, seen), 1) is None
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), {Atom("reply_to"): seen})
    for _ in range(2):
        assert pair.peer_says(ctl.AliasSend(SENDER, seen), 1)
        assert pair.answer(ctl.AliasSend(SENDER, other), 1) is None


def test_a_reply_alias_serves_once() -> None:
    pair = Filtered(RULES)
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), (GEN_CALL, (SERVER, ALIAS_TAG), 1))
    assert pair.peer_says(ctl.AliasSend(SENDER, reference(OWN)), (ALIAS_TAG, 1))
    assert pair.answer(ctl.AliasSend(SENDER, reference(OWN)), (ALIAS_TAG, 1)) is None


@pytest.mark.parametrize("size", range(20, 90))
def test_an_alias_is_seen_wherever_fragments_part_it(size: int) -> None:
    pair = Filtered(RULES, fragment_size=size)
    pair.node.channel._limits = replace(pair.node.channel._limits, fragment_size=size)
    message = [bytes(100), reference(OWN), bytes(100)]
    pair.node_says(ctl.RegSend(SERVER, Atom("whoever")), message)
    assert pair.peer_says(ctl.AliasSend(SENDER, reference(OWN)), 1)
    assert pair.policy_filter._tails == {}


def test_a_down_passes_once_for_each_monitor() -> None:
    pair = Filtered(RULES)
    gone = ctl.PayloadMonitorPExit(SENDER, SERVER, reference(OWN))
    assert pair.answer(gone, NOPROC) is None
    pair.node_says(ctl.MonitorP(SERVER, SENDER, reference(OWN)))
    assert pair.peer_says(gone, NOPROC)
    assert pair.answer(gone, NOPROC) is None
    pair.node_says(ctl.MonitorP(SERVER, SENDER, reference(OWN)))
    pair.node_says(ctl.DemonitorP(SERVER, SENDER, reference(OWN)))
    assert pair.answer(gone, NOPROC) is None


def test_a_spawn_reply_passes_once_and_names_a_process_of_the_peer() -> None:
    pair = Filtered(RULES)
    request = ctl.SpawnRequest(reference(OWN), SERVER, SERVER, MFA, [Atom("monitor")])
    pair.node_says(request, [1])
    assert pair.answer(ctl.SpawnReply(reference(OWN), SERVER, 0, pid(OWN, 9))) is None
    assert pair.peer_says(ctl.SpawnReply(reference(OWN), SERVER, 2, SENDER))
    assert pair.answer(ctl.SpawnReply(reference(OWN), SERVER, 2, SENDER)) is None
    gone = ctl.PayloadMonitorPExit(SENDER, SERVER, reference(OWN))
    assert pair.peer_says(gone, Atom("normal"))


@pytest.mark.parametrize(
    "options",
    [[(Atom("min_heap_size"), 1 << 40)], [Atom("link"), (Atom("priority"), Atom("max"))], [1]],
)
def test_a_spawn_request_has_no_options_that_harm(options: list[Any]) -> None:
    pair = Filtered(RULES)
    assert pair.peer_says(ctl.SpawnRequest(MREF, SENDER, SENDER, MFA, [Atom("link")]), [1])
    assert pair.answer(ctl.SpawnRequest(MREF, SENDER, SENDER, MFA, options), [1]) is not None


def test_a_spawned_process_gets_no_group_leader_behind_the_gateway() -> None:
    request = ctl.SpawnRequest(MREF, SENDER, SERVER, MFA, [])
    assert Filtered(RULES).answer(request, [1]) is not None
    assert opened(RULES).answer(request, [1]) is not None
    child = Filtered(RULES)
    child.node_says(ctl.SpawnReply(MREF, SENDER, 0, SERVER))
    assert child.peer_says(request, [1])


def test_execute_call_of_another_arity_is_not_erpc_s() -> None:
    pair = Filtered(replace(RULES, calls=("calc:*", "erpc_:*")))
    for arity, arguments in ((3, [CALC, CALC, []]), (5, [MREF, CALC, CALC, [], 1])):
        assert pair.answer(spawn("erpc", "execute_call", arity), arguments) is not None


# -- fragments ----------------------------------------------------------------------------------


def test_messages_in_fragments_pass_or_are_dropped_whole() -> None:
    pair = Filtered(RULES, fragment_size=50)
    payload = bytes(500)
    parts = [frames(pair.peer, to(name), payload) for name in ("counter", "kitchen")]
    assert len(parts[0]) == len(parts[1]) > 5
    forwarded = [
        pair.policy_filter.from_peer(FramePacket(frame)).forward is not None
        for pieces in zip(*parts, strict=True)
        for frame in pieces
    ]
    assert forwarded == [True, False] * len(parts[0])
    assert pair.policy_filter._sequences == {}


def test_a_first_fragment_that_hides_what_it_is_is_refused_with_all_of_its_message() -> None:
    pair = Filtered(RULES, fragment_size=50)
    control = encode_bare(to("rex").to_tuple())
    for sequence, begun in enumerate((b"", b"h", b"h\x03w"), 1):
        number = sequence.to_bytes(8, "big")
        first = b"\x83E" + number + (2).to_bytes(8, "big") + b"\0" + control + begun
        second = b"\x83F" + number + (1).to_bytes(8, "big") + b"x"
        for frame in (first, second):
            assert pair.policy_filter.from_peer(FramePacket(frame)).forward is None
    assert not pair.policy_filter._sequences
    assert pair.peer_says(to("counter"), 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"P\x01",
        b"h\x03w\x06system" + encode_bare([[]] * 300) + b"a\x01",
        b"h\x03w\x06system\x00a\x01",
    ],
    ids=["nothing", "compressed", "larger than what is looked into", "an unknown tag"],
)
def test_a_payload_that_cannot_be_looked_into_costs_its_message_alone(payload: bytes) -> None:
    pair = Filtered(RULES)
    frame = b"\x83D\0" + encode_bare(to("counter").to_tuple()) + payload
    passage = pair.policy_filter.from_peer(FramePacket(frame))
    assert passage.forward is None
    assert passage.note is not None
    assert passage.note.startswith("refused: ")
    assert pair.peer_says(to("counter"), 1)


def test_native_records_pass() -> None:
    pair = Filtered(RULES)
    record = NativeRecord(Atom("m"), Atom("r"), (Atom("f"),), ([1],))
    (event,) = pair.peer_says(to("counter"), (Atom("ok"), record))
    assert isinstance(event, MessageReceived)
    assert event.payload == (Atom("ok"), record)


@pytest.mark.parametrize("filling", range(60))
def test_a_message_passes_wherever_its_fragments_part(filling: int) -> None:
    message = (bytes(filling), Atom("an_atom"), SENDER, MREF, [1.5, 1 << 70], b"end")
    pair = Filtered(RULES, fragment_size=60)
    *_, event = pair.peer_says(to("counter"), message)
    assert isinstance(event, MessageReceived)
    assert event.payload == message


def test_fragments_out_of_turn_or_of_too_many_messages_end_the_connection() -> None:
    pair = Filtered(RULES, fragment_size=50)
    first, second, third, *_ = frames(pair.peer, to("kitchen"), bytes(500))
    with pytest.raises(ProtocolError, match="expected"):
        pair.bring(second)
    pair.bring(first)
    with pytest.raises(ProtocolError, match="expected"):
        pair.bring(third)
    with pytest.raises(ProtocolError, match="not finished"):
        pair.bring(first)
    while len(pair.policy_filter._sequences) < 4096:
        pair.bring(frames(pair.peer, to("kitchen"), bytes(500))[0])
    with pytest.raises(ProtocolError, match="more than 4096"):
        pair.bring(frames(pair.peer, to("kitchen"), bytes(500))[0])


@pytest.mark.parametrize(
    "frame",
    [
        b"\x83",
        b"\x83D",
        b"\x83D\x01\x00\x00",
        b"\x83D\0",
        b"\x83D\0h\0",
        b"p\x83h\x01a\x05",
        b"\x83D\0" + encode_bare((6, SENDER)),
    ],
)
def test_what_is_no_frame_ends_the_connection_unless_it_is_only_watched(frame: bytes) -> None:
    pair = Filtered(RULES)
    with pytest.raises(ProtocolError):
        pair.bring(frame)
    watched = Filtered(Policy((RULES,), Mode.LOG))
    passage = watched.policy_filter.from_peer(FramePacket(frame))
    assert passage.forward == FramePacket(frame)
    assert passage.answer is None
    assert passage.note is not None


@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans(), st.sampled_from(sorted(FORMS)))
def test_hostile_packets_raise_nothing_but_our_own_errors(
    packets: list[bytes], handshake: bool, form: str
) -> None:
    policy_filter = (
        PolicyFilter(Policy((RULES,)), OWN, dialed_peer=None)
        if handshake
        else Filtered(RULES, flags=FORMS[form]).policy_filter
    )
    for data in packets:
        try:
            policy_filter.from_peer(HandshakePacket(data) if handshake else FramePacket(data))
        except DistError:
            return


# -- watching only ------------------------------------------------------------------------------


@given(controls, terms)
def test_a_policy_that_logs_lets_everything_pass(control: ctl.Control, payload: Any) -> None:
    pair = Filtered(Policy((NOTHING,), Mode.LOG))
    said = (control, payload) if control.HAS_PAYLOAD else (control,)
    for frame in frames(pair.peer, *said):
        passage = pair.policy_filter.from_peer(FramePacket(frame))
        assert passage.forward == FramePacket(frame)
        assert passage.answer is None


def test_a_policy_that_logs_says_what_it_would_refuse() -> None:
    pair = Filtered(Policy((RULES,), Mode.LOG))
    assert pair.peer_says(to("kitchen"), 1)
    assert pair.notes == ["would be refused: a message to kitchen"]
    stranger = Filtered(Policy((), Mode.LOG))
    assert stranger.peer_says(to("kitchen"), 1)
    assert stranger.notes == [
        "would be refused: anything from peer@x, which matches no entry of the policy"
    ]


# -- audit ---------------------------------------------------------------------------------------


def test_calls_that_pass_and_what_is_refused_are_named_for_the_audit_log() -> None:
    policy = PeerRules(nodes=("*",), calls=("calc:*",), names=("counter",))
    pair = Filtered(policy, is_audited=True)

    def passage(control: Any, payload: Any) -> tuple[str | None, str | None]:
        (frame,) = frames(pair.peer, control, payload)
        passage = pair.policy_filter.from_peer(FramePacket(frame))
        return passage.called, passage.refused

    args = [MREF, Atom("calc"), Atom("add"), [1, 2]]
    assert passage(spawn("erpc", "execute_call", 4), args) == ("calc:add", None)
    assert passage(to("counter"), 1) == (None, None)
    assert passage(to("kitchen"), 1) == (None, "a message to kitchen")
    args = [MREF, Atom("os"), Atom("cmd"), ["id"]]
    assert passage(spawn("erpc", "execute_call", 4), args) == (None, "a call of os:cmd")


# -- who a server would answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    "caller",
    [
        (Atom("init"), Atom("stop")),
        (Atom("rex"), Atom("$gen_cast")),
        (SERVER, MREF),
        (pid("third@x"), MREF),
        (SENDER, (Atom("tag"), reference(OWN))),
        (SENDER, reference(OWN)),
        (SENDER, ALIAS_TAG),
        (SENDER, ImproperList([ALIAS_TAG], Atom("label"))),
        SENDER,
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["counter", "net_kernel", "rex"])
def test_no_server_is_made_to_answer_anybody_but_the_peer(name: str, caller: Any) -> None:
    pair = Filtered(RULES)
    request = {
        "counter": Atom("get"),
        "net_kernel": (Atom("is_auth"), Atom(PEER)),
        "rex": (Atom("call"), CALC, Atom("add"), [1, 2], SENDER),
    }[name]
    assert pair.peer_says(to(name), (GEN_CALL, (SENDER, MREF), request))
    assert not pair.peer_says(to(name), (GEN_CALL, caller, request))


@pytest.mark.parametrize("kind", ["sbcast", "send"])
def test_nor_by_way_of_rex(kind: str) -> None:
    pair = Filtered(RULES)

    def passed_on(caller: Any) -> Any:
        inner = (GEN_CALL, caller, Atom("get"))
        return pair.peer_says(to("rex"), (SENDER, (Atom(kind), Atom("counter"), inner)))

    assert passed_on((SENDER, MREF))
    assert not passed_on((Atom("init"), Atom("stop")))
    assert not passed_on((SENDER, reference(OWN)))


def test_a_peer_that_may_reach_every_pid_may_have_others_answered() -> None:
    pair = Filtered(replace(RULES, pids=Pids.ANY))
    assert pair.peer_says(to("counter"), (GEN_CALL, (pid("third@x"), MREF), Atom("get")))


def test_net_kernel_spawns_with_no_options() -> None:
    pair = Filtered(RULES)

    def spawned_with(options: Any) -> Any:
        request = (Atom("spawn_opt"), CALC, Atom("add"), [1, 2], options, Atom("nolink"), SENDER)
        return pair.peer_says(to("net_kernel"), (GEN_CALL, (SENDER, MREF), request))

    assert spawned_with([])
    assert not spawned_with([(Atom("min_heap_size"), 1 << 58)])
    assert not spawned_with([Atom("link")])


def test_a_spawn_by_way_of_net_kernel_is_named_for_the_audit_log() -> None:
    pair = Filtered(RULES, is_audited=True)
    request = (Atom("spawn"), CALC, Atom("add"), [1, 2], SENDER)
    message = (GEN_CALL, (SENDER, MREF), request)
    (frame,) = frames(pair.peer, to("net_kernel"), message)
    assert pair.policy_filter.from_peer(FramePacket(frame)).called == "calc:add"


# -- references that a peer brings ---------------------------------------------------------------

GUESSED = reference(OWN, 9)


def in_old_form(name_tag: bytes) -> bytes:
    """GUESSED as NEW_REFERENCE_EXT, its node in another form of atom."""
    width = 1 if name_tag in b"ws" else 2
    name = name_tag + len(OWN).to_bytes(width, "big") + OWN.encode()
    words = b"".join(one.to_bytes(4, "big") for one in GUESSED.ids)
    return b"r\0\3" + name + b"\0" + words


@pytest.mark.parametrize(
    "form", [encode_bare(GUESSED), *map(in_old_form, (b"w", b"s", b"v", b"d"))]
)
@pytest.mark.parametrize("size", [64 * 1024, 40])
def test_a_reference_is_not_learned_from_an_answer_that_repeats_it(form: bytes, size: int) -> None:
    pair = Filtered(RULES, fragment_size=size)
    for frame in frames(pair.peer, to("counter"), (Atom("put"), GUESSED)):
        pair.bring(frame.replace(encode_bare(GUESSED), form))
    repeated = ctl.SendSender(SERVER, SENDER)
    pair.node_says(repeated, (Atom("got"), GUESSED))
    forged = ctl.AliasSend(SENDER, GUESSED)
    assert not pair.peer_says(forged, Atom("forged"))
    pair.node_says(repeated, (Atom("got"), reference(OWN, 10)))
    assert pair.peer_says(ctl.AliasSend(SENDER, reference(OWN, 10)), Atom("answer"))


def test_an_alias_that_the_peer_was_sent_may_come_back_and_serve_on() -> None:
    pair = Filtered(RULES)
    pair.node_says(ctl.SendSender(SERVER, SENDER), (Atom("at"), GUESSED))
    for _ in range(2):
        assert pair.peer_says(to("counter"), (Atom("got"), GUESSED))
        assert pair.peer_says(ctl.AliasSend(SENDER, GUESSED), Atom("answer"))


def test_a_peer_brings_so_many_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "MAX_PROCESSES", 5)
    pair = Filtered(RULES)
    assert pair.peer_says(to("counter"), [reference(OWN, number) for number in range(5)])
    assert pair.peer_says(to("counter"), [reference(OWN, 1), reference(PEER, 7)])
    assert not pair.peer_says(to("counter"), reference(OWN, 6))


# -- pids that a peer gives to OTP ----------------------------------------------------------------


def in_pid_form(tag: bytes, name_tag: bytes) -> bytes:
    """SERVER as PID_EXT or NEW_PID_EXT, its node in another form of atom."""
    width = 1 if name_tag in b"ws" else 2
    name = name_tag + len(OWN).to_bytes(width, "big") + OWN.encode()
    creation = 1 if tag == b"g" else 4
    return tag + name + SERVER.id.to_bytes(4, "big") + bytes(4) + bytes(creation)


FORMS_OF_SERVER = [
    encode_bare(SERVER),
    *(in_pid_form(tag, name) for tag in (b"X", b"g") for name in (b"w", b"s", b"v", b"d")),
]


def led_call(kind: str, leader: Any, args: Any = (1, 2)) -> tuple[str, Any]:
    """The receiver and the message of a call whose group leader is `leader`."""
    function = (CALC, Atom("add"), list(args))
    called = (Atom(kind), *function, leader)
    caller = (SENDER, MREF)
    return {
        "call": ("rex", (GEN_CALL, caller, called)),
        "block_call": ("rex", (GEN_CALL, caller, called)),
        "cast": ("rex", (Atom("$gen_cast"), called)),
        "plain call": ("rex", (SENDER, (Atom("call"), *function, leader))),
        "spawn": ("net_kernel", (GEN_CALL, caller, called)),
        "spawn_link": ("net_kernel", (GEN_CALL, caller, called)),
        "spawn_opt": (
            "net_kernel",
            (GEN_CALL, caller, (Atom(kind), *function, [], Atom("nolink"), leader)),
        ),
    }[kind]


LED = ["call", "block_call", "cast", "plain call", "spawn", "spawn_link", "spawn_opt"]


@pytest.mark.parametrize("kind", LED)
@pytest.mark.parametrize("form", FORMS_OF_SERVER, ids=repr)
@pytest.mark.parametrize("args", [(1, 2), (SENDER, b"")], ids=["numbers", "pid"])
def test_output_of_a_call_does_not_go_to_a_process_of_the_node(
    kind: str, form: bytes, args: Any
) -> None:
    """A call that prints would send `io_request` to the process, in the node's own name."""
    name, message = led_call(kind, SERVER, args)
    assert not passes(Filtered(RULES), to(name), message, form)


@pytest.mark.parametrize("kind", [kind for kind in LED if kind != "spawn_opt"])
@pytest.mark.parametrize("filling", range(100, 300, 7))
def test_nor_where_the_group_leader_comes_in_a_later_fragment(kind: str, filling: int) -> None:
    arguments = (bytes(filling), SENDER)
    for leader, allowed in ((SENDER, True), (Atom("user"), True), (SERVER, False)):
        name, message = led_call(kind, leader, arguments)
        assert passes(Filtered(RULES, fragment_size=128), to(name), message) is allowed


@pytest.mark.parametrize("kind", LED)
@pytest.mark.parametrize("leader", [SENDER, pid("third@x"), Atom("user")], ids=repr)
def test_output_of_a_call_goes_to_the_caller_or_the_user(kind: str, leader: Any) -> None:
    name, message = led_call(kind, leader)
    assert passes(Filtered(RULES), to(name), message)


@pytest.mark.parametrize("kind", LED)
def test_output_of_a_call_goes_to_a_process_that_the_peer_spawned(kind: str) -> None:
    name, message = led_call(kind, SERVER)
    child = Filtered(RULES)
    child.node_says(ctl.SpawnReply(MREF, SENDER, 0, SERVER))
    assert passes(child, to(name), message)
    assert not passes(opened(RULES), to(name), message)
    assert passes(Filtered(replace(RULES, pids=Pids.ANY)), to(name), message)


@pytest.mark.parametrize("form", FORMS_OF_SERVER, ids=repr)
@pytest.mark.parametrize("size", [64 * 1024, 40])
def test_a_request_contains_no_pid_of_the_node_that_was_guessed(form: bytes, size: int) -> None:
    """A scope of pg answers `{discover, Pid}` with a cast to that process."""
    pair = Filtered(RULES, fragment_size=size)
    message = (Atom("discover"), SERVER)
    assert not passes(pair, to("counter"), message, form)
    assert passes(Filtered(RULES), to("counter"), (Atom("discover"), SENDER))
    known = Filtered(RULES, fragment_size=size)
    known.node_says(ctl.SendSender(pid(OWN, 1), SENDER), [Atom("started"), bytes(50), SERVER])
    assert passes(known, to("counter"), message, form)
    assert passes(Filtered(replace(RULES, pids=Pids.ANY)), to("counter"), message, form)


def test_global_tells_of_the_pids_of_all_nodes() -> None:
    pair = Filtered(replace(RULES, names=("global_name_server",)))
    assert passes(pair, to("global_name_server"), (Atom("register"), Atom("name"), SERVER))


def test_a_pid_is_not_learned_from_an_answer_that_repeats_it() -> None:
    pair = Filtered(RULES)
    assert pair.peer_says(ctl.UnlinkId(1, SENDER, SERVER))
    pair.node_says(ctl.UnlinkIdAck(1, SERVER, SENDER))
    assert not passes(pair, to("counter"), (Atom("discover"), SERVER))


@pytest.mark.parametrize(
    ("control", "payload"),
    [
        (ctl.SpawnReply(MREF, SENDER, 0, SERVER), NO_PAYLOAD),
        (ctl.SpawnRequest(reference(OWN), pid(OWN, 1), SERVER, MFA, []), [1]),
        (ctl.PayloadExit(SERVER, SENDER), Atom("normal")),
        (ctl.Exit2(SERVER, SENDER, Atom("normal")), NO_PAYLOAD),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_pid_that_a_process_of_the_peer_sees_comes_back(
    control: ctl.Control, payload: Any
) -> None:
    pair = Filtered(RULES)
    pair.node_says(control, payload)
    assert passes(pair, to("counter"), (Atom("seen"), SERVER))


def test_a_guessed_pid_in_the_arguments_of_a_call_is_refused() -> None:
    request = spawn("calc", "add", 1)
    assert Filtered(RULES).answer(request, [SERVER]) is not None
    assert opened(RULES).peer_says(request, [SERVER])


EVENT_REQUESTS: list[Any] = [
    Atom("which_handlers"),
    Atom("get_modules"),
    Atom("stop"),
    (Atom("call"), CALC, Atom("get")),
    (Atom("sync_notify"), 1),
    (Atom("add_handler"), CALC, []),
]


@pytest.mark.parametrize("request_", EVENT_REQUESTS, ids=repr)
@pytest.mark.parametrize("first", [SENDER, Atom("any"), b"any", [1, 2]], ids=repr)
@pytest.mark.parametrize(
    "caller",
    [
        (Atom("init"), Atom("stop")),
        ((Atom("rex"), Atom(OWN)), Atom("tag")),
        (pid("third@x"), MREF),
        (SENDER, ALIAS_TAG),
        (b"", ALIAS_TAG),
        Atom("no_caller"),
    ],
    ids=repr,
)
def test_no_event_manager_is_made_to_answer_anybody_but_the_peer(
    request_: Any, first: Any, caller: Any
) -> None:
    pair = Filtered(RULES)
    assert passes(pair, to("counter"), (first, (SENDER, MREF), request_))
    is_answered = isinstance(caller, tuple)
    assert passes(pair, to("counter"), (first, caller, request_)) is not is_answered
    assert passes(pair, to("counter"), (first, caller, Atom("other")))


def test_a_process_that_accepts_answers_accepts_no_request_to_an_event_manager() -> None:
    request = (SENDER, (SENDER, MREF), Atom("which_handlers"))
    answering = opened(RULES)
    assert passes(answering, ctl.SendSender(SENDER, SERVER), (SENDER, 1, Atom("which_handlers")))
    assert not passes(answering, ctl.SendSender(SENDER, SERVER), request)


@pytest.mark.parametrize("alias", [reference(OWN), reference("third@x")], ids=repr)
def test_an_alias_hides_in_no_part_of_a_callers_tag(alias: Any) -> None:
    """`gen:reply` sends to the alias in `[[alias | Alias] | Any]`."""
    tag = ImproperList([ImproperList([Atom("alias")], alias)], MREF)
    assert not passes(Filtered(RULES), to("counter"), (GEN_CALL, (SENDER, tag), Atom("get")))


def passes(pair: Filtered, control: ctl.Control, payload: Any, form: bytes = b"") -> bool:
    """Whether the node receives the message, with SERVER encoded as `form`."""
    whole = list(frames(pair.peer, control, payload))
    if form and len(whole) == 1:
        whole = [frame.replace(encode_bare(SERVER), form) for frame in whole]
    try:
        events = [event for frame in whole for event in pair.bring(frame)]
    except ProtocolError:
        return False
    return bool(events)


# -- functions of the OTP application that run others ----------------------------------------------


def wrapped(module: str, function: str, ahead: list[Any], behind: list[Any]) -> list[Any]:
    return [*ahead, Atom(module), Atom(function), [1, 2], *behind]


@pytest.mark.parametrize(("module", "function"), [("calc", "add"), ("os", "cmd")])
def test_a_call_with_a_deadline_is_checked_by_its_function(module: str, function: str) -> None:
    args = wrapped(module, function, [MREF], [5000])
    assert passes(Filtered(RULES), spawn("quicdist_call", "execute", 5), args) is (module == "calc")


@pytest.mark.parametrize(
    ("consumer", "alias", "module", "allowed"),
    [
        (SENDER, MREF, "calc", True),
        (SENDER, MREF, "os", False),
        (SERVER, MREF, "calc", False),
        (pid("third@x"), MREF, "calc", False),
        (SENDER, reference(OWN), "calc", False),
        (Atom("init"), MREF, "calc", False),
    ],
)
def test_a_stream_is_checked_by_its_function_and_goes_to_the_caller(
    consumer: Any, alias: Any, module: str, allowed: bool
) -> None:
    args = wrapped(module, "cmd", [consumer, alias, (10, 1000)], [])
    assert passes(Filtered(RULES), spawn("quicdist_stream", "start", 6), args) is allowed


# -- what is remembered of all connections --------------------------------------------------------


def test_all_connections_together_remember_so_much() -> None:
    budget = reachability.ReferenceBudget(160)
    small, large = (reachability.Reachability(Atom(OWN), budget) for _ in range(2))
    for number in range(10):
        small.sent(ctl.signal(ctl.MonitorP(SERVER, SENDER, reference(OWN, number))), None)
    for number in range(1000):
        large.sent(ctl.signal(ctl.MonitorP(SERVER, SENDER, reference(OWN, number))), None)
        assert small.count + large.count <= 161
    assert small.count == 10
    assert large.takes_down(reference(OWN, 999))
    assert not large.takes_down(reference(OWN, 0))
    assert small.takes_down(reference(OWN, 0))


def test_room_that_a_connection_took_is_free_when_it_has_ended() -> None:
    budget = reachability.ReferenceBudget(160)
    ended = reachability.Reachability(Atom(OWN), budget)
    for number in range(160):
        ended.sent(ctl.signal(ctl.MonitorP(SERVER, SENDER, reference(OWN, number))), None)
    del ended
    other = reachability.Reachability(Atom(OWN), budget)
    for number in range(120):
        other.sent(ctl.signal(ctl.MonitorP(SERVER, SENDER, reference(OWN, number))), None)
    assert other.count == 120


def test_references_that_peers_bring_take_a_quarter_of_it() -> None:
    budget = reachability.ReferenceBudget(160)
    one, two = (reachability.Reachability(Atom(OWN), budget) for _ in range(2))
    assert one.brought({bytes([number]) for number in range(30)})
    assert two.brought({bytes([number]) for number in range(10)})
    assert not two.brought({b"another"})
    assert two.brought({b"\1"})
