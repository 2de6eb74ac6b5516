"""One timer of an event loop for an object that has several deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls a function at the earliest time that was set.

    A deadline that moves to a later time is not worth a new timer: the function is then called
    early, looks at its deadlines and sets the next one. Times are event loop times in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[float], None]) -> None:
        """`ring` receives the current time, which is at least the time that was set."""
        self._loop = loop
        self._ring: Callable[[float], None] | None = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def set(self, at: float | None) -> None:
        """Rings at `at` or earlier. None and infinity set nothing."""
        if at is None or at >= self._at or self._ring is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def stop(self) -> None:
        """Never rings again, and releases the function and its object."""
        self._ring = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        # An event loop may round a delay, and call a little too early.
        now = max(self._at, self._loop.time())
        self._at = math.inf
        self._timer = None
        if self._ring is not None:
            self._ring(now)
