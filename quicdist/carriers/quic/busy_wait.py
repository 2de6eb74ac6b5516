"""Staying awake for a while after traffic: no sleep from which an answer would have to wake us."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Lets others have the core, where the system can. A peer on the same machine is often woken on
the core of who sent to it: two that never sleep would stay there, each waiting for the end of the
other's time slice."""


class BusyWait:
    """Keeps an event loop from sleeping. As long as something is to be done at once, it looks at
    its sockets and goes on; so each turn asks for the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """With 0 seconds it does nothing."""
        self._loop = loop
        self._seconds = seconds
        self._until = 0.0
        self._turn: asyncio.Handle | None = None

    def extend(self) -> None:
        """There was traffic: awake for so long from now."""
        if not self._seconds:
            return
        self._until = self._loop.time() + self._seconds
        if self._turn is None:
            self._turn = self._loop.call_soon(self._go_on)

    def stop(self) -> None:
        """At once."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _go_on(self) -> None:
        _give_way()
        is_over = self._loop.time() >= self._until
        self._turn = None if is_over else self._loop.call_soon(self._go_on)
