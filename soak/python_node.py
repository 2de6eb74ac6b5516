"""A Python node of the soak: sends numbered messages to all other nodes and checks those received.

Each line of standard input is an order: `rebind`, `away` (to another port), `home`, `quiet`.
Each line of standard output is a report, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import zlib
from collections import Counter

from quicdist import Atom, Node, NodeLimits
from quicdist.errors import NoConnection
from quicdist.etf import Term
from quicdist.runtime.mailbox import Mailbox

SOAK = Atom("soak")
REPORT_EVERY = 5.0
BIG = 300_000
TICKTIME = 8.0


class Ledger:
    """Checks the messages of each sender: no duplicates, and no losses within a connection."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._last: dict[tuple[str, int], int] = {}
        self._begun: set[str] = set()
        """Senders with a message received since their connection was established."""

    def node_changed(self, node: str) -> None:
        """Records that a connection was established or lost."""
        self._begun.discard(node)

    def received(self, node: str, incarnation: int, number: int, crc: int, body: bytes) -> None:
        """Checks one message."""
        self.counts["received"] += 1
        self.counts["bytes"] += len(body)
        self.counts["corrupt"] += zlib.crc32(body) != crc
        last = self._last.get((node, incarnation), 0)
        if number <= last:
            self.counts["twice"] += 1
        elif node in self._begun and number != last + 1:
            self.counts["lost"] += number - last - 1
        self._last[node, incarnation] = number
        self._begun.add(node)


class Worker:
    """The tasks of the node."""

    def __init__(self, name: str, cookie: str, peers: list[str], rate: float, seed: int) -> None:
        limits = NodeLimits(net_ticktime=TICKTIME)
        self.node = Node(name, cookie=cookie, limits=limits)
        self.peers = peers
        self.rate = rate
        self.ledger = Ledger()
        self.sent = 0
        self.is_quiet = False
        self.random = random.Random(f"{seed} {name}")

    async def run(self) -> None:
        async with self.node, self.node.mailbox("soak") as me:
            me.monitor_nodes(hidden=True)
            tasks = [asyncio.create_task(self.send(peer)) for peer in self.peers]
            tasks.append(asyncio.create_task(self.report()))
            tasks.append(asyncio.create_task(self.obey()))
            try:
                await self.receive(me)
            finally:
                for task in tasks:
                    task.cancel()

    async def receive(self, me: Mailbox) -> None:
        while True:
            message: Term = await me.receive()
            assert isinstance(message, tuple)
            if message[0] == "soak":
                _, node, incarnation, number, crc, body = message
                self.ledger.received(str(node), incarnation, number, crc, body)
            else:
                self.ledger.node_changed(str(message[1]))
                self.ledger.counts[str(message[0])] += 1

    async def send(self, peer: str) -> None:
        number = 0
        bodies = [self.random.randbytes(size) for size in (10, 100, 1000, 10_000, BIG)]
        crcs = [zlib.crc32(body) for body in bodies]
        name = Atom(self.node.name)
        while True:
            await asyncio.sleep(self.random.expovariate(self.rate / len(self.peers)))
            if self.is_quiet:
                continue
            kind = self.random.choices(range(5), (40, 30, 20, 9, 1))[0]
            number += 1
            message = (SOAK, name, self.node.creation, number, crcs[kind], bodies[kind])
            try:
                await self.node.send(("soak", peer), message)
                self.sent += 1
            except NoConnection:
                self.ledger.counts["unreachable"] += 1

    async def report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            counts = {
                "sent": self.sent,
                **self.ledger.counts,
                "tasks": len(asyncio.all_tasks()),
                "blocks": sys.getallocatedblocks(),
                "connected": len(self.node.nodes()),
            }
            print(json.dumps(counts), flush=True)

    async def obey(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        port = int(self.node.name.partition("@")[0])
        while line := await reader.readline():
            order = line.decode().strip()
            if order == "quiet":
                self.is_quiet = True
            else:
                move(self.node._carriers[0]._endpoint, order, port)  # type: ignore[attr-defined]  # uses a port that rebind() would not choose


def move(endpoint: object, order: str, port: int) -> None:
    """Executes an order to change the address."""
    ports = {"rebind": {}, "away": {"port": 0}, "home": {"port": port}}
    with contextlib.suppress(OSError):
        endpoint.rebind(**ports[order])  # type: ignore[attr-defined]  # an Endpoint


if __name__ == "__main__":
    NAME, COOKIE, RATE, SEED, *PEERS = sys.argv[1:]
    asyncio.run(Worker(NAME, COOKIE, PEERS, float(RATE), int(SEED)).run())
