"""quicdist at one end of a path: reads and echoes, or drives.

    python -m benchmarks.wan.quicdist_side SETTINGS HOST [NAME]

SETTINGS are the settings of `Quic` as JSON. With the NAME of the other node it drives: it reads
orders `WHAT SECONDS` from standard input and prints a line of JSON for each. `wan_side.erl` does
the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator

from benchmarks.sides.measuring import LARGE, SMALL, Answer, hear, log_errors_only, say
from benchmarks.wan.node import node_on
from quicdist import Mailbox, Node

ASKING = 10
"""Number of processes that send small messages during a bulk transfer."""
PAIRS = 50
"""Number of processes that send small messages, each to a process of its own, and nothing else."""
_PAUSE = 0.05
"""Seconds between two messages of one process."""


async def echo(me: Mailbox) -> None:
    """Answers {Pid, Message} with Message."""
    while True:
        sender, message = await me.receive()
        await me.send(sender, message)


async def sink(me: Mailbox) -> None:
    """Answers {Pid, Message} and discards any other message."""
    while True:
        message = await me.receive()
        if type(message) is tuple:
            await me.send(message[0], message[1])


async def flow(node: Node, other: str, seconds: float) -> float:
    """Measures 1 MiB messages in one direction, read by the other side, in bytes per second."""
    async with node.mailbox() as me:
        began = time.perf_counter()
        count = 0
        while time.perf_counter() - began < seconds:
            await me.send(("sink", other), LARGE)
            count += 1
        await me.send(("sink", other), (me.pid, 1))
        await me.receive()
        return count * len(LARGE) / (time.perf_counter() - began)


async def ask(
    me: Mailbox, to: tuple[str, str], until: float, pauses: Iterator[float]
) -> list[float]:
    """Measures round trips of small messages."""
    times = []
    while time.perf_counter() < until:
        began = time.perf_counter()
        await me.send(to, (me.pid, SMALL))
        await me.receive()
        times.append(time.perf_counter() - began)
        await asyncio.sleep(next(pauses))
    return times


async def asked(node: Node, other: str, seconds: float) -> list[float]:
    async with node.mailbox() as me:
        until = time.perf_counter() + seconds
        return await ask(me, ("echo", other), until, itertools.repeat(_PAUSE))


async def pairs(node: Node, other: str, seconds: float) -> list[float]:
    """Measures round trips between pairs of processes that have no process in common."""
    until = time.perf_counter() + seconds

    async def one(number: int) -> list[float]:
        pauses = varied(random.Random(number))
        await asyncio.sleep(next(pauses))
        async with node.mailbox() as me:
            return await ask(me, (f"echo{number}", other), until, pauses)

    groups = await asyncio.gather(*map(one, range(PAIRS)))
    return [each for group in groups for each in group]


def varied(chance: random.Random) -> Iterator[float]:
    """Yields pauses that differ, so that processes do not ask at the same time."""
    while True:
        yield _PAUSE * (0.5 + chance.random())


async def start(node: Node, other: str, count: float) -> list[float]:
    """Measures the first messages of a connection: 1, 4, 16 and so on, up to `count`.

    Returns the seconds until the answer to each of these numbers of messages.
    """
    marks = [number for number in (4**power for power in range(8)) if number <= count]
    times = []

    async def send(me: Mailbox) -> None:
        for number in range(1, marks[-1] + 1):
            await me.send(("sink", other), LARGE)
            if number in marks:
                await me.send(("sink", other), (me.pid, number))

    async with node.mailbox() as me:
        began = time.perf_counter()
        sending = asyncio.create_task(send(me))
        for _ in marks:
            await me.receive()
            times.append(time.perf_counter() - began)
        await sending
    return times


async def connect(node: Node, other: str) -> float:
    """Measures how long it takes to connect again, in seconds."""
    node.disconnect(other)
    await asyncio.sleep(_PAUSE)
    began = time.perf_counter()
    await node.connect(other)
    return time.perf_counter() - began


async def measure(node: Node, other: str, what: str, seconds: float) -> Answer:
    if what == "bulk":
        return {"rate": await flow(node, other, seconds)}
    if what == "ping":
        return {"times": await asked(node, other, seconds)}
    if what == "start":
        return {"times": await start(node, other, seconds)}
    if what == "connect":
        return {"times": [await connect(node, other)]}
    if what == "pairs":
        return {"times": await pairs(node, other, seconds)}
    flowing = asyncio.create_task(flow(node, other, seconds))
    await asyncio.sleep(seconds / 4)
    groups = await asyncio.gather(*(asked(node, other, seconds / 2) for _ in range(ASKING)))
    return {"rate": await flowing, "times": [each for group in groups for each in group]}


async def main() -> None:
    log_errors_only()
    settings, host = json.loads(sys.argv[1]), sys.argv[2]
    async with node_on(host, settings) as node:
        if len(sys.argv) < 4:
            node.spawn(echo, name="echo")
            for number in range(PAIRS):
                node.spawn(echo, name=f"echo{number}")
            node.spawn(sink, name="sink")
            say({"name": node.name})
            await hear()
            return
        await node.connect(sys.argv[3])
        say({})
        while line := await hear():
            what, seconds = line.split()
            say(await measure(node, sys.argv[3], what, float(seconds)))


asyncio.run(main())
