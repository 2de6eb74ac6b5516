"""Access rules: a restricted peer may call what the rules allow and nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from quicdist import Access, CallError, Node, NoProcess, current_process, export
from quicdist.cluster.access import Tracebacks
from quicdist.cluster.access_filter import AccessFilter
from quicdist.cluster.access_rules import AccessRules, Pids
from quicdist.cluster.audit import PeerIdentity
from quicdist.cluster.tracebacks import HIDDEN, are_for, without_tracebacks
from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.otp import GenServer, start
from quicdist.otp.supervisor import Child, Supervisor
from quicdist.protocol import signals
from quicdist.runtime.exit_reasons import exit_reason
from quicdist.runtime.process import Watcher
from tests.node.conftest import COOKIE
from tests.support.waiting import PATIENCE, until

PEER = "4433@127.0.0.1"
NOTHING = Access(calls={})


class Secret(GenServer):
    """A server with a secret in its state."""

    def __init__(self) -> None:
        self.password = b"hunter2"

    async def handle_call(self, request: Term, sender: object) -> Term:
        return Atom("pong")


@export(module="calc")
def add(a: int, b: int) -> int:
    return a + b


@export(module="calc")
def fail() -> None:
    raise ValueError("postgres://admin:hunter2@db/main")


@asynccontextmanager
async def two(access: Access) -> AsyncIterator[tuple[Node, Node]]:
    """Yields a node with a supervisor, and the attacker's node, which has the cookie."""
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, access=access, exports=[add, fail]) as ours,
        Node("0@127.0.0.1", cookie=COOKIE) as theirs,
    ):
        tree = Supervisor(ours, [Child("secret", Secret, name="secret")])
        await start(ours, tree, name="tree")
        await theirs.connect(ours.name)
        yield ours, theirs


SYSTEM: list[tuple[Term, ...]] = [
    (Atom("system"), "FROM", Atom("get_state")),
    (Atom("system"), "FROM", (Atom("terminate"), Atom("shutdown"))),
    (Atom("EXIT"), "PARENT", Atom("kill")),
]


def _filled(message: tuple[Term, ...], sender: Term, parent: Pid) -> Term:
    """With what is known when it is sent."""
    places: dict[Term, Term] = {"FROM": sender, "PARENT": parent}
    return tuple(places[one] if isinstance(one, str) and one in places else one for one in message)


@pytest.mark.io
async def test_by_default_peers_are_trusted_as_otp_trusts_them() -> None:
    assert Access().rules_for(PEER).is_everything
    async with two(Access()) as (ours, theirs):
        assert await theirs.gen_call(("secret", ours.name), "ping") == "pong"


@pytest.mark.io
async def test_who_may_call_nothing_looks_into_no_server_and_ends_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`sys:get_state`, `supervisor:terminate_child`, exit signals, links, plain 'EXIT's."""
    async with two(NOTHING) as (ours, theirs):
        tree, secret = ours.whereis("tree"), ours.whereis("secret")
        assert tree is not None
        assert secret is not None
        async with theirs.mailbox() as me:
            for to in (("secret", ours.name), ("tree", ours.name), tree, secret):
                tag = theirs.system.identifiers.reference()
                for message in SYSTEM:
                    await me.send(to, _filled(message, (me.pid, tag), tree))
                with pytest.raises(NoProcess):
                    await me.gen_call(to, (Atom("terminate_child"), Atom("secret")))
            for pid in (tree, secret):
                me.exit(pid, "kill")
                me.monitor(pid)
                down = await me.receive(timeout=PATIENCE)
                assert isinstance(down, tuple)
                assert down[-1] == "noproc"
        # Signals of one connection arrive in order: the others have been seen by now.
        assert await theirs.ping(ours.name)
        assert (ours.whereis("tree"), ours.whereis("secret")) == (tree, secret)
    assert f"{theirs.name} is refused a message 'system' to secret" in caplog.text


@pytest.mark.io
async def test_a_link_of_who_may_not_link_is_answered_as_to_nobody() -> None:
    async with two(NOTHING) as (ours, theirs):
        secret = ours.whereis("secret")
        assert secret is not None
        async with theirs.mailbox() as me:
            me.trap_exit = True
            me.link(secret)
            assert await me.receive(timeout=PATIENCE) == ("EXIT", secret, "noproc")


@pytest.mark.io
async def test_what_is_listed_is_allowed() -> None:
    access = Access(calls={"*": ["calc:add"]}, names={"*": ["secret"]}, system_messages=["*"])
    async with two(access) as (ours, theirs):
        assert await theirs.gen_call(("secret", ours.name), "ping") == "pong"
        with pytest.raises(NoProcess):
            await theirs.gen_call(("tree", ours.name), "which_children")
        async with theirs.mailbox() as me:
            tag = theirs.system.identifiers.reference()
            await me.send(("secret", ours.name), (Atom("system"), (me.pid, tag), Atom("get_state")))
            assert "password" in str(await me.receive(timeout=PATIENCE))


@pytest.mark.io
async def test_a_restricted_peer_calls_what_it_may_and_answers_what_it_is_asked() -> None:
    async with two(Access(calls={"*": ["calc:add"]})) as (ours, theirs):
        assert await theirs.call(ours.name, "calc", "add", [1, 2]) == 3
        assert await theirs.rpc(ours.name, "calc", "add", [1, 2]) == 3
        assert await theirs.gen_call(("calc", ours.name), (Atom("add"), 1, 2)) == 3
        assert await theirs.ping(ours.name)
        with pytest.raises(CallError, match="undef"):
            await theirs.call(ours.name, "calc", "fail")
        async with theirs.mailbox("box") as box, ours.mailbox() as asking:
            await asking.send(("box", theirs.name), asking.pid)
            pid = await box.receive(timeout=PATIENCE)
            assert isinstance(pid, Pid)
            await box.send(pid, "answer")
            assert await asking.receive(timeout=PATIENCE) == b"answer"
            await box.send(pid, (Atom("$gen_cast"), "a request"))
            await box.send(pid, "another answer")
            assert await asking.receive(timeout=PATIENCE) == b"another answer"


@pytest.mark.io
@pytest.mark.parametrize(("access", "is_served"), [(Access(), True), (NOTHING, False)])
async def test_what_otp_calls_here_goes_by_calls_too(access: Access, is_served: bool) -> None:
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, access=access, visible=True) as ours,
        Node("0@127.0.0.1", cookie=COOKIE) as theirs,
    ):
        with pytest.raises(CallError) as caught:
            await theirs.call(ours.name, "global", "resolve_it", ["wrong", 1, 2, 3])
        assert ("undef" in str(caught.value)) is not is_served


# -- rules alone ---------------------------------------------------------------------------------


class Answers:
    def __init__(self) -> None:
        self.sent: list[Term] = []

    def send_down(self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term) -> None:
        self.sent.append((reference, reason))

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None:
        self.sent.append((to, reason))


OURS = Pid(Atom("ours@h"), 1, 0, 7)
THEIRS = Pid(Atom("theirs@h"), 1, 0, 7)
REFERENCE = Reference(Atom("theirs@h"), (1, 2, 3), 7)
OUR_ALIAS = Reference(Atom("ours@h"), (1, 2, 3), 7)
KILL = Atom("kill")


@pytest.mark.parametrize(
    "signal",
    [
        signals.ExitSignal(THEIRS, OURS),
        signals.ExitSignal(THEIRS, OURS, Atom("")),
        signals.ExitSignal(THEIRS, Atom("server")),
        signals.ExitSignal(THEIRS, REFERENCE),
        signals.Link(THEIRS, OURS),
        signals.Monitor(THEIRS, OURS, REFERENCE),
        signals.GroupLeader(THEIRS, OURS),
        signals.Message(None, OURS),
        signals.Message(THEIRS, OURS),
        signals.Message(THEIRS, Atom("server")),
        signals.Message(THEIRS, OURS, is_priority=True),
        signals.Message(THEIRS, Atom("server"), Atom("")),
    ],
    ids=lambda signal: type(signal).__name__,
)
def test_every_form_of_what_is_not_allowed_is_refused(signal: signals.Signal) -> None:
    access_filter = AccessFilter(PeerIdentity("theirs@h"), NOTHING.rules_for("theirs@h"), Answers())
    assert not access_filter.allows(signal, Atom("message"))


def test_answers_always_pass() -> None:
    access_filter = AccessFilter(PeerIdentity("theirs@h"), NOTHING.rules_for("theirs@h"), Answers())
    for signal in (
        signals.Message(THEIRS, REFERENCE),
        signals.Down(THEIRS, OURS, REFERENCE),
        signals.Exit(THEIRS, OURS),
        signals.Unlink(1, THEIRS, OURS),
        signals.SpawnReply(REFERENCE, OURS, 0, THEIRS),
        signals.Message(THEIRS, Atom("rex")),
    ):
        assert access_filter.allows(signal, Atom("message"))
    access_filter.note_sender(OURS)
    assert access_filter.allows(signals.Message(THEIRS, OURS), Atom("answer"))
    assert not access_filter.allows(signals.Message(THEIRS, OURS), (Atom("EXIT"), OURS, KILL))
    assert not access_filter.allows(signals.Message(THEIRS, OURS), (Atom("$gen_cast"), 1))


def test_who_may_call_everything_keeps_what_is_not_taken() -> None:
    rules = Access(system_messages=[], exits=["friend@*"]).rules_for(PEER)
    assert rules == AccessRules(
        names=("*",), calls=("*",), links=True, group_leaders=True, pids=Pids.ANY
    )
    assert Access(exits=["friend@*"]).rules_for("friend@h").exits


# -- tracebacks ----------------------------------------------------------------------------------


def _reason() -> Term:
    try:
        fail()
    except ValueError as error:
        return exit_reason(error)


def test_a_traceback_is_hidden_in_every_form_that_leaves() -> None:
    reason = _reason()
    assert isinstance(reason, tuple)
    error, stack = reason
    for term in (
        error,
        reason,
        (REFERENCE, Atom("error"), error, stack),
        (Atom("rex"), (Atom("badrpc"), (Atom("EXIT"), reason))),
        (REFERENCE, (Atom("badrpc"), (Atom("EXIT"), reason))),
        (reason, (Atom("gen_server"), Atom("call"), [])),
    ):
        assert b"hunter2" in repr(term).encode()
        hidden = repr(without_tracebacks(term))
        assert "hunter2" not in hidden
        assert "test_access" not in hidden
        assert "ValueError" in hidden
    harmless: Term = (Atom("ok"), [1, 2], {})
    assert without_tracebacks(harmless) is harmless


@pytest.mark.parametrize(
    ("setting", "host", "is_sent"),
    [
        (Tracebacks.LOOPBACK, "127.0.0.1", True),
        (Tracebacks.LOOPBACK, "::1", True),
        (Tracebacks.LOOPBACK, "10.0.0.7", False),
        (Tracebacks.LOOPBACK, "somewhere", False),
        (Tracebacks.ALL, "10.0.0.7", True),
        (Tracebacks.NOBODY, "127.0.0.1", False),
    ],
)
def test_who_is_sent_tracebacks(setting: Tracebacks, host: str, is_sent: bool) -> None:
    assert are_for(setting, host) is is_sent


@pytest.mark.io
async def test_what_a_function_raised_is_in_our_log_and_not_for_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with two(Access(tracebacks=Tracebacks.NOBODY)) as (ours, theirs):
        for how in (
            theirs.call(ours.name, "calc", "fail"),
            theirs.rpc(ours.name, "calc", "fail"),
            theirs.gen_call(("calc", ours.name), Atom("fail")),
        ):
            with pytest.raises(CallError) as caught:
                await how
            assert "hunter2" not in f"{caught.value} {caught.value.reason!r}"
            assert HIDDEN.decode() in repr(caught.value.reason)
        records = [one for one in caplog.records if getattr(one, "event", "") == "call_raised"]
        assert records
        assert records[0].levelno == logging.ERROR
        assert records[0].exc_info is not None
        assert f"calc:fail, called by {theirs.name}, raised ValueError" in caplog.text
        assert "postgres://admin:hunter2@db/main" in caplog.text


async def _spawn(node: Node, to: str) -> None:
    async with node.mailbox() as me:
        await me.spawn_remote(to, "calc", "fail", [])


async def _stream(node: Node, to: str) -> None:
    with pytest.raises(CallError):
        await anext(aiter(node.stream(to, "calc", "fail")))


async def _call(node: Node, to: str) -> None:
    with pytest.raises(CallError):
        await node.call(to, "calc", "fail")


async def _cast(node: Node, to: str) -> None:
    await node.cast(to, "calc", "fail")


@pytest.mark.io
@pytest.mark.parametrize("request_it", [_call, _cast, _spawn, _stream])
async def test_the_log_names_a_function_that_raises(
    request_it: Callable[[Node, str], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback begins at the function: the frames that called it tell its author nothing."""
    async with two(Access()) as (ours, theirs):
        await request_it(theirs, ours.name)
        await until(lambda: _raised(caplog) != [])
    (record,) = _raised(caplog)
    assert record.getMessage() == f"calc:fail, called by {theirs.name}, raised ValueError"
    assert record.exc_text is not None
    assert re.findall(r", in (\w+)", record.exc_text) == ["fail"]


def _raised(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if getattr(one, "event", "") == "call_raised"]


@pytest.mark.parametrize("alias", [Reference(Atom("ours@h"), (1, 2, 3), 7), REFERENCE], ids=repr)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda alias: alias,
        lambda alias: ImproperList([Atom("alias")], alias),
        lambda alias: [ImproperList([Atom("alias")], alias)],
        lambda alias: ImproperList([ImproperList([Atom("alias")], alias)], REFERENCE),
    ],
    ids=["plain", "alias", "in a list", "with a label"],
)
def test_no_answer_goes_to_an_alias_of_another_node(
    alias: Reference, wrap: Callable[[Reference], Term]
) -> None:
    rules = AccessRules(names=("server",))
    access_filter = AccessFilter(PeerIdentity("theirs@h"), rules, Answers())
    request = (Atom("$gen_call"), (THEIRS, wrap(alias)), Atom("get"))
    assert access_filter.allows(signals.Message(THEIRS, Atom("server")), request) is (
        alias is REFERENCE
    )


@pytest.mark.parametrize(
    ("to", "label"),
    [("server", Atom("$gen_call")), ("server", THEIRS), ("rex", THEIRS), ("rex", Atom("any"))],
)
def test_no_call_of_another_process_is_failed(to: str, label: Term) -> None:
    """A request that a server does not handle fails: the caller's monitor fires."""
    access_filter = AccessFilter(
        PeerIdentity("theirs@h"), AccessRules(names=("server",)), Answers()
    )
    for caller in (THEIRS, OURS):
        message = signals.Message(THEIRS, Atom(to))
        assert access_filter.allows(message, (label, (caller, 1), Atom("x"))) is (caller is THEIRS)


@pytest.mark.parametrize(
    ("consumer", "alias"), [(THEIRS, REFERENCE), (OURS, REFERENCE), (THEIRS, OUR_ALIAS)]
)
def test_a_stream_that_was_offered_goes_to_who_subscribes(consumer: Pid, alias: Reference) -> None:
    access_filter = AccessFilter(PeerIdentity("theirs@h"), NOTHING.rules_for("theirs@h"), Answers())
    access_filter.note_sender(OURS)
    subscribe: Term = (
        *(Atom("quicdist_stream"), REFERENCE, Atom("subscribe"), consumer, alias, (10, 1000)),
    )
    is_its_own = consumer is THEIRS and alias is REFERENCE
    assert access_filter.allows(signals.Message(THEIRS, OURS), subscribe) is is_its_own


@pytest.mark.io
@pytest.mark.parametrize("other", ["process", "alias"])
async def test_the_items_of_a_stream_go_to_the_caller_only(other: str) -> None:
    """Another process would get them in our name."""

    @export(module="calc")
    def count(limit: int) -> Iterator[int]:
        yield from range(limit)

    access = Access(calls={"*": ["calc:count"]})
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, access=access, exports=[count]) as ours,
        Node("0@127.0.0.1", cookie=COOKIE) as theirs,
        ours.mailbox() as victim,
        theirs.mailbox() as box,
    ):
        await theirs.connect(ours.name)
        victims, its = victim.alias(), box.alias()
        is_process = other == "process"
        consumer = victim.pid if is_process else box.pid
        args: list[Term] = [consumer, its if is_process else victims, (10, 1000), Atom("calc")]
        args += [Atom("count"), [3]]
        await box.spawn_remote(ours.name, "quicdist_stream", "start", args, monitor=True)
        down = await box.receive(timeout=PATIENCE)
        assert isinstance(down, tuple)
        assert "badarg" in repr(down[-1])
        assert victim.message_count == 0
        assert [item async for item in theirs.stream(ours.name, "calc", "count", [3])] == [0, 1, 2]


@pytest.mark.io
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_group_leader_of_a_call_is_no_process_of_ours(trusted: bool) -> None:
    """Nodes that the function calls would print to it in our name."""
    leaders: list[Pid | None] = []

    @export(module="calc")
    async def led() -> None:
        leaders.append(current_process.get().group_leader)

    access = Access() if trusted else Access(calls={"*": ["calc:led"]})
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, access=access, exports=[led]) as ours,
        Node("0@127.0.0.1", cookie=COOKIE) as theirs,
    ):
        await theirs.connect(ours.name)
        call: tuple[Atom, Atom, list[Term]] = (Atom("calc"), Atom("led"), [])
        default = ours.system.group_leader
        for leader in (ours.pid, theirs.pid):
            cast: Term = (Atom("$gen_cast"), (Atom("cast"), *call, leader))
            await theirs.send(("rex", ours.name), cast)
            async with theirs.mailbox() as box:
                await box.spawn_remote(ours.name, *call, group_leader=leader)
        await until(lambda: len(leaders) == 4)
        assert leaders[2:] == [theirs.pid] * 2
        assert leaders[:2] == [ours.pid if trusted else default] * 2


@pytest.mark.io
@pytest.mark.parametrize("by", ["name", "module"])
async def test_no_server_is_made_to_answer_our_own_processes(by: str) -> None:
    """The answer would be a message of this node: a cast of any function, if `rex` receives it."""
    calls: dict[str, list[str]] = {"*": ["calc:echo"]}
    names: dict[str, list[str]] = {} if by == "module" else {"*": ["echo"]}
    called: list[Term] = []

    @export(module="calc")
    def echo(value: Term) -> Term:
        return value

    @export(module="hidden")
    def run() -> None:
        called.append(1)

    class Echo(GenServer):
        async def handle_call(self, request: Term, sender: object) -> Term:
            return request

    async with (
        Node(
            "0@127.0.0.1",
            cookie=COOKIE,
            access=Access(calls=calls, names=names),
            exports=[echo, run],
        ) as ours,
        Node("0@127.0.0.1", cookie=COOKIE) as theirs,
    ):
        await start(ours, Echo(), name="echo")
        await theirs.connect(ours.name)
        cast: Term = (Atom("cast"), Atom("hidden"), Atom("run"), [], theirs.pid)
        rex = ours.system.names[Atom("rex")].pid
        request = (Atom("echo"), cast) if by == "module" else cast
        server = "calc" if by == "module" else "echo"
        message = (Atom("$gen_call"), (rex, Atom("$gen_cast")), request)
        await theirs.send((server, ours.name), message)
        assert await theirs.ping(ours.name, timeout=PATIENCE)
        assert await theirs.call(ours.name, "calc", "echo", [1], timeout=PATIENCE) == 1
        assert not called


@pytest.mark.io
async def test_a_cast_that_is_refused_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with two(NOTHING) as (ours, theirs):
        await theirs.cast(ours.name, "calc", "add", [1, 2])
        rex = (Atom("cast"), Atom("calc"), Atom("add"), [1, 2], theirs.pid)
        await theirs.send(("rex", ours.name), (Atom("$gen_cast"), rex))
        assert await theirs.ping(ours.name, timeout=PATIENCE)
    refused = [one for one in caplog.records if "is not allowed to" in one.getMessage()]
    assert len(refused) == 2
    assert not [one for one in caplog.records if one.exc_info]
