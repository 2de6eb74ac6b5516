"""An event loop whose clock does not wait: the mark `virtual_clock`.

When no callback and no file descriptor is ready, the clock advances to the next timer. Timers fire
in the order of their times, independent of the load of the machine, and a test of a simulated
minute takes almost no time.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple, Unpack

import pytest

from tests.support.loops import VARIABLE, set_eager

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class _Selector(selectors.DefaultSelector):
    """Advances the clock if only timers are pending."""

    threads_work: Callable[[], bool]
    advance: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if ready or timeout is None or timeout <= 0:
            return ready
        if not self.threads_work():
            self.advance(timeout)
            return ready
        begin = time.monotonic()
        ready = super().select(timeout)
        self.advance(time.monotonic() - begin)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock that only `advance` and timers move."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.threads_work = lambda: self._in_threads > 0
        selector.advance = self.advance
        self._now = 0.0
        self._in_threads = 0
        super().__init__(selector)
        if os.environ.get(VARIABLE) == "eager":
            set_eager(self)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Advances the clock without running callbacks, as when a callback blocks the loop."""
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """While a thread runs, the clock follows the system clock."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: object) -> None:
        self._in_threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Waits without `timeout` (Python 3.12): the threads do not follow this clock."""
        await super().shutdown_default_executor()


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_clock"):
        return {"virtual clock": VirtualClockLoop}
    return {"policy": asyncio.new_event_loop}
