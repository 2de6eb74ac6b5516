"""Busy waiting after traffic, which avoids the latency of waking up the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Yields the CPU core, if the system supports it. The kernel often wakes a process on the core of
the process that sent to it. Two busy-waiting peers on one machine would otherwise share that core,
and each would wait for the end of the other's time slice."""

WAKEUP = 0.00025
"""Maximum time in seconds of an adaptive busy wait: how long a peer that sleeps takes to answer. A
wakeup costs a good part of it in CPU time, because the core and its caches start cold."""
_SOON = 2 * WAKEUP
"""Maximum time in seconds from traffic to the next datagram that promises a successful wait."""
_ENOUGH, _MOST = 16, 64
"""Score from which an adaptive wait is worth its CPU time, and the maximum score."""
_IN_VAIN = 16
"""What a wait without a datagram takes from the score. A datagram that comes soon adds 1."""
_TURNS = 128
"""Maximum number of turns of an adaptive wait, in case the clock stands still."""
_TAKEN = 0.00003
"""Duration in seconds of a yield in which another process has used the core."""


class Adaptive:
    """Decides whether to busy-wait, by how soon the last datagrams came.

    Times are event loop times in seconds.
    """

    __slots__ = ("_score", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._score = 0

    def received(self, now: float, *, is_awake: bool) -> None:
        """Reports that datagrams have arrived, and whether a busy wait was in progress."""
        if is_awake or now - self._since < _SOON:
            self._score = min(self._score + 1, _MOST)
        else:
            self._score = min(self._score, 0)

    def wait(self, now: float) -> float:
        """Returns the seconds to busy-wait after traffic at `now`."""
        self._since = now
        return WAKEUP if self._score >= _ENOUGH else 0.0

    def in_vain(self, *, is_taken: bool) -> None:
        """Reports that no datagram arrived in a busy wait, or that others want the core."""
        self._score = -_IN_VAIN if is_taken else self._score - _IN_VAIN


class BusyWait:
    """Keeps an event loop from sleeping.

    An event loop polls its sockets without waiting while a callback is ready, so each iteration
    schedules another callback.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float | None) -> None:
        """`seconds` is the time to busy-wait after traffic; 0 disables it, None adapts it."""
        self._loop = loop
        self._seconds = seconds or 0.0
        self._adaptive = Adaptive() if seconds is None else None
        self._until = 0.0
        self._left = 0
        """Number of turns that are left; of no meaning for a fixed time."""
        self._turn: asyncio.Handle | None = None
        self.is_awake = False
        """Whether a busy wait is in progress."""

    def received(self, now: float) -> None:
        """Reports that datagrams were received, and restarts the period of busy waiting."""
        if self._adaptive is not None:
            self._adaptive.received(now, is_awake=self.is_awake)
        self._restart(now)

    def extend(self) -> None:
        """Reports traffic: restarts the period of busy waiting."""
        self._restart(self._loop.time())

    def _restart(self, now: float) -> None:
        seconds = self._seconds if self._adaptive is None else self._adaptive.wait(now)
        if not seconds:
            return
        self._until = now + seconds
        self._left = _TURNS
        if self._turn is None:
            self.is_awake = True
            self._turn = self._loop.call_soon(self._go_on)

    def stop(self) -> None:
        """Stops busy waiting immediately."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self.is_awake = False

    def _go_on(self) -> None:
        before = self._loop.time()
        _give_way()
        now = self._loop.time()
        is_over = now >= self._until
        if self._adaptive is not None:
            self._left -= 1
            is_taken = now - before > _TAKEN
            is_over |= is_taken or not self._left
            if is_over:
                self._adaptive.in_vain(is_taken=is_taken)
        self._turn = None if is_over else self._loop.call_soon(self._go_on)
        self.is_awake = not is_over
