"""`quicdist-relay/1`: control messages between a node and its relay, on one stream.

Every packet is a message with a u16 length. There are no frames, and the handshake does not end.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectTraits,
    Received,
    Refuse,
    Step,
    Write,
)
from quicdist.protocol.dialects.framing import handshake_framer
from quicdist.protocol.packet import HandshakePacket, Packet
from quicdist.protocol.role import Role

_STREAM = 0
_STREAM_REFUSED = 0x100


class RelayDialect:
    """Messages with their lengths on the first bidirectional stream of the node."""

    traits = DialectTraits(name="quicdist-relay", alpn="quicdist-relay/1", is_control=True)
    receive_window = withheld = 0
    is_open = True

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        self._messages = handshake_framer(limits)

    def opened(self) -> Sequence[Step]:
        """Returns no steps, because there is no preamble."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """Returns the message with its length."""
        return (Write(_STREAM, (len(message).to_bytes(2, "big") + message,)),)

    def connected(self) -> Sequence[Step]:
        """Returns no steps: messages have the same form after the relay knows the node."""
        return ()

    def frame_bytes(self, parts: Sequence[Buffer], stream: int = 0) -> Write:
        """Raises AssertionError: a control connection has no frames."""
        raise AssertionError("no frames on a control connection")

    def framed_bytes(self, frames: Sequence[bytes], stream: int = 0) -> Write:
        """Raises AssertionError: a control connection has no frames."""
        raise AssertionError("no frames on a control connection")

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns the complete messages. Raises DialectError if a length exceeds its limit."""
        if stream != _STREAM:
            return Received(steps=(Refuse(stream, _STREAM_REFUSED),))
        rest = data if isinstance(data, bytes) else bytes(data)
        packets: list[Packet] = []
        while True:
            message, rest = self._messages.feed_one(rest)
            if message is None:
                return Received(packets)
            packets.append(HandshakePacket(message))

    def carries(self, stream: int) -> bool:
        """Whether the end of this stream ends the connection."""
        return stream == _STREAM
