"""The consumer of a stream: starts a remote generator and iterates over its items."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

from quicdist.errors import CallError, ErrorClass
from quicdist.etf import Atom, Pid, Reference, Term, footprint
from quicdist.kernel.streams.messages import (
    MODULE,
    START,
    Ack,
    Cancel,
    Items,
    Malformed,
    Offer,
    Subscribe,
    from_term,
    to_term,
)
from quicdist.kernel.streams.window import DEFAULT_WINDOW, StreamWindow
from quicdist.runtime.backpressure import HERE, Source
from quicdist.runtime.calls import Spawn, SpawnCall, down_error
from quicdist.runtime.local_spawn import current_process
from quicdist.runtime.process import NORMAL, Process
from quicdist.runtime.process_table import ProcessTable

_FLOW_CONTROL = Atom("flow_control")
_BADARG = Atom("badarg")

TOLERANCE = 80
"""The size of the items that were not taken, as a multiple of the window, that ends the stream.

A producer of a BEAM node measures items by their external size, the consumer by their memory, which
is up to 80 times as large (a list of empty lists).
"""


class Origin(ABC):
    """Where a stream comes from."""

    def __init__(self, node: Atom, what: str) -> None:
        """`what` describes the stream in error texts."""
        self.node = node
        self.what = what

    @abstractmethod
    async def start(self, consumer: Consumer, size: StreamWindow) -> Pid:
        """Starts the producer and returns its pid. The consumer monitors it."""


class RemoteFunction(Origin):
    """An exported generator of a node."""

    def __init__(
        self,
        node: Atom,
        module: Atom,
        function: Atom,
        args: list[Term],
        group_leader: Pid,
        timeout: float | None,
    ) -> None:
        super().__init__(node, f"the stream {module}:{function}/{len(args)} of {node}")
        self._mfa = (module, function, args)
        self._group_leader = group_leader
        self._timeout = timeout

    async def start(self, consumer: Consumer, size: StreamWindow) -> Pid:
        """Raises SpawnError, CallTimeout, NoConnection, EtfEncodeError."""
        window = (size.items, size.bytes)
        args: list[Term] = [consumer.pid, consumer.tag, window, *self._mfa]
        spawn = Spawn(self.node, MODULE, START, args, False, True, None, self._group_leader)
        call = SpawnCall(consumer, spawn)
        call.begin()
        await call.wait(self._timeout)
        assert call.spawned is not None
        return call.spawned.pid


class OfferedStream(Origin):
    """A stream that a process offers."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer.producer.node, f"the stream of {offer.producer}")
        self._offer = offer

    async def start(self, consumer: Consumer, size: StreamWindow) -> Pid:
        """Starts nothing. The end of the producer is reported by its monitor."""
        producer = self._offer.producer
        consumer.monitor(producer)
        subscribe = to_term(self._offer.tag, Subscribe(consumer.pid, consumer.tag, size))
        consumer.system.post(consumer.pid, producer, subscribe)
        return producer


class Consumer(Process):
    """The process of a stream. It holds the items that were received and not taken."""

    def __init__(self, system: ProcessTable, origin: Origin, size: StreamWindow) -> None:
        super().__init__(system)
        self.tag = self.alias()
        self._origin = origin
        self._size = size
        self._producer: Pid | None = None
        self._items: deque[tuple[Term, int]] = deque()
        self.outstanding = 0
        """Items received and not acknowledged."""
        self.held_bytes = 0
        """The memory of the items that were not taken."""
        self._taken = 0
        """Items taken and not acknowledged."""
        self._changed = asyncio.Event()
        self._is_over = False
        self._error: Exception | None = None

    async def start(self) -> None:
        """Starts the producer. Raises what `Origin.start` raises."""
        self._producer = await self._origin.start(self, self._size)

    def send(self, to: Pid, message: Ack | Cancel) -> None:
        """Sends a message to the producer."""
        self.system.post(self.pid, to, to_term(self.tag, message))

    async def take(self) -> list[Term]:
        """Waits for items and returns some. An empty list is the end of the stream.

        The items that were returned before are acknowledged.

        Raises CallError, NoConnection or NoProcess if the producer ended with an error.
        """
        self._acknowledge()
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._is_over:
                return []
            self._changed.clear()
            await self._changed.wait()
        return self._portion()

    def close(self) -> None:
        """Ends the stream, and the generator if it has not ended. Idempotent."""
        if self._producer is not None and not self._is_over and self._error is None:
            self.send(self._producer, Cancel())
        self.die(NORMAL)

    # -- for the system --

    def deliver(self, message: Term, source: Source) -> None:
        """Queues the items of a message of the producer. Another message is dropped."""
        if not self.system.calls.is_from(self._origin.node, source):
            return
        match from_term(self.tag, message):
            case Items(items):
                self._received(items)
            case Malformed():
                self._break_off(_BADARG)

    def monitor_fired(self, reference: Reference, reason: Term, source: Source = HERE) -> None:
        """Called when the producer has ended."""
        if self.monitoring.pop(reference, None) is None:
            return
        if reason is NORMAL:
            self._is_over = True
        else:
            self._fail(down_error(self._origin.what, self._origin.node, reason))
        self._changed.set()

    def stopped(self) -> None:
        """Called when the process has ended."""
        self._items.clear()
        if not self._is_over:
            self._fail(self.ended_error())

    def _received(self, items: list[Term]) -> None:
        self.outstanding += len(items)
        for item in items:
            size = footprint(item)
            self.held_bytes += size
            self._items.append((item, size))
        most_bytes = TOLERANCE * self._size.bytes
        if self.outstanding > self._size.items or (
            self.outstanding > 1 and self.held_bytes > most_bytes
        ):
            self._break_off(_FLOW_CONTROL)
        self._changed.set()

    def _break_off(self, reason: Atom) -> None:
        """Ends the stream: the producer has broken the rules of the protocol."""
        self._fail(CallError(self._origin.what, ErrorClass.ERROR, reason, ()))
        if self._producer is not None:
            self.send(self._producer, Cancel())
        self.die(NORMAL)

    def _portion(self) -> list[Term]:
        """Takes up to a quarter of the window, so that the producer can continue meanwhile."""
        portion: list[Term] = []
        size = 0
        most_items, most_bytes = self._size.items // 4, self._size.bytes // 4
        while self._items and (not portion or (len(portion) < most_items and size < most_bytes)):
            item, item_size = self._items.popleft()
            portion.append(item)
            size += item_size
        self._taken += len(portion)
        self.held_bytes -= size
        return portion

    def _acknowledge(self) -> None:
        if self._taken and self._producer is not None and not self._is_over:
            self.send(self._producer, Ack(self._taken))
        self.outstanding -= self._taken
        self._taken = 0

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._changed.set()


class Stream:
    """The items of a remote generator. `Node.stream` and `Node.open_stream` return one.

        async for token in node.stream("5555@10.0.0.7", "model", "generate", [prompt]):
            print(token)

    The stream starts with the first iteration, and can be iterated once. When the loop ends, also
    by `break` or an exception, the remote generator is closed. With a `break`, use `async with` to
    close it at a defined moment:

        async with node.stream(...) as tokens:
            async for token in tokens:
                ...

    An iteration raises CallError if the generator raised an exception, NoConnection if the
    connection was lost, SpawnError or CallTimeout if the stream could not be started.
    """

    def __init__(self, system: ProcessTable, origin: Origin, window: StreamWindow) -> None:
        self._system = system
        self._origin = origin
        self._window = window
        self._consumer: Consumer | None = None
        self._is_closed = False

    async def batches(self) -> AsyncGenerator[list[Term], None]:
        """Iterates over lists of the items that have arrived, each with at least one item."""
        if self._consumer is not None or self._is_closed:
            raise RuntimeError("a stream can be iterated once")
        self._consumer = consumer = Consumer(self._system, self._origin, self._window)
        try:
            await consumer.start()
            while batch := await consumer.take():
                yield batch
        finally:
            consumer.close()

    async def __aiter__(self) -> AsyncIterator[Term]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    async def aclose(self) -> None:
        """Ends the stream and closes the remote generator. Idempotent."""
        self._is_closed = True
        if self._consumer is not None:
            self._consumer.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def open_stream(offer: Term, *, window: StreamWindow = DEFAULT_WINDOW) -> Stream:
    """Returns the items of a stream that the caller of an exported function offers.

    Raises ValueError if the term is not the offer of a stream, and RuntimeError outside of a
    process.
    """
    me = current_process.get(None)
    if me is None:
        raise RuntimeError("not in an exported function or spawned process: use Node.open_stream")
    return Stream(me.system, OfferedStream(Offer.from_term(offer)), window)
