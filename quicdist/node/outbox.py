"""What waits to leave for one peer: in order for each sender, fairly between senders.

A message is encoded when it is accepted and cut into frames when its turn comes. Senders take
turns frame by frame, so that a large message of one delays nobody else by more than a fragment.
Frames go to the carrier only while it is writable: the backlog is here, where it is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

from quicdist.carriers.base import Buffer
from quicdist.dist.session import OutgoingMessage
from quicdist.node.level import Level

Frame = Sequence[Buffer]


_ENTRY = 1024
"""Bytes that a queued message costs besides its own; most of it is a sender's lane."""


class Outlet(Protocol):
    """The part of a connection that an outbox needs."""

    @property
    def is_writable(self) -> bool: ...

    def send_frame(self, parts: Frame) -> None: ...


class _Lane:
    """One sender's messages, the first of which may be half sent."""

    __slots__ = ("frames", "messages", "rest")

    def __init__(self) -> None:
        self.messages: deque[tuple[OutgoingMessage, Level | None]] = deque()
        self.frames: Iterator[Frame] | None = None
        self.rest = 0


class Outbox:
    """The backlog of one connection. `cut` yields the frames of a message, lazily."""

    def __init__(
        self,
        outlet: Outlet,
        cut: Callable[[OutgoingMessage], Iterator[Frame]],
        *,
        high: int,
        low: int,
        whole: int,
    ) -> None:
        """`high` and `low` watermarks and `whole`, below which a message is one frame: bytes."""
        self._outlet = outlet
        self._cut = cut
        self._high = high
        self._low = low
        self._whole = whole
        self._lanes: dict[Hashable, _Lane] = {}
        self._turns: deque[Hashable] = deque()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._failure: Exception | None = None
        self.queued = 0
        """Bytes accepted that the carrier has not taken."""
        self.messages_accepted = 0
        self.frames_sent = 0

    @property
    def is_full(self) -> bool:
        """Above the high watermark: a sender that can wait should."""
        return self.queued > self._high

    @property
    def is_empty(self) -> bool:
        """Everything accepted is with the carrier."""
        return not self._turns

    def put(self, sender: Hashable, message: OutgoingMessage, level: Level | None = None) -> None:
        """Accepts a message. What one `sender` puts leaves in the order put.

        `level` is charged with what it takes up until its first frame leaves.
        """
        if self._failure is not None:
            return
        self.messages_accepted += 1
        if not self._turns and message.size <= self._whole and self._outlet.is_writable:
            for frame in self._cut(message):
                self._outlet.send_frame(frame)
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
            sender = turns[0]
            lane = self._lanes[sender]
            frame = self._next_frame(lane)
            if frame is None:
                turns.popleft()
                del self._lanes[sender]
                continue
            outlet.send_frame(frame)
            self.frames_sent += 1
            turns.rotate(-1)
        if self._waiting and self.queued <= self._low:
            self._wake()

    def _next_frame(self, lane: _Lane) -> Frame | None:
        while True:
            if lane.frames is None:
                if not lane.messages:
                    return None
                message, level = lane.messages.popleft()
                if level is not None:
                    level.take(message.size + _ENTRY)
                lane.frames = self._cut(message)
                lane.rest = message.size
            frame = next(lane.frames, None)
            if frame is not None:
                gone = min(lane.rest, sum(map(_length, frame)))
                lane.rest -= gone
                self.queued -= gone
                return frame
            lane.frames = None
            self.queued -= lane.rest
            lane.rest = 0

    async def space(self) -> None:
        """Waits until the backlog is below the low watermark. Raises what `fail` was given."""
        if self._failure is not None:
            raise self._failure
        if not self.is_full:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def fail(self, error: Exception) -> None:
        """The connection is gone: forgets everything, wakes everybody."""
        self._failure = error
        self._lanes.clear()
        self._turns.clear()
        self.queued = 0
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def _length(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
