"""The producer of a stream: a process that runs an exported generator and sends its items."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from quicdist.errors import ErlangError
from quicdist.etf import Atom, Pid, Reference, Term, footprint
from quicdist.kernel.exports import Exported, Exports, Run, contained
from quicdist.kernel.streams.messages import (
    Ack,
    Cancel,
    Items,
    Malformed,
    Subscribe,
    from_term,
    to_term,
)
from quicdist.kernel.streams.window import StreamWindow, Window
from quicdist.runtime.exit_reasons import log_info
from quicdist.runtime.mailbox import Mailbox

logger = logging.getLogger("quicdist.node")

_BADARG = Atom("badarg")

_BATCH_ITEMS = 512
_BATCH_BYTES = 64 * 1024
"""Bounds of one message, and of the items that a generator may be ahead of it."""

_ITEM_BYTES = 32
"""The size of an item besides its footprint. The footprint of atoms and small integers is 0."""

_STEP = 0.002
"""Seconds that a generator in a thread may collect items before they are sent."""


class _Buffer:
    """The items between the generator and the consumer."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._items: deque[tuple[Term, int]] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, item: Term) -> None:
        """Adds an item."""
        size = _ITEM_BYTES + footprint(item)
        self._items.append((item, size))
        self._bytes += size
        if len(self._items) >= _BATCH_ITEMS or self._bytes >= _BATCH_BYTES:
            self._room.clear()
        self._changed.set()

    @property
    def is_full(self) -> bool:
        """Whether the generator must wait."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Waits until the buffer is not full."""
        await self._room.wait()

    def close(self) -> None:
        """Ends `batches` after the last item."""
        self._is_closed = True
        self._changed.set()

    def acknowledged(self, count: int) -> None:
        """Opens the window."""
        self.window.acknowledged(count)
        self._changed.set()

    async def batches(self) -> AsyncIterator[list[Term]]:
        """The items in lists, as far as the window allows."""
        while True:
            batch = self.window.take(self._items)
            if batch:
                self._bytes = sum(size for _, size in self._items)
                self._room.set()
                yield batch
            elif self._is_closed and not self._items:
                return
            else:
                self._changed.clear()
                await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Generation:
    """Where the items of a stream come from."""

    what: str
    """The name in error texts."""
    open: Callable[[], Awaitable[object]]
    """Returns an iterable or an async iterable."""
    item: Callable[[Any], Term]
    """Converts an item to a term."""
    runs_in_thread: bool
    """Whether an iterable that is not async runs in threads of the node."""
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """Waits until the limit of the function allows a stream."""

    @classmethod
    def of_call(cls, exports: Exports, exported: Exported, args: Sequence[Term]) -> Generation:
        """Of a call of an exported function."""
        what = f"{exported.module}:{exported.name}"
        runs_in_thread = exported.run is Run.THREAD and not exported.is_async
        return cls(
            what,
            lambda: exports.open(exported, args),
            exported.item,
            runs_in_thread,
            exported.turn,
        )


class Producer:
    """One stream to a consumer."""

    def __init__(
        self, exports: Exports, me: Mailbox, consumer: Pid, tag: Reference, size: StreamWindow
    ) -> None:
        """The process `me` is the producer. Threads are those of `exports`."""
        self._exports = exports
        self._me = me
        self._consumer = consumer
        self._tag = tag
        self._buffer = _Buffer(Window(size))

    async def run(self, generation: Generation) -> None:
        """Sends all items. The items before an error are sent.

        Raises what the generator raises, EtfEncodeError for an item without an Erlang form, and
        ErlangError if the consumer acknowledges items that were not sent. Logs what the generator
        raises when it is closed early.
        """
        self._me.monitor(self._consumer)
        produce = asyncio.create_task(self._produce(generation))
        send = asyncio.create_task(self._send())
        control = asyncio.create_task(self._control())
        raised: BaseException | None = None
        try:
            await asyncio.wait({send, control}, return_when=asyncio.FIRST_COMPLETED)
            if send.done():
                await send
                await produce
            else:
                await control
        except BaseException as error:
            raised = error
            raise
        finally:
            for task in (produce, send, control):
                task.cancel()
            ended, *_ = await asyncio.gather(produce, send, control, return_exceptions=True)
            if isinstance(ended, BaseException) and ended is not raised:
                self._report(generation.what, ended)

    def _report(self, what: str, error: BaseException) -> None:
        """Logs an error of a generator whose consumer does not receive it."""
        if not isinstance(error, asyncio.CancelledError):
            extra = self._me.fields("cleanup_failed")
            text = "%s raised %s when its stream was closed"
            logger.error(text, what, type(error).__name__, exc_info=log_info(error), extra=extra)

    async def _control(self) -> None:
        """Handles the messages of the consumer. Returns when it cancels or has ended."""
        while True:
            message = await self._me.receive()
            match message:
                case ("DOWN", _, "process", pid, _) if pid == self._consumer:
                    return
            match from_term(self._tag, message):
                case Ack(count):
                    try:
                        self._buffer.acknowledged(count)
                    except ValueError:
                        raise ErlangError((_BADARG, message)) from None
                case Cancel():
                    return

    async def _send(self) -> None:
        async for batch in self._buffer.batches():
            await self._me.send(self._tag, to_term(self._tag, Items(batch)))

    async def _produce(self, generation: Generation) -> None:
        try:
            with contained(generation.what):
                async with generation.turn():
                    await self._produce_from(generation, await generation.open())
        finally:
            self._buffer.close()

    async def _produce_from(self, generation: Generation, source: object) -> None:
        if isinstance(source, AsyncIterable):
            await self._produce_async(generation, source)
        elif generation.runs_in_thread:
            report = partial(self._report, generation.what)
            await self._produce_in_thread(_ThreadIterator(generation, source, report))
        else:
            await self._produce_inline(generation, _iterator(generation, source))

    async def _produce_async(self, generation: Generation, source: AsyncIterable[Any]) -> None:
        items = aiter(source)
        try:
            async for item in items:
                self._buffer.put(generation.item(item))
                if self._buffer.is_full:
                    await self._buffer.room()
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def _produce_inline(self, generation: Generation, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._buffer.put(generation.item(item))
                if self._buffer.is_full:
                    await self._buffer.room()
        finally:
            _close(items)

    async def _produce_in_thread(self, items: _ThreadIterator) -> None:
        """Runs the generator in steps, so that it occupies a thread only while it computes."""
        in_thread = self._exports.in_thread
        try:
            while not items.is_exhausted:
                # A thread cannot be interrupted: after a cancellation the step still ends.
                for item in await asyncio.shield(in_thread(items.step)):
                    self._buffer.put(item)
                await self._buffer.room()
        finally:
            if items.abandon():
                await in_thread(items.close)


def offered(
    exports: Exports, tag: Term, items: Iterable[Any] | AsyncIterable[Any]
) -> Callable[[Mailbox], Awaitable[None]]:
    """Returns the main function of a process that offers `items` as a stream to one consumer."""

    async def opened() -> object:
        return items

    async def main(me: Mailbox) -> None:
        while True:
            match from_term(tag, await me.receive()):
                case Subscribe(consumer, alias, size):
                    break
                case Malformed():
                    raise ErlangError(_BADARG)
        producer = Producer(exports, me, consumer, alias, size)
        await producer.run(Generation("an offered stream", opened, lambda item: item, True))

    return main


class _ThreadIterator:
    """An iterator that is advanced by one thread at a time, and closed by the last one."""

    def __init__(
        self, generation: Generation, source: object, report: Callable[[BaseException], None]
    ) -> None:
        """`report` is called with an error that `step` cannot raise."""
        self._generation = generation
        self._report = report
        self._items = _iterator(generation, source)
        self._context = contextvars.copy_context()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._is_running = False
        self.is_exhausted = False

    def step(self) -> list[Term]:
        """Returns the items of a few milliseconds, at least one unless the iterator is exhausted.

        Raises what the iterator raised, after the items before it have been returned.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            if self._is_abandoned:
                return []
            self._is_running = True
        try:
            return self._context.run(self._collect)
        except BaseException as error:
            self._error = error
            raise
        finally:
            with self._lock:
                self._is_running = False
                must_close = self._is_abandoned
            if must_close:
                self._close_and_report()

    def abandon(self) -> bool:
        """Ends the iteration.

        Returns True if the caller must call `close`, False if the thread of the current step does.
        """
        with self._lock:
            self._is_abandoned = True
            return not self._is_running

    def close(self) -> None:
        """Closes the iterator: runs the `finally` blocks of a generator."""
        self._context.run(_close, self._items)

    def _close_and_report(self) -> None:
        try:
            self.close()
        except BaseException as error:
            self._error = error
        if self._error is not None:
            self._report(self._error)

    def _collect(self) -> list[Term]:
        found: list[Term] = []
        size = 0
        until = time.monotonic() + _STEP
        try:
            for item in self._items:
                found.append(self._generation.item(item))
                size += footprint(found[-1])
                if len(found) >= _BATCH_ITEMS or size >= _BATCH_BYTES or time.monotonic() > until:
                    return found
        except BaseException as error:
            if not found:
                raise
            self._error = error
            return found
        self.is_exhausted = True
        return found


def _iterator(generation: Generation, source: object) -> Iterator[Any]:
    """Returns an iterator over the result of a function. Raises TypeError."""
    if isinstance(source, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        source, Iterable
    ):
        raise TypeError(
            f"{generation.what} returned {type(source).__name__}: a stream "
            f"requires a generator, an async generator or another iterable"
        )
    return iter(source)


def _close(items: Iterator[Any]) -> None:
    if isinstance(items, Generator):
        items.close()
