"""Short ways through aioquic for what a busy connection does all the time.

A packet that holds stream data in order, an acknowledgement or both, on the connection's one path,
takes a few lines here instead of a few hundred: a third of the CPU. Whatever else a packet holds or
a connection waits for is left to aioquic itself, from the byte on where it begins, so that all that
is rare, hostile or clever stays its business. Both ways work on the same state and may alternate at
any packet.

This leans on much that is private to aioquic, so it is used with the versions it was tested with
alone (`is_tested`), and can be left out altogether: `Quic(engine="aioquic-plain")`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from aioquic._crypto import CryptoError
from aioquic.quic import recovery  # older versions lack MAX_ACK_RANGES, and run none of this
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

TESTED = frozenset({"1.7.2"})
"""Versions of aioquic that tests/carriers/test_short_paths.py has passed with."""

_NUMBER = 1 + CONNECTION_ID_LENGTH
"""Where the packet number begins in a short header (RFC 9000, 17.3.1)."""
_SAMPLE = _NUMBER + 4
"""Where header protection takes its sample (RFC 9001, 5.4.2)."""
_SHORTEST = _SAMPLE + 16
_NUMBER_LENGTH = 2
_TAG = 16
_ACK = b"\x02"
_STREAM = 0x08
"""STREAM frames are 0x08 to 0x0f (RFC 9000, 19.8), with these bits:"""
_OFFSET, _LENGTH, _FIN = 4, 2, 1
_MOST_GAPS = 32
"""Of an ACK frame or a stream that is taken here: more are checked against ConnectionBounds."""
_ASK_EVERY = 8
"""ACKs of several ranges, one of which asks for an acknowledgement."""
_VAR_SIZES = (1, 2, 4, 8)
_IDLE_STEP = 0.001
"""Seconds by which the idle timeout may be early: it is reckoned no more often."""


def is_tested() -> bool:
    """Whether the aioquic that is installed is one of TESTED."""
    return version("aioquic") in TESTED


class ShortPaths(QuicConnection):
    """aioquic's connection, faster."""

    _loss: Recovery
    is_proved = False
    """Whether the peer has shown that it has the cookie; the frames of others are counted."""

    _refreshed_at = -1.0
    """When the idle timeout was last put off here."""
    _pair: CryptoPair | None = None
    """The keys of 1-RTT, kept: an enum's hash costs as much as half a packet."""

    # -- in -------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: object, now: float) -> None:
        if data[0] & 0x80 or len(data) < _SHORTEST or not self._receive_short(data, addr, now):
            super().receive_datagram(data, addr, now)

    def _receive_short(self, data: bytes, addr: object, now: float) -> bool:
        """Whether the datagram is dealt with; where it is not, nothing has happened yet."""
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
        """Of 1-RTT; the same object from the end of the handshake on."""
        pair = self._pair
        if pair is None:
            pair = self._pair = self._cryptos[Epoch.ONE_RTT]
        return pair

    def _is_another_id(self, cid: bytes) -> bool:
        """A listener follows its dialer to another id, which is aioquic's business."""
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
        """What `QuicConnection.receive_datagram` does with an authentic packet."""
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
        """Takes an ACK frame (RFC 9000, 19.3); where it ends, 0 where it is not taken."""
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
            return 0  # of packets that were never sent
        ranges.reverse()
        ack_delay = (delay << self._remote_ack_delay_exponent) / 1_000_000
        self._loss.on_ack_ranges(ranges, ack_delay, now, space)
        return at

    def _take_stream_frames(self, payload: bytes, at: int) -> int:
        """Takes STREAM frames that are in order; where the first thing lies that is not one."""
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
        """Frames of any kind; whether they want an acknowledgement."""
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

    # -- out ------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        path = self._network_paths[0] if self._network_paths else None
        if not self._handshake_confirmed or path is None or not path.is_validated:
            return super().get_timer()
        if self._state is not QuicConnectionState.CONNECTED:
            return super().get_timer()
        # Confirmed, it has one packet number space left (RFC 9001, 4.9).
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
            return super().datagrams_to_send(now)
        stream: QuicStream | None = None
        for each in self._streams_queue:
            if not each.sender.buffer_is_empty:
                if stream is not None:
                    return super().datagrams_to_send(now)
                stream = each
        space = self._loss.spaces[-1]
        ack = b""
        self._pacing_at = None
        is_ack_due = space.ack_at is not None and space.ack_at <= now
        if (
            stream is None
            and is_ack_due
            and len(space.ack_queue) > 1
            and not self._packet_number % _ASK_EVERY
        ):
            return super().datagrams_to_send(now)  # with a PING, or ranges are never forgotten
        # One that will be due soon rides along, and needs no datagram of its own.
        if space.ack_at is not None and space.ack_at - now <= self._ack_delay / 2:
            ack = _ack_frame(space, now, self._local_ack_delay_exponent)
        sent: list[bytes] = []
        if stream is not None:
            sent = self._send_stream(stream, ack, now, is_urgent=is_ack_due)
        if ack and not sent and is_ack_due:
            sent = [self._seal(ack, ack, None, now)]
        address = path.addr
        for datagram in sent:
            path.bytes_sent += len(datagram)
        return [(datagram, address) for datagram in sent]

    def _only_streams_wait(self, path: QuicNetworkPath) -> bool:
        """Whether there is nothing to send but stream data and acknowledgements."""
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
        """The offset up to which the peer lets us send."""
        credit = self._remote_max_data - self._remote_max_data_used
        return min(stream.sender.highest_offset + credit, stream.max_stream_data_remote)

    def _send_stream(
        self, stream: QuicStream, ack: bytes, now: float, *, is_urgent: bool
    ) -> list[bytes]:
        """Datagrams that hold one STREAM frame each, as many as may leave; the first with `ack`,
        for which the pacer does not wait where that is urgent."""
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
                    break  # what the congestion window cuts short waits for more of it
                if not (ack and is_urgent):
                    self._pacing_at = pacer.next_send_time(now=now)
                    if self._pacing_at is not None:
                        break
                payload = b"".join((frame, buffer[start - base : stop - base]))
                delivered = (sender.on_data_delivery, (start, stop, False))
                datagram = self._seal(payload, ack, delivered, now)
                sent.append(datagram)
                left -= len(datagram)
                ack = b""
                pacer.update_after_send(now=now)
                pending.shift()
                if stop < piece.stop:
                    pending.add(stop, piece.stop)
                if stop > sender.highest_offset:
                    sender.highest_offset = stop
        sender.buffer_is_empty = not len(pending)
        self._remote_max_data_used += sender.highest_offset - sent_before
        return sent

    def _seal(
        self, payload: bytes, ack: bytes, delivered: tuple[Any, Any] | None, now: float
    ) -> bytes:
        """A packet with this payload, on its way: `ack` is in it, and stream data if somebody
        wants to know when they are `delivered`."""
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
        is_data = delivered is not None
        packet = QuicSentPacket(
            Epoch.ONE_RTT, is_data, is_data, False, number, QuicPacketType.ONE_RTT, now
        )
        packet.sent_bytes = len(datagram)
        space = self._loss.spaces[-1]
        if ack:
            acknowledged = (space, space.largest_received_packet)
            packet.delivery_handlers.append((self._on_ack_delivery, acknowledged))
            space.ack_at = None
        if delivered is not None:
            packet.delivery_handlers.append(delivered)
            if not self._ack_eliciting_sent_since_receipt:
                self._ack_eliciting_sent_since_receipt = True
                self._put_off_idle(now)
        self._packet_number = number + 1
        self._loss.on_packet_sent(packet=packet, space=space)
        return datagram


def _only_sends(stream: QuicStream) -> bool:
    """Whether a stream wants nothing but to send data, if that."""
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
    """Keeps what comes last in a stream while something before it is missing."""
    missing = offset - receiver._buffer_start - len(receiver._buffer)
    if missing:
        receiver._buffer += bytes(missing)
    receiver._buffer += data
    receiver._ranges.add(offset, offset + len(data))


def _ack_frame(space: QuicPacketSpace, now: float, delay_exponent: int) -> bytes:
    """ACK of all that is to be acknowledged (RFC 9000, 19.3)."""
    assert space.largest_received_time is not None
    delay = int((now - space.largest_received_time) * 1_000_000) >> delay_exponent
    *others, above = space.ack_queue
    frame = _ACK + _var(above.stop - 1) + _var(delay) + _var(len(others)) + _var(len(above) - 1)
    for received in reversed(others):
        frame += _var(above.start - received.stop - 1) + _var(len(received) - 1)
        above = received
    return frame


def _stream_head(stream_id: int, offset: int) -> bytes:
    """A STREAM frame up to its data, which go on to the packet's end."""
    if not offset:
        return bytes((_STREAM,)) + _var(stream_id)
    return bytes((_STREAM | _OFFSET,)) + _var(stream_id) + _var(offset)


def _var(value: int) -> bytes:
    """RFC 9000, 16."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def _read_var(data: bytes, at: int) -> tuple[int, int]:
    """RFC 9000, 16: the value and where it ends. Raises IndexError."""
    first = data[at]
    if first < 0x40:
        return first, at + 1
    size = _VAR_SIZES[first >> 6]
    end = at + size
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end
