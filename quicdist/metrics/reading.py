"""Reads the statistics of a node from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from typing import Protocol

from quicdist.blocking import BlockingNode
from quicdist.errors import NotRunning
from quicdist.metrics.catalogue import Statistics

_PATIENCE = 5.0
"""Seconds that a reader waits for the event loop of the node."""


class Source(Protocol):
    """A source of metrics: a `Node`, a `BlockingNode`, a `Gateway` or a `Relay`."""

    def stats(self) -> Statistics:
        """Returns the current statistics. Raises NotRunning."""


class Reader:
    """Reads the statistics of a source. Create it in the event loop of the source.

    A `BlockingNode` can be read from a reader created anywhere.
    """

    def __init__(self, node: Source, *, max_age: float = 0.0) -> None:
        """`node` is the source.

        Statistics younger than `max_age` seconds are reused, so that metrics that are read one by
        one belong to the same moment. Raises RuntimeError outside the event loop of the source.
        """
        self._node = node
        self._max_age = max_age
        self._last: Statistics | None = None
        self._last_at = 0.0
        self._thread = threading.get_ident()
        is_blocking = isinstance(node, BlockingNode)
        self._loop = None if is_blocking else asyncio.get_running_loop()

    def read(self) -> Statistics | None:
        """Returns the current statistics, or None if the node does not run or does not answer."""
        if time.monotonic() - self._last_at >= self._max_age:
            self._last = self._read()
            self._last_at = time.monotonic()
        return self._last

    def _read(self) -> Statistics | None:
        try:
            if self._loop is None or threading.get_ident() == self._thread:
                return self._node.stats()
            return self._from_outside(self._loop)
        except (NotRunning, concurrent.futures.TimeoutError):
            return None

    def _from_outside(self, loop: asyncio.AbstractEventLoop) -> Statistics:
        answer: concurrent.futures.Future[Statistics] = concurrent.futures.Future()

        def look() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(self._node.stats())
            except Exception as error:
                answer.set_exception(error)

        try:
            loop.call_soon_threadsafe(look)
        except RuntimeError:
            raise NotRunning("the node's event loop is closed") from None
        try:
            return answer.result(_PATIENCE)
        finally:
            answer.cancel()
