"""A dialect on one stream: u16 lengths in the handshake, u32 lengths after it.

The form that `quicdist/1`, `sample` and `macula-dist` share; ERTS manual, Distribution Protocol.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role

STREAM = 0
"""The dialer's first bidirectional stream."""

_STREAM_REFUSED = 0x100
"""What a peer is told that opens a second stream."""

_STATUS_GAP = 0.05
"""Seconds between `sok` and the challenge; some tens of milliseconds are safe."""

_ACK_GAP = 0.25
"""Seconds that the first frame waits behind the challenge's ack, unless the dialer speaks."""

_LAST_TO = {Role.DIALER: b"a", Role.LISTENER: b"r"}
"""Tag of the last handshake message that each side gets: the challenge's ack and its reply."""


class SingleStreamDialect:
    """Everything on stream 0."""

    traits: DialectTraits

    keeps_apart = False
    """Its dialers read one event of their QUIC library as one message and drop what is behind it:
    a listener sends the challenge apart from the status, and frames apart from the ack."""

    receive_window = 0
    """Any will do."""

    handshake_width = 2
    """Bytes of the length before a handshake message."""

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        self.role = role
        self._last = _LAST_TO[role]
        self._messages = handshake_framer(limits, self.handshake_width)
        self._frames = frame_framer(limits)
        self._in_handshake = True

    def opened(self) -> Sequence[Step]:
        """Nothing goes before the handshake."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """The message behind its length; a status alone, where that is wanted."""
        write = Write(STREAM, (len(message).to_bytes(self.handshake_width, "big") + message,))
        if self.keeps_apart and self.role is Role.LISTENER and message[:1] == b"s":
            return (write, Gap(_STATUS_GAP, ends_on_receive=False))
        return (write,)

    def connected(self) -> Sequence[Step]:
        """The first frame follows at once, or when the dialer has been heard."""
        if self.keeps_apart and self.role is Role.LISTENER:
            return (Gap(_ACK_GAP, ends_on_receive=True),)
        return ()

    def frame_bytes(self, parts: Sequence[Buffer]) -> Write:
        """The frame behind its u32 length; no parts is a tick."""
        return Write(STREAM, length_prefixed(parts))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Whole packets out of bytes however cut. Raises DialectError.

        Frames may lie right behind the last handshake message: its tag tells where they begin,
        long before its owner can say so.
        """
        if stream != STREAM:
            return Received(steps=(Refuse(stream, _STREAM_REFUSED),))
        rest = data if isinstance(data, bytes) else bytes(data)
        if not self._in_handshake:
            return Received([FramePacket(body) for body in self._frames.feed_frames(rest)])
        packets: list[Packet] = []
        while self._in_handshake:
            message, rest = self._messages.feed_one(rest)
            if message is None:
                return Received(packets)
            if message:  # macula's ticks in the handshake are empty
                packets.append(HandshakePacket(message))
                self._in_handshake = message[:1] != self._last
        packets += [FramePacket(body) for body in self._frames.feed_frames(rest)]
        return Received(packets)

    @property
    def is_open(self) -> bool:
        """There is no preamble."""
        return True

    def carries(self, stream: int) -> bool:
        """Whether the connection is over when this stream is."""
        return stream == STREAM
