"""The extension for acknowledgement frequency of aioquic's connections, which lack it.

See draft-ietf-quic-ack-frequency-13. A receiver obeys the ACK_FREQUENCY and IMMEDIATE_ACK frames of
its peer. A sender asks for some acknowledgements in a round trip instead of one for a fixed number
of packets, once its window holds so many packets that this saves work at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from quicdist.carriers.quic.engine.aioquic_bounds import BoundedQuic
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges, ReceivedPackets

if TYPE_CHECKING:
    from quicdist.carriers.quic.engine.aioquic_recovery import Recovery

MIN_ACK_DELAY_ID = 0xFF04DE1B
"""ID of the transport parameter min_ack_delay (section 3)."""
_MAX_ACK_DELAY_ID = 0x0B
"""ID of the transport parameter max_ack_delay (RFC 9000, 18.2)."""
ACK_FREQUENCY, IMMEDIATE_ACK = 0xAF, 0x1F
"""Frame types (sections 4 and 5)."""

MIN_ACK_DELAY = 1_000
"""Minimum delay in microseconds that a peer may request: the resolution of timers."""
_DEFAULT_MAX_ACK_DELAY = 25_000
"""Microseconds (RFC 9000, 18.2)."""
_MAX_ACK_DELAY_END = (1 << 14) * 1_000
"""Delays of this number of microseconds or more are invalid."""

_DEFAULT_THRESHOLD = 15
"""Threshold for peers that have not requested one. RFC 9000, section 13.2.2, recommends 1, and
allows to process several available packets first. The delay for these peers is aioquic's default of
one millisecond: up to 2,000 packets a second, every second one is acknowledged."""
_MAX_RANGES = 32
"""New ranges of received packets that are acknowledged immediately. aioquic keeps 64 ranges and
drops the oldest ones, so packets might never be acknowledged."""

_ACKS_PER_ROUND = 16
"""Acknowledgements that a sender wants in a round trip."""
_MAX_PAUSE = 0.003
"""Maximum time in seconds between two of them. BBR notices a full path so much later, and its mean
queue grows: in the simulation by up to 1 ms at this value, and by 4 ms at an eighth of 100 ms."""
_MIN_PACKETS = 4
"""Minimum threshold of the first request. Smaller windows need none."""
_CHANGE = 1.5
"""A request is replaced by another one if a value differs by this factor."""


@dataclass(frozen=True, slots=True)
class AckRequest:
    """The values of an ACK_FREQUENCY frame (section 4) without the sequence number."""

    threshold: int
    """Number of ack-eliciting packets that may arrive without an acknowledgement."""
    delay: int
    """Maximum delay in microseconds."""
    reordering: int
    """Packet reordering that is acknowledged immediately; 0 if none is."""

    def differs(self, other: AckRequest) -> bool:
        """Whether the difference is large enough for another frame."""
        return (
            self.reordering != other.reordering
            or _is_far(self.threshold, other.threshold)
            or _is_far(self.delay, other.delay)
        )


def _is_far(one: int, other: int) -> bool:
    return max(one, other) > _CHANGE * min(one, other)


def wanted(packets: float, round_trip: float, least: int, most: int) -> AckRequest:
    """Returns what a sender wants.

    `packets` in flight fill the path, `round_trip` is in seconds, and `least` and `most` are the
    min_ack_delay and max_ack_delay of the peer in microseconds. With no more than that, the probe
    timeout need not follow the request (section 7). Bulk reaches the threshold before the delay,
    which needs no timer. A gap is not reported earlier than other packets: that takes a sixteenth
    of a round trip at most, and the additional acknowledgements would cost throughput.
    """
    pause = min(round_trip / _ACKS_PER_ROUND, _MAX_PAUSE)
    return AckRequest(
        threshold=max(int(packets * pause / round_trip) - 1, 1),
        delay=max(min(int(2 * pause * 1_000_000), most), least),
        reordering=0,
    )


def push_request(buffer: Buffer, sequence: int, request: AckRequest) -> None:
    """Encodes the fields of an ACK_FREQUENCY frame."""
    for field in (sequence, request.threshold, request.delay, request.reordering):
        buffer.push_uint_var(field)


def pull_request(buffer: Buffer) -> tuple[int, AckRequest]:
    """Decodes the fields of an ACK_FREQUENCY frame: the sequence number and the request.

    Raises BufferReadError if they are truncated.
    """
    sequence, threshold, delay, reordering = (buffer.pull_uint_var() for _ in range(4))
    return sequence, AckRequest(threshold, delay, reordering)


def read_min_ack_delay(data: bytes) -> int | None:
    """Reads min_ack_delay from valid transport parameters, in microseconds; None if absent.

    Raises ValueError if it is malformed or greater than max_ack_delay.
    """
    buffer = Buffer(data=data)
    least = None
    most = _DEFAULT_MAX_ACK_DELAY
    while not buffer.eof():
        kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
        value = Buffer(data=buffer.pull_bytes(length))
        if kind == MIN_ACK_DELAY_ID:
            if least is not None:
                raise ValueError("duplicate min_ack_delay")
            least = value.pull_uint_var()
            if not value.eof():
                raise ValueError("invalid length of min_ack_delay")
        elif kind == _MAX_ACK_DELAY_ID:
            most = value.pull_uint_var() * 1_000
    if least is not None and least > most:
        raise ValueError("min_ack_delay is greater than max_ack_delay")
    return least


class FrequencyQuic(BoundedQuic):
    """aioquic's connection with the extension."""

    _loss: Recovery

    # What this end asks for.
    ask_at = math.inf
    """When to compare the request with what is wanted; infinite if the peer lacks the extension."""
    request_pending = False
    """Whether an ACK_FREQUENCY frame is to be sent."""
    _least_delay = _DEFAULT_MAX_ACK_DELAY
    """The min_ack_delay of the peer in microseconds."""
    _asked: AckRequest | None = None
    _next_sequence = 0

    # What the peer has asked for.
    _newest_sequence = -1
    _threshold = _DEFAULT_THRESHOLD
    _reordering = 0
    _is_ack_wanted = False
    """Whether an IMMEDIATE_ACK frame has arrived since the last acknowledgement."""
    _told_of = -1
    """Lower bound of the last packet received before the last sent ACK."""
    _confirmed = -1
    """The peer has confirmed an ACK of all packets up to this one; -1 if that is dealt with."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        epochs = frozenset((Epoch.ONE_RTT,))
        self._frames[ACK_FREQUENCY] = self._handle_ack_frequency_frame, epochs
        self._frames[IMMEDIATE_ACK] = self._handle_immediate_ack_frame, epochs

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        space: Any = self._spaces[Epoch.ONE_RTT]
        space.ack_queue = Ranges()
        space.received_packets = ReceivedPackets()

    # -- transport parameters -------------------------------------------------------------------

    def _serialize_transport_parameters(self) -> bytes:
        value = encode_uint_var(MIN_ACK_DELAY)
        added = (encode_uint_var(MIN_ACK_DELAY_ID), encode_uint_var(len(value)), value)
        return b"".join((super()._serialize_transport_parameters(), *added))

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        try:
            least = read_min_ack_delay(data)
        except ValueError as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.TRANSPORT_PARAMETER_ERROR,
                frame_type=QuicFrameType.CRYPTO,
                reason_phrase=str(error),
            ) from None
        if least is not None:
            self._least_delay = least
            self.ask_at = 0.0

    # -- as a receiver --------------------------------------------------------------------------

    def _handle_ack_frequency_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        sequence, request = pull_request(buf)
        self._log(context.quic_logger_frames, "ack_frequency", request)
        if sequence <= self._newest_sequence:
            return
        if not MIN_ACK_DELAY <= request.delay < _MAX_ACK_DELAY_END:
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="invalid Requested Max Ack Delay",
            )
        self._newest_sequence = sequence
        self._threshold = request.threshold
        self._ack_delay = request.delay / 1_000_000
        self._reordering = request.reordering

    def _handle_immediate_ack_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self._log(context.quic_logger_frames, "immediate_ack")
        self._is_ack_wanted = True

    def hasten_ack(self, space: QuicPacketSpace, now: float) -> None:
        """Makes a delayed acknowledgement due if it must be sent before its time (section 6).

        Called after each batch of packets (section 6.4) while an acknowledgement is pending. The
        packets are counted by their numbers, which includes those that elicit none.
        """
        if (
            space.largest_received_packet - self._told_of > self._threshold
            or self._is_ack_wanted
            or (self._newest_sequence >= 0 and self._is_urgent(space))
        ):
            assert space.ack_at is not None
            space.ack_at = min(space.ack_at, now)

    def _is_urgent(self, space: QuicPacketSpace) -> bool:
        """Whether a peer that has requested delays must learn of the received packets now."""
        received, reordering = space.ack_queue, self._reordering
        if len(received) < 2:
            return False
        if len(received) >= _MAX_RANGES and received[-_MAX_RANGES].start > self._told_of:
            return True
        return reordering > 0 and is_gap_reportable(received, self._told_of, reordering)

    def acknowledged(self, space: QuicPacketSpace) -> None:
        """Reports that no acknowledgement is pending, as one was just sent."""
        if self._confirmed >= 0:
            space.ack_queue.subtract(0, self._confirmed + 1)
            self._confirmed = -1
        self._told_of = space.largest_received_packet
        self._is_ack_wanted = False

    def _on_ack_delivery(
        self, delivery: QuicDeliveryState, space: QuicPacketSpace, highest_acked: int
    ) -> None:
        """Keeps the ranges of a confirmed ACK until the next one.

        A packet below them may have arrived after that ACK, which nothing has acknowledged yet.
        """
        if space is not self._spaces[Epoch.ONE_RTT]:
            super()._on_ack_delivery(delivery, space, highest_acked)
        elif delivery is QuicDeliveryState.ACKED:
            self._confirmed = max(self._confirmed, highest_acked)

    # -- as a sender ----------------------------------------------------------------------------

    def consider(self, now: float) -> None:
        """Asks the peer for another frequency if what is wanted has changed."""
        loss = self._loss
        round_trip = loss._rtt_smoothed
        if not self._handshake_confirmed or not round_trip:
            return
        self.ask_at = now + round_trip
        size = loss._cc.controller.capacity or loss.congestion_window
        most = int(loss.max_ack_delay * 1_000_000)
        request = wanted(size / self._max_datagram_size, round_trip, self._least_delay, most)
        if self._asked is None:
            is_worth_it = request.threshold >= _MIN_PACKETS
        else:
            is_worth_it = request.differs(self._asked)
        if is_worth_it:
            self._asked = request
            self.request_pending = True

    def write_request(self, builder: QuicPacketBuilder) -> None:
        """Writes an ACK_FREQUENCY frame (section 4)."""
        request, sequence = self._asked, self._next_sequence
        assert request is not None
        buffer = builder.start_frame(
            ACK_FREQUENCY, 2 + 4 * 8, self._on_request_delivery, (sequence,)
        )
        push_request(buffer, sequence, request)
        self._log(builder.quic_logger_frames, "ack_frequency", request)
        self._next_sequence += 1
        self.request_pending = False

    def _on_request_delivery(self, delivery: QuicDeliveryState, sequence: int) -> None:
        if delivery is QuicDeliveryState.LOST and sequence == self._next_sequence - 1:
            self.request_pending = True

    @property
    def probe_frame(self) -> int:
        """The type of the frame that makes a probe ack-eliciting."""
        is_known = self.ask_at < math.inf and self._handshake_confirmed
        return IMMEDIATE_ACK if is_known else QuicFrameType.PING

    def _write_ping_frame(
        self, builder: QuicPacketBuilder, uids: Sequence[int] = (), comment: str = ""
    ) -> None:
        if comment != "probe" or self.probe_frame != IMMEDIATE_ACK:
            super()._write_ping_frame(builder, list(uids), comment)
            return
        builder.start_frame(IMMEDIATE_ACK)
        self._log(builder.quic_logger_frames, "immediate_ack")

    def _log(
        self, frames: list[Any] | None, frame_type: str, request: AckRequest | None = None
    ) -> None:
        if self._quic_logger is not None and frames is not None:
            fields = {} if request is None else asdict(request)
            frames.append({"frame_type": frame_type, **fields})


def is_gap_reportable(received: RangeSet, acknowledged: int, reordering: int) -> bool:
    """Whether a missing packet can be declared lost that could not be before (section 6.2).

    `acknowledged` is the largest packet number that was acknowledged.
    """
    reported = acknowledged - reordering
    largest = received[-1].stop - 1
    smallest = largest
    for at in range(len(received) - 1, 0, -1):
        end = received[at].start
        if end - 1 <= reported:
            break
        smallest = max(received[at - 1].stop, reported + 1)
    return largest - smallest >= reordering
