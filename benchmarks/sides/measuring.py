"""What every driver written in Python measures, over whatever link it has.

A side is a process. A driver is told by lines on its standard input what to do, `WHAT NUMBER`, and
answers each with a line of JSON. `sides/erlang_side.erl` does the same.
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
        """A small message there, and back."""

    async def put(self, message: bytes) -> None:
        """One message there; waits as the link wants it."""

    async def settle(self) -> None:
        """Waits until the other side has read everything that was put."""

    async def disconnect(self) -> None:
        """Ends the connection."""

    async def connect(self) -> None:
        """Makes it anew."""

    async def hold(self, count: int) -> None:
        """Opens so many connections more to the other side, and keeps them."""


async def round_trip(link: Link, seconds: float) -> Answer:
    """Median of a small message there and back."""
    times = await _times(link.echo, seconds)
    return {"seconds": statistics.median(times), "count": len(times)}


async def connect(link: Link, seconds: float) -> Answer:
    """Median of a connection made, until its first message may leave."""
    return {"seconds": statistics.median(await _times(link.connect, seconds, link.disconnect))}


async def small(link: Link, seconds: float) -> Answer:
    """Small messages one way, read by the other side."""
    return await _flow(link, SMALL, seconds)


async def bulk(link: Link, seconds: float) -> Answer:
    """Large messages one way, read by the other side."""
    return await _flow(link, LARGE, seconds)


async def mixed(link: Link, seconds: float) -> Answer:
    """A small message there and back, again and again, while large ones flow."""
    flowing = asyncio.create_task(_flow(link, LARGE, seconds))
    await asyncio.sleep(seconds / 5)
    times = await _times(link.echo, seconds * 0.6)
    return {**await flowing, "seconds": statistics.median(times)}


async def hold(link: Link, count: float) -> Answer:
    """Idle connections."""
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
    """One line for whoever started us."""
    print(json.dumps(answer), flush=True)


async def hear() -> str:
    """One line from there; empty at the end."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def log_errors_only() -> None:
    """Connections that end are what is measured, and nobody's certificate is asked for."""
    logging.basicConfig(level=logging.ERROR)


async def drive(link: Link) -> None:
    """Does as told, until nobody tells any more."""
    say({})
    while line := await hear():
        what, number = line.split()
        say(await _COMMANDS[what](link, float(number)))
