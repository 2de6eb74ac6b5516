"""Reading a node from whatever thread an exporter works in."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time

from quicdist.blocking import BlockingNode
from quicdist.node.errors import NotRunning
from quicdist.node.info import NodeStatistics
from quicdist.node.node import Node

_PATIENCE = 5.0
"""Seconds that a reader waits for an event loop that is busy."""


class Reader:
    """The statistics of one node. Made in the node's event loop, or of a `BlockingNode`."""

    def __init__(self, node: Node | BlockingNode, *, max_age: float = 0.0) -> None:
        """What was read is read again after `max_age` seconds: where each metric is read by
        itself, all of them are still of one moment.

        Raises RuntimeError for a `Node` outside its event loop.
        """
        self._node = node
        self._max_age = max_age
        self._last: NodeStatistics | None = None
        self._last_at = 0.0
        self._thread = threading.get_ident()
        is_blocking = isinstance(node, BlockingNode)
        self._loop = None if is_blocking else asyncio.get_running_loop()

    def read(self) -> NodeStatistics | None:
        """At this moment; None when the node does not run, or its loop does not answer."""
        if time.monotonic() - self._last_at >= self._max_age:
            self._last = self._read()
            self._last_at = time.monotonic()
        return self._last

    def _read(self) -> NodeStatistics | None:
        try:
            if self._loop is None or threading.get_ident() == self._thread:
                return self._node.stats()
            return self._from_outside(self._loop)
        except (NotRunning, concurrent.futures.TimeoutError):
            return None

    def _from_outside(self, loop: asyncio.AbstractEventLoop) -> NodeStatistics:
        answer: concurrent.futures.Future[NodeStatistics] = concurrent.futures.Future()

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
