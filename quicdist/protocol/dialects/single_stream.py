"""A dialect on one stream, with u16 lengths in the handshake and u32 lengths after it.

`quicdist/1`, `sample` and `macula-dist` share it. Source: ERTS manual, Distribution Protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectTraits,
    Gap,
    Received,
    Refuse,
    Step,
    Write,
)
from quicdist.protocol.dialects.framing import frame_framer, handshake_framer, length_prefixed
from quicdist.protocol.packet import HandshakePacket, Packet, frame_packets
from quicdist.protocol.role import Role

STREAM = 0
"""The first bidirectional stream of the dialer."""

_STREAM_REFUSED = 0x100
"""The error code for a peer that opens a second stream."""

_STATUS_GAP = 0.05
"""Seconds between `sok` and the challenge. Some tens of milliseconds are sufficient."""

_ACK_GAP = 0.25
"""Seconds between the challenge ack and the first frame, unless a packet of the dialer arrives."""

CHALLENGE_ACK, CHALLENGE_REPLY = b"a", b"r"


class SingleStreamDialect:
    """The framing of the ERTS manual on stream 0, with optional gaps."""

    traits: DialectTraits

    keeps_apart = False
    """Whether dialers read one event of their QUIC library as one message and discard the rest. A
    listener then separates the challenge from the status, and frames from the ack, by gaps."""

    receive_window = 0
    """There is no minimum."""

    withheld = 0
    """Frames that follow the last handshake message are returned with it."""

    last_messages: Mapping[Role, Collection[bytes]] = {
        Role.DIALER: (CHALLENGE_ACK,),
        Role.LISTENER: (CHALLENGE_REPLY,),
    }
    """Tags of the handshake messages that each role may receive last."""

    handshake_width = 2
    """Size in bytes of the length field of a handshake message."""

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        self.role = role
        self._last = self.last_messages[role]
        self._messages = handshake_framer(limits, self.handshake_width)
        self._frames = frame_framer(limits)
        self._in_handshake = True

    def opened(self) -> Sequence[Step]:
        """Returns no steps, because there is no preamble."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """Returns the message with its length, and with `keeps_apart` a gap after a status."""
        write = Write(STREAM, (len(message).to_bytes(self.handshake_width, "big") + message,))
        if self.keeps_apart and self.role is Role.LISTENER and message[:1] == b"s":
            return (write, Gap(_STATUS_GAP, ends_on_receive=False))
        return (write,)

    def connected(self) -> Sequence[Step]:
        """Returns no steps, or with `keeps_apart` a gap that ends with a packet of the dialer."""
        if self.keeps_apart and self.role is Role.LISTENER:
            return (Gap(_ACK_GAP, ends_on_receive=True),)
        return ()

    def frame_bytes(self, parts: Sequence[Buffer], stream: int = 0) -> Write:
        """Returns the frame with its u32 length. No parts is a tick."""
        return Write(STREAM, length_prefixed(parts))

    def framed_bytes(self, frames: Sequence[bytes], stream: int = 0) -> Write:
        """Returns the frames, joined."""
        return Write(STREAM, (b"".join(frames),))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns the complete packets. Raises DialectError if a length exceeds its limit.

        Frames may directly follow the last handshake message, before `connected` is called. The tag
        of that message marks where they begin.
        """
        if stream != STREAM:
            return Received(steps=(Refuse(stream, _STREAM_REFUSED),))
        if not self._in_handshake:
            chunk = data if isinstance(data, (bytes, memoryview)) else bytes(data)
            return Received(frame_packets(self._frames.feed_frames(chunk)))
        rest = bytes(data)
        packets: list[Packet] = []
        while self._in_handshake:
            message, rest = self._messages.feed_one(rest)
            if message is None:
                return Received(packets)
            if message:  # ticks of macula during the handshake are empty
                packets.append(HandshakePacket(message))
                self._in_handshake = message[:1] not in self._last
        packets += frame_packets(self._frames.feed_frames(rest))
        return Received(packets)

    @property
    def is_open(self) -> bool:
        """Always true, because there is no preamble."""
        return True

    def carries(self, stream: int) -> bool:
        """Whether the end of this stream ends the connection."""
        return stream == STREAM
