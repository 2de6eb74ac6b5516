"""ECN counts of aioquic's connections, which lack them (RFC 9000, 13.4).

Received codepoints are counted for each packet number space and reported in ACK frames. The counts
in the ACK frames of the peer go to loss recovery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic._buffer import Buffer
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicReceiveContext
from aioquic.quic.packet import QuicFrameType, push_ack_frame
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from quicdist.carriers.quic.ecn import CE, ECT0, ECT1, NOT_ECT, EcnCounts

if TYPE_CHECKING:
    from quicdist.carriers.quic.engine.aioquic_recovery import Recovery

_ACK_CAPACITY = 64 + 3 * 8
"""Minimum room for an ACK frame with three counts of at most 8 bytes."""
_ASK_EVERY = 8
"""One packet of this number asks for an acknowledgement of its ACK frame, as in aioquic."""


class MarkedQuic(QuicConnection):
    """aioquic's connection with ECN counts."""

    _loss: Recovery
    _arriving = NOT_ECT
    """The codepoint of the datagram that aioquic processes."""
    data_marks: list[int]
    """Number of 1-RTT packets by codepoint."""
    _seen_marks = 0
    """Number of 1-RTT packets with CE at the last call of `marks_have_begun`."""
    _was_marked = False

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._marks = {space: [0, 0, 0, 0] for space in self._spaces.values()}
        self.data_marks = self._marks[self._spaces[Epoch.ONE_RTT]]

    def receive_marked(self, data: bytes, addr: NetworkAddress, now: float, ecn: int) -> None:
        """Processes a datagram with this codepoint."""
        self._arriving = ecn
        try:
            self.receive_datagram(data, addr, now)
        finally:
            self._arriving = NOT_ECT

    def marks_have_begun(self) -> bool:
        """Whether packets with CE have arrived since the last call, and none before that one."""
        seen, self._seen_marks = self._seen_marks, self.data_marks[CE]
        was_marked, self._was_marked = self._was_marked, self._seen_marks > seen
        return self._was_marked and not was_marked

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        if self._arriving:
            self._marks[self._spaces[context.epoch]][self._arriving] += 1
        return super()._payload_received(context, plain, crypto_frame_required)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        is_marked = frame_type == QuicFrameType.ACK_ECN
        self._loss.counts = _counts_behind(buf) if is_marked else None
        super()._handle_ack_frame(context, frame_type, buf)

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        marks = self._marks[space]
        if not any(marks):
            super()._write_ack_frame(builder, space, now)
            return
        assert space.largest_received_time is not None
        delay = now - space.largest_received_time
        buf = builder.start_frame(
            QuicFrameType.ACK_ECN,
            capacity=_ACK_CAPACITY,
            handler=self._on_ack_delivery,
            handler_args=(space, space.largest_received_packet),
        )
        ranges = push_ack_frame(
            buf,
            space.ack_queue,
            int(delay * 1_000_000) >> self._local_ack_delay_exponent,
            builder.remaining_buffer_space - 3 * 8,
        )
        for codepoint in (ECT0, ECT1, CE):
            buf.push_uint_var(marks[codepoint])
        space.ack_at = None
        if self._quic_logger is not None:
            logged = list(space.ack_queue)[-ranges:]
            frame = self._quic_logger.encode_ack_frame(ranges=logged, delay=delay)
            assert builder.quic_logger_frames is not None
            builder.quic_logger_frames.append(frame)
        if ranges > 1 and not builder.packet_number % _ASK_EVERY:
            self._write_ping_frame(builder, comment="ACK-of-ACK trigger")


def _counts_behind(buf: Buffer) -> EcnCounts:
    """Reads the ECN counts of the ACK frame that begins here, without consuming it.

    Raises BufferReadError if the frame is truncated.
    """
    at = buf.tell()
    buf.pull_uint_var()
    buf.pull_uint_var()
    for _ in range(1 + 2 * buf.pull_uint_var()):
        buf.pull_uint_var()
    counts = EcnCounts(buf.pull_uint_var(), buf.pull_uint_var(), buf.pull_uint_var())
    buf.seek(at)
    return counts
