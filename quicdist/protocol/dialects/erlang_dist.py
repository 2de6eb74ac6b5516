"""`erlang-dist`: the carrier of the `quic` application (erlang_quic, pure Erlang).

Stream 0 carries the handshake, one STREAM chunk per message without lengths, and then only ticks.
Frames with u32 lengths use 16 data streams in each direction, in any order. Higher streams are for
users.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectError,
    DialectTraits,
    Gap,
    Received,
    Refuse,
    Step,
    Write,
)
from quicdist.protocol.dialects.framing import (
    TICK,
    LengthFramer,
    frame_framer,
    length_prefixed,
)
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role

_CONTROL = 0
_LAST_DATA_STREAM = 64
_DATA_STREAM = {Role.DIALER: 4, Role.LISTENER: 1}
"""The stream that this node sends frames on. Frames on two streams could overtake each other."""

_USER_STREAM_REFUSED = 0x100
"""The error code that erlang_quic sends if no process accepts user streams."""

_STATUS_GAP = 0.05
"""Seconds between `sok` and the challenge, because the dialer reads one chunk as one message."""

_ACK_GAP = 0.05
"""Seconds of silence after `a`, so that a tick is not in the same chunk."""

_STATUSES = (
    b"ok_simultaneous",
    b"ok",
    b"nok",
    b"not_allowed",
    b"alive",
    b"true",
    b"false",
)
_LAST_TO = {Role.DIALER: b"a", Role.LISTENER: b"r"}
_FIXED_LENGTH = {b"a": 17, b"r": 21}


class ErlangDistDialect:
    """The dialect `erlang-dist`.

    It splits handshake messages by their structure, reads frames on any data stream and sends them
    on one.
    """

    traits = DialectTraits(
        name="erlang_quic",
        alpn="erlang-dist",
        needs_probe=True,
        parks_frames=True,
        keeps_frames=True,
    )
    """needs_probe: `disconnect_node` sends nothing, and the connection still acknowledges packets.
    parks_frames: frames that exceed the credit wait for the next message, or 15 s for a tick."""

    receive_window = 32 * 1024 * 1024
    """Prevents parked frames: the queue of the peer holds 16 MiB regardless of the credit, in
    addition to the data in flight. This window is larger than both while this node keeps reading.
    """

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        self.role = role
        self._limits = limits
        self._last = _LAST_TO[role]
        self._handshake = b""
        self._in_handshake = True
        self._connected = False
        self._early: list[Packet] = []
        self._early_size = 0
        self._frames: dict[int, LengthFramer] = {_CONTROL: frame_framer(limits)}

    withheld = 0
    """Early frames are few, so they need not reduce the credit."""

    def opened(self) -> Sequence[Step]:
        """Returns no steps: there is no preamble, and the name opens stream 0."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """Returns the message without a length, and a gap after a status.

        After the gap, the next message is in another chunk.
        """
        write = Write(_CONTROL, (message,))
        if self.role is Role.LISTENER and message[:1] == b"s":
            return (write, Gap(_STATUS_GAP, ends_on_receive=False))
        return (write,)

    def connected(self) -> Sequence[Step]:
        """Returns a gap after `a`: more bytes in its chunk break the handshake of the peer."""
        self._connected = True
        if self.role is Role.LISTENER:
            return (Gap(_ACK_GAP, ends_on_receive=True),)
        return ()

    def frame_bytes(self, parts: Sequence[Buffer], stream: int = 0) -> Write:
        """Writes frames to the data stream and ticks to stream 0, where the peer expects them."""
        if not parts:
            return Write(_CONTROL, (TICK,))
        return Write(_DATA_STREAM[self.role], length_prefixed(parts))

    def framed_bytes(self, frames: Sequence[bytes], stream: int = 0) -> Write:
        """Writes frames to the data stream."""
        return Write(_DATA_STREAM[self.role], (b"".join(frames),))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns the packets in the bytes of a stream. Raises DialectError if they are invalid."""
        chunk = data if isinstance(data, bytes) else bytes(data)
        if stream == _CONTROL and self._in_handshake:
            return Received(self._receive_handshake(chunk))
        if not self.carries(stream):
            return Received(steps=(Refuse(stream, _USER_STREAM_REFUSED),))
        packets = self._receive_frames(stream, chunk)
        if not self._connected:
            self._keep_early(packets)
            return Received()
        if self._early:
            packets = [*self._early, *packets]
            self._early = []
        return Received(packets)

    @property
    def is_open(self) -> bool:
        """Always true, because there is no preamble."""
        return True

    def carries(self, stream: int) -> bool:
        """Whether the end of this stream ends the connection."""
        return stream <= _LAST_DATA_STREAM

    def _receive_frames(self, stream: int, chunk: bytes) -> list[Packet]:
        framer = self._frames.get(stream)
        if framer is None:
            framer = self._frames[stream] = frame_framer(self._limits)
        packets: list[Packet] = [FramePacket(body) for body in framer.feed_frames(chunk)]
        if framer.missing and len(self._frames) > 2 and self._announced() > self._limits.max_frame:
            # The unfinished frames of 16 streams together may not exceed the maximum frame size.
            raise DialectError("the unfinished frames of all streams exceed the maximum frame size")
        return packets

    def _announced(self) -> int:
        return sum(framer.announced for framer in self._frames.values())

    def _keep_early(self, packets: Sequence[Packet]) -> None:
        """Stores frames that arrive before the end of the handshake.

        Data streams may overtake stream 0. The number of frames is small, because the peer has not
        proved the cookie.
        """
        self._early += packets
        self._early_size += sum(len(packet.data) for packet in packets)
        if self._early_size + self._announced() > self._limits.receive_window:
            raise DialectError("too much data before the end of the handshake")

    def _receive_handshake(self, chunk: bytes) -> list[Packet]:
        self._handshake += chunk
        packets: list[Packet] = []
        while self._handshake and self._in_handshake:
            length = self._message_length(self._handshake)
            if length is None:
                if len(self._handshake) > self._limits.max_handshake:
                    raise DialectError("a handshake message is too long")
                return packets
            message, self._handshake = self._handshake[:length], self._handshake[length:]
            packets.append(HandshakePacket(message))
            self._in_handshake = message[:1] != self._last
        if not self._in_handshake and self._handshake:
            rest, self._handshake = self._handshake, b""
            self._keep_early(self._receive_frames(_CONTROL, rest))
        return packets

    def _message_length(self, data: bytes) -> int | None:
        """The length of the message at the start of `data`, None if more data is needed.

        Messages have no length field, and status and challenge may arrive together, so they are
        split by their structure (ERTS manual, Distribution Handshake). Raises DialectError if the
        message is invalid.
        """
        tag = data[:1]
        if tag in _FIXED_LENGTH:
            return _whole(data, _FIXED_LENGTH[tag])
        if tag == b"N":
            # Name: tag, flags 8, creation 4, length 2. Challenge: 4 more, before the creation.
            at = 13 if self.role is Role.LISTENER else 17
            return _whole(data, _with_length_at(data, at))
        if tag == b"s":
            return _status_length(data)
        raise DialectError(f"a handshake message with the tag {tag!r}")


def _whole(data: bytes, length: int | None) -> int | None:
    return length if length is not None and length <= len(data) else None


def _with_length_at(data: bytes, at: int) -> int | None:
    if len(data) < at + 2:
        return None
    return at + 2 + int.from_bytes(data[at : at + 2], "big")


def _status_length(data: bytes) -> int | None:
    text = data[1:]
    if text.startswith(b"named:"):
        name_end = _with_length_at(data, 7)
        return None if name_end is None else _whole(data, name_end + 4)
    if text in _STATUSES and text != b"ok":
        return 1 + len(text)
    if any(status.startswith(text) for status in (*_STATUSES, b"named:")):
        # The message is incomplete. `ok` may be complete or the start of `ok_simultaneous`.
        return None
    for status in _STATUSES:
        if text.startswith(status):
            return 1 + len(status)
    raise DialectError(f"an unknown handshake status {text[:20]!r}")
