"""The send queue of one connection: in order for each sender, and fair between senders.

A message is encoded when it is accepted and split into frames when its turn comes. Senders take
turns, with one fragment or some small messages each, so that a large message delays other senders
by one fragment at most. Frames are passed to the carrier only while it is writable, so the backlog
is counted here. Small messages of senders that have nothing queued are the exception: some are
passed on at once. The carrier may send them before the large messages of other streams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

from quicdist.etf.terms import Atom, Pid
from quicdist.protocol.channel import Head, OutgoingMessage
from quicdist.protocol.dialects.base import Buffer
from quicdist.protocol.streams import stream_of
from quicdist.runtime.backpressure import Backpressure

Frame = Sequence[Buffer]
Prefixes = dict[tuple[Atom, ...], bytes]

_ENTRY = 1024
"""Overhead of a queued message in bytes, mostly for the sender's lane."""

_TURN = 16 * 1024
"""The number of bytes of small messages in one turn. The last message or run may exceed it."""

_RUN = 8 * 1024
"""The number of bytes of frames that are passed to the carrier together. The last frame may exceed
it."""

_AHEAD = 16 * 1024
"""Maximum bytes that are passed on while the carrier is not writable."""


class FrameSink(Protocol):
    """The part of a connection that an outbox needs."""

    @property
    def is_writable(self) -> bool:
        """Whether the carrier accepts more frames. See `carriers.base.Connection`."""

    def send_frame(self, parts: Frame, stream: int = 0) -> None:
        """Passes one frame to the carrier."""

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        """Passes frames that begin with their length to the carrier."""

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        """See `carriers.base.Connection`."""


class Fragmenter(Protocol):
    """The part of a channel that an outbox needs."""

    def frame(self, message: OutgoingMessage, stream: int = 0) -> bytes | None:
        """Returns the frame of a small message, or None for other messages.

        The frame must be the next one on this stream.
        """

    def frames(self, message: OutgoingMessage, stream: int = 0) -> Iterator[Frame]:
        """Yields the frames of any message."""

    def unframed(self, head: Head, prefixes: Prefixes, frame: bytes) -> OutgoingMessage:
        """Returns the message of a frame that was made with a head and its prefixes."""


class _Run:
    """Frames of one sender with the same head, made while its prefixes were the same."""

    __slots__ = ("frames", "head", "prefixes", "size")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.prefixes: Prefixes = head.prefixes
        self.frames: list[bytes] = []
        self.size = 0


class _Lane:
    """The queue of one sender. Its first message may be partly sent."""

    __slots__ = ("count", "frames", "messages", "rest", "run", "size", "stream")

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.messages: deque[tuple[OutgoingMessage, Backpressure | None] | _Run] = deque()
        self.count = 0
        """The number of messages, in runs as well."""
        self.size = 0
        """Their bytes."""
        self.run: _Run | None = None
        """The last entry of `messages`, if more frames can be added to it."""
        self.frames: Iterator[Frame] | None = None
        self.rest = 0

    def add(self, message: OutgoingMessage, level: Backpressure | None) -> None:
        """Queues a message."""
        self.messages.append((message, level))
        self.run = None
        self.count += 1
        self.size += message.size

    def took(self, count: int, size: int) -> None:
        """Counts messages that have left the queue."""
        self.count -= count
        self.size -= size


class Outbox:
    """The send queue of one connection."""

    def __init__(
        self,
        sink: FrameSink,
        fragmenter: Fragmenter,
        *,
        high: int,
        low: int,
    ) -> None:
        """The watermarks `high` and `low` are in bytes."""
        self._sink = sink
        self.fragmenter = fragmenter
        """Splits messages into frames."""
        self.has_data_streams = False
        """Whether the frames of different senders may use different streams."""
        self.high = high
        """The high watermark in bytes."""
        self._low = low
        self._lanes: dict[Hashable, _Lane] = {}
        self._turns: deque[Hashable] = deque()
        self._last: tuple[Hashable, _Lane] | None = None
        """The sender of the last frame and its lane, which may have ended."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_feed_planned = False
        self._unfed = 0
        """Bytes of frames accepted since the last attempt to pass frames to the carrier."""
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._draining: dict[asyncio.Future[None], None] = {}
        self._failure: Callable[[], Exception] | None = None
        self._ahead = 0
        """The bytes passed on since the carrier was writable the last time."""
        self.queued = 0
        """The number of accepted bytes that the carrier has not taken yet."""
        self.messages_accepted = 0
        self.frames_sent = 0

    def must_wait(self, sender: Hashable) -> bool:
        """Returns whether a sender should wait.

        It should if the backlog is above the high watermark, unless all its messages fit in its
        next turn. It does not wait for the backlog of other senders.
        """
        if self.queued <= self.high:
            return False
        lane = self._lanes.get(sender)
        if lane is None:
            return False
        return lane.frames is not None or lane.size + lane.count * _ENTRY > _TURN

    @property
    def is_empty(self) -> bool:
        """Whether the carrier has taken everything."""
        return not self._turns

    def put(
        self, sender: Hashable, message: OutgoingMessage, level: Backpressure | None = None
    ) -> None:
        """Accepts a message. Messages of one `sender` keep their order.

        `level` is charged with its size until its first frame is sent.
        """
        if self._failure is not None:
            return
        self.messages_accepted += 1
        stream = self.stream_of(sender)
        if sender not in self._lanes and self._may_pass(message.size):
            frame = self.fragmenter.frame(message, stream)
            if frame is not None:
                self._sink.send_frame((frame,), stream)
                self.frames_sent += 1
                return
        self._lane(sender, stream).add(message, level)
        self.queued += message.size
        if level is not None:
            level.size += message.size + _ENTRY
        if self._sink.is_writable:
            self.feed()

    def put_frame(self, sender: Hashable, head: Head, frame: bytes) -> None:
        """Accepts a message as the frame that `Channel.framed` has returned for `head`.

        The frames of one event loop iteration are passed to the carrier together.
        """
        if self._failure is not None:
            return
        self.messages_accepted += 1
        is_first = not self._is_feed_planned and not self._turns
        if is_first and self._sink.send_at_once(frame, head.stream):
            self.frames_sent += 1
            return
        is_writable = self._sink.is_writable
        if not is_writable and sender not in self._lanes and self._may_pass(len(frame)):
            self._sink.send_framed((frame,), head.stream)
            self.frames_sent += 1
            return
        if not self._is_feed_planned:
            self._is_feed_planned = True
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._feed_as_planned)
            if is_first and is_writable:
                # The carrier plans its work now, so that the planned feed precedes it.
                self._sink.send_framed((frame,), head.stream)
                self.frames_sent += 1
                return
        last = self._last
        if last is not None and last[0] is sender and last[1].count:
            lane = last[1]
        else:
            lane = self._lane(sender, head.stream)
            self._last = sender, lane
        run = lane.run
        if run is None or run.prefixes is not head.prefixes or run.size >= _RUN:
            run = lane.run = _Run(head)
            lane.messages.append(run)
        size = len(frame)
        run.frames.append(frame)
        run.size += size
        lane.count += 1
        lane.size += size
        self.queued += size
        self._unfed += size
        if self._unfed >= _RUN:
            self.feed()

    def _feed_as_planned(self) -> None:
        self._is_feed_planned = False
        self.feed()

    def stream_of(self, sender: Hashable) -> int:
        """Returns the stream of the messages of a sender."""
        return stream_of(sender) if self.has_data_streams and type(sender) is Pid else 0

    def _lane(self, sender: Hashable, stream: int) -> _Lane:
        lane = self._lanes.get(sender)
        if lane is None:
            lane = self._lanes[sender] = _Lane(stream)
            self._turns.append(sender)
        return lane

    def _may_pass(self, size: int) -> bool:
        """Whether a message of a sender with nothing queued may be passed on at once, if small."""
        if self._sink.is_writable:
            return not self._turns
        if self._ahead + size > _AHEAD:
            return False
        self._ahead += size
        return True

    def feed(self) -> None:
        """Passes frames to the carrier while it is writable."""
        self._unfed = 0
        turns = self._turns
        sink = self._sink
        if self._ahead and sink.is_writable:
            self._ahead = 0
        while turns and sink.is_writable:
            lane = self._lanes[turns[0]]
            if not self._send_fragment(lane) and not self._send_small(lane):
                self._begin_large(lane)
            if lane.messages or lane.frames is not None:
                turns.rotate(-1)
            else:
                del self._lanes[turns.popleft()]
        if self._waiting and self.queued <= self._low:
            self._waiting = _wake(self._waiting)
        if self._draining and not turns:
            self._draining = _wake(self._draining)

    def _send_fragment(self, lane: _Lane) -> bool:
        """Sends the next fragment of a partly sent message. Returns False if there is none."""
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
        self._sink.send_frame(frame, lane.stream)
        return True

    def _send_small(self, lane: _Lane) -> bool:
        """Sends small messages for one turn. Returns False if the next message is not small."""
        messages = lane.messages
        sink = self._sink
        sent = 0
        while messages and sent < _TURN and sink.is_writable:
            entry = messages[0]
            if type(entry) is _Run:
                sent += self._send_run(lane, entry)
                continue
            assert type(entry) is tuple
            message, level = entry
            frame = self.fragmenter.frame(message, lane.stream)
            if frame is None:
                break
            messages.popleft()
            if level is not None:
                level.take(message.size + _ENTRY)
            sent += message.size
            lane.took(1, message.size)
            self.queued -= message.size
            self.frames_sent += 1
            sink.send_frame((frame,), lane.stream)
        return sent > 0

    def _send_run(self, lane: _Lane, run: _Run) -> int:
        """Sends the run that is first in its lane. Returns its bytes.

        If the atom cache has changed since its frames were made, replaces it by their messages and
        returns 0.
        """
        lane.messages.popleft()
        lane.took(len(run.frames), run.size)
        self.queued -= run.size
        if run is lane.run:
            lane.run = None
        if run.head.is_current and run.prefixes is run.head.prefixes:
            self.frames_sent += len(run.frames)
            self._sink.send_framed(run.frames, lane.stream)
            return run.size
        for frame in reversed(run.frames):
            message = self.fragmenter.unframed(run.head, run.prefixes, frame)
            lane.messages.appendleft((message, None))
            lane.took(-1, -message.size)
            self.queued += message.size
        return 0

    def _begin_large(self, lane: _Lane) -> None:
        """Sends the first frame of a large message, if that is next in the lane."""
        if not lane.messages:
            return
        entry = lane.messages.popleft()
        assert type(entry) is tuple
        message, level = entry
        lane.took(1, message.size)
        if level is not None:
            level.take(message.size + _ENTRY)
        lane.frames = self.fragmenter.frames(message, lane.stream)
        lane.rest = message.size
        self._send_fragment(lane)

    async def space(self) -> None:
        """Waits until the backlog is below the low watermark. Raises the error passed to `fail`."""
        if self._failure is None and self.queued > self.high:
            await _wait_in(self._waiting)
        if self._failure is not None:
            raise self._failure()

    async def drained(self) -> None:
        """Waits until the carrier has taken everything, or the connection has ended."""
        while self._turns:
            await _wait_in(self._draining)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Drops all messages and wakes all waiters, because the connection has ended.

        `error` creates an exception for each waiter, since a raised exception refers to its frames.
        """
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
    """Wakes all waiters. Returns a new dict for later ones."""
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
    return {}


def _length(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
