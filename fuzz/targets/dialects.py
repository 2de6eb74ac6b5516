"""Fuzz target for the framing of each carrier and of the gateway's TCP side.

The parser returns packets or raises DialectError, and buffers no more than the limits allow.
"""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.pieces import handshakes, join, split, talks
from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects import QUIC_DIALECTS
from quicdist.protocol.dialects.base import Dialect, DialectError, Write
from quicdist.protocol.dialects.tcp import TcpDialect
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role

LIMITS = CarrierLimits(max_frame=1 << 12, max_handshake=1 << 9)
KINDS = [*QUIC_DIALECTS.values(), TcpDialect]
STREAMS = (0, 4, 1, 8, 68, 3, 12, 5)


def check(data: bytes) -> None:
    """Choice byte: bits 0-2 dialect, 3 role, 4 the packet after which it is connected.

    The first byte of each piece selects its stream.
    """
    choice, pieces = split(data)
    role = Role.LISTENER if choice & 8 else Role.DIALER
    dialect: Dialect = KINDS[(choice & 7) % len(KINDS)](role, LIMITS)
    dialect.opened()
    last = b"r" if role is Role.LISTENER else b"a"
    try:
        for piece in pieces:
            stream = STREAMS[piece[0] % len(STREAMS)] if piece else 0
            for packet in dialect.receive(stream, piece[1:]).packets:
                assert isinstance(packet, HandshakePacket | FramePacket)
                is_handshake = isinstance(packet, HandshakePacket)
                limit = LIMITS.max_handshake if is_handshake else LIMITS.max_frame
                assert len(packet.data) <= limit
                if is_handshake and packet.data[:1] == last:
                    dialect.connected()
                    dialect.receive(0, b"")
    except DialectError:
        pass


def seeds() -> Iterator[bytes]:
    """Yields recorded handshakes with some frames after them, in the framing of each dialect."""
    for handshake, talk in zip(handshakes(), talks(), strict=True):
        frames = [one for one in talk if isinstance(one.packet, FramePacket)][:10]
        for kind in range(len(KINDS)):
            for listener in (False, True):
                role = Role.DIALER if listener else Role.LISTENER
                speaker = KINDS[kind](role, LIMITS)
                steps = list(speaker.opened())
                for one in (*handshake, *frames):
                    if one.dialed is not listener:
                        continue
                    if isinstance(one.packet, HandshakePacket):
                        steps += speaker.handshake_bytes(one.packet.data)
                    else:
                        steps.append(speaker.frame_bytes((one.packet.data,)))
                pieces = [
                    bytes((STREAMS.index(step.stream),)) + b"".join(step.parts)
                    for step in steps
                    if isinstance(step, Write) and step.stream in STREAMS
                ]
                yield join(kind | (8 if listener else 0), pieces)
