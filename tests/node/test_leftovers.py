"""A closed connection leaves no objects behind, however it ends.

Python runs the cycle collector less often the more objects exist, so cyclic garbage could stay for
an hour. These tests disable the collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import types
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from quicdist import NoConnection, Node, NodeLimits, Trust
from quicdist.cluster.quic import Quic
from tests.node.conftest import MakeNode
from tests.support.engines import ENGINES
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.io

OF_A_CONNECTION = (
    *("QuicConnection", "AioquicConnection", "Qh3Connection", "TcpConnection"),
    *("Peer", "Session", "Outbox", "_Attempt"),
)


@pytest.fixture(autouse=True)
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    logging.disable()  # the records that pytest captures keep references to their arguments
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


@pytest.fixture(params=ENGINES)
async def pair(request: Any, make_node: MakeNode) -> AsyncIterator[tuple[Node, Node]]:
    """Yields two nodes that are not connected."""
    settings = {
        "limits": NodeLimits(net_ticktime=1.0, connect_timeout=2.0),
        "carriers": [Quic(engine=request.param)],
        "trust": Trust.nothing(),
    }
    async with make_node(**settings) as one, make_node(**settings) as two:
        yield one, two


def left() -> list[str]:
    """Returns the class names of all connection objects that still exist."""
    kinds = (type(one) for one in gc.get_objects())
    ours = (kind.__name__ for kind in kinds if str(kind.__module__).startswith("quicdist."))
    return sorted(name for name in ours if name in OF_A_CONNECTION)


async def nothing_is_left() -> None:
    await until(lambda: not left(), pause=0.05)


async def both_down(one: Node, two: Node) -> None:
    await until(lambda: not (one.nodes(hidden=True) or two.nodes(hidden=True)))


async def disconnected_by_the_dialer(one: Node, two: Node) -> None:
    await one.connect(two.name)
    one.disconnect(two.name)
    await both_down(one, two)


async def disconnected_by_the_listener(one: Node, two: Node) -> None:
    await one.connect(two.name)
    await until(lambda: two.nodes(hidden=True))
    two.disconnect(one.name)
    await both_down(one, two)


async def lost_while_much_was_under_way(one: Node, two: Node) -> None:
    await one.connect(two.name)
    sending = [one.send(("nobody", two.name), bytes(3_000_000)) for _ in range(5)]
    tasks = [asyncio.ensure_future(each) for each in sending]
    await asyncio.sleep(0.01)
    one.disconnect(two.name)
    await asyncio.gather(*tasks, return_exceptions=True)
    await both_down(one, two)


async def gone_without_a_word(one: Node, two: Node) -> None:
    await one.connect(two.name)
    for node in (one, two):
        endpoint = node._carriers[0]._endpoint  # type: ignore[attr-defined]  # cut off
        endpoint._udp.unwatch()
    await both_down(one, two)


async def not_there(one: Node, two: Node) -> None:
    with contextlib.suppress(NoConnection):
        await one.connect(f"{free_port()}@127.0.0.1")


async def moved(one: Node, two: Node) -> None:
    await one.connect(two.name)
    for _ in range(20):
        one.rebind()
        assert await one.ping(two.name)
    one.disconnect(two.name)
    await both_down(one, two)


ENDS = (
    disconnected_by_the_dialer,
    disconnected_by_the_listener,
    lost_while_much_was_under_way,
    gone_without_a_word,
    not_there,
    moved,
)


@pytest.mark.parametrize("happens", ENDS, ids=lambda end: end.__name__)
async def test_an_ended_connection_is_no_more(
    pair: tuple[Node, Node], happens: Callable[[Node, Node], Awaitable[None]]
) -> None:
    await happens(*pair)
    await nothing_is_left()


async def test_one_with_another_cookie_is_no_more(make_node: MakeNode) -> None:
    async with make_node() as node, make_node(cookie="another") as stranger:
        with contextlib.suppress(NoConnection):
            await stranger.connect(node.name)
        with contextlib.suppress(NoConnection):
            await node.connect(stranger.name)
        await nothing_is_left()


async def test_no_table_grows_with_the_connections_that_were(make_node: MakeNode) -> None:
    async with make_node() as node, make_node() as other:

        def sizes() -> int:
            return entries(node) + entries(other)

        async def connect_and_end(count: int) -> None:
            for _ in range(count):
                async with other.mailbox() as me:
                    me.monitor(("nobody", node.name))
                    await me.send(("nobody", node.name), bytes(100_000))
                    await me.receive(timeout=PATIENCE)
                await disconnected_by_the_listener(other, node)
            await nothing_is_left()

        await connect_and_end(5)
        first = await settled(sizes)
        await connect_and_end(30)
        await until(lambda: sizes() <= first, pause=0.05)


_TABLES = (dict, list, set, deque, OrderedDict)
_NOT_OURS = (type, types.ModuleType, types.FunctionType, types.CodeType, asyncio.AbstractEventLoop)


def entries(root: object) -> int:
    """Returns the sizes of all tables reachable from an object."""
    seen: set[int] = set()
    ahead, count = [root], 0
    while ahead:
        one = ahead.pop()
        if id(one) in seen or isinstance(one, _NOT_OURS):
            continue
        seen.add(id(one))
        # A Counter has one entry for each reason of a fixed set.
        if isinstance(one, _TABLES) and not isinstance(one, Counter):
            count += len(one)
        ahead += gc.get_referents(one)
    return count
