"""`erlang-dist`: the carrier of the `quic` application (erlang_quic, pure Erlang).

Stream 0 carries the handshake, one STREAM chunk a message and no lengths, then only ticks. Frames
behind u32 lengths go over 16 data streams each way, in any order. What lies above is for users.
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
"""The one stream that we send on: one sender's frames on two streams overtake each other."""

_USER_STREAM_REFUSED = 0x100
"""What erlang_quic itself answers where nobody accepts user streams."""

_STATUS_GAP = 0.05
"""Seconds between `sok` and the challenge: the dialer reads one chunk as one message."""

_ACK_GAP = 0.05
"""Seconds that nothing may follow `a`, lest a tick ends up in its chunk."""

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
    """Handshake messages cut by what they are; frames from any data stream, sent on one."""

    traits = DialectTraits(
        name="erlang_quic", alpn="erlang-dist", needs_probe=True, parks_frames=True
    )
    """needs_probe: `disconnect_node` sends nothing, and the connection goes on acknowledging.
    parks_frames: what did not fit the credit waits for its next message, or 15 s for its tick."""

    receive_window = 32 * 1024 * 1024
    """Protects from parked frames: its queue takes 16 MiB whatever the credit, and what it has in
    flight comes on top, so this is more than it asks for while we keep reading."""

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

    def opened(self) -> Sequence[Step]:
        """No preamble: the name opens stream 0."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """The message as it is; behind a status a gap, which keeps its chunk from growing."""
        write = Write(_CONTROL, (message,))
        if self.role is Role.LISTENER and message[:1] == b"s":
            return (write, Gap(_STATUS_GAP, ends_on_receive=False))
        return (write,)

    def connected(self) -> Sequence[Step]:
        """Protects `a`: bytes behind it in its chunk break the peer's handshake."""
        self._connected = True
        if self.role is Role.LISTENER:
            return (Gap(_ACK_GAP, ends_on_receive=True),)
        return ()

    def frame_bytes(self, parts: Sequence[Buffer]) -> Write:
        """Frames on our data stream; ticks on stream 0, where the peer looks for them."""
        if not parts:
            return Write(_CONTROL, (TICK,))
        return Write(_DATA_STREAM[self.role], length_prefixed(parts))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Packets of one stream's bytes. Raises DialectError."""
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
        """There is no preamble."""
        return True

    def carries(self, stream: int) -> bool:
        """Whether the connection is over when this stream is."""
        return stream <= _LAST_DATA_STREAM

    def _receive_frames(self, stream: int, chunk: bytes) -> list[Packet]:
        framer = self._frames.get(stream)
        if framer is None:
            framer = self._frames[stream] = frame_framer(self._limits)
        packets: list[Packet] = [FramePacket(body) for body in framer.feed_frames(chunk)]
        if framer.missing and len(self._frames) > 2 and self._wanted() > self._limits.max_frame:
            # 16 streams could each hold a frame of the largest size; together they get one.
            raise DialectError("unfinished frames on several streams add up to too much")
        return packets

    def _wanted(self) -> int:
        return sum(framer.missing for framer in self._frames.values())

    def _keep_early(self, packets: Sequence[Packet]) -> None:
        """Data streams may overtake stream 0: their frames wait for the handshake's end.

        Whoever sends them has not proved anything yet, so they are few.
        """
        self._early += packets
        self._early_size += sum(len(packet.data) for packet in packets)
        if self._early_size + self._wanted() > self._limits.receive_window:
            raise DialectError("too much came before the end of the handshake")

    def _receive_handshake(self, chunk: bytes) -> list[Packet]:
        self._handshake += chunk
        packets: list[Packet] = []
        while self._handshake and self._in_handshake:
            length = self._message_length(self._handshake)
            if length is None:
                if len(self._handshake) > self._limits.max_handshake:
                    raise DialectError("a handshake message without an end")
                return packets
            message, self._handshake = self._handshake[:length], self._handshake[length:]
            packets.append(HandshakePacket(message))
            self._in_handshake = message[:1] != self._last
        if not self._in_handshake and self._handshake:
            rest, self._handshake = self._handshake, b""
            self._keep_early(self._receive_frames(_CONTROL, rest))
        return packets

    def _message_length(self, data: bytes) -> int | None:
        """Length of the message that `data` begins with; None while that is not to be seen.

        Messages carry no length, and status and challenge may come merged, so they are cut by
        their own structure (ERTS manual, Distribution Handshake). Raises DialectError.
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
        # Not all here yet; `ok` may be all, but only what follows tells it from the longer one.
        return None
    for status in _STATUSES:
        if text.startswith(status):
            return 1 + len(status)
    raise DialectError(f"an unknown handshake status {text[:20]!r}")
