"""How tests wait: for a condition, and no longer than PATIENCE."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which a test that waits is hung. No test passes because this time is over."""

_PAUSE = 0.002
"""Seconds between two looks at a condition."""


async def until(condition: Callable[[], Any], *, pause: float = _PAUSE) -> Any:
    """Waits until `condition` returns something true, or an awaitable of it; returns that.

    Raises AssertionError, with what it had last, after PATIENCE.
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
    """A condition: the last values of `read`, when so many on end are the same."""
    values: list[T] = []

    def is_settled() -> list[T]:
        now = read()
        if values and values[-1] != now:
            values.clear()
        values.append(now)
        return values if len(values) >= times else []

    return is_settled


async def settled(read: Callable[[], T], *, times: int = 10, pause: float = 0.02) -> T:
    """What `read` returns, once it has returned the same so many times on end."""
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
