"""Functions that the tests of the BEAM side call."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator

from quicdist import export


@export
def add(one: int, two: int) -> int:
    return one + two


@export
def process_id() -> int:
    return os.getpid()


@export
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@export
def fail(text: bytes) -> None:
    try:
        raise ValueError(text.decode())
    finally:
        threading.Timer(0.1, print, ["printed"], {"flush": True}).start()


_running = 0


@export
async def slow(seconds: float) -> str:
    global _running
    _running += 1
    try:
        await asyncio.sleep(seconds)
    finally:
        _running -= 1
    return "done"


@export
def running() -> int:
    """Returns the number of running calls of `slow`."""
    return _running


_closed = 0


@export
async def count(limit: int) -> AsyncIterator[int]:
    global _closed
    try:
        for number in range(limit):
            yield number
    finally:
        _closed += 1


@export
def closed() -> int:
    """Returns the number of generators that have ended."""
    return _closed
