"""Two nodes in one event loop, over a carrier without a network."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import pytest

from quicdist import (
    Atom,
    CallError,
    CallTimeout,
    Cause,
    Mailbox,
    MailboxFull,
    MailboxLimits,
    NameTaken,
    NoConnection,
    Node,
    NodeDown,
    NodeLimits,
    NodeUp,
    NoProcess,
    NotRunning,
    ProcessExited,
    ReceiveTimeout,
    Retry,
    StartError,
)
from quicdist.etf import EtfEncodeError, ImproperList, Options, Term
from tests.node import exported
from tests.node.memory import Hub
from tests.support.virtual_clock import VirtualClockLoop
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.virtual_clock

KIB = 1024


def make(hub: Hub, name: str = "0@127.0.0.1", **settings: Any) -> Node:
    return Node(name, **{"cookie": "c", "carriers": [hub], **settings})


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
async def pair(hub: Hub) -> AsyncIterator[tuple[Node, Node]]:
    limits = NodeLimits(mailbox=MailboxLimits(high=256 * KIB, low=128 * KIB, hard=1024 * KIB))
    async with (
        make(hub, limits=limits, exports=[exported]) as one,
        make(hub, limits=limits, exports=[exported]) as two,
    ):
        yield one, two


async def get(me: Mailbox, match: Any = None) -> Term:
    return await me.receive(match, timeout=PATIENCE)


# -- life cycle ------------------------------------------------------------------------------------


async def test_a_node_is_used_while_it_runs(hub: Hub) -> None:
    node = make(hub)
    with pytest.raises(NotRunning):
        node.nodes()
    async with node:
        assert node.nodes() == []
        assert await node.ping(node.name)
        with pytest.raises(StartError, match="running already"):
            await node.start()
        with pytest.raises(StartError, match="in use"):
            await make(hub, node.name).start()
        creation = node.creation
    with pytest.raises(NotRunning):
        await node.ping("1@127.0.0.1")
    async with node:
        assert node.creation != creation


async def test_stop_waits_for_what_was_sent(hub: Hub) -> None:
    async with make(hub) as two, two.mailbox("sink") as sink:
        async with make(hub) as one:
            for number in range(100):
                await one.send(("sink", two.name), (number, bytes(50 * KIB)))
        for number in range(100):
            assert (await get(sink))[0] == number


async def test_stop_ends_processes_with_shutdown(hub: Hub) -> None:
    async with make(hub) as two, two.mailbox() as me:
        cleaned = asyncio.Event()

        async def run(process: Mailbox) -> None:
            try:
                await process.send(me.pid, process.pid)
                await process.receive()
            finally:
                cleaned.set()

        async with make(hub) as one:
            one.spawn(run)
            one.spawn(run)
            watched = [me.monitor(await get(me)) for _ in range(2)]
            assert await two.ping(one.name)
        assert cleaned.is_set()
        downs = [await get(me) for _ in range(2)]
        assert {down[1] for down in downs} == set(watched)
        assert {down[4] for down in downs} == {"shutdown"}


# -- messages ------------------------------------------------------------------------------------


async def test_send_to_everything_that_can_be_sent_to(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with one.mailbox("a") as a, two.mailbox("b") as b:
        for sender, to in ((a, b), (b, a), (a, a)):
            remote = (str(to.name), str(to.pid.node))
            for destination in (to.pid, to.alias(), remote):
                await sender.send(destination, (sender.pid, b"x"))
                assert await get(to) == (sender.pid, b"x")
        await a.send("a", 1)
        assert await get(a) == 1
        with pytest.raises(NoProcess):
            await a.send("nobody", 1)
        with pytest.raises(EtfEncodeError):
            await a.send(b.pid, object())
        alias = b.alias()
        assert b.unalias(alias)
        assert not b.unalias(alias)
        await a.send(alias, b"late")
        await a.send(b.pid, b"next")
        assert await get(b) == b"next"


async def test_names(pair: tuple[Node, Node]) -> None:
    one, _ = pair
    async with one.mailbox("a") as a:
        assert one.whereis("a") == a.pid
        with pytest.raises(NameTaken, match="'a' is already registered"):
            async with one.mailbox("a"):
                pass
        with pytest.raises(NameTaken):
            one.spawn(get, name="a")
        with pytest.raises(NameTaken, match="net_kernel"):
            one.register("net_kernel", a.pid)
        with pytest.raises(NameTaken, match="undefined"):
            one.register("undefined", a.pid)
        one.unregister("a")
        assert one.whereis("a") is None
        one.register("b", a.pid)
        assert one.whereis("b") == a.pid
    assert one.whereis("b") is None
    with pytest.raises(NoProcess):
        one.unregister("b")


async def test_selective_receive(pair: tuple[Node, Node]) -> None:
    one, _ = pair
    async with one.mailbox() as me:
        for number in range(6):
            await me.send(me.pid, number)
        assert await me.receive(lambda m: m == 3) == 3
        assert await me.receive(lambda m: m > 3) == 4
        assert await me.receive() == 0
        with pytest.raises(ReceiveTimeout):
            await me.receive(lambda m: m == 9, timeout=0)
        with pytest.raises(ReceiveTimeout):
            await me.receive(lambda m: m == 9, timeout=0.01)
        assert [await me.receive() for _ in range(3)] == [1, 2, 5]
        await me.send(me.pid, 0)
        with pytest.raises(ZeroDivisionError):
            await me.receive(lambda m: bool(1 / m))
        assert await me.receive() == 0
        waiting = asyncio.create_task(me.receive(lambda m: m == b"it"))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already receiving"):
            await me.receive()
        for message in (1, 2, b"it", 3):
            await me.send(me.pid, message)
        assert await waiting == b"it"
        assert [await me.receive() for _ in range(3)] == [1, 2, 3]
        waiting = asyncio.create_task(me.receive())
        await asyncio.sleep(0)
        await me.send(me.pid, b"kept")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await get(me) == b"kept"


async def test_another_task_that_receives_is_told_of_the_end(pair: tuple[Node, Node]) -> None:
    one, _ = pair
    receiving: list[asyncio.Task[Term]] = []

    async def main(me: Mailbox) -> None:
        receiving.append(asyncio.create_task(me.receive()))
        await asyncio.sleep(PATIENCE)

    process = one.spawn(main)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with one.mailbox() as me:
        me.exit(process.pid, Atom("kill"))
    with pytest.raises(ProcessExited, match="killed"):
        await receiving[0]
    assert await process.wait() == "killed"


async def test_a_long_chain_of_links_breaks(pair: tuple[Node, Node]) -> None:
    one, _ = pair
    processes = [one.spawn(get) for _ in range(3000)]
    for left, right in itertools.pairwise(processes):
        left.link(right.pid)
    async with one.mailbox() as me:
        reference = me.monitor(processes[-1].pid)
        me.exit(processes[0].pid, Atom("domino"))
        assert (await get(me))[1:] == (reference, "process", processes[-1].pid, "domino")
    assert not any(process.is_alive for process in processes)
    assert await processes[5].wait() == "domino"


# -- calls ---------------------------------------------------------------------------------------


async def test_calls(pair: tuple[Node, Node]) -> None:
    one, two = pair
    for node in (one, two):
        assert await node.call(two.name, "py", "add", [1, 2]) == 3
        assert await node.rpc(two.name, "py", "add_later", [1, 2]) == 3
        with pytest.raises(CallError, match="cannot do that"):
            await node.call(two.name, "py", "boom", [b"that"])
        with pytest.raises(CallError, match="undef"):
            await node.rpc(two.name, "py", "add", [1])
    with pytest.raises(CallError, match="EtfEncodeError"):
        await one.call(two.name, "py", "unencodable")


@pytest.mark.parametrize("kind", exported.ENDS)
@pytest.mark.parametrize("name", ["end_program", "end_program_later", "end_program_inline"])
async def test_a_function_that_would_end_the_program_fails(
    pair: tuple[Node, Node], name: str, kind: str
) -> None:
    one, two = pair
    with pytest.raises(CallError, match=f"raised .*{kind}"):
        await one.call(two.name, "py", name, [Atom(kind)])
    with pytest.raises(CallError, match=f"raised .*{kind}"):
        await one.gen_call(("py", two.name), (Atom(name), Atom(kind)))
    assert await one.call(two.name, "py", "add", [1, 2]) == 3


@pytest.mark.parametrize("kind", exported.ENDS)
@pytest.mark.parametrize("name", ["stream_until_end", "stream_until_end_later"])
async def test_a_stream_that_would_end_the_program_fails(
    pair: tuple[Node, Node], name: str, kind: str
) -> None:
    one, two = pair
    with pytest.raises(CallError, match=f"raised .*{kind}"):
        [item async for item in one.stream(two.name, "py", name, [Atom(kind)])]
    assert await one.call(two.name, "py", "add", [1, 2]) == 3


async def test_a_call_that_ends_early(pair: tuple[Node, Node]) -> None:
    one, two = pair
    with pytest.raises(CallTimeout, match="forever/0"):
        await one.call(two.name, "py", "forever", timeout=0.05)
    calling = asyncio.create_task(one.call(two.name, "py", "forever", timeout=None))
    await asyncio.sleep(0.05)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    calling = asyncio.create_task(one.rpc(two.name, "py", "forever", timeout=None))
    await asyncio.sleep(0.05)
    assert one.disconnect(two.name)
    with pytest.raises(NoConnection):
        await calling
    with pytest.raises(EtfEncodeError):
        await one.call(two.name, "py", "echo", [object()])
    assert await one.call(two.name, "py", "echo", [5]) == 5


@pytest.mark.io
async def test_too_many_calls_hold_their_caller_back(hub: Hub) -> None:
    async with (
        make(hub, exports=[exported], limits=NodeLimits(calls_at_once=10)) as two,
        make(hub) as one,
    ):
        calls = [
            asyncio.create_task(one.call(two.name, "py", "slow", [0.02], timeout=None))
            for _ in range(50)
        ]
        assert await asyncio.gather(*calls) == ["done"] * 50


# -- connections ---------------------------------------------------------------------------------


async def test_many_who_connect_share_one_attempt(hub: Hub) -> None:
    hub.delay = 0.02
    async with make(hub) as one, make(hub) as two, two.mailbox("b") as b:
        await asyncio.gather(*(one.send(("b", two.name), number) for number in range(20)))
        assert [await get(b) for _ in range(20)] == list(range(20))
        assert hub.dials == 1


async def test_a_dial_that_fails_is_made_again(hub: Hub) -> None:
    hub.refusals = 2
    async with make(hub) as one, make(hub) as two:
        await one.connect(two.name)
        assert hub.dials == 3


async def test_connects_that_cross(hub: Hub) -> None:
    for turn in range(40):
        hub.delay = 0.001 * (turn % 3)
        async with make(hub) as one, make(hub) as two:
            async with one.mailbox("x") as x, two.mailbox("x") as y:
                await asyncio.gather(
                    x.send(("x", two.name), b"1"), y.send(("x", one.name), b"2"), one.ping(two.name)
                )
                assert (await get(x), await get(y)) == (b"2", b"1")
            assert (one.nodes(), two.nodes()) == ([two.name], [one.name])


async def test_signals_wait_for_the_connection_in_order(hub: Hub) -> None:
    hub.delay = 0.02
    async with (
        make(hub) as one,
        make(hub) as two,
        one.mailbox() as me,
        two.mailbox("other") as other,
    ):
        me.trap_exit = True
        reference = me.monitor(("other", two.name))
        undone = me.monitor(("other", two.name))
        me.demonitor(undone)
        me.link(other.pid)
        await me.send(other.pid, b"go")
        assert await get(other) == b"go"
        assert other.watchers.keys() == {reference}
        assert list(other.links) == [me.pid]


async def test_wrong_cookie_both_ways(hub: Hub) -> None:
    async with make(hub) as one, make(hub, cookie="d") as two:
        for node, other in ((one, two), (two, one)):
            with pytest.raises(NoConnection, match="cookie"):
                await node.connect(other.name)
            assert not await node.ping(other.name)


@pytest.mark.io
async def test_nobody_there(hub: Hub) -> None:
    limits = NodeLimits(connect_timeout=0.1)
    async with make(hub, limits=limits) as one, one.mailbox() as me:
        me.trap_exit = True
        with pytest.raises(NoConnection, match="nobody at port 99"):
            await one.connect("99@127.0.0.1")
        with pytest.raises(NoConnection, match=r"no EPMD answers at nowhere\.invalid"):
            await one.connect("name@nowhere.invalid")
    async with make(hub) as one:
        # Long before the timeout: the port is closed.
        with pytest.raises(NoConnection, match=r"nobody at port 99$") as caught:
            await one.call("99@127.0.0.1", "m", "f", timeout=PATIENCE)
        assert caught.value.cause is Cause.PORT_CLOSED
    patient = NodeLimits(closed_port_dials=1000)
    async with make(hub, limits=patient) as one:
        with pytest.raises(NoConnection, match=r"nobody at port 99 \(tried for 0.5 s\)"):
            await one.call("99@127.0.0.1", "m", "f", timeout=0.5)
    async with make(hub, limits=limits) as one, one.mailbox() as me:
        me.trap_exit = True
        with pytest.raises(ValueError, match="invalid node name"):
            await one.connect("nonsense")
        reference = me.monitor(("x", "99@127.0.0.1"))
        assert (await get(me))[1:] == (
            reference,
            "process",
            ("x", "99@127.0.0.1"),
            "noconnection",
        )


@pytest.mark.io
async def test_a_host_that_is_no_name_at_all_is_told_and_not_waited_for(hub: Hub) -> None:
    """A peer may cause a dial with a pid of such a node."""
    async with make(hub) as one:
        for name in ("x@" + "y" * 80, "x@a..b", "x@\u00fc" + "." * 9, "x@ "):
            with pytest.raises(NoConnection):
                await one.connect(name)


async def test_who_wants_it_tried_again_has_it_tried_until_it_works(hub: Hub) -> None:
    hub.refusals = 3
    limits = NodeLimits(connect_timeout=0.01)
    async with make(hub, limits=limits) as one, make(hub) as two:
        await one.connect(two.name, retry=Retry(first=0.01, most=0.02))
        assert one.nodes() == [two.name]
        hub.refusals = hub.dials = 0
        with pytest.raises(NoConnection, match="nobody at port 99"):
            await one.connect("99@127.0.0.1", retry=Retry(first=0.01, attempts=3))
        assert hub.dials >= 3
    async with make(hub, cookie="another") as three, make(hub) as four:
        with pytest.raises(NoConnection, match="cookie"):
            await three.connect(four.name, retry=Retry())


def test_pauses_double_up_to_a_bound_and_are_cut_by_chance() -> None:
    retry = Retry(first=1.0, most=8.0)
    runs = [list(islice(retry.pauses(random.Random(seed)), 6)) for seed in range(50)]
    for pauses in runs:
        for pause, whole in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
            assert whole / 2 <= pause <= whole
    assert len({tuple(pauses) for pauses in runs}) == len(runs)


async def test_a_peer_that_came_back(hub: Hub) -> None:
    """The peer has restarted, while the local node considers it alive."""
    async with make(hub) as one:
        two = make(hub)
        await two.start()
        await one.connect(two.name)
        for connection in hub.connections:
            connection.is_frozen = True
        await two.stop()
        with one.events() as events:
            async with two:
                assert await two.ping(one.name)
                assert isinstance(await anext(events), NodeDown)
                assert await anext(events) == NodeUp(two.name, True, "memory")
                assert one.nodes() == [two.name]
                assert await one.ping(two.name)


async def test_monitors_of_nodes(hub: Hub) -> None:
    limits = NodeLimits(connect_timeout=0.1)
    async with make(hub, limits=limits) as one, make(hub) as two, one.mailbox() as me:
        for _ in range(3):
            me.monitor_node(two.name)
        assert me.demonitor_node(two.name)
        await until(one.nodes)
        one.disconnect(two.name)
        assert [await get(me), await get(me)] == [("nodedown", two.name)] * 2
        assert not me.demonitor_node(two.name)
        me.monitor_node("99@127.0.0.1")
        assert await get(me) == ("nodedown", "99@127.0.0.1")
        me.monitor_node("nonsense")
        assert await get(me) == ("nodedown", "nonsense")
        assert me.message_count == 0


async def test_large_binaries_are_views_of_their_messages(hub: Hub) -> None:
    terms = Options(binaries="memoryview")
    large = bytes(range(256)) * 4096
    async with make(hub, terms=terms, exports=[exported]) as one, make(hub, terms=terms) as two:
        for sent in (large, memoryview(large), bytearray(large)):
            back = await two.call(one.name, "py", "echo", [[sent, b"small"]])
            assert [type(each) for each in back] == [memoryview, bytes]
            assert back == [large, b"small"]
        async with one.mailbox("large") as box, two.mailbox() as me:
            await me.send(("large", one.name), large)
            await until(lambda: box.message_count)
            assert await get(box) == large


async def test_lists_of_small_integers_as_bytes_are_arguments_all_the_same(hub: Hub) -> None:
    terms = Options(strings="bytes", binaries="str")
    async with make(hub, terms=terms, exports=[exported]) as one, make(hub) as two:
        assert await two.call(one.name, "py", "add", [1, 2]) == 3
        assert await two.rpc(one.name, "py", "add", [1, 2]) == 3
        assert await two.call(one.name, "py", "echo", [b"text"]) == b"text"
        assert await one.call(one.name, "py", "add", [1, 2]) == 3


async def test_events(hub: Hub) -> None:
    async with make(hub) as one, make(hub, visible=True) as two:
        with one.events() as events:
            await two.ping(one.name)
            assert await anext(events) == NodeUp(two.name, False, "memory")
            assert one.nodes(hidden=False) == [two.name]
            assert two.nodes(hidden=False) == []
            two.disconnect(one.name)
            down = await anext(events)
            assert down == NodeDown(two.name, "closed by the peer: disconnected by this node")
        assert not two.disconnect(one.name)


# -- liveness ------------------------------------------------------------------------------------


async def test_a_silent_peer_is_down(hub: Hub) -> None:
    limits = NodeLimits(net_ticktime=0.4)
    async with make(hub, limits=limits) as one, make(hub) as two:
        await one.connect(two.name)
        with one.events() as events:
            await asyncio.sleep(1.0)  # longer than net_ticktime, without traffic
            assert one.nodes() == [two.name]
            for connection in hub.connections:
                connection.is_frozen = True
            down = await asyncio.wait_for(anext(events), PATIENCE)
            assert isinstance(down, NodeDown)
            assert "net_tick_timeout" in down.reason


async def test_a_loop_that_stood_still_blames_nobody(hub: Hub) -> None:
    limits = NodeLimits(net_ticktime=0.4)
    async with make(hub, limits=limits) as one, make(hub, limits=limits) as two:
        await one.connect(two.name)
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.advance(0.6)
        await asyncio.sleep(0.3)
        assert (one.nodes(), two.nodes()) == ([two.name], [one.name])


async def test_ticks_are_sent_when_nothing_else_is(hub: Hub) -> None:
    async with make(hub, limits=NodeLimits(net_ticktime=0.2)) as one, make(hub) as two:
        await one.connect(two.name)
        before = hub.connections[0].frames_sent
        await until(lambda: hub.connections[0].frames_sent >= before + 3)


async def test_a_zombie_is_found_by_asking(hub: Hub) -> None:
    hub.needs_probe = True
    limits = NodeLimits(net_ticktime=0.4)
    async with make(hub, limits=limits) as one, make(hub, limits=limits) as two:
        await one.connect(two.name)
        with one.events() as events:
            await asyncio.sleep(1.0)
            assert one.nodes() == [two.name]
            # two's transport stays up and discards what it receives.
            hub.connections[1].is_deaf = True
            hub.connections[0].is_deaf = True
            down = await asyncio.wait_for(anext(events), PATIENCE)
            assert isinstance(down, NodeDown)
            assert "its node does not" in down.reason


async def test_a_node_that_is_slow_to_answer_is_no_zombie(hub: Hub) -> None:
    """A peer that has just started on a busy machine."""
    hub.needs_probe = True
    limits = NodeLimits(net_ticktime=0.4)
    async with make(hub, limits=limits) as one, make(hub, limits=limits) as two:
        await one.connect(two.name)
        for connection in hub.connections:
            connection.is_frozen = True
        await asyncio.sleep(0.31)  # longer than half of net_ticktime, shorter than all of it
        for connection in hub.connections:
            connection.is_frozen = False
        for connection in hub.connections:
            connection._pump()
        await asyncio.sleep(1.0)
        assert one.nodes() == [two.name]


# -- back-pressure -------------------------------------------------------------------------------


async def push(node: Node, to: Node, count: int, size: int = 16 * KIB) -> None:
    for number in range(count):
        await node.send(("basin", to.name), (number, bytes(size)))


async def held(node: Node) -> None:
    """Waits until a mailbox of the node applies back-pressure to a peer."""
    system = node._running.system
    await until(lambda: any(process.level.held for process in system.processes.values()))


async def test_an_unread_mailbox_holds_its_flooder_back(
    pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 500))
        await held(two)
        await asyncio.sleep(0.05)
        assert basin.level.size < 350 * KIB
        assert not pushing.done()
        assert "basin" in caplog.text
        assert one.name in caplog.text
        for number in range(500):
            assert (await get(basin))[0] == number
        await pushing


async def test_the_flooder_can_be_asked(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 20))
        await held(two)
        # The answer follows the backlog, which is below the hard limit.
        assert await two.call(one.name, "py", "add", [1, 2]) == 3
        await pushing
        assert basin.message_count == 20
        for number in range(20):
            assert (await get(basin))[0] == number


async def test_at_the_hard_bound_calls_fail(hub: Hub, pair: tuple[Node, Node]) -> None:
    one, two = pair
    hub.high = 2048 * KIB
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 500))
        await held(two)
        # The answer follows more messages than the mailbox may hold.
        await until(
            lambda: any(
                end.statistics().bytes_unacknowledged > 1024 * KIB for end in hub.connections
            )
        )
        with pytest.raises(MailboxFull, match="basin"):
            await two.call(one.name, "py", "add", [1, 2], timeout=None)
        with pytest.raises(MailboxFull, match="basin"):
            await two.rpc(one.name, "py", "add", [1, 2], timeout=None)
        assert basin.level.size < 1100 * KIB
        for number in range(500):
            assert (await get(basin))[0] == number
        await pushing
        assert await two.call(one.name, "py", "add", [1, 2]) == 3


async def test_a_mailbox_whose_owner_waits_holds_nobody(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 40))
        await held(two)
        assert (await basin.receive(lambda m: m[0] == 39, timeout=PATIENCE))[0] == 39
        await pushing


async def test_a_wait_that_cannot_end_fails_at_the_hard_bound(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 200))
        with pytest.raises(MailboxFull, match="basin"):
            await basin.receive(lambda m: m == b"never")
        for number in range(200):
            assert (await get(basin))[0] == number
        await pushing


async def test_messages_of_no_size_fill_a_mailbox_too(pair: tuple[Node, Node]) -> None:
    one, two = pair

    async def push_zeros() -> None:
        for _ in range(50_000):
            await one.send(("basin", two.name), 0)

    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push_zeros())
        await held(two)
        assert basin.message_count < 5000
        for _ in range(50_000):
            assert await get(basin) == 0
        await pushing


async def test_exit_signals_fill_a_mailbox_too(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin, one.mailbox() as me:
        basin.trap_exit = True
        await one.connect(two.name)
        for number in range(100):
            me.exit(basin.pid, (number, bytes(16 * KIB)))
        await held(two)
        assert basin.message_count < 100
        for number in range(100):
            assert (await get(basin))[2][0] == number


@pytest.mark.io
async def test_casts_that_pile_up_hold_their_caller_back(hub: Hub) -> None:
    limits = NodeLimits(calls_at_once=5)
    async with make(hub, exports=[exported], limits=limits) as two, make(hub) as one:
        cast = (Atom("$gen_cast"), (Atom("slow"), 0.01))
        for _ in range(100):
            await one.send(("py", two.name), cast)
        running = two._running.spawner
        await until(lambda: running.count > 0)
        most = 0
        while running.count:
            most = max(most, running.count)
            await asyncio.sleep(0)
        assert most <= 6
        assert await one.call(two.name, "py", "add", [1, 2]) == 3


async def test_the_end_of_a_full_mailbox_lets_go(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with two.mailbox("basin"):
        pushing = asyncio.create_task(push(one, two, 500))
        await held(two)
    await pushing
    assert await one.ping(two.name)


async def test_what_came_before_a_close_counts(pair: tuple[Node, Node], hub: Hub) -> None:
    one, two = pair
    async with two.mailbox("basin") as basin:
        pushing = asyncio.create_task(push(one, two, 500))
        await held(two)
        await asyncio.sleep(0.02)
        hub.connections[0].cut()
        with pytest.raises(NoConnection):
            await pushing
        count = basin.message_count
        assert count >= 256 * KIB // (17 * KIB)
        assert [(await get(basin))[0] for _ in range(count)] == list(range(count))


async def test_small_messages_pass_large_ones(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with one.mailbox() as bulk, one.mailbox() as small, two.mailbox("sink") as sink:
        await one.connect(two.name)
        sending = asyncio.create_task(bulk.send(("sink", two.name), bytes(8 * KIB * KIB)))
        await asyncio.sleep(0)
        await small.send(("sink", two.name), b"small")
        assert await get(sink) == b"small"
        assert len(await get(sink)) == 8 * KIB * KIB
        await sending


async def test_requests_nobody_understands(pair: tuple[Node, Node]) -> None:
    one, two = pair
    async with one.mailbox() as me:
        tag = ImproperList((Atom("alias"),), me.alias())
        call = (Atom("$gen_call"), (me.pid, tag), Atom("nonsense"))
        await me.send(("net_kernel", two.name), call)
        assert await get(me) == (tag, (Atom("error"), Atom("notsup")))
        for name in ("net_kernel", "rex", "py", "global_name_server"):
            for message in (1, (Atom("$gen_call"), 1, 2), (Atom("$gen_cast"), ()), ()):
                await me.send((name, two.name), message)
        await me.send(("rex", two.name), (me.pid, Atom("features_request")))
        assert await get(me) == (Atom("features_reply"), Atom(two.name), [Atom("erpc")])
        await me.send(
            ("rex", two.name), (me.pid, (Atom("call"), Atom("py"), Atom("add"), [1, 2], 0))
        )
        assert await get(me) == (Atom("rex"), 3)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quicdist.node")
