"""Fast paths of aioquic for the frequent packets of a busy connection.

A fast path processes a packet with stream data in order, an acknowledgement or both, on the only
network path of the connection. It takes a third of the CPU time of aioquic. aioquic processes all
other frames, from the first byte of the first such frame on, and all other states of a connection.
Thus rare and malicious input is only handled in aioquic. Both implementations use the same state
and may alternate at any packet.

The fast paths use many private attributes of aioquic. They are only enabled for the versions of
aioquic that they were tested with (`is_tested`), and disabled by `Quic(engine="aioquic-plain")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

from aioquic._crypto import CryptoError
from aioquic.quic import recovery  # older versions lack MAX_ACK_RANGES and do not use this module
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicPacketType, decode_packet_number
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver
from aioquic.tls import Epoch

from quicdist.carriers.quic.engine import CONNECTION_ID_LENGTH
from quicdist.carriers.quic.engine.aioquic_recovery import Recovery
from quicdist.protocol.dialects.base import Buffer

_Delivered: TypeAlias = tuple[Any, Any]
"""The delivery handler of stream data, and its arguments."""

TESTED = frozenset({"1.7.2"})
"""Versions of aioquic with which tests/carriers/test_short_paths.py passes."""

_NUMBER = 1 + CONNECTION_ID_LENGTH
"""Offset of the packet number in a short header (RFC 9000, 17.3.1)."""
_SAMPLE = _NUMBER + 4
"""Offset of the sample for header protection (RFC 9001, 5.4.2)."""
_SHORTEST = _SAMPLE + 16
_NUMBER_LENGTH = 2
_TAG = 16
_ACK = b"\x02"
_STREAM = 0x08
"""STREAM frames have the types 0x08 to 0x0f (RFC 9000, 19.8), with the following bits."""
_OFFSET, _LENGTH, _FIN = 4, 2, 1
_MOST_GAPS = 32
"""Maximum gaps of an ACK frame or stream. More are checked against ConnectionBounds."""
_ASK_EVERY = 8
"""One of this number of ACKs with several ranges elicits an acknowledgement."""
_LENGTH_SIZE = 2
"""Size of the length field of a STREAM frame, as a variable-length integer up to 16383."""
_VAR_SIZES = (1, 2, 4, 8)
_IDLE_STEP = 0.001
"""Maximum time in seconds by which the idle timeout may be early, to compute it less often."""


def is_tested() -> bool:
    """Whether the installed version of aioquic is one of TESTED."""
    return version("aioquic") in TESTED


class ShortPaths(QuicConnection):
    """aioquic's connection with fast paths."""

    _loss: Recovery
    is_proved = False
    """Whether the peer has proved the cookie. The frames of other peers are counted."""

    _refreshed_at = -1.0
    """Time of the last extension of the idle timeout."""
    _pair: CryptoPair | None = None
    """The 1-RTT keys, cached because the hash of an enum takes half the time of a packet."""

    # -- receiving ------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: object, now: float) -> None:
        if data[0] & 0x80 or len(data) < _SHORTEST or not self._receive_short(data, addr, now):
            super().receive_datagram(data, addr, now)

    def _receive_short(self, data: bytes, addr: object, now: float) -> bool:
        """Processes a datagram. Returns False, without side effects, if aioquic must do it."""
        if (
            not self.is_proved
            or not self._handshake_confirmed
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
            or self._quic_logger is not None
        ):
            return False
        space = self._loss.spaces[-1]
        if space.largest_received_packet < 0:
            return False
        path = self._network_paths[0]
        if path.addr != addr or not path.is_validated:
            return False
        cid = data[1:_NUMBER]
        if cid != self.host_cid and not self._is_another_id(cid):
            return False
        crypto = self._keys().recv
        assert crypto.hp is not None
        assert crypto.aead is not None
        mask = crypto.hp._mask(data[_SAMPLE : _SAMPLE + 16])
        first = data[0] ^ (mask[0] & 0x1F)
        if first & 0x18 or first >> 2 & 1 != crypto.key_phase:
            return False
        length = (first & 3) + 1
        end = _NUMBER + length
        truncated = int.from_bytes(data[_NUMBER:end], "big") ^ int.from_bytes(
            mask[1 : 1 + length], "big"
        )
        number = decode_packet_number(truncated, 8 * length, space.expected_packet_number)
        header = b"%c%b%b" % (first, cid, truncated.to_bytes(length, "big"))
        try:
            payload = crypto.aead.decrypt(data[end:], header, number)
        except CryptoError:
            return True
        if number in space.received_packets:
            return True
        self._received_short(space, path, cid, number, first, payload, now)
        return True

    def _keys(self) -> CryptoPair:
        """The 1-RTT keys, which are the same object after the handshake."""
        pair = self._pair
        if pair is None:
            pair = self._pair = self._cryptos[Epoch.ONE_RTT]
        return pair

    def _is_another_id(self, cid: bytes) -> bool:
        """Whether this is another ID of a dialer. For a listener, aioquic handles such IDs."""
        return self._is_client and any(each.cid == cid for each in self._host_cids)

    def _received_short(
        self,
        space: QuicPacketSpace,
        path: QuicNetworkPath,
        cid: bytes,
        number: int,
        first: int,
        payload: bytes,
        now: float,
    ) -> None:
        """Processes an authentic packet, as `QuicConnection.receive_datagram` does."""
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_highest_pn = number
            self._spin_bit = bool(first & 0x20) is not self._is_client
        begin = self._take_ack(payload, space, now) if payload[:1] == _ACK else 0
        at = self._take_stream_frames(payload, begin)
        is_ack_eliciting = at > begin
        if at < len(payload) or not payload:
            is_ack_eliciting |= self._take_others(payload[at:], path, cid, now)
            if self._close_pending or self._state is not QuicConnectionState.CONNECTED:
                return
        self._put_off_idle(now)
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > recovery.MAX_ACK_RANGES:
            space.ack_queue.shift()
        if is_ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def _put_off_idle(self, now: float) -> None:
        if not 0 <= now - self._refreshed_at < _IDLE_STEP:
            self._refreshed_at = now
            self._close_at = now + self._idle_timeout()

    def _take_ack(self, payload: bytes, space: QuicPacketSpace, now: float) -> int:
        """Processes an ACK frame (RFC 9000, 19.3). Returns its end, or 0 if aioquic must do it."""
        if not self._loss.peer_completed_address_validation:
            return 0
        try:
            largest, at = _read_var(payload, 1)
            delay, at = _read_var(payload, at)
            gaps, at = _read_var(payload, at)
            length, at = _read_var(payload, at)
            first = largest - length
            if gaps > _MOST_GAPS:
                return 0
            ranges = [(first, largest + 1)]
            for _ in range(gaps):
                gap, at = _read_var(payload, at)
                length, at = _read_var(payload, at)
                end = first - gap - 1
                first = end - length - 1
                ranges.append((first, end))
        except IndexError:
            return 0
        if first < 0 or largest >= self._packet_number:
            return 0  # it acknowledges packets that were not sent
        ranges.reverse()
        ack_delay = (delay << self._remote_ack_delay_exponent) / 1_000_000
        self._loss.on_ack_ranges(ranges, ack_delay, now, space)
        return at

    def _take_stream_frames(self, payload: bytes, at: int) -> int:
        """Processes STREAM frames in order. Returns the offset of the first other frame."""
        size = len(payload)
        used = self._local_max_data
        while at < size:
            kind = payload[at]
            if kind & 0xF8 != _STREAM or kind & _FIN:
                return at
            try:
                stream_id, position = _read_var(payload, at + 1)
                offset = 0
                if kind & _OFFSET:
                    offset, position = _read_var(payload, position)
                end = size
                if kind & _LENGTH:
                    length, position = _read_var(payload, position)
                    end = position + length
            except IndexError:
                return at
            stream = self._streams.get(stream_id)
            if stream is None:
                return at
            receiver = stream.receiver
            stop = offset + end - position
            highest = receiver.highest_offset
            is_new = offset >= highest and not receiver.is_finished
            fits = (
                position < end <= size
                and stop <= stream.max_stream_data_local
                and used.used + stop - highest <= used.value
            )
            if not (is_new and fits and receiver._final_size is None):
                return at
            if offset == receiver._buffer_start:
                receiver._buffer_start = stop
                self._events.append(StreamDataReceived(payload[position:end], False, stream_id))
            elif len(receiver._ranges) >= _MOST_GAPS:
                return at
            else:
                _keep_behind_gap(receiver, offset, payload[position:end])
            receiver.highest_offset = stop
            used.used += stop - highest
            at = end
        return at

    def _take_others(self, payload: bytes, path: QuicNetworkPath, cid: bytes, now: float) -> bool:
        """Processes any frames with aioquic. Returns whether they are ack-eliciting."""
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=cid,
            network_path=path,
            quic_logger_frames=None,
            time=now,
            version=self._version,
        )
        try:
            is_ack_eliciting, _ = self._payload_received(context, payload)
        except QuicConnectionError as error:
            self.close(
                error_code=error.error_code,
                frame_type=error.frame_type,
                reason_phrase=error.reason_phrase,
            )
            return False
        return is_ack_eliciting

    # -- sending --------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        path = self._network_paths[0] if self._network_paths else None
        if not self._handshake_confirmed or path is None or not path.is_validated:
            return super().get_timer()
        if self._state is not QuicConnectionState.CONNECTED:
            return super().get_timer()
        # A confirmed connection has only one packet number space (RFC 9001, 4.9).
        loss = self._loss
        space = loss.spaces[-1]
        at: float | None = self._close_at
        assert at is not None
        if space.ack_at is not None and space.ack_at < at:
            at = space.ack_at
        lost_at = space.loss_time
        if lost_at is None and space.ack_eliciting_in_flight:
            patience = loss.get_probe_timeout() * (1 << loss._pto_count)
            lost_at = loss._time_of_last_sent_ack_eliciting_packet + patience
        self._loss_at = lost_at
        if lost_at is not None and lost_at < at:
            at = lost_at
        if self._pacing_at is not None and self._pacing_at < at:
            at = self._pacing_at
        return at

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        path = self._network_paths[0]
        if not self._only_streams_wait(path):
            self._streams_queue.sort(key=_pending_size)
            return super().datagrams_to_send(now)
        streams = [each for each in self._streams_queue if not each.sender.buffer_is_empty]
        space = self._loss.spaces[-1]
        ack = b""
        self._pacing_at = None
        is_ack_due = space.ack_at is not None and space.ack_at <= now
        if (
            not streams
            and is_ack_due
            and len(space.ack_queue) > 1
            and not self._packet_number % _ASK_EVERY
        ):
            return super().datagrams_to_send(
                now
            )  # with a PING, so that the peer confirms the ranges
        # An ACK that is due soon is sent with other data, which saves a datagram.
        if space.ack_at is not None and space.ack_at - now <= self._ack_delay / 2:
            ack = _ack_frame(space, now, self._local_ack_delay_exponent)
        sent: list[bytes] = []
        if len(streams) > 1:
            streams.sort(key=_pending_size)
            sent = self._send_streams(streams, ack, now, is_urgent=is_ack_due)
        elif streams:
            sent = self._send_stream(streams[0], ack, now, is_urgent=is_ack_due)
        if ack and not sent and is_ack_due:
            sent = [self._seal(ack, ack, (), now)]
        address = path.addr
        for datagram in sent:
            path.bytes_sent += len(datagram)
        return [(datagram, address) for datagram in sent]

    def _only_streams_wait(self, path: QuicNetworkPath) -> bool:
        """Whether only stream data and acknowledgements are to be sent."""
        if (
            not self._handshake_confirmed
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
            or self._quic_logger is not None
            or not path.is_validated
            or len(self._network_paths) > 1
            or self._remote_preferred_address is not None
            or self._handshake_done_pending
            or path.remote_challenges
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or self._ping_pending
            or self._probe_pending
            or self._datagrams_pending
            or self._keys()._update_key_requested
            or not self._crypto_streams[Epoch.ONE_RTT].sender.buffer_is_empty
        ):
            return False
        data, streams = self._local_max_data, self._local_max_streams_bidi
        if data.value != data.sent or streams.value != streams.sent:
            return False
        for known in self._host_cids:
            if not known.was_sent:
                return False
        return all(map(_only_sends, self._streams_queue))

    def _most(self, stream: QuicStream) -> int:
        """The stream offset up to which the peer's credit allows sending."""
        credit = self._remote_max_data - self._remote_max_data_used
        return min(stream.sender.highest_offset + credit, stream.max_stream_data_remote)

    def _send_stream(
        self, stream: QuicStream, ack: bytes, now: float, *, is_urgent: bool
    ) -> list[bytes]:
        """Returns as many datagrams with one STREAM frame each as may be sent.

        The first one contains `ack`. If it is urgent, it is sent without pacing.
        """
        assert stream.stream_id is not None
        stream_id = stream.stream_id
        sender, pending = stream.sender, stream.sender._pending
        loss = self._loss
        pacer = loss._pacer
        most = self._most(stream)
        head = 1 + len(self._peer_cid.cid) + _NUMBER_LENGTH
        allowed = left = loss.congestion_window - loss.bytes_in_flight
        sent_before = sender.highest_offset
        base = sender._buffer_start
        sent: list[bytes] = []
        with memoryview(sender._buffer) as buffer:
            while len(pending):
                piece = pending[0]
                start = piece.start
                frame = ack + _stream_head(stream_id, start)
                room = min(self._max_datagram_size, left) - head - len(frame) - _TAG
                stop = min(piece.stop, start + room, most)
                is_cut = stop == start + room and left < self._max_datagram_size
                if stop <= start or (is_cut and left < allowed):
                    break  # wait until the congestion window allows a full datagram
                if not (ack and is_urgent):
                    self._pacing_at = pacer.next_send_time(now=now)
                    if self._pacing_at is not None:
                        break
                payload = b"".join((frame, buffer[start - base : stop - base]))
                delivered = (sender.on_data_delivery, (start, stop, False))
                datagram = self._seal(payload, ack, (delivered,), now)
                sent.append(datagram)
                left -= len(datagram)
                ack = b""
                pacer.update_after_send(now=now)
                if stop < piece.stop:
                    pending.subtract(start, stop)
                else:
                    pending.shift()
                if stop > sender.highest_offset:
                    sender.highest_offset = stop
        sender.buffer_is_empty = not len(pending)
        self._remote_max_data_used += sender.highest_offset - sent_before
        return sent

    def _send_streams(
        self, streams: list[QuicStream], ack: bytes, now: float, *, is_urgent: bool
    ) -> list[bytes]:
        """As `_send_stream`, for several streams. Their data shares datagrams.

        The stream with the least data is sent first, so that small messages do not wait for the
        bulk data of other streams.
        """
        loss = self._loss
        pacer = loss._pacer
        head = 1 + len(self._peer_cid.cid) + _NUMBER_LENGTH
        allowed = left = loss.congestion_window - loss.bytes_in_flight
        sent: list[bytes] = []
        while len(streams) > 1:
            size = min(self._max_datagram_size, left)
            room = size - head - len(ack) - _TAG
            is_cut = left < min(allowed, self._max_datagram_size)
            if room <= 0 or (is_cut and sum(map(_pending_size, streams)) > room):
                break  # wait until the congestion window allows a full datagram
            if not (ack and is_urgent):
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    break
            frames: list[Buffer] = [ack]
            delivered: list[_Delivered] = []
            for stream in streams:
                room -= self._take_pieces(stream, room, frames, delivered)
            if not delivered:
                break  # flow control allows none of them to send
            datagram = self._seal(b"".join(frames), ack, delivered, now)
            sent.append(datagram)
            left -= len(datagram)
            ack = b""
            pacer.update_after_send(now=now)
            streams = [each for each in streams if not each.sender.buffer_is_empty]
        else:
            if streams:
                sent += self._send_stream(streams[0], ack, now, is_urgent=is_urgent)
        return sent

    def _take_pieces(
        self, stream: QuicStream, room: int, frames: list[Buffer], delivered: list[_Delivered]
    ) -> int:
        """Adds STREAM frames with pending data, at most `room` bytes. Returns their size."""
        assert stream.stream_id is not None
        sender, pending = stream.sender, stream.sender._pending
        most = self._most(stream)
        base, sent_before = sender._buffer_start, sender.highest_offset
        taken = 0
        while len(pending):
            piece = pending[0]
            start = piece.start
            header = _stream_head(stream.stream_id, start)
            stop = min(piece.stop, start + room - taken - len(header) - _LENGTH_SIZE, most)
            if stop <= start:
                break
            length = (stop - start | 0x4000).to_bytes(_LENGTH_SIZE, "big")
            frames += (
                bytes((header[0] | _LENGTH,)) + header[1:] + length,
                sender._buffer[start - base : stop - base],
            )
            delivered.append((sender.on_data_delivery, (start, stop, False)))
            taken += len(header) + _LENGTH_SIZE + stop - start
            pending.shift()
            if stop < piece.stop:
                pending.add(stop, piece.stop)
            if stop > sender.highest_offset:
                sender.highest_offset = stop
        sender.buffer_is_empty = not len(pending)
        self._remote_max_data_used += sender.highest_offset - sent_before
        return taken

    def _seal(
        self, payload: bytes, ack: bytes, delivered: Sequence[_Delivered], now: float
    ) -> bytes:
        """Returns a protected packet with this payload and records it as sent.

        `ack` is the ACK frame in the payload. `delivered` are the delivery handlers of its stream
        data, with arguments.
        """
        crypto = self._keys().send
        assert crypto.hp is not None
        assert crypto.aead is not None
        number = self._packet_number
        cid = self._peer_cid.cid
        first = 0x40 | self._spin_bit << 5 | crypto.key_phase << 2 | _NUMBER_LENGTH - 1
        truncated = number & 0xFFFF
        header = b"%c%b%b" % (first, cid, truncated.to_bytes(_NUMBER_LENGTH, "big"))
        sealed = crypto.aead.encrypt(payload, header, number)
        mask = crypto.hp._mask(sealed[2:18])
        truncated ^= mask[1] << 8 | mask[2]
        protected = b"%c%b%b" % (
            first ^ (mask[0] & 0x1F),
            cid,
            truncated.to_bytes(_NUMBER_LENGTH, "big"),
        )
        datagram = protected + sealed
        is_data = bool(delivered)
        packet = QuicSentPacket(
            Epoch.ONE_RTT, is_data, is_data, False, number, QuicPacketType.ONE_RTT, now
        )
        packet.sent_bytes = len(datagram)
        space = self._loss.spaces[-1]
        if ack:
            acknowledged = (space, space.largest_received_packet)
            packet.delivery_handlers.append((self._on_ack_delivery, acknowledged))
            space.ack_at = None
        if is_data:
            packet.delivery_handlers += delivered
            if not self._ack_eliciting_sent_since_receipt:
                self._ack_eliciting_sent_since_receipt = True
                self._put_off_idle(now)
        self._packet_number = number + 1
        self._loss.on_packet_sent(packet=packet, space=space)
        return datagram


def _pending_size(stream: QuicStream) -> int:
    """Returns about how many bytes of a stream are to be sent."""
    sender = stream.sender
    pending = sender._pending
    return sender._buffer_stop - pending[0].start if len(pending) else 0


def _only_sends(stream: QuicStream) -> bool:
    """Whether a stream has no frames to send except STREAM."""
    sender = stream.sender
    return (
        not stream.is_blocked
        and not stream.receiver.stop_pending
        and not sender.reset_pending
        and sender._buffer_fin is None
        and stream.max_stream_data_local == stream.max_stream_data_local_sent
        and not stream.is_finished
    )


def _keep_behind_gap(receiver: QuicStreamReceiver, offset: int, data: bytes) -> None:
    """Stores data at the end of a stream whose earlier data is missing."""
    missing = offset - receiver._buffer_start - len(receiver._buffer)
    if missing:
        receiver._buffer += bytes(missing)
    receiver._buffer += data
    receiver._ranges.add(offset, offset + len(data))


def _ack_frame(space: QuicPacketSpace, now: float, delay_exponent: int) -> bytes:
    """Returns an ACK frame of all received packets (RFC 9000, 19.3)."""
    assert space.largest_received_time is not None
    delay = int((now - space.largest_received_time) * 1_000_000) >> delay_exponent
    *others, above = space.ack_queue
    frame = _ACK + _var(above.stop - 1) + _var(delay) + _var(len(others)) + _var(len(above) - 1)
    for received in reversed(others):
        frame += _var(above.start - received.stop - 1) + _var(len(received) - 1)
        above = received
    return frame


def _stream_head(stream_id: int, offset: int) -> bytes:
    """Returns the header of a STREAM frame that extends to the end of the packet."""
    if not offset:
        return bytes((_STREAM,)) + _var(stream_id)
    return bytes((_STREAM | _OFFSET,)) + _var(stream_id) + _var(offset)


def _var(value: int) -> bytes:
    """Encodes a variable-length integer (RFC 9000, 16)."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def _read_var(data: bytes, at: int) -> tuple[int, int]:
    """Decodes a variable-length integer (RFC 9000, 16). Returns it and its end.

    Raises IndexError if the data is too short.
    """
    first = data[at]
    if first < 0x40:
        return first, at + 1
    size = _VAR_SIZES[first >> 6]
    end = at + size
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end
