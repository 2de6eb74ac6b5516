"""Busy waiting after traffic, which avoids the latency of waking up the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Yields the CPU core, if the system supports it. The kernel often wakes a process on the core of
the process that sent to it. Two busy-waiting peers on one machine would otherwise share that core,
and each would wait for the end of the other's time slice."""


class BusyWait:
    """Keeps an event loop from sleeping.

    An event loop polls its sockets without waiting while a callback is ready, so each iteration
    schedules another callback.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """`seconds` is the time to busy-wait after traffic; 0 disables it."""
        self._loop = loop
        self._seconds = seconds
        self._until = 0.0
        self._turn: asyncio.Handle | None = None

    def extend(self) -> None:
        """Reports traffic: restarts the period of busy waiting."""
        if not self._seconds:
            return
        self._until = self._loop.time() + self._seconds
        if self._turn is None:
            self._turn = self._loop.call_soon(self._go_on)

    def stop(self) -> None:
        """Stops busy waiting immediately."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _go_on(self) -> None:
        _give_way()
        is_over = self._loop.time() >= self._until
        self._turn = None if is_over else self._loop.call_soon(self._go_on)
