"""The distribution protocol on one connection, without I/O: it maps packets to events.

    session = Session(local, Role.DIALER, challenge=random_32_bits, expected_peer=name)
    session.start()                    -> events: what to send
    session.receive(packet)            -> events: what to send, what happened
    session.decide(status)             -> events: after PeerNamed or AliveAsked
    session.channel                    -> signals to frames and back, once connected
    session.encode(signal, payload)    -> a message
    session.frames(message)            -> its frames, to be handed to the carrier

A session raises ProtocolError or HandshakeRefused when its connection must be closed. It cannot be
used after that. The handshake is in `quicdist.protocol.handshake`, the connected state in
`quicdist.protocol.channel`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from quicdist import etf
from quicdist.etf.terms import Atom
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import Buffer, Channel, ChannelEvent, Head, OutgoingMessage
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
    """The handshake and channel of one connection."""

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
        early_proofs: bool = False,
    ) -> None:
        """`challenge` is an unpredictable 32-bit number.

        A peer with a name other than `expected_peer` is refused.

        `binding` is the exporter value of the TLS session, empty without TLS. The cookie digests
        are bound to it if the peer supports that. With `must_bind` a dialer refuses a peer that
        does not, before it sends a digest. The owner of a listener decides by the flags of
        PeerNamed.

        With `early_proofs` and a binding a dialer sends its proof with its name, and a listener
        answers such a proof with its own. Raises UsageError if an argument is invalid.
        """
        self.local = local
        """The identity of this node."""
        self._handshake = Handshake(
            local,
            role,
            challenge=challenge,
            expected_peer=expected_peer,
            binding=binding,
            must_bind=must_bind,
            early_proofs=early_proofs,
        )
        self._limits = limits or SessionLimits()
        self._options = options
        self._channel: Channel | None = None
        self._connected: Connected | None = None

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete."""
        return self._channel is not None

    @property
    def channel(self) -> Channel:
        """The channel that converts between signals and frames.

        Raises UsageError if the session is not connected.
        """
        if self._channel is None:
            raise UsageError("the session is not connected")
        return self._channel

    @property
    def peer(self) -> PeerNode:
        """The identity of the peer. Raises UsageError if the session is not connected."""
        if self._connected is None:
            raise UsageError("the peer is unknown until the session is connected")
        return self._connected.peer

    @property
    def flags(self) -> Flag:
        """The flags that both nodes offer. Raises UsageError if the session is not connected."""
        if self._connected is None:
            raise UsageError("the flags are unknown until the session is connected")
        return self._connected.flags

    @property
    def is_bound(self) -> bool:
        """Whether the proofs of the cookie are bound to the TLS session.

        The value is known once the challenge or the proof was sent or received.
        """
        return self._handshake.is_bound

    @property
    def awaits_ack(self) -> bool:
        """Whether the peer has received the digest of this node and has not answered.

        A peer with another cookie closes the connection or stops responding in this state.
        """
        return self._handshake.state is State.ACK

    def start(self) -> list[Event]:
        """Returns the first message of a dialer, or no event for a listener.

        Raises UsageError if the session was already started.
        """
        return [*self._handshake.start()]

    def decide(self, status: Status | Named) -> list[Event]:
        """Answers PeerNamed or AliveAsked. Raises UsageError if the status is not a valid answer.

        NOK, NOT_ALLOWED and FALSE end the session: send the returned messages and close the
        connection. Raises WrongCookie if the dialer has sent a wrong proof with its name.
        """
        return self._note_connected(self._handshake.decide(status))

    def receive(self, packet: Packet) -> list[Event]:
        """Processes a packet and returns the resulting events.

        Raises ProtocolError for an invalid packet, HandshakeRefused if either node refuses.
        """
        try:
            if type(packet) is not FramePacket:
                return self._on_handshake(packet.data)
            if self._channel is None:
                expected = self._handshake.state.value
                raise ProtocolError(f"frame received, expected {expected}")
            return [self._channel.receive(packet.data, packet.stream)]
        except DistError:
            self._handshake.close()
            self._channel = None
            raise

    def _on_handshake(self, data: bytes) -> list[Event]:
        return self._note_connected(self._handshake.receive(data))

    def _note_connected(self, events: list[HandshakeEvent]) -> list[Event]:
        for event in events:
            if isinstance(event, Connected):
                self._connected = event
                self._channel = Channel(event.flags, self._limits, self._options)
        return [*events]

    def encode(self, signal: Signal, payload: Payload = NO_PAYLOAD) -> OutgoingMessage:
        """See `Channel.encode`. Raises UsageError if the session is not connected."""
        return self.channel.encode(signal, payload)

    def frame(self, message: OutgoingMessage, stream: int = 0) -> bytes | None:
        """See `Channel.frame`."""
        return self.channel.frame(message, stream)

    def frames(self, message: OutgoingMessage, stream: int = 0) -> Iterator[tuple[Buffer, ...]]:
        """See `Channel.frames`."""
        return self.channel.frames(message, stream)

    def unframed(
        self, head: Head, prefixes: Mapping[tuple[Atom, ...], bytes], frame: bytes
    ) -> OutgoingMessage:
        """See `Channel.unframed`."""
        return self.channel.unframed(head, prefixes, frame)
