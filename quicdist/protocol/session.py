"""The distribution protocol on one connection, without the connection: packets in, events out.

    session = Session(local, Role.DIALER, challenge=random_32_bits, expected_peer=name)
    session.start()                    -> events: what to send
    session.receive(packet)            -> events: what to send, what happened
    session.decide(status)             -> events: after PeerNamed or AliveAsked
    session.channel                    -> signals to frames and back, once connected
    session.encode(signal, payload)    -> a message
    session.frames(message)            -> its frames, to be handed to the carrier

A session raises ProtocolError or HandshakeRefused when its connection is to be dropped, and is of
no use after that. The handshake is in `quicdist.protocol.handshake`, what follows it in
`quicdist.protocol.channel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from quicdist import etf
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import Buffer, Channel, ChannelEvent, OutgoingMessage
from quicdist.protocol.errors import DistError, ProtocolError, UsageError
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake import (
    Connected,
    Handshake,
    HandshakeEvent,
    LocalNode,
    PeerNode,
    State,
)
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.role import Role
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal

Event: TypeAlias = HandshakeEvent | ChannelEvent


class Session:
    """Handshake and channel of one connection."""

    def __init__(
        self,
        local: LocalNode,
        role: Role,
        *,
        challenge: int,
        expected_peer: str | None = None,
        limits: SessionLimits | None = None,
        options: etf.Options = etf.DEFAULT,
        binding: bytes = b"",
        must_bind: bool = False,
    ) -> None:
        """`challenge` is 32 bits nobody can guess. Only `expected_peer` is talked to.

        `binding` is the exporter value of the TLS session below, empty where there is none: the
        proofs of the cookie are bound to it if the peer can do that too. With `must_bind` a dialer
        refuses a peer that cannot, before it sends a proof; a listener's owner decides by the
        flags of PeerNamed. Raises UsageError.
        """
        self.local = local
        """Who we are."""
        self._handshake = Handshake(
            local,
            role,
            challenge=challenge,
            expected_peer=expected_peer,
            binding=binding,
            must_bind=must_bind,
        )
        self._limits = limits or SessionLimits()
        self._options = options
        self._channel: Channel | None = None
        self._connected: Connected | None = None

    @property
    def connected(self) -> bool:
        """Whether messages may flow."""
        return self._channel is not None

    @property
    def channel(self) -> Channel:
        """What turns signals into frames and back. Raises UsageError while not connected."""
        if self._channel is None:
            raise UsageError("messages can be sent once the session is connected")
        return self._channel

    @property
    def peer(self) -> PeerNode:
        """The peer, once connected. Raises UsageError before."""
        if self._connected is None:
            raise UsageError("the peer is known once the session is connected")
        return self._connected.peer

    @property
    def flags(self) -> Flag:
        """What both nodes can do, once connected. Raises UsageError before."""
        if self._connected is None:
            raise UsageError("flags are negotiated once the session is connected")
        return self._connected.flags

    @property
    def is_bound(self) -> bool:
        """Whether the proofs of the cookie are bound to the TLS session. Known once the challenge
        is sent or received."""
        return self._handshake.is_bound

    @property
    def is_judged(self) -> bool:
        """The peer has our digest and has not answered it. A peer with another cookie closes the
        connection now, or sends nothing any more."""
        return self._handshake.state is State.ACK

    def start(self) -> list[Event]:
        """The dialer's first message; nothing for a listener. Raises UsageError."""
        return [*self._handshake.start()]

    def decide(self, status: Status | Named) -> list[Event]:
        """The answer to PeerNamed or AliveAsked. Raises UsageError.

        After NOK, NOT_ALLOWED and FALSE the session is over: send what is to be sent, and close.
        """
        return [*self._handshake.decide(status)]

    def receive(self, packet: Packet) -> list[Event]:
        """What a packet means. Raises ProtocolError or HandshakeRefused."""
        try:
            if type(packet) is not FramePacket:
                return self._on_handshake(packet.data)
            if self._channel is None:
                expected = self._handshake.state.value
                raise ProtocolError(f"a frame received, {expected} expected")
            return [self._channel.receive(packet.data)]
        except DistError:
            self._handshake.close()
            self._channel = None
            raise

    def _on_handshake(self, data: bytes) -> list[Event]:
        events: list[Event] = [*self._handshake.receive(data)]
        for event in events:
            if isinstance(event, Connected):
                self._connected = event
                self._channel = Channel(event.flags, self._limits, self._options)
        return events

    def encode(self, signal: Signal, payload: Payload = NO_PAYLOAD) -> OutgoingMessage:
        """As `Channel.encode`. Raises UsageError while not connected."""
        return self.channel.encode(signal, payload)

    def frame(self, message: OutgoingMessage) -> bytes | None:
        """As `Channel.frame`."""
        return self.channel.frame(message)

    def frames(self, message: OutgoingMessage) -> Iterator[tuple[Buffer, ...]]:
        """As `Channel.frames`."""
        return self.channel.frames(message)
