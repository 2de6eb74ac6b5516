"""The streams of a connection over which frames may overtake each other, and what stays in order.

Erlang promises an order only for the signals of one process to another (ERTS manual, Processes,
"Signals"). So the frames of each sending process use one *data stream*, and a lost datagram delays
only the processes of its streams. Stream 0 has the frames whose sender is unknown, for example a
`DOWN` of a monitor by name. Such a frame follows every frame sent before it, on all streams, and
precedes every frame sent after it.

This order is kept by *fences*. A fence precedes a frame on its stream and names how many frames of
other streams precede that frame. The receiver holds the frame until these were delivered. There are
no fences unless both stream 0 and data streams are used. Format, with the length field of a frame:

    1, 0, (Stream:8, Count:64) ...

Frames begin with 112 or 131. One that begins with 1 would get another 1 in front. Streams are
numbered from 0 in this module; the dialect assigns the stream ids of QUIC.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quicdist.etf.terms import Pid
from quicdist.protocol.errors import DialectError
from quicdist.protocol.packet import FramePacket, frame_packets
from quicdist.protocol.signals import Signal, SpawnReply

if TYPE_CHECKING:  # the dialects import this module
    from quicdist.protocol.dialects.base import Buffer

UNKNOWN_SENDER = 0
"""The stream of frames without a known sender, and of ticks."""

DATA_STREAMS = 16
"""Number of data streams in each direction, numbered from 1."""

MAX_DATA_FRAME = 1024 * 1024
"""Approximate maximum size in bytes of the frames on data streams. All incomplete frames of a
connection together may not exceed `CarrierLimits.max_frame`."""

_ENTRY = struct.Struct(">BQ")
MARK = 1
"""The first byte of what is no plain frame."""
_MARK = bytes((MARK,))
_FENCE = _MARK + b"\x00"
_FIRST_FRAME = b"\x02"
"""Ticks and what begins with _MARK are smaller than this."""
_LONGEST_FENCE = len(_FENCE) + (DATA_STREAMS + 1) * _ENTRY.size

_OVERHEAD = 64
"""Bytes charged for each frame that is held, in addition to its size."""


def stream_of(sender: Pid) -> int:
    """Returns the data stream of a sending process.

    Consecutive pids have different streams.
    """
    return 1 + sender.id % DATA_STREAMS


def stream_for(signal: Signal) -> int:
    """Returns the stream of a signal that was read from a frame.

    A spawn reply precedes the signals of the new process, so it uses its stream.
    """
    sender = signal.result if type(signal) is SpawnReply else getattr(signal, "sender", None)
    return stream_of(sender) if type(sender) is Pid else UNKNOWN_SENDER


def escaped(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """Returns the parts of a frame, with a mark in front if it looks like a fence."""
    first = next(filter(None, parts))
    return (_MARK, *parts) if first[:1] == _MARK else parts


class OutgoingStreams:
    """Counts the frames that are sent, and creates the fences."""

    __slots__ = ("_counts", "_fenced", "_known")

    def __init__(self) -> None:
        self._counts = [0] * (DATA_STREAMS + 1)
        self._known = [0] * (DATA_STREAMS + 1)
        """For each stream, the count of frames that its last fence has named: of stream 0 on a
        data stream. Entry 0 is unused."""
        self._fenced = [0] * (DATA_STREAMS + 1)
        """The counts that the fences of stream 0 have named."""

    def next_frame(self, stream: int, count: int = 1) -> bytes:
        """Counts a frame, or `count` of them in a row.

        Returns the body of the fence that must precede the first one; empty if none.
        """
        counts = self._counts
        counts[stream] += count
        if stream != UNKNOWN_SENDER:
            if self._known[stream] == counts[UNKNOWN_SENDER]:
                return b""
            self._known[stream] = counts[UNKNOWN_SENDER]
            return _FENCE + _ENTRY.pack(UNKNOWN_SENDER, counts[UNKNOWN_SENDER])
        fence = b""
        for each in range(1, DATA_STREAMS + 1):
            if counts[each] != self._fenced[each]:
                self._fenced[each] = counts[each]
                fence += _ENTRY.pack(each, counts[each])
        return _FENCE + fence if fence else b""


class _Held:
    """The bodies of a stream from its first unfulfilled fence on."""

    __slots__ = ("awaited", "bodies", "count")

    def __init__(self) -> None:
        self.bodies: deque[bytes] = deque()
        self.awaited = 0
        """The stream whose frames the first body waits for."""
        self.count = 0
        """How many of them must have been delivered."""


class IncomingStreams:
    """Holds the frames that arrive before those that precede them."""

    __slots__ = ("_counts", "_held", "held_bytes")

    def __init__(self) -> None:
        self._counts = [0] * (DATA_STREAMS + 1)
        """Number of frames delivered."""
        self._held: dict[int, _Held] = {}
        self.held_bytes = 0
        """Memory of the held frames."""

    def deliver(self, stream: int, bodies: Sequence[bytes]) -> list[FramePacket]:
        """Returns the frames that can be delivered after these bodies have arrived on a stream.

        Raises DialectError if a fence is invalid.
        """
        if not bodies:
            return []
        if not self._held and min(bodies) >= _FIRST_FRAME:  # the hot path
            self._counts[stream] += len(bodies)
            return frame_packets(bodies, stream)
        held = self._held.get(stream)
        if held is None:
            held = self._held[stream] = _Held()
        held.bodies.extend(bodies)
        for body in bodies:
            self.held_bytes += len(body) + _OVERHEAD
        packets: list[FramePacket] = []
        while self._release(packets):
            pass
        return packets

    def _release(self, packets: list[FramePacket]) -> bool:
        """Delivers what waits for no other stream. Returns whether that was anything."""
        before = len(packets)
        for stream, held in list(self._held.items()):
            if self._counts[held.awaited] < held.count:
                continue
            self._advance(stream, held, packets)
            if not held.bodies:
                del self._held[stream]
        return len(packets) > before

    def _advance(self, stream: int, held: _Held, packets: list[FramePacket]) -> None:
        """Delivers frames of a stream up to an unfulfilled fence."""
        bodies = held.bodies
        while bodies:
            body = bodies[0]
            if body[:1] != _MARK:
                packets.append(FramePacket(body, stream))
                self._counts[stream] += bool(body)  # ticks are not counted
            elif body[1:2] == _MARK:
                packets.append(FramePacket(body[1:], stream))
                self._counts[stream] += 1
            elif not self._is_fulfilled(body, held):
                return
            bodies.popleft()
            self.held_bytes -= len(body) + _OVERHEAD

    def _is_fulfilled(self, fence: bytes, held: _Held) -> bool:
        size = len(fence) - len(_FENCE)
        if fence[:2] != _FENCE or len(fence) > _LONGEST_FENCE or size % _ENTRY.size:
            raise DialectError(f"a fence of {len(fence)} bytes")
        for stream, count in _ENTRY.iter_unpack(fence[len(_FENCE) :]):
            if stream > DATA_STREAMS:
                raise DialectError(f"a fence for stream {stream}, the last one is {DATA_STREAMS}")
            if self._counts[stream] < count:
                held.awaited, held.count = stream, count
                return False
        return True
