"""The limit of an exported function: how many calls run, and how many wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator

from quicdist.errors import ErlangError
from quicdist.etf import Atom

BUSY = Atom("busy")


class Limiter:
    """Lets a bounded number of calls run, in the order in which they arrived."""

    def __init__(self, concurrency: int, queue: int | None) -> None:
        """`queue` is the maximum number of waiting calls; None means no maximum."""
        self._free = concurrency
        self._queue = queue
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    @classmethod
    def of(cls, concurrency: int | None, queue: int | None) -> Limiter | None:
        """Returns None if there is no limit."""
        return None if concurrency is None else cls(concurrency, queue)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until the call may run. Raises ErlangError `busy` if the queue is full."""
        await self._begin()
        try:
            yield
        finally:
            self._end()

    async def _begin(self) -> None:
        if self._free:
            self._free -= 1
            return
        if self._queue is not None and len(self._waiting) >= self._queue:
            raise ErlangError(BUSY)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            # `_end` may have removed the waiter already, and passed the turn to it or not.
            self._waiting.pop(waiter, None)
            if not waiter.cancelled():
                self._end()
            raise

    def _end(self) -> None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


def check_limit(concurrency: int | None, queue: int | None) -> None:
    """Raises ValueError unless `concurrency` is positive and `queue` not negative."""
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency must be positive, not {concurrency}")
    if queue is not None and queue < 0:
        raise ValueError(f"queue must not be negative, but is {queue}")
    if queue is not None and concurrency is None:
        raise ValueError("queue= requires concurrency=")
