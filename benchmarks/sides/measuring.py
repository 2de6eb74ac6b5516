"""The measurements of every driver written in Python, over any kind of link.

A side is a process. A driver reads orders `WHAT NUMBER`, one per line, from standard input and
answers each with a line of JSON. `sides/erlang_side.erl` is the driver in Erlang.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

SMALL = b"m" * 64
LARGE = bytes(1024 * 1024)

Answer = dict[str, Any]


class Link(Protocol):
    """One connection to the other side."""

    async def echo(self) -> None:
        """Sends a small message and waits for its answer."""

    async def put(self, message: bytes) -> None:
        """Sends one message; waits while the link applies back-pressure."""

    async def settle(self) -> None:
        """Waits until the other side has read all messages sent."""

    async def disconnect(self) -> None:
        """Closes the connection."""

    async def connect(self) -> None:
        """Reconnects."""

    async def hold(self, count: int) -> None:
        """Opens `count` further connections to the other side and keeps them."""


async def round_trip(link: Link, seconds: float) -> Answer:
    """Measures the median round trip of a small message."""
    times = await _times(link.echo, seconds)
    return {"seconds": statistics.median(times), "count": len(times)}


async def connect(link: Link, seconds: float) -> Answer:
    """Measures the median time to connect, until the first message can be sent."""
    return {"seconds": statistics.median(await _times(link.connect, seconds, link.disconnect))}


async def small(link: Link, seconds: float) -> Answer:
    """Measures small messages in one direction, read by the other side."""
    return await _flow(link, SMALL, seconds)


async def bulk(link: Link, seconds: float) -> Answer:
    """Measures large messages in one direction, read by the other side."""
    return await _flow(link, LARGE, seconds)


async def mixed(link: Link, seconds: float) -> Answer:
    """Measures round trips of small messages while large messages are sent."""
    flowing = asyncio.create_task(_flow(link, LARGE, seconds))
    await asyncio.sleep(seconds / 5)
    times = await _times(link.echo, seconds * 0.6)
    return {**await flowing, "seconds": statistics.median(times)}


async def hold(link: Link, count: float) -> Answer:
    """Opens idle connections."""
    await link.hold(int(count))
    return {}


async def _flow(link: Link, message: bytes, seconds: float) -> Answer:
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < seconds:
        await link.put(message)
        count += 1
    await link.settle()
    return {"count": count, "rate": count / (time.perf_counter() - began)}


async def _nothing() -> None:
    pass


async def _times(
    once: Callable[[], Awaitable[None]],
    seconds: float,
    prepare: Callable[[], Awaitable[None]] = _nothing,
) -> list[float]:
    times: list[float] = []
    began = time.perf_counter()
    while True:
        await prepare()
        at = time.perf_counter()
        await once()
        done = time.perf_counter()
        times.append(done - at)
        if done - began >= seconds:
            return times


_COMMANDS: dict[str, Callable[[Link, float], Awaitable[Answer]]] = {
    "round_trip": round_trip,
    "small": small,
    "bulk": bulk,
    "mixed": mixed,
    "connect": connect,
    "hold": hold,
}


def say(answer: Answer) -> None:
    """Prints one line for the parent process."""
    print(json.dumps(answer), flush=True)


async def hear() -> str:
    """Reads one line from the parent process; empty at the end of input."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def log_errors_only() -> None:
    """Hides warnings: the benchmarks close connections on purpose and use no certificates."""
    logging.basicConfig(level=logging.ERROR)


async def drive(link: Link) -> None:
    """Executes orders until standard input ends."""
    say({})
    while line := await hear():
        what, number = line.split()
        say(await _COMMANDS[what](link, float(number)))
