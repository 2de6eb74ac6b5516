"""The blocking API has all methods of the async API, with equal names and parameters."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator

import pytest

import quicdist
from quicdist import (
    BlockingMailbox,
    BlockingNode,
    BlockingRequest,
    Identity,
    Node,
    NodeLimits,
    NoProcess,
    ProcessExited,
    Shared,
)
from quicdist.etf import Atom
from quicdist.kernel.global_.names import GlobalNames
from quicdist.otp.blocking import BlockingGlobalNames, BlockingGroups, BlockingTopics
from quicdist.otp.pg import Groups
from quicdist.otp.pubsub import Topics
from quicdist.runtime.calls import CallRequest
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import Process
from quicdist.runtime.system_process import SystemProcess
from tests.support.waiting import PATIENCE, wait_until

PAIRS = [
    (Node, BlockingNode),
    (Mailbox, BlockingMailbox),
    (CallRequest, BlockingRequest),
    (Groups, BlockingGroups),
    (Topics, BlockingTopics),
    (GlobalNames, BlockingGlobalNames),
]

OF_THE_LOOP = {
    Node: {"start", "stop", "system"},
    Mailbox: {"loop"},
    Groups: {"leave_all"},
    GlobalNames: {"known", "candidates", "lock_set", "both_locked"},
}
"""Methods without a meaning outside the event loop, or that run inside it."""

INSIDE = {
    *("deliver", "signalled", "stopped", "link_broken", "exit_signalled", "die", "runs_in"),
    *("monitor_fired", "alias_used", "spawn_replied", "node_lost", "fields", "reply"),
    *("ended_error", "sys_state", "run_room", "run_overhead", "deliver_run"),
}
"""Methods that signals, calls and `sys` use on a process."""


def public(kind: type, *, without: set[str]) -> set[str]:
    own = (vars(one) for one in kind.__mro__ if one is not object)
    return {name for names in own for name in names if not name.startswith("_")} - without


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_nothing_is_missing(theirs: type, ours: type) -> None:
    without = OF_THE_LOOP.get(theirs, set()) | INSIDE
    if issubclass(theirs, SystemProcess):
        without |= public(Process, without=set())
    assert not public(theirs, without=without) - public(ours, without=set())


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_arguments_are_the_same(theirs: type, ours: type) -> None:
    for name in public(theirs, without=INSIDE) & public(ours, without=set()):
        one, other = (inspect.getattr_static(kind, name) for kind in (theirs, ours))
        if inspect.isfunction(one):
            expected, got = (inspect.signature(each).parameters for each in (one, other))
            assert [(p.name, p.kind, p.default) for p in got.values()] == [
                (p.name, p.kind, p.default) for p in expected.values()
            ], name


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.ephemeral(["127.0.0.1"])


@pytest.fixture
def node(identity: Identity) -> Iterator[BlockingNode]:
    with BlockingNode(
        Node("0@127.0.0.1", cookie="parity", identity=identity, visible=True)
    ) as made:
        yield made


@pytest.mark.io
def test_requests(node: BlockingNode) -> None:
    request = node.gen_send_request("net_kernel", ("is_auth", Atom("x@y")))
    assert request.receive_response(PATIENCE) == Atom("yes")
    assert request.is_answered
    assert not request.abandon()
    assert len(node.multicall([node.name], "erlang", "no_such_thing")) == 1
    assert node.multi_call([node.name], "nobody", 1, timeout=PATIENCE) == ({}, [node.name])


@pytest.mark.io
def test_spawned_processes_and_names(node: BlockingNode) -> None:
    def echo(me: BlockingMailbox) -> None:
        sender, message = me.receive(timeout=PATIENCE)
        me.send(sender, (threading.current_thread().name, message))

    server = node.spawn(echo, name="echo")
    assert node.whereis("echo") == server.pid
    with node.mailbox() as me:
        node.register("me", me.pid)
        assert node.whereis("me") == me.pid
        node.unregister("me")
        with pytest.raises(NoProcess):
            node.unregister("me")
        me.send("echo", (me.pid, 7))
        where, message = me.receive(timeout=PATIENCE)
        assert message == 7
        assert where == str(server.process)
        assert server.wait() == "normal"


@pytest.mark.io
def test_a_spawned_process_that_is_ended(node: BlockingNode) -> None:
    seen: list[BaseException] = []

    def wait(me: BlockingMailbox) -> None:
        try:
            me.receive(timeout=PATIENCE)
        except BaseException as error:
            seen.append(error)

    server = node.spawn(wait)
    with node.mailbox() as me:
        me.exit(server.pid, Atom("shutdown"))
        assert server.wait() == "shutdown"
    wait_until(lambda: seen)
    assert isinstance(seen[0], ProcessExited)


@pytest.mark.io
def test_groups_topics_and_global_names(node: BlockingNode) -> None:
    groups, topics = node.pg(), node.pubsub("App")
    with node.mailbox() as me:
        groups.join("workers", me.pid)
        assert groups.members("workers") == [me.pid]
        reference, _ = groups.monitor_group(me, "workers")
        assert groups.leave("workers", me.pid)
        assert me.receive(timeout=PATIENCE) == (reference, "leave", "workers", [me.pid])
        topics.subscribe("room", me)
        topics.broadcast("room", "hello")
        assert me.receive(timeout=PATIENCE) == "hello"
        topics.broadcast("room", "hello", sender=me)
        assert topics.unsubscribe("room", me)
        assert me.message_count == 0
        node.global_names.register("it", me.pid)
        assert node.global_names.whereis("it") == me.pid
        node.global_names.unregister("it")
        assert node.global_names.names() == []


@pytest.mark.io
def test_all_threads_share_one_node(identity: Identity) -> None:
    limits = NodeLimits()
    shared = Shared(name="0@127.0.0.1", cookie="parity", identity=identity, limits=limits)
    names: set[str] = set()
    threads = [threading.Thread(target=lambda: names.add(shared().name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 1
    shared().close()
    assert not shared().is_closed
    shared().close()


@pytest.mark.io
def test_a_shared_node_that_cannot_connect_is_tried_again() -> None:
    shared = quicdist.Shared("1@127.0.0.1", cookie="parity")
    for _ in range(2):
        with pytest.raises(quicdist.NoConnection):
            shared()
