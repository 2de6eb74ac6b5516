"""An event loop whose clock does not wait: the mark `virtual_clock`.

When no callback is ready and no file descriptor either, the clock is set forward to the next timer.
What follows from timers follows in the order of their times, however busy the machine is, and a
test of a minute takes none.
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
    """Sets the clock forward where there is nothing to wait for but a timer."""

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
    """asyncio's loop with a clock that `advance` and its own timers move, and nothing else."""

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
        """Time passes while nothing runs, as when a callback blocks the loop."""
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """While a thread works, the clock goes as the system's does."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: object) -> None:
        self._in_threads -= 1


@pytest.hookimpl
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_clock"):
        return {"virtual clock": VirtualClockLoop}
    return {"policy": asyncio.new_event_loop}
