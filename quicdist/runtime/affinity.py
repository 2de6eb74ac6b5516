"""Checks that a node is used in the event loop, thread and process that started it.

asyncio objects are not thread-safe (Python documentation, Developing with asyncio): a future of
another loop never wakes its waiter. Each public method therefore checks first.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import get_running_loop
from threading import get_ident

from quicdist.carriers import forking
from quicdist.errors import NotRunning


class LoopAffinity:
    """The event loop that was running at creation, or none."""

    def __init__(self, owner: str) -> None:
        """`owner` names the checked object in error texts."""
        self._owner = owner
        self._loop = _running_loop()
        self._thread = get_ident()
        self._runs_in = self._thread
        """The thread in which the loop has last been seen to run."""
        self._is_running = _never if self._loop is None else self._loop.is_running
        self._thread_name = threading.current_thread().name
        self._generation = forking.generation

    @property
    def is_of_parent(self) -> bool:
        """Whether the process was forked after the creation of this object."""
        return forking.generation != self._generation

    def check(self) -> None:
        """Raises RuntimeError in another loop or thread, NotRunning in a forked child."""
        # A thread runs one loop at a time. Until Python 3.11 get_running_loop makes a system call,
        # which costs more than the rest of sending a small message.
        if (
            self._runs_in == get_ident()
            and self._is_running()
            and forking.generation == self._generation
        ):
            return
        if _running_loop() is self._loop is not None and not self.is_of_parent:
            self._runs_in = get_ident()
            return
        self._refuse()

    def running(self) -> asyncio.AbstractEventLoop:
        """Returns the running event loop, after `check`."""
        return self._loop or get_running_loop()

    def _refuse(self) -> None:
        if self.is_of_parent:
            raise NotRunning(
                f"{self._owner} belongs to the parent of this forked process: create another "
                f"node in this process"
            )
        running = _running_loop()
        # Outside a running loop, the same thread cannot interfere with the loop.
        if self._loop is None or (running is None and get_ident() == self._thread):
            return
        here = "no event loop" if running is None else f"the event loop {running}"
        raise RuntimeError(
            f"{self._owner} belongs to the event loop {self._loop} in thread "
            f"{self._thread_name!r} and was used from {here} in thread "
            f"{threading.current_thread().name!r}: use "
            f"asyncio.run_coroutine_threadsafe, or a BlockingNode, which any thread may use"
        )


def _never() -> bool:
    return False


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return get_running_loop()
    except RuntimeError:
        return None


def check_loop(what: str) -> None:
    """Raises RuntimeError if no asyncio loop runs, as in a program of trio."""
    if _running_loop() is None:
        raise RuntimeError(
            f"{what}: no event loop of asyncio runs here: use it, or a BlockingNode in a thread"
        )
