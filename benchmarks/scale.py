"""Measures the cost of one message on a node that holds N, 10 N and 100 N objects.

    python -m benchmarks.scale [--peers 10 100 1000] [--only WORD]

Each row is one kind of work beside N idle objects, in microseconds per item. The last column is
the cost at the largest N divided by the cost at the smallest N; it is near 1 if the cost does not
depend on N. The output is a Markdown table. Each figure is the median of interleaved rounds.
Connections use QUIC on loopback between two nodes in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from quicdist import Atom, Identity, Node, Quic
from quicdist.carriers.trust import Trust
from quicdist.etf import Pid
from quicdist.limits import MailboxLimits, NodeLimits
from quicdist.protocol import signals
from quicdist.runtime.backpressure import HERE
from quicdist.runtime.mailbox import Mailbox

ROUNDS = 5
BEHIND = MailboxLimits(high=1 << 40, low=1 << 39, hard=1 << 41)
"""A mailbox limit that no sender reaches: the queue is measured, not the back-pressure."""

Work = Callable[[], Awaitable[int]]
"""Processes some items and returns their number."""


@dataclass(frozen=True)
class Scene:
    """A kind of object, and the work done while the node holds N of them."""

    name: str
    sizes: Sequence[int]
    make: Callable[[int], AsyncIterator[Work]]


async def measured(scene: Scene) -> list[float]:
    """Returns the seconds per item for each size; all sizes run at once, measured in turn."""
    async with AsyncExitStack() as stack:
        works = []
        for size in scene.sizes:
            manager = asynccontextmanager(scene.make)(size)
            works.append(await stack.enter_async_context(manager))
        gc.collect()
        gc.freeze()
        rounds: list[list[float]] = [[] for _ in works]
        for _ in range(ROUNDS):
            for times, work in zip(rounds, works, strict=True):
                begin = time.perf_counter()
                count = await work()
                times.append((time.perf_counter() - begin) / count)
        gc.unfreeze()
        return [statistics.median(times) for times in rounds]


def node(**limits: object) -> Node:
    """Returns a node that trusts every peer with the cookie."""
    return Node(
        "0@127.0.0.1",
        cookie="scale",
        identity=IDENTITY,
        trust=Trust.nothing(),
        carriers=[Quic()],
        limits=NodeLimits(mailbox=BEHIND, **limits),  # type: ignore[arg-type]
    )


IDENTITY = Identity.ephemeral(["127.0.0.1"])


# -- scenes --------------------------------------------------------------------------------------


async def beside_connections(size: int) -> AsyncIterator[Work]:
    """A message and its answer on one of N connections; the others are idle."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node())
        peers = await _connected(stack, hub, size)
        echo = await _echo(stack, hub)
        me = await stack.enter_async_context(peers[0].mailbox())

        async def work() -> int:
            for _ in range(200):
                await me.send(echo, me.pid)
                await me.receive()
            return 200

        yield work


async def from_all_connections(size: int) -> AsyncIterator[Work]:
    """A message and its answer on each of N connections at once."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(node())
        peers = await _connected(stack, hub, size)
        echo = await _echo(stack, hub)
        boxes = [await stack.enter_async_context(peer.mailbox()) for peer in peers]

        async def one(me: Mailbox, count: int) -> None:
            for _ in range(count):
                await me.send(echo, me.pid)
                await me.receive()

        async def work() -> int:
            # A hundred at a time for every N, so that N does not change the concurrency.
            count = max(1, 1000 // size)
            for start in range(0, size, 100):
                await asyncio.gather(*(one(me, count) for me in boxes[start : start + 100]))
            return count * size

        yield work


async def beside_mailboxes(size: int) -> AsyncIterator[Work]:
    """A message from one mailbox to another, among N on the node."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        boxes = _mailboxes(ours, size)

        async def work() -> int:
            for number in range(2000):
                box = boxes[number * 7919 % size]
                await ours.send(box.pid, number)
                await box.receive()
            return 2000

        yield work


async def making_mailboxes(size: int) -> AsyncIterator[Work]:
    """Creating and closing a named mailbox beside N mailboxes."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        _mailboxes(ours, size)

        async def work() -> int:
            for _ in range(500):
                async with ours.mailbox("another"):
                    pass
            return 500

        yield work


async def call_before_backlog(size: int) -> AsyncIterator[Work]:
    """A gen_server call by a process that has N messages in its mailbox."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        me = await stack.enter_async_context(ours.mailbox())
        _fill(me, size)

        async def work() -> int:
            for _ in range(100):
                await me.gen_call("net_kernel", (Atom("is_auth"), Atom(ours.name)))
            return 100

        yield work


async def scan_in_vain(size: int) -> AsyncIterator[Work]:
    """A selective receive over N messages that do not match; each message is an item."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        me = await stack.enter_async_context(ours.mailbox())
        _fill(me, size)
        stop = object()

        async def work() -> int:
            looks = 0

            def match(message: object) -> bool:
                nonlocal looks
                looks += 1
                return message is stop

            me.deliver(stop, HERE)
            await me.receive(match)
            return looks

        yield work


async def draining_backlog(size: int) -> AsyncIterator[Work]:
    """Filling a mailbox with N messages and receiving them."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        me = await stack.enter_async_context(ours.mailbox())

        async def work() -> int:
            _fill(me, size)
            for _ in range(size):
                await me.receive()
            return size

        yield work


async def beside_monitors(size: int) -> AsyncIterator[Work]:
    """Monitor and demonitor by a process that has N monitors and N links."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        boxes = _mailboxes(ours, size)
        me = await stack.enter_async_context(ours.mailbox())
        for box in boxes:
            me.monitor(box.pid)
            me.link(box.pid)

        async def work() -> int:
            for number in range(1000):
                me.demonitor(me.monitor(boxes[number * 7919 % size].pid))
            return 1000

        yield work


async def node_lost(size: int) -> AsyncIterator[Work]:
    """The loss of a node with one link to this node, beside N processes without links to it."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(node())
        _mailboxes(ours, size)
        me = await stack.enter_async_context(ours.mailbox())
        me.trap_exit = True
        there = Pid(Atom("elsewhere@127.0.0.1"), 1, 0, 7)

        async def work() -> int:
            for _ in range(200):
                ours.system.handlers[signals.Link](signals.Link(there, me.pid), None, HERE)
                ours.system.node_lost(there.node)
                await me.receive()
            return 200

        yield work


def _mailboxes(ours: Node, count: int) -> list[Mailbox]:
    return [Mailbox(ours.system, BEHIND) for _ in range(count)]


def _fill(me: Mailbox, count: int) -> None:
    for number in range(count):
        me.deliver(number, HERE)


async def _connected(stack: AsyncExitStack, hub: Node, count: int) -> list[Node]:
    peers = [node() for _ in range(count)]
    stack.push_async_callback(_stop_all, peers)
    for peer in peers:
        await peer.start()
    for start in range(0, count, 20):
        await asyncio.gather(*(peer.connect(hub.name) for peer in peers[start : start + 20]))
    return peers


async def _stop_all(peers: Sequence[Node]) -> None:
    """Stops all nodes together, because each waits for its last frames to be delivered."""
    await asyncio.gather(*(peer.stop() for peer in peers))


async def _echo(stack: AsyncExitStack, hub: Node) -> Pid:
    async def answer(me: Mailbox) -> None:
        while True:
            to = await me.receive()
            assert isinstance(to, Pid)
            await me.send(to, 1)

    return hub.spawn(answer).pid


def scenes(peers: Sequence[int], things: Sequence[int]) -> list[Scene]:
    """Returns all scenes."""
    messages = [10 * count for count in things]
    return [
        Scene("round trip beside N connected, idle peers", peers, beside_connections),
        Scene(
            "round trip on each of N connected peers, a hundred at a time",
            peers,
            from_all_connections,
        ),
        Scene("message beside N mailboxes, to one after the other", things, beside_mailboxes),
        Scene("mailbox made and ended beside N", things, making_mailboxes),
        Scene(
            "monitor made and taken back, by one with N monitors and N links",
            things,
            beside_monitors,
        ),
        Scene("node lost, with one of our links, beside N processes", things, node_lost),
        Scene("`gen_server` call before a backlog of N messages", messages, call_before_backlog),
        Scene("scan of N messages in vain, a message", messages, scan_in_vain),
        Scene(
            "filling a mailbox with N messages and draining it, a message",
            messages,
            draining_backlog,
        ),
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--things", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    chosen = parser.parse_args()
    # A thousand nodes need more than a thousand sockets.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable(logging.ERROR)
    print("| | N | at N | at 10 N | at 100 N | 100 N over N |")
    print("|---|---|---|---|---|---|")
    for scene in scenes(chosen.peers, chosen.things):
        if chosen.only not in scene.name:
            continue
        costs = await measured(scene)
        shown = [f"{cost * 1e6:.2f}" for cost in costs]
        cells = [scene.name, f"{scene.sizes[0]:,}", *shown, f"{costs[-1] / costs[0]:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
