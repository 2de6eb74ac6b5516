"""A dialect on one stream: u16 lengths in the handshake, u32 lengths after it.

The form that `quicdist/1`, `sample` and `macula-dist` share; ERTS manual, Distribution Protocol.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.carriers.base import (
    Buffer,
    CarrierLimits,
    DialectTraits,
    Received,
    Role,
    Step,
    Write,
)
from quicdist.carriers.dialects.framing import frame_framer, handshake_framer, length_prefixed
from quicdist.dist.packet import FramePacket, HandshakePacket, Packet

STREAM = 0
"""The dialer's first bidirectional stream."""

_LAST_TO = {Role.DIALER: b"a", Role.LISTENER: b"r"}
"""Tag of the last handshake message that each side gets: the challenge's ack and its reply."""


class SingleStreamDialect:
    """Everything on stream 0."""

    traits: DialectTraits
    receive_window = 0
    """Any will do."""

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        self.role = role
        self._last = _LAST_TO[role]
        self._messages = handshake_framer(limits)
        self._frames = frame_framer(limits)
        self._in_handshake = True

    def opened(self) -> Sequence[Step]:
        """Nothing goes before the handshake."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """The message behind its u16 length."""
        return (Write(STREAM, (len(message).to_bytes(2, "big") + message,)),)

    def connected(self) -> Sequence[Step]:
        """Nothing is held back."""
        return ()

    def frame_bytes(self, parts: Sequence[Buffer]) -> Sequence[Step]:
        """The frame behind its u32 length; no parts is a tick."""
        return (Write(STREAM, length_prefixed(parts)),)

    def receive(self, stream: int, data: Buffer) -> Received:
        """Whole packets out of bytes however cut. Raises DialectError.

        Frames may lie right behind the last handshake message: its tag tells where they begin,
        long before its owner can say so.
        """
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
