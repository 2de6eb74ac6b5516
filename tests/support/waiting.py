"""Helpers that wait for a condition, at most PATIENCE seconds."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which a waiting test fails. No test passes because of this timeout."""

_PAUSE = 0.002
"""Seconds between two checks of a condition."""


async def until(condition: Callable[[], Any], *, pause: float = _PAUSE) -> Any:
    """Waits until `condition` returns a true value, or an awaitable of one, and returns the value.

    Raises AssertionError with the last value after PATIENCE.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert clock() < deadline, f"waited in vain, the last was {value!r}"
        await asyncio.sleep(pause)


def _is_settled(read: Callable[[], T], times: int) -> Callable[[], list[T]]:
    """Returns a condition that is met when `count` consecutive values of `read` are equal."""
    values: list[T] = []

    def is_settled() -> list[T]:
        now = read()
        if values and values[-1] != now:
            values.clear()
        values.append(now)
        return values if len(values) >= times else []

    return is_settled


async def settled(read: Callable[[], T], *, times: int = 10, pause: float = 0.02) -> T:
    """Waits until consecutive values of `read` are equal and returns the value."""
    values: list[T] = await until(_is_settled(read, times), pause=pause)
    return values[-1]


def wait_settled(read: Callable[[], T], *, times: int = 20, pause: float = 0.05) -> T:
    """`settled`, for tests without asyncio."""
    return wait_until(_is_settled(read, times), pause=pause)[-1]


def wait_until(condition: Callable[[], T], *, pause: float = _PAUSE) -> T:
    """`until`, for tests without asyncio."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain, the last was {value!r}"
        time.sleep(pause)
    return value
