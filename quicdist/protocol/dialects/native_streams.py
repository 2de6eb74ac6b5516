"""`quicdist/2`: the carrier between quicdist nodes and gateways. Senders use different streams.

The handshake, ticks and frames without a known sender use stream 0, as in `quicdist/1`. The frames
of processes use the data streams, which each side opens for its own frames: bidirectional streams
after the one for messages about direct paths. `quicdist.protocol.streams` keeps the order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectError,
    DialectTraits,
    Received,
    Step,
    Write,
)
from quicdist.protocol.dialects.framing import (
    TICK,
    LengthFramer,
    frame_framer,
    length_prefixed,
)
from quicdist.protocol.dialects.native import NativeDialect
from quicdist.protocol.dialects.single_stream import CHALLENGE_ACK, CHALLENGE_REPLY, STREAM
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.role import Role
from quicdist.protocol.streams import (
    DATA_STREAMS,
    MARK,
    UNKNOWN_SENDER,
    IncomingStreams,
    OutgoingStreams,
    escaped,
)

_PROOF = b"p"
"""Tag of the proof of the listener, which ends the handshake for a dialer."""

_new = tuple.__new__
"""Makes a NamedTuple in half the time of a call of its class."""

_STEP = 4
"""Difference between the ids of two streams of the same type (RFC 9000, 2.1)."""


class NativeStreamsDialect(NativeDialect):
    """The framing of the ERTS manual on each stream."""

    traits = DialectTraits(
        name="quicdist",
        alpn="quicdist/2",
        binds=True,
        early_proofs=True,
        renews_ids=True,
        has_offers=True,
        data_streams=DATA_STREAMS,
    )

    last_messages: Mapping[Role, Collection[bytes]] = {
        Role.DIALER: (CHALLENGE_ACK, _PROOF),
        Role.LISTENER: (CHALLENGE_REPLY,),
    }

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        super().__init__(role, limits)
        self._limits = limits
        self._is_connected = False
        is_dialer = role is Role.DIALER
        own_first, self._peer_first = (0, 1) if is_dialer else (1, 0)
        self._own_ids = (STREAM, *(own_first + _STEP * (1 + each) for each in range(DATA_STREAMS)))
        self._used: dict[int, tuple[int, LengthFramer]] = {}
        """The numbers and framers of the peer's data streams that have been used since `connected`,
        by id."""
        self._outgoing = OutgoingStreams()
        self._incoming = IncomingStreams()
        self._early: list[tuple[int, bytes]] = []
        self.withheld = 0

    def connected(self) -> Sequence[Step]:
        """Returns no steps. Data streams are read from now on."""
        self._is_connected = True
        return ()

    def frame_bytes(self, parts: Sequence[Buffer], stream: int = 0) -> Write:
        """Returns the frame with its length, after a fence if it needs one. No parts is a tick."""
        if not parts or not parts[0] or parts[0][0] == MARK:  # not on the hot path
            if not any(parts):
                return Write(STREAM, (TICK,))
            parts = escaped(parts)
        fence = self._outgoing.next_frame(stream)
        framed = length_prefixed(parts)
        if fence:
            framed = (*length_prefixed((fence,)), *framed)
        return Write(self._own_ids[stream], framed)

    def framed_bytes(self, frames: Sequence[bytes], stream: int = 0) -> Write:
        """Returns the frames, after a fence if they need one. None of them looks like a fence."""
        joined = b"".join(frames)
        fence = self._outgoing.next_frame(stream, len(frames))
        parts = (*length_prefixed((fence,)), joined) if fence else (joined,)
        return _new(Write, (self._own_ids[stream], parts))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns the packets that can be delivered. Raises DialectError if they are invalid.

        Data streams may overtake the last handshake message of a listener. Their frames wait for
        `connected`. A dialer sends frames only after that message.
        """
        used = self._used.get(stream)
        if used is not None and type(data) is bytes:  # the hot path
            own, framer = used
            packets = self._incoming.deliver(own, framer.feed_frames(data))
            if framer.announced or self._incoming.held_bytes:
                self._check_stored()
            return _new(Received, (packets, (), ()))
        if stream == STREAM:
            return self._receive_first(data)
        number = self._number(stream)
        if number is None:
            return super().receive(stream, data)
        chunk = data if isinstance(data, bytes) else bytes(data)
        if not self._is_connected:
            if self.role is Role.LISTENER:
                raise DialectError(f"data on stream {stream} before the end of the handshake")
            self._early.append((number, chunk))
            self.withheld += len(chunk)
            return Received()
        self._use(number)
        return self.receive(stream, chunk)

    def carries(self, stream: int) -> bool:
        """Whether the end of this stream ends the connection."""
        return stream == STREAM or self._number(stream) is not None

    def _number(self, stream: int) -> int | None:
        """Returns the number of a data stream of the peer, or None for other streams."""
        number, rest = divmod(stream - self._peer_first, _STEP)
        return number if not rest and 0 < number <= DATA_STREAMS else None

    def _receive_first(self, data: Buffer) -> Received:
        """Receives bytes of stream 0, and what has waited for the end of the handshake."""
        if self._is_connected and self._in_handshake:
            self._end_handshake()
        packets: list[Packet] = []
        bodies: list[bytes] = []
        for packet in super().receive(STREAM, data).packets:
            if type(packet) is FramePacket:
                bodies.append(packet.data)
            else:
                packets.append(packet)
        packets += self._incoming.deliver(UNKNOWN_SENDER, bodies)
        if self._is_connected and self._early:
            early, self._early, self.withheld = self._early, [], 0
            for number, chunk in early:
                packets += self.receive(self._use(number), chunk).packets
        if self._frames.announced or self._incoming.held_bytes:
            self._check_stored()
        return Received(packets)

    def _end_handshake(self) -> None:
        """Begins to read frames. No message has ended the handshake: the name had a proof.

        Raises DialectError if the dialer has sent more than its name.
        """
        if self._messages.missing:
            raise DialectError("a part of a message before the end of the handshake")
        self._in_handshake = False

    def _use(self, number: int) -> int:
        """Begins to read a data stream of the peer. Returns its id."""
        stream = self._peer_first + _STEP * number
        if stream not in self._used:
            self._used[stream] = number, frame_framer(self._limits)
        return stream

    def _check_stored(self) -> None:
        """Limits the incomplete frames and the held ones together, as one frame is limited.

        Their bytes count as consumed, since they could block themselves otherwise.
        """
        stored = self._incoming.held_bytes + self._frames.announced
        for _, framer in self._used.values():
            stored += framer.announced
        if stored > self._limits.max_frame:
            raise DialectError("the incomplete frames of all streams exceed the maximum frame size")
