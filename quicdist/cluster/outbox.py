"""What waits to leave for one peer: in order for each sender, fairly between senders.

A message is encoded when it is accepted and cut into frames when its turn comes. Senders take
turns, a fragment or some small messages at a time, so that a large message of one delays nobody
else by more than a fragment. Frames go to the carrier only while it is writable: the backlog is
here, where it is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

from quicdist.protocol.channel import OutgoingMessage
from quicdist.protocol.dialects.base import Buffer
from quicdist.runtime.backpressure import Backpressure

Frame = Sequence[Buffer]


_ENTRY = 1024
"""Bytes that a queued message costs besides its own; most of it is a sender's lane."""

_TURN = 16 * 1024
"""Bytes of small messages in one turn; the last may be more."""


class Outlet(Protocol):
    """The part of a connection that an outbox needs."""

    @property
    def is_writable(self) -> bool: ...

    def send_frame(self, parts: Frame) -> None: ...


class Cutter(Protocol):
    """The part of a channel that an outbox needs."""

    def frame(self, message: OutgoingMessage) -> bytes | None:
        """The one frame of a small message, which must leave next; None for others."""

    def frames(self, message: OutgoingMessage) -> Iterator[Frame]:
        """Those of any message, made as they are asked for."""


class _Lane:
    """One sender's messages, the first of which may be half sent."""

    __slots__ = ("frames", "messages", "rest")

    def __init__(self) -> None:
        self.messages: deque[tuple[OutgoingMessage, Backpressure | None]] = deque()
        self.frames: Iterator[Frame] | None = None
        self.rest = 0


class Outbox:
    """The backlog of one connection."""

    def __init__(
        self,
        outlet: Outlet,
        cutter: Cutter,
        *,
        high: int,
        low: int,
    ) -> None:
        """The watermarks `high` and `low` are bytes."""
        self._outlet = outlet
        self.cutter = cutter
        """What makes frames of messages."""
        self._high = high
        self._low = low
        self._lanes: dict[Hashable, _Lane] = {}
        self._turns: deque[Hashable] = deque()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._draining: dict[asyncio.Future[None], None] = {}
        self._failure: Callable[[], Exception] | None = None
        self.queued = 0
        """Bytes accepted that the carrier has not taken."""
        self.messages_accepted = 0
        self.frames_sent = 0

    def must_wait(self, sender: Hashable) -> bool:
        """Whether a sender that can wait should: above the high watermark, unless all that it has
        here leaves in its next turn. Other senders' backlog is not for it to wait for."""
        if self.queued <= self._high:
            return False
        lane = self._lanes.get(sender)
        if lane is None:
            return False
        if lane.frames is not None or len(lane.messages) * _ENTRY > _TURN:
            return True
        return sum(message.size + _ENTRY for message, _ in lane.messages) > _TURN

    @property
    def is_empty(self) -> bool:
        """Everything accepted is with the carrier."""
        return not self._turns

    def put(
        self, sender: Hashable, message: OutgoingMessage, level: Backpressure | None = None
    ) -> None:
        """Accepts a message. What one `sender` puts leaves in the order put.

        `level` is charged with what it takes up until its first frame leaves.
        """
        if self._failure is not None:
            return
        self.messages_accepted += 1
        if not self._turns and self._outlet.is_writable:
            frame = self.cutter.frame(message)
            if frame is not None:
                self._outlet.send_frame((frame,))
                self.frames_sent += 1
                return
        lane = self._lanes.get(sender)
        if lane is None:
            lane = self._lanes[sender] = _Lane()
            self._turns.append(sender)
        lane.messages.append((message, level))
        self.queued += message.size
        if level is not None:
            level.size += message.size + _ENTRY
        if self._outlet.is_writable:
            self.feed()

    def feed(self) -> None:
        """Gives the carrier frames while it takes them."""
        turns = self._turns
        outlet = self._outlet
        while turns and outlet.is_writable:
            lane = self._lanes[turns[0]]
            if not self._send_fragment(lane) and not self._send_small(lane) and lane.messages:
                self._begin(lane, *lane.messages.popleft())
            if lane.messages or lane.frames is not None:
                turns.rotate(-1)
            else:
                del self._lanes[turns.popleft()]
        if self._waiting and self.queued <= self._low:
            self._waiting = _wake(self._waiting)
        if self._draining and not turns:
            self._draining = _wake(self._draining)

    def _send_fragment(self, lane: _Lane) -> bool:
        """The next of the message that is half sent; False where there is none."""
        if lane.frames is None:
            return False
        frame = next(lane.frames, None)
        if frame is None:
            lane.frames = None
            self.queued -= lane.rest
            lane.rest = 0
            return False
        gone = min(lane.rest, sum(map(_length, frame)))
        lane.rest -= gone
        self.queued -= gone
        self.frames_sent += 1
        self._outlet.send_frame(frame)
        return True

    def _send_small(self, lane: _Lane) -> bool:
        """A turn's worth of small messages; False where the next is none."""
        messages = lane.messages
        outlet = self._outlet
        sent = 0
        while messages and sent < _TURN and outlet.is_writable:
            message, level = messages[0]
            frame = self.cutter.frame(message)
            if frame is None:
                break
            messages.popleft()
            if level is not None:
                level.take(message.size + _ENTRY)
            sent += message.size
            self.queued -= message.size
            self.frames_sent += 1
            outlet.send_frame((frame,))
        return sent > 0

    def _begin(self, lane: _Lane, message: OutgoingMessage, level: Backpressure | None) -> None:
        """The first frame of a message that is not small."""
        if level is not None:
            level.take(message.size + _ENTRY)
        lane.frames = self.cutter.frames(message)
        lane.rest = message.size
        self._send_fragment(lane)

    async def space(self) -> None:
        """Waits until the backlog is below the low watermark. Raises what `fail` was given."""
        if self._failure is None and self.queued > self._high:
            await _wait_in(self._waiting)
        if self._failure is not None:
            raise self._failure()

    async def drained(self) -> None:
        """Waits until the carrier has everything accepted, or the connection is gone."""
        while self._turns:
            await _wait_in(self._draining)

    def fail(self, error: Callable[[], Exception]) -> None:
        """The connection is gone: forgets everything, wakes everybody. `error` makes one for each
        who waits: what is raised keeps those who met it, and is not kept here."""
        self._failure = error
        self._lanes.clear()
        self._turns.clear()
        self.queued = 0
        self._waiting = _wake(self._waiting)
        self._draining = _wake(self._draining)


async def _wait_in(waiting: dict[asyncio.Future[None], None]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiting[waiter] = None
    try:
        await waiter
    finally:
        waiting.pop(waiter, None)


def _wake(waiting: dict[asyncio.Future[None], None]) -> dict[asyncio.Future[None], None]:
    """Wakes all of them; those who wait from now on go into what is returned."""
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
    return {}


def _length(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
