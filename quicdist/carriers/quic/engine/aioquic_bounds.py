"""Limits on the memory and CPU time that a peer can use in aioquic.

aioquic limits most lists by bytes or by frames that the peer must acknowledge, not by their cost.
Each override in this module checks one frame or message before or after aioquic processes it. If a
limit is exceeded, it raises an exception, on which aioquic closes the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic._buffer import Buffer
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from quicdist.carriers.quic.engine.aioquic_keys import OneRttKeys, packets_per_key
from quicdist.carriers.quic.engine.aioquic_ranges import Pieces, Ranges
from quicdist.carriers.quic.initial import packets_in
from quicdist.carriers.reject_reason import RejectReason
from quicdist.limits import ConnectionBounds

_NEVER = 1 << 62

_WEIGHTS = {
    QuicFrameType.ACK: 4,
    QuicFrameType.ACK_ECN: 4,
    QuicFrameType.CRYPTO: 2,
    QuicFrameType.STOP_SENDING: 2,
    **dict.fromkeys(range(QuicFrameType.STREAM_BASE, QuicFrameType.STREAM_BASE + 8), 2),
    QuicFrameType.NEW_CONNECTION_ID: 4,
    QuicFrameType.RETIRE_CONNECTION_ID: 4,
    QuicFrameType.PATH_CHALLENGE: 8,
}
"""Relative cost of frames by type, including the response. Other frames cost 1."""


class BoundedQuic(QuicConnection):
    """aioquic's connection with limits."""

    exceeded: RejectReason | None = None
    """The limit whose violation closed the connection; None otherwise."""

    is_proved = False
    """Whether the peer has proved that it has the cookie."""

    keys: OneRttKeys
    """The 1-RTT keys, made by `_initialize`."""
    _frames: _Frames
    _frames_left: float
    _messages_left: int
    _last_id_told = 0
    _pending_data: type[Ranges] = Ranges
    """What holds the data that a stream must send."""

    def __init__(self, bounds: ConnectionBounds, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.bounds = bounds
        self._frames = _Frames(self._QuicConnection__frame_handlers)
        self._QuicConnection__frame_handlers: Any = self._frames
        self._frames_left = self.bounds.max_frames_unproved
        self._messages_left = self.bounds.max_tls_messages

    def prove(self) -> None:
        """Lifts the limits for unauthenticated peers."""
        self.is_proved = True
        self._frames_left = _NEVER

    def _exceed(
        self, bound: RejectReason, error_code: int, frame_type: int | None, reason: str
    ) -> None:
        self.exceeded = bound
        raise QuicConnectionError(
            error_code=error_code,
            frame_type=QuicFrameType.PADDING if frame_type is None else frame_type,
            reason_phrase=reason,
        )

    # -- packets --------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        if self._close_pending or (data[0] & 0x80 and not self._is_small(data)):
            return
        if not self.is_proved and self._is_elsewhere(addr):
            return
        super().receive_datagram(data, addr, now)

    def _is_small(self, data: bytes) -> bool:
        most = self.bounds.max_packets_per_datagram
        return packets_in(data, most + 1) <= most

    def _is_elsewhere(self, addr: NetworkAddress) -> bool:
        """Returns whether `addr` differs from the address of the first datagram.

        A dialer may migrate only after the handshake (RFC 9000, 9), and each new path costs a
        PATH_CHALLENGE and a connection ID.
        """
        return bool(self._network_paths) and self._network_paths[0].addr != addr

    def _payload_received(
        self,
        context: QuicReceiveContext,
        plain: bytes,
        crypto_frame_required: bool = False,
    ) -> tuple[bool, bool]:
        bounds, frames = self.bounds, self._frames
        most: float = bounds.max_frames
        if self.is_proved:
            most += len(plain) // bounds.bytes_per_frame
        frames.left = most = min(most, self._frames_left)
        try:
            return super()._payload_received(context, plain, crypto_frame_required)
        except _TooManyFrames as error:
            self._exceed(
                RejectReason.FRAMES, QuicErrorCode.PROTOCOL_VIOLATION, error.kind, str(error)
            )
            raise AssertionError("not reached") from None
        finally:
            self._frames_left -= most - frames.left

    # -- TLS ------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        handle: Callable[..., None] = self.tls._handle_reassembled_message

        def bounded(message_type: int, input_buf: Buffer, output_buf: dict[Epoch, Buffer]) -> None:
            self._messages_left -= 1
            if self._messages_left < 0:
                self._exceed_tls("too many TLS messages")
            counted = _CountedBuffer(input_buf, self.bounds.max_tls_items)
            try:
                handle(message_type=message_type, input_buf=counted, output_buf=output_buf)
            except _TooManyItems:
                self._exceed_tls("a TLS message of too many parts")

        # tls.Context has no other hook between a message and its parser.
        self.tls._handle_reassembled_message = bounded  # type: ignore[method-assign]
        self.keys = OneRttKeys(
            self._cryptos[Epoch.ONE_RTT],
            packets_sent=lambda: self._packet_number,
            least=self.bounds.min_packets_per_key,
            told_too_soon=self._key_updated_too_soon,
        )
        self._cryptos[Epoch.ONE_RTT] = self.keys

    def _exceed_tls(self, reason: str) -> None:
        self._exceed(
            RejectReason.TLS_ITEMS,
            QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
            QuicFrameType.CRYPTO,
            reason,
        )

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        if len(data) > self.bounds.max_transport_parameters:
            self._exceed(
                RejectReason.TLS_ITEMS,
                QuicErrorCode.TRANSPORT_PARAMETER_ERROR,
                QuicFrameType.CRYPTO,
                "too many transport parameters",
            )
        super()._parse_transport_parameters(data, from_session_ticket)

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        at = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(at)
        receiver = self._crypto_streams[context.epoch].receiver
        most = self._max_tls_message(context.epoch)
        if end - receiver.starting_offset() > most:
            self._exceed_tls_size(frame_type)
        super()._handle_crypto_frame(context, frame_type, buf)
        if len(self.tls._receive_buffer) > most:
            self._exceed_tls_size(frame_type)
        if len(receiver._ranges) > self.bounds.max_tls_ranges:
            self._exceed(
                RejectReason.TLS_RANGES,
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type,
                "too many gaps in the CRYPTO data",
            )

    def _max_tls_message(self, epoch: Epoch) -> int:
        bounds = self.bounds
        return bounds.max_client_hello if epoch is Epoch.INITIAL else bounds.max_tls_message

    def _exceed_tls_size(self, frame_type: int) -> None:
        self._exceed(
            RejectReason.TLS_SIZE,
            QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
            frame_type,
            "the TLS message is too large",
        )

    # -- frames ---------------------------------------------------------------------------------

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        at = buf.tell()
        largest = buf.pull_uint_var()
        buf.pull_uint_var()
        count = buf.pull_uint_var()
        buf.seek(at)
        if largest >= self._packet_number:
            self._exceed(
                RejectReason.ACKNOWLEDGEMENTS,
                QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type,
                "an acknowledgement of a packet that was not sent",
            )
        if count > self.bounds.max_ack_ranges:
            self._exceed(
                RejectReason.ACK_RANGES,
                QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type,
                "an ACK frame of too many ranges",
            )
        self._frames.take(count // 4, frame_type)
        super()._handle_ack_frame(context, frame_type, buf)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        ranges = stream.receiver._ranges
        if type(ranges) is not Ranges:
            # The peer has opened the lower streams of this type as well (RFC 9000, 3.2).
            for each in self._streams.values():
                if type(each.receiver._ranges) is not Ranges:
                    self._search_by_halves(each)
            return stream
        bounds = self.bounds
        most = bounds.max_stream_ranges if self.is_proved else bounds.max_stream_ranges_unproved
        if len(ranges) > most:
            self._exceed(
                RejectReason.STREAM_RANGES,
                QuicErrorCode.INTERNAL_ERROR,
                frame_type,
                f"too many gaps in the data of stream {stream_id}",
            )
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream_for_send(stream_id)
        if type(stream.receiver._ranges) is not Ranges:
            self._search_by_halves(stream)
        return stream

    def keep_frames(self) -> None:
        """Retransmits stream data in the frames in which it was sent. Call it before any is."""
        self._pending_data = Pieces
        for stream in self._streams.values():
            self._search_by_halves(stream)

    def _search_by_halves(self, stream: QuicStream) -> None:
        """Replaces the `RangeSet`s of a stream in both directions."""
        stream.receiver._ranges = Ranges(stream.receiver._ranges)
        stream.sender._acked = Ranges(stream.sender._acked)
        stream.sender._pending = self._pending_data(stream.sender._pending)

    def _handle_retire_connection_id_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        # aioquic issues a new ID for each retired one, even if it has not been issued yet.
        at = buf.tell()
        number = buf.pull_uint_var()
        buf.seek(at)
        if number > self._last_id_told:
            self._exceed(
                RejectReason.CONNECTION_IDS,
                QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type,
                "it retired a connection id that it was not told",
            )
        super()._handle_retire_connection_id_frame(context, frame_type, buf)

    def _write_new_connection_id_frame(
        self, builder: QuicPacketBuilder, connection_id: QuicConnectionId
    ) -> None:
        super()._write_new_connection_id_frame(builder, connection_id)
        self._last_id_told = max(self._last_id_told, connection_id.sequence_number)

    # -- keys -----------------------------------------------------------------------------------

    def are_keys_due(self) -> bool:
        """Whether this end should update keys.

        It may once the peer has acknowledged a packet of this phase (RFC 9001, 6.1).
        """
        first, limit = self.keys.first_sent, packets_per_key(self._max_datagram_size)
        if self._packet_number - first < limit:
            return False
        return self._spaces[Epoch.ONE_RTT].largest_acked_packet >= first

    def _key_updated_too_soon(self) -> None:
        """Closes the connection after a too early key update (RFC 9001, 6.2)."""
        self.exceeded = self.exceeded or RejectReason.KEY_UPDATES
        self.close(
            error_code=QuicErrorCode.KEY_UPDATE_ERROR,
            frame_type=QuicFrameType.PADDING,
            reason_phrase="a key update too soon after the last one",
        )


class _TooManyFrames(Exception):
    def __init__(self, kind: int) -> None:
        super().__init__("too many frames")
        self.kind = kind


class _Frames(dict[int, Any]):
    """aioquic's frame handlers by frame type. Each look-up counts as one frame."""

    left: float = 0

    def __getitem__(self, kind: int) -> Any:
        self.take(_WEIGHTS.get(kind, 1), kind)
        return super().__getitem__(kind)

    def take(self, cost: int, kind: int) -> None:
        """Adds a cost. Raises _TooManyFrames if the limit is exceeded."""
        self.left -= cost
        if self.left < 0:
            self.left = 0
            raise _TooManyFrames(kind)


class _TooManyItems(Exception):
    pass


class _CountedBuffer:
    """A wrapper of the buffer of a TLS message that counts reads.

    aioquic's Buffer cannot be subclassed.
    """

    def __init__(self, buffer: Buffer, most: int) -> None:
        self._buffer = buffer
        self._left = most
        self.tell = buffer.tell
        self.seek = buffer.seek
        self.eof = buffer.eof
        self.data_slice = buffer.data_slice

    @property
    def capacity(self) -> int:
        return self._buffer.capacity

    @property
    def data(self) -> bytes:
        return self._buffer.data

    def _count(self) -> Buffer:
        self._left -= 1
        if self._left < 0:
            raise _TooManyItems
        return self._buffer

    def pull_bytes(self, length: int) -> bytes:
        return self._count().pull_bytes(length)

    def pull_uint8(self) -> int:
        return self._count().pull_uint8()

    def pull_uint16(self) -> int:
        return self._count().pull_uint16()

    def pull_uint32(self) -> int:
        return self._count().pull_uint32()

    def pull_uint64(self) -> int:
        return self._count().pull_uint64()


def end_of_credit(quic: QuicConnection, stream: QuicStream) -> int:
    """Returns the stream offset up to which the peer's credit allows sending (RFC 9000, 4.1)."""
    credit = quic._remote_max_data - quic._remote_max_data_used
    return min(stream.sender.highest_offset + credit, stream.max_stream_data_remote)
