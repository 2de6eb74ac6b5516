"""What a carrier brings and takes: handshake messages and distribution frames, as bytes.

A dialect (quicdist.carriers) turns stream bytes into packets and back; a session
(quicdist.protocol.session) turns packets into control messages and back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HandshakePacket:
    """One whole handshake message, its length field taken off.

    ERTS manual, Distribution Protocol, "Protocol between Connected Nodes": handshake.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class FramePacket:
    """One whole distribution frame, its length field taken off; empty is a tick.

    ERTS manual, Distribution Protocol, "Protocol between Connected Nodes".
    """

    data: bytes


Packet = HandshakePacket | FramePacket
