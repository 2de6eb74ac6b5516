"""quicdist at one end of a path: reads and echoes, or drives.

    python -m benchmarks.wan.quicdist_side SETTINGS HOST [NAME]

SETTINGS are the settings of `Quic` as JSON. With the NAME of the other node it drives: it reads
orders `WHAT SECONDS` from standard input and prints a line of JSON for each. `wan_side.erl` does
the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.sides.measuring import LARGE, SMALL, Answer, hear, log_errors_only, say
from quicdist import Identity, Mailbox, Node, Quic, Trust

ASKING = 10
"""Number of processes that send small messages during a bulk transfer."""
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


def node_on(host: str, settings: dict[str, Any]) -> Node:
    return Node(
        f"0@{host}",
        cookie="benchmark",
        carriers=[Quic(**settings)],
        identity=Identity.ephemeral([host]),
        trust=Trust.nothing(),
    )


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


async def ask(me: Mailbox, other: str, until: float, pause: float) -> list[float]:
    """Measures round trips of small messages."""
    times = []
    while time.perf_counter() < until:
        began = time.perf_counter()
        await me.send(("echo", other), (me.pid, SMALL))
        await me.receive()
        times.append(time.perf_counter() - began)
        await asyncio.sleep(pause)
    return times


async def asked(node: Node, other: str, seconds: float) -> list[float]:
    async with node.mailbox() as me:
        return await ask(me, other, time.perf_counter() + seconds, _PAUSE)


async def measure(node: Node, other: str, what: str, seconds: float) -> Answer:
    if what == "bulk":
        return {"rate": await flow(node, other, seconds)}
    if what == "ping":
        return {"times": await asked(node, other, seconds)}
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
