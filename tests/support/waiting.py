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


def wait_until(condition: Callable[[], T], *, pause: float = _PAUSE) -> T:
    """`until`, for tests without asyncio."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain, the last was {value!r}"
        time.sleep(pause)
    return value
