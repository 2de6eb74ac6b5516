"""A node in a separate process that scenarios kill, starve and stop.

Each line of standard input is an order, each line of standard output an event as JSON, with the
time of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, field

from quicdist import Atom, Node, NodeLimits, Quic, Tcp, Trust
from quicdist.errors import NoConnection, NodeError
from quicdist.node.events import NodeDown

COOKIE = "faults"
CHUNK = 64 * 1024


@dataclass
class Arrived:
    """The state of one incoming transfer."""

    number: int = 0
    size: int = 0
    disorder: int = 0
    digest: object = field(default_factory=hashlib.sha256)


def tell(**event: object) -> None:
    """Prints one event as a line of JSON."""
    print(json.dumps({**event, "at": time.monotonic()}), flush=True)


def chunk(number: int) -> bytes:
    """Returns a chunk that differs for each number."""
    return hashlib.sha256(b"%d" % number).digest() * (CHUNK // 32)


async def transfer(node: Node, peer: str, size: int, name: str) -> tuple[bool, str]:
    """Sends `size` bytes to a peer's sink; tells whether all arrived once, in order and intact."""
    digest = hashlib.sha256()
    count = max(1, size // CHUNK)
    async with node.mailbox() as me:
        for number in range(count):
            body = chunk(number)
            digest.update(body)
            await me.send(("sink", peer), (Atom("chunk"), name, number, body))
        await me.send(("sink", peer), (Atom("end"), name, me.pid))
        answer = await me.receive(timeout=180)
    assert isinstance(answer, tuple)
    came, disorder, theirs = answer
    text = f"{came} of {count} chunks, {disorder} out of order"
    return came == count and not disorder and theirs == digest.digest(), text


async def sink(node: Node) -> None:
    """Receives transfers and answers each with a digest."""
    transfers: dict[bytes, Arrived] = {}
    async with node.mailbox("sink") as me:
        while True:
            message = await me.receive()
            assert isinstance(message, tuple)
            arrived = transfers.setdefault(message[1], Arrived())
            if message[0] == "end":
                answer = (arrived.number, arrived.disorder, arrived.digest.digest())  # type: ignore[attr-defined]  # a hash
                await node.send(message[2], answer)
                continue
            arrived.disorder += message[2] != arrived.number
            arrived.number += 1
            arrived.size += len(message[3])
            arrived.digest.update(message[3])  # type: ignore[attr-defined]  # a hash
            if arrived.number == 1 or arrived.number % 50 == 0:
                tell(event="chunk", number=arrived.number, disorder=arrived.disorder)


class Starvation:
    """Opens files until the process has no free file descriptor."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def begin(self) -> None:
        """Opens files until that fails."""
        try:
            while True:
                self.held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return

    def end(self) -> None:
        """Closes the files."""
        for held in self.held:
            os.close(held)
        self.held.clear()


async def obey(node: Node) -> None:
    """Executes orders from standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    starvation = Starvation()
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        order, *words = line.decode().split()
        if order == "send":
            tasks.add(asyncio.create_task(_send(node, words[0], int(words[1]), words[2])))
        elif order == "jump":
            _jump(float(words[0]))
        elif order == "starve":
            starvation.begin()
            tell(event="starved", files=len(starvation.held))
        elif order == "feed":
            starvation.end()
        elif order == "rebind":
            node.rebind()


def _jump(seconds: float) -> None:
    """Shifts the wall clock of this process."""
    real_time = time.time
    time.time = lambda: real_time() + seconds


async def _send(node: Node, peer: str, size: int, name: str) -> None:
    try:
        good, text = await transfer(node, peer, size, name)
        tell(event="sent", good=good, text=text)
    except (NoConnection, NodeError) as error:
        tell(event="sent", good=False, text=str(error))


def make_node(name: str, engine: str, ticktime: float, *, listen: str | None = None) -> Node:
    """Returns a node for a scenario, not started."""
    limits = NodeLimits(net_ticktime=ticktime, connect_timeout=60.0)
    trust = Trust.first_use()
    quic = Quic(engine=engine)
    return Node(
        name, listen=listen, cookie=COOKIE, limits=limits, trust=trust, carriers=[quic, Tcp()]
    )


async def main(name: str, listen: str, engine: str, ticktime: float) -> None:
    try:
        node = make_node(name, engine, ticktime, listen=listen)
        await node.start()
    except NodeError as error:
        tell(event="failed", text=str(error))
        return
    tasks = [asyncio.create_task(sink(node)), asyncio.create_task(_events(node))]
    tell(event="ready", name=node.name)
    await obey(node)
    for task in tasks:
        task.cancel()
    await node.stop()


async def _events(node: Node) -> None:
    with node.events() as events:
        async for event in events:
            if isinstance(event, NodeDown):
                tell(event="nodedown", node=event.node, reason=event.reason)
            else:
                tell(event="nodeup", node=event.node)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
