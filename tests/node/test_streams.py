"""Streams between nodes: items arrive in order, under flow control, until either side ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from quicdist import (
    Access,
    Atom,
    CallError,
    Mailbox,
    NoConnection,
    Node,
    NodeLimits,
    Run,
    SpawnError,
    StreamWindow,
    export,
    open_stream,
)
from quicdist.etf import Reference, Term
from quicdist.kernel.streams.consumer import Consumer
from tests.node import exported
from tests.node.conftest import MakeNode
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

GENERATORS = ["count", "count_in_thread", "count_inline"]


@export(module="sink")
async def total(offer: Term) -> int:
    """Adds the items of an offered stream."""
    return sum([item async for item in open_stream(offer)])


@pytest_asyncio.fixture
async def nodes(make_node: MakeNode) -> AsyncIterator[tuple[Node, Node]]:
    """A consumer, and a producer with exported generators."""
    exported.closed.clear()
    async with make_node() as one, make_node(exports=[exported, total]) as two:
        yield one, two


@pytest.mark.parametrize("generator", GENERATORS)
async def test_items_arrive_in_order(nodes: tuple[Node, Node], generator: str) -> None:
    one, two = nodes
    items = [item async for item in one.stream(two.name, "py", generator, [5000])]
    assert items == list(range(5000))
    assert exported.closed == [generator]


@pytest.mark.parametrize("generator", GENERATORS)
async def test_the_generator_is_closed_when_the_loop_ends_early(
    nodes: tuple[Node, Node], generator: str
) -> None:
    one, two = nodes
    async for item in one.stream(two.name, "py", generator, [10**9]):
        if item == 10:
            break
    await until(lambda: exported.closed == [generator])
    await until(lambda: not _streams(two))


async def test_the_generator_is_closed_when_the_consumer_is_cancelled(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    seen: list[Term] = []

    async def consume() -> None:
        async for item in one.stream(two.name, "py", "slowly", [3]):
            seen.append(item)

    task = asyncio.create_task(consume())
    await until(lambda: len(seen) == 3)
    task.cancel()
    await until(lambda: exported.closed == ["slowly"])


async def test_the_generator_is_closed_when_the_consuming_node_ends(make_node: MakeNode) -> None:
    exported.closed.clear()
    async with make_node(exports=[exported]) as two:
        async with make_node() as one:
            stream = aiter(one.stream(two.name, "py", "slowly", [1]))
            assert await anext(stream) == 0
        await until(lambda: exported.closed == ["slowly"])


async def test_the_stream_fails_when_the_producing_node_ends(make_node: MakeNode) -> None:
    async with AsyncExitStack() as stack, make_node() as one:
        two = await stack.enter_async_context(make_node(exports=[exported]))
        stream = aiter(one.stream(two.name, "py", "slowly", [1]))
        assert await anext(stream) == 0
        await stack.aclose()
        with pytest.raises((CallError, NoConnection)):
            await anext(stream)


async def test_items_before_an_error_arrive(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    items: list[Term] = []

    async def consume() -> None:
        async for item in one.stream(two.name, "py", "fail_after", [700]):
            items.append(item)

    with pytest.raises(CallError, match="no more numbers"):
        await consume()
    assert items == list(range(700))


async def test_an_item_without_an_erlang_form_ends_the_stream(make_node: MakeNode) -> None:
    @export(module="odd")
    def objects() -> Iterator[object]:
        yield 1
        yield object()

    async with make_node() as one, make_node(exports=[objects]) as two:
        with pytest.raises(CallError, match="no Erlang form"):
            [item async for item in one.stream(two.name, "odd", "objects")]


@pytest.mark.parametrize("function", ["missing", "add"])
async def test_what_is_not_an_exported_generator_fails(
    nodes: tuple[Node, Node], function: str
) -> None:
    one, two = nodes
    with pytest.raises(CallError, match=r"undef|requires a generator"):
        [item async for item in one.stream(two.name, "py", function, [1, 2][: function == "add"])]


async def test_a_call_of_a_generator_tells_to_use_a_stream(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with pytest.raises(CallError, match="call it as a stream"):
        await one.call(two.name, "py", "count", [1])


async def test_access_applies_to_streamed_functions(make_node: MakeNode) -> None:
    access = Access(calls={"*": ["py:count"]})
    async with make_node() as one, make_node(exports=[exported], access=access) as two:
        assert [item async for item in one.stream(two.name, "py", "count", [3])] == [0, 1, 2]
        with pytest.raises(CallError, match="undef"):
            [item async for item in one.stream(two.name, "py", "fail_after", [3])]


async def test_the_window_bounds_what_is_sent(nodes: tuple[Node, Node]) -> None:
    """A consumer that takes nothing receives no more than its window."""
    one, two = nodes
    stream = aiter(one.stream(two.name, "py", "count", [10**9], window=StreamWindow(items=100)))
    assert await anext(stream) == 0
    (consumer,) = [each for each in one.system.processes.values() if isinstance(each, Consumer)]
    await until(lambda: consumer.outstanding == 100)
    assert await anext(stream) == 1
    await stream.aclose()  # type: ignore[attr-defined]


async def test_an_item_larger_than_the_window_passes(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    window = StreamWindow(items=4, bytes=1000)
    stream = one.stream(two.name, "py", "blocks", [5, 100_000], window=window)
    assert [len(item) async for item in stream] == [100_000] * 5


async def test_a_producer_that_ignores_the_window_ends_the_stream(nodes: tuple[Node, Node]) -> None:
    one, two = nodes

    async def flood(me: Mailbox) -> None:
        match await me.receive():
            case (_, _, "subscribe", _, Reference() as tag, _):
                for _ in range(5):
                    await me.send(tag, (Atom("quicdist_stream"), tag, Atom("items"), [1, 2, 3]))
        await asyncio.Event().wait()

    offer = (Atom("quicdist_stream"), two.spawn(flood).pid, 1)
    with pytest.raises(CallError, match="flow_control"):
        [item async for item in one.open_stream(offer, window=StreamWindow(items=4))]


async def test_acknowledging_more_than_was_sent_ends_the_producer(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    async with one.mailbox() as me:
        tag = me.alias()
        args = [me.pid, tag, (10, 1000), Atom("py"), Atom("slowly"), [1]]
        spawned = await me.spawn_remote(two.name, "quicdist_stream", "start", args, monitor=True)
        await me.send(spawned.pid, (Atom("quicdist_stream"), tag, Atom("ack"), 100))
        down = await me.receive(lambda message: message[0] == "DOWN")
        assert "badarg" in str(down)


@pytest.mark.parametrize(
    ("args", "reason"),
    [([], "undef"), ([1, 2, 3, 4, 5, 6], "badarg"), ([1] * 7, "undef")],
    ids=["none", "numbers", "too many"],
)
async def test_a_malformed_start_ends_only_its_process(
    nodes: tuple[Node, Node], args: list[Term], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a fault of the peer, so the log has no traceback."""
    one, two = nodes
    async with one.mailbox() as me:
        await me.spawn_remote(two.name, "quicdist_stream", "start", args, monitor=True)
        down = await me.receive()
        assert isinstance(down, tuple)
        ended = down[-1][0] if isinstance(down[-1], tuple) else down[-1]
        assert (down[0], ended) == ("DOWN", reason)
    assert await one.ping(two.name)
    assert [one for one in caplog.records if one.exc_info] == []


async def test_an_offered_stream_is_consumed_by_the_called_function(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes

    async def numbers() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    for items in (numbers(), range(1000), (number for number in range(1000))):
        async with one.offer_stream(items) as offer:
            assert await one.call(two.name, "sink", "total", [offer]) == sum(range(1000))


async def test_an_offer_that_ends_early_is_no_complete_stream(nodes: tuple[Node, Node]) -> None:
    one, two = nodes

    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with one.offer_stream(endless()) as offer:
        stream = aiter(two.open_stream(offer))
        assert await anext(stream) == 1
    with pytest.raises(CallError, match="shutdown"):
        await anext(stream)


async def test_a_function_that_raises_stop_iteration_fails(make_node: MakeNode) -> None:
    @export(module="odd")
    def broken() -> object:
        raise StopIteration

    async with make_node() as one, make_node(exports=[broken]) as two:
        with pytest.raises(CallError, match="StopIteration"):
            [item async for item in one.stream(two.name, "odd", "broken", [])]


async def test_a_limit_applies_to_streams(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    exported.gate = asyncio.Event()
    streams = [aiter(one.stream(two.name, "py", "limited_stream", [])) for _ in range(3)]
    assert await anext(streams[0]) == 1
    waiting = asyncio.ensure_future(anext(streams[1]))
    await until(lambda: len(_streams(two)) == 2)
    with pytest.raises(CallError, match="busy"):
        await anext(streams[2])
    exported.gate.set()
    assert await waiting == 1


async def test_too_many_streams_of_a_peer_are_refused_and_the_others_go_on(
    make_node: MakeNode,
) -> None:
    limits = NodeLimits(calls_at_once=2)
    async with make_node() as one, make_node(exports=[exported], limits=limits) as two:
        streams = [aiter(one.stream(two.name, "py", "count", [10_000])) for _ in range(2)]
        for stream in streams:
            assert await anext(stream) == 0
        with pytest.raises(SpawnError, match="system_limit"):
            [item async for item in one.stream(two.name, "py", "count", [1])]
        for stream in streams:
            assert len([item async for item in stream]) == 9_999
        assert [item async for item in one.stream(two.name, "py", "count", [1])] == [0]


async def test_a_waiting_stream_leaves_the_queue_when_its_consumer_ends(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    exported.gate = asyncio.Event()
    running = aiter(one.stream(two.name, "py", "limited_stream", []))
    assert await anext(running) == 1
    waiting = asyncio.ensure_future(anext(aiter(one.stream(two.name, "py", "limited_stream", []))))
    await until(lambda: len(_streams(two)) == 2)
    waiting.cancel()
    await until(lambda: len(_streams(two)) == 1)
    exported.gate.set()


async def test_a_list_from_a_worker_process_is_a_stream(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    *numbers, pid = [
        item async for item in one.stream(two.name, "py", "list_in_process", [3], timeout=60)
    ]
    assert numbers == [0, 1, 2]
    assert pid != os.getpid()


@pytest.mark.parametrize("count", [True, 0, -1])
async def test_what_is_not_a_positive_number_is_no_acknowledgement(
    nodes: tuple[Node, Node], count: int
) -> None:
    one, two = nodes
    async with one.mailbox() as me:
        tag = me.alias()
        args = [me.pid, tag, (1, 1000), Atom("py"), Atom("count"), [2]]
        spawned = await me.spawn_remote(two.name, "quicdist_stream", "start", args, monitor=True)
        assert await me.receive() == (Atom("quicdist_stream"), tag, Atom("items"), [0])
        for acknowledged in (count, 1):
            message = (Atom("quicdist_stream"), tag, Atom("ack"), acknowledged)
            await me.send(spawned.pid, message)
        assert await me.receive() == (Atom("quicdist_stream"), tag, Atom("items"), [1])
        assert (await me.receive())[0] == "DOWN"


async def test_a_stream_is_iterated_once(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    stream = one.stream(two.name, "py", "count", [1])
    assert [item async for item in stream] == [0]
    with pytest.raises(RuntimeError, match="iterated once"):
        [item async for item in stream]


async def test_a_stream_to_nobody_fails(make_node: MakeNode) -> None:
    async with make_node() as one:
        with pytest.raises((NoConnection, SpawnError)):
            [item async for item in one.stream("1@127.0.0.1", "py", "count", [1], timeout=2)]


async def test_a_node_streams_from_itself(nodes: tuple[Node, Node]) -> None:
    _, two = nodes
    assert [item async for item in two.stream(two.name, "py", "count", [3])] == [0, 1, 2]


def _streams(node: Node) -> list[object]:
    return [each for each in node.system.processes.values() if "mailbox" in str(each)]


@pytest.mark.parametrize("kind", ["async", "thread", "inline", "step"])
async def test_what_a_generator_raises_when_it_is_closed_is_logged_once(
    kind: str, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    stepping, closed = threading.Event(), threading.Event()

    @export(module="odd")
    async def failing_async() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            raise ValueError("in the cleanup")

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise ValueError("in the cleanup")

    @export(module="odd")
    def failing_thread() -> Iterator[int]:
        yield from numbers()

    @export(module="odd", run=Run.INLINE)
    def failing_inline() -> Iterator[int]:
        yield from numbers()

    @export(module="odd")
    def failing_step() -> Iterator[int]:
        """Is closed while it computes."""
        try:
            time.sleep(0.01)  # longer than a step, so that the item is sent
            yield 0
            stepping.set()
            assert closed.wait(PATIENCE)
            yield 1
        finally:
            raise ValueError("in the cleanup")

    functions = [failing_async, failing_thread, failing_inline, failing_step]
    async with make_node() as one, make_node(exports=functions) as two:
        async with one.stream(two.name, "odd", f"failing_{kind}") as stream:
            items = aiter(stream)
            assert await anext(items) == 0
            if kind == "step":
                await until(stepping.is_set)
        await until(lambda: not _streams(two))
        closed.set()
        await until(lambda: [one for one in caplog.records if _is_of_cleanup(one)] != [])
    (record,) = [one for one in caplog.records if _is_of_cleanup(one)]
    assert f"odd:failing_{kind} raised ValueError" in record.getMessage()
    assert record.exc_info is not None
    assert "in the cleanup" in str(record.exc_info[1])


def _is_of_cleanup(record: logging.LogRecord) -> bool:
    return getattr(record, "event", None) == "cleanup_failed"


async def test_an_error_that_ends_a_stream_is_no_failed_cleanup(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = nodes
    with pytest.raises(CallError, match="no more numbers"):
        [item async for item in one.stream(two.name, "py", "fail_after", [3])]
    await until(lambda: not _streams(two))
    assert [one for one in caplog.records if _is_of_cleanup(one)] == []


async def test_what_a_process_raises_after_its_end_is_logged(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    async def failing(me: Mailbox) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in the cleanup")

    async with make_node() as node, node.mailbox() as other:
        process = node.spawn(failing)
        await started.wait()
        other.exit(process.pid, Atom("kill"))
        await until(lambda: [one for one in caplog.records if _is_of_cleanup(one)] != [])
    (record,) = [one for one in caplog.records if _is_of_cleanup(one)]
    assert "raised ValueError after its end" in record.getMessage()
