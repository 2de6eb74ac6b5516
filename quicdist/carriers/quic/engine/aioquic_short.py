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

import functools
import logging
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

from aioquic._crypto import AEAD
from aioquic.quic import recovery  # older versions lack MAX_ACK_RANGES and do not use this module
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from aioquic.tls import Epoch

from quicdist.carriers.quic.ecn import CE, ECT0, ECT1, EcnCounts
from quicdist.carriers.quic.engine import MAX_SEGMENTED, MAX_SEGMENTS, Batch
from quicdist.carriers.quic.engine.aioquic_bounds import end_of_credit
from quicdist.carriers.quic.engine.aioquic_ecn import MarkedQuic
from quicdist.carriers.quic.engine.aioquic_keys import OneRttKeys
from quicdist.carriers.quic.engine.aioquic_packets import (
    NUMBER_AT,
    NUMBER_LENGTH,
    STREAM,
    STREAM_LENGTH,
    STREAM_MASK,
    STREAM_OFFSET,
    TAG_LENGTH,
    Handlers,
    OpenKeys,
    Piece,
    Protected,
    Room,
    SealKeys,
    alone,
    frames,
    open_keys,
    protected,
    read_var,
    seal,
    seal_keys,
    take,
    var,
)
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges
from quicdist.carriers.quic.engine.aioquic_recovery import Recovery
from quicdist.protocol.dialects.base import Buffer

_log = logging.getLogger("quicdist.quic")

_Ack: TypeAlias = tuple[list[tuple[int, int]], float, float, QuicPacketSpace, EcnCounts | None]
"""The arguments of `Recovery.on_ack_ranges`."""

_Sent: TypeAlias = tuple[int, list[int], list[Sequence[Piece]], Handlers, float, QuicPacketSpace]
"""The arguments of `Recovery.on_burst_sent`."""

TESTED = frozenset({"1.7.2"})
"""Versions of aioquic with which tests/carriers/test_short_paths.py passes."""

_ACK, _ACK_ECN = b"\x02", b"\x03"
_UNIDIRECTIONAL = 2
"""Bit of the ids of unidirectional streams (RFC 9000, 2.1)."""
_MOST_GAPS = 32
"""Maximum gaps of an ACK frame or stream. More are checked against ConnectionBounds."""
_ASK_EVERY = 8
"""One of this number of ACKs with several ranges elicits an acknowledgement."""
_KIND = bytes((STREAM | STREAM_OFFSET,))
_KIND_WITH_LENGTH = bytes((STREAM | STREAM_OFFSET | STREAM_LENGTH,))
_LENGTH_SIZE = 2
"""Size of the length field of a STREAM frame, as a variable-length integer up to 16383."""
_MAX_HEAD = 1 + 8 + 8 + _LENGTH_SIZE
_NO_DATA = (-1, 0, 0)
_MAX_SHORT_VAR = 0x3F
"""Maximum variable-length integer of one byte (RFC 9000, 16)."""
_IDLE_STEP = 0.001
"""Maximum time in seconds by which the idle timeout may be early, to compute it less often."""


def is_tested() -> bool:
    """Whether the installed version of aioquic is one of TESTED."""
    return version("aioquic") in TESTED


def are_on(engine: str) -> bool:
    """Whether the engine of that name uses the fast paths; if not, logs why."""
    if engine == "aioquic-plain":
        _tell_off(logging.INFO, "aioquic-plain does not use them")
        return False
    if not is_tested():
        tested = ", ".join(sorted(TESTED))
        why = f"they are tested with aioquic {tested}, and {version('aioquic')} is installed"
        _tell_off(logging.WARNING, why)
        return False
    return True


@functools.cache  # once per process and reason
def _tell_off(level: int, why: str) -> None:
    extra = {"event": "fast_paths_off", "reason": why}
    _log.log(level, "the fast paths through aioquic are off, so it is slower: %s", why, extra=extra)


class _Run:
    """Consecutive data of one stream from several packets, which is delivered at once."""

    __slots__ = ("parts", "start", "stop", "stream")

    def __init__(self, stream: QuicStream, start: int) -> None:
        self.stream = stream
        self.start = self.stop = start
        self.parts: list[bytes] = []


class ShortPaths(MarkedQuic):
    """aioquic's connection with fast paths."""

    _loss: Recovery
    keys: OneRttKeys
    is_proved = False
    """Whether the peer has proved the cookie. The frames of other peers are counted."""

    _told_at = -math.inf
    """Time of the last ACK frame."""
    _refreshed_at = -1.0
    """Time of the last extension of the idle timeout."""
    _is_refresh_due = False
    """Whether the next timer must take that into account."""
    _tls_stream: QuicStream | None = None
    """The stream of CRYPTO frames in 1-RTT packets, cached because the hash of an enum takes
    half the time of a packet."""
    _run: _Run | None = None
    """Stream data that is not delivered yet; None between two batches."""
    _run_stream: QuicStream | None = None
    """The stream of the last run."""
    _opened_with: AEAD | None = None
    _open_keys: OpenKeys
    """The keys of received packets, and the cipher for which they were made."""
    _sealed_with: AEAD | None = None
    _seal_keys: SealKeys
    """Those of sent packets."""
    _late_ack: _Ack | None = None
    """An acknowledgement that came with data. It is processed after the data was delivered, and
    after a message was sent that needs no room from it."""

    late_loss = False
    """Whether it has revealed a loss after the last `batches_to_send` had chosen what to send."""

    _late_sent: _Sent | None = None
    """A packet that was sent alone, which is recorded after it has left."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._resting: dict[int, QuicStream] = {}
        """Streams that have nothing to send. They are not in `_streams_queue`, which is walked for
        each packet."""

    def wake_streams(self) -> None:
        """Returns all streams to `_streams_queue`, since any of them may have something to send."""
        self._streams_queue += self._resting.values()
        self._resting.clear()

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is None or stream_id & _UNIDIRECTIONAL:
            return super()._get_or_create_stream_for_send(stream_id)
        if stream_id in self._resting:
            self._streams_queue.append(self._resting.pop(stream_id))
        return stream

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self.wake_streams()
        super().stop_stream(stream_id, error_code)

    # -- receiving ------------------------------------------------------------------------------

    def receive_batch(self, data: bytes, size: int, addr: object, now: float, ecn: int) -> None:
        """Processes datagrams from one address, which have the same ECN codepoint.

        They have `size` bytes, the last one maybe fewer.
        """
        self.take_late_ack()
        at = 0
        while True:
            at = self._receive_short(data, size, at, addr, now, ecn)
            if at >= len(data):
                return
            self.receive_marked(data[at : at + size], addr, now, ecn)
            at += size

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        self.take_late_ack()
        self.wake_streams()
        super().receive_datagram(data, addr, now)

    def _receive_short(
        self, data: bytes, size: int, at: int, addr: object, now: float, ecn: int
    ) -> int:
        """Processes datagrams from `at` on, up to the first one that aioquic must process.

        Returns its offset. There are no side effects of that one.
        """
        if (
            at >= len(data)
            or not self.is_proved
            or not self._handshake_confirmed
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
            or self._quic_logger is not None
        ):
            return at
        space = self._loss.spaces[-1]
        if space.largest_received_packet < 0:
            return at
        path = self._network_paths[0]
        if path.addr != addr or not path.is_validated:
            return at
        cid = data[at + 1 : at + NUMBER_AT]
        if cid != self.host_cid and not self._is_another_id(cid):
            return at
        crypto = self.keys.recv
        if crypto.first < 0:
            return at
        if crypto.aead is not self._opened_with:
            self._opened_with = crypto.aead
            self._open_keys = open_keys(crypto)
        packets = protected(self._open_keys, cid, data, size, at)
        return self._take_packets(space, path, packets, now, ecn)

    def _is_another_id(self, cid: bytes) -> bool:
        """Whether this is another ID of a dialer. For a listener, aioquic handles such IDs."""
        return self._is_client and any(each.cid == cid for each in self._host_cids)

    def _take_packets(
        self,
        space: QuicPacketSpace,
        path: QuicNetworkPath,
        packets: Protected,
        now: float,
        ecn: int,
    ) -> int:
        """Processes authentic packets, as `QuicConnection.receive_datagram` does.

        Consecutive packet numbers are recorded together. Returns the end of what was read.
        """
        data, _, at, _, cid = packets
        largest = space.largest_received_packet
        expected = start = stop = max(space.expected_packet_number, largest + 1)
        is_ack_eliciting = False
        newest = count = 0
        while at < len(data):
            at, taken, first, joined, other = take(
                self._open_keys, packets, at, expected, *self._expected_data()
            )
            if taken:
                if expected != stop:
                    _record(space, start, stop)
                    start = expected
                self._extend_run(joined)
                expected = stop = expected + taken
                largest, newest = stop - 1, first
                count += taken
                is_ack_eliciting = True
            if other is None:
                break
            number, first, payload = other
            if number >= expected:
                expected = number + 1
            if number != stop or number <= largest:
                _record(space, start, stop)
                if number in space.received_packets:
                    start = stop
                    continue
                start = number
            stop = number + 1
            count += 1
            if number > largest:
                largest, newest = number, first
            kind = payload[:1]
            is_ack = kind == _ACK_ECN or kind == _ACK  # half the time of `in`
            begin = self._take_ack(payload, space, now) if is_ack else 0
            end = self._take_stream_frames(payload, begin)
            is_ack_eliciting |= end > begin
            if end < len(payload) or not payload:
                self._deliver_run()
                is_ack_eliciting |= self._take_others(payload[end:], path, cid, now)
                if self._close_pending or self._state is not QuicConnectionState.CONNECTED:
                    return len(data)
        if not count:
            return at
        self._deliver_run()
        _record(space, start, stop)
        if ecn:
            self.data_marks[ecn] += count
        self._put_off_idle(now)
        self._ack_eliciting_sent_since_receipt = False
        if largest > space.largest_received_packet:
            space.largest_received_packet = self._spin_highest_pn = largest
            space.largest_received_time = now
            space.expected_packet_number = largest + 1
            self._spin_bit = bool(newest & 0x20) is not self._is_client
        if is_ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay
        return at

    def _expected_data(self) -> tuple[int, int, int]:
        """Returns the stream of the last data, the offset of the next and the end of its credit.

        The stream is -1 if it can have no further data for the fast path.
        """
        stream = self._run_stream
        if stream is None:
            return _NO_DATA
        receiver, run, used = stream.receiver, self._run, self._local_max_data
        offset = receiver.highest_offset
        if receiver._final_size is not None or receiver.is_finished:
            return _NO_DATA
        if run is None and not _may_begin_run(receiver, offset):
            return _NO_DATA
        assert stream.stream_id is not None
        limit = min(stream.max_stream_data_local, offset + used.value - used.used)
        return stream.stream_id, offset, limit

    def _extend_run(self, data: bytes) -> None:
        """Adds the next data of `_run_stream`."""
        stream, run = self._run_stream, self._run
        assert stream is not None
        receiver = stream.receiver
        if run is None:
            run = self._run = _Run(stream, receiver.highest_offset)
        run.parts.append(data)
        stop = run.stop + len(data)
        self._local_max_data.used += stop - receiver.highest_offset
        run.stop = receiver.highest_offset = stop

    def _put_off_idle(self, now: float) -> None:
        if not 0 <= now - self._refreshed_at < _IDLE_STEP:
            self._refreshed_at = now
            self._is_refresh_due = True

    def _refresh_idle(self) -> None:
        """Computes the idle timeout that `_put_off_idle` has put off, unless the end has begun."""
        self._is_refresh_due = False
        if self._state is QuicConnectionState.CONNECTED:
            self._close_at = self._refreshed_at + self._idle_timeout()

    def _take_ack(self, payload: bytes, space: QuicPacketSpace, now: float) -> int:
        """Processes an ACK frame (RFC 9000, 19.3). Returns its end, or 0 if aioquic must do it."""
        if not self._loss.peer_completed_address_validation:
            return 0
        try:
            largest, at = read_var(payload, 1)
            delay, at = read_var(payload, at)
            gaps, at = read_var(payload, at)
            length, at = read_var(payload, at)
            first = largest - length
            if gaps > _MOST_GAPS:
                return 0
            ranges = [(first, largest + 1)]
            for _ in range(gaps):
                gap, at = read_var(payload, at)
                length, at = read_var(payload, at)
                end = first - gap - 1
                first = end - length - 1
                ranges.append((first, end))
            counts = None
            if payload[0] == _ACK_ECN[0]:
                ect0, at = read_var(payload, at)
                ect1, at = read_var(payload, at)
                ce, at = read_var(payload, at)
                counts = EcnCounts(ect0, ect1, ce)
        except IndexError:
            return 0
        if first < 0 or largest >= self._packet_number:
            return 0  # it acknowledges packets that were not sent
        ranges.reverse()
        ack_delay = (delay << self._remote_ack_delay_exponent) / 1_000_000
        self.take_late_ack()
        if at < len(payload):
            self._late_ack = ranges, ack_delay, now, space, counts
        else:
            self._loss.on_ack_ranges(ranges, ack_delay, now, space, counts)
        return at

    @property
    def late_bytes(self) -> int:
        return 0 if self._late_ack is None else 2 * self._max_datagram_size

    def take_late_ack(self) -> None:
        late, self._late_ack = self._late_ack, None
        if late is None:
            return
        knew_loss = self._loss.has_lost
        self._loss.on_ack_ranges(*late)
        self.late_loss |= self._loss.has_lost and not knew_loss

    def _take_stream_frames(self, payload: bytes, at: int) -> int:
        """Processes STREAM frames in order. Returns the offset of the first other frame."""
        size = len(payload)
        used = self._local_max_data
        while at < size:
            kind = payload[at]
            if kind & STREAM_MASK != STREAM:
                return at
            try:
                stream_id, position = payload[at + 1], at + 2
                if stream_id > _MAX_SHORT_VAR:
                    stream_id, position = read_var(payload, at + 1)
                offset = 0
                if kind & STREAM_OFFSET:
                    offset, position = read_var(payload, position)
                end = size
                if kind & STREAM_LENGTH:
                    length, position = read_var(payload, position)
                    end = position + length
            except IndexError:
                return at
            stream = self._streams.get(stream_id)
            if stream is None:
                return at
            receiver = stream.receiver
            stop = offset + end - position
            highest = receiver.highest_offset
            if not (
                position < end <= size
                and offset >= highest
                and stop <= stream.max_stream_data_local
                and used.used + stop - highest <= used.value
                and receiver._final_size is None
                and not receiver.is_finished
            ):
                return at
            run = self._run
            if run is None or run.stream is not stream or run.stop != offset:
                if run is not None:
                    self._deliver_run()
                if not _may_begin_run(receiver, offset):
                    return at
                self._run = _Run(stream, offset)
                self._run_stream = stream
            self._extend_run(payload[position:end])
            at = end
        return at

    def _deliver_run(self) -> None:
        """Reports the collected stream data, or stores it behind a gap."""
        run, self._run = self._run, None
        if run is None:
            return
        receiver = run.stream.receiver
        data = run.parts[0] if len(run.parts) == 1 else b"".join(run.parts)
        if run.start == receiver._buffer_start:
            receiver._buffer_start = run.stop
            stream_id = run.stream.stream_id
            assert stream_id is not None
            self._events.append(StreamDataReceived(data, False, stream_id))
        else:
            _keep_behind_gap(receiver, run.start, data)

    def _take_others(self, payload: bytes, path: QuicNetworkPath, cid: bytes, now: float) -> bool:
        """Processes any frames with aioquic. Returns whether they are ack-eliciting."""
        self.take_late_ack()
        self.wake_streams()
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

    def handle_timer(self, now: float) -> None:
        if self._late_ack is not None:
            self.take_late_ack()
            self.get_timer()  # which sets when data counts as lost
        if self._is_refresh_due:
            self._refresh_idle()
        super().handle_timer(now)

    def get_timer(self) -> float | None:
        if self._is_refresh_due:
            self._refresh_idle()
        if not (
            self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and self._network_paths[0].is_validated
        ):
            return super().get_timer()
        # A confirmed connection has only one packet number space (RFC 9001, 4.9).
        loss = self._loss
        space = loss.spaces[-1]
        lost_at = space.loss_time
        if lost_at is None and space.ack_eliciting_in_flight:
            patience = loss.get_probe_timeout() * (1 << loss._pto_count)
            lost_at = loss._time_of_last_sent_ack_eliciting_packet + patience
        self._loss_at = lost_at
        at = self._close_at
        assert at is not None
        for other in (space.ack_at, lost_at, self._pacing_at):
            if other is not None and other < at:
                at = other
        return at

    def batches_to_send(self, now: float) -> list[Batch]:
        """Returns the datagrams to send now (see `QuicConnection.datagrams_to_send`)."""
        path = self._network_paths[0]
        streams = self._streams_to_send() if self._only_streams_wait(path) else None
        if self._late_ack is not None and not (streams and self._leaves_at_once(streams)):
            self.take_late_ack()
            return self.batches_to_send(now)
        self.late_loss = False
        if streams is None:
            self.wake_streams()
            self._streams_queue.sort(key=_pending_size)
            return alone(self.datagrams_to_send(now))
        space: Any = self._loss.spaces[-1]
        self._pacing_at = None
        ack, ack_at = b"", space.ack_at
        is_ack_due = ack_at is not None and ack_at <= now
        if not streams:
            if not is_ack_due:
                return []
            if self._loss.repeat_tail(now, space):
                return self.batches_to_send(now)
            if len(space.ack_queue.parts) > 1 and not self._packet_number % _ASK_EVERY:
                # with a PING, so that the peer confirms the ranges
                return alone(self.datagrams_to_send(now))
        # An ACK that is due soon is sent with other data, which saves a datagram. On a busy
        # connection not every packet has one, because an ACK costs time at both ends.
        if ack_at is not None and (
            ack_at - now <= self._ack_delay / 2 or now - self._told_at >= self._ack_delay
        ):
            ack = _ack_frame(space, now, self._local_ack_delay_exponent, self.data_marks)
        burst = _Burst(self, ack, now, is_urgent=is_ack_due)
        if len(streams) > 1:
            streams.sort(key=_pending_size)
            streams = self._plan_shared(streams, burst)
        for stream in streams:
            self._plan(stream, burst)
        if ack and not burst.payloads and is_ack_due:
            burst.add([ack], [()])
        batches = self._send_burst(burst, now) if burst.payloads else []
        if burst.room.is_paced:  # the pacer has not counted a datagram that was sent alone
            self.take_late_ack()
            self.take_late_sent()
            self._pacing_at = self._loss._pacer.next_send_time(now=now)
        return batches

    def _leaves_at_once(self, streams: Sequence[QuicStream]) -> bool:
        """Whether the data fits one datagram, which no acknowledgement must make room for."""
        congestion, full = self._loss._cc, self._max_datagram_size
        return (
            len(streams) == 1
            and _pending_size(streams[0]) <= full // 2
            and congestion.congestion_window - congestion.bytes_in_flight >= full
        )

    def _only_streams_wait(self, path: QuicNetworkPath) -> bool:
        """Whether nothing is to be sent but frames of streams and acknowledgements."""
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
            or self.keys._update_key_requested
            or not self._tls_sender().buffer_is_empty
        ):
            return False
        for known in self._host_cids:
            if not known.was_sent:
                return False
        data, streams = self._local_max_data, self._local_max_streams_bidi
        return data.value == data.sent and streams.value == streams.sent

    def _streams_to_send(self) -> list[QuicStream] | None:
        """Returns the streams with data to send, or None if one has other frames to send.

        Streams without data rest from then on.
        """
        if self._loss.has_lost:
            self._loss.has_lost = False
            self.wake_streams()
        busy = []
        for stream in self._streams_queue:
            sender, receiver = stream.sender, stream.receiver
            if (
                stream.is_blocked
                or receiver.stop_pending
                or sender.reset_pending
                or sender._buffer_fin is not None
                or stream.max_stream_data_local != stream.max_stream_data_local_sent
                or (receiver.is_finished and sender.is_finished)
            ):
                return None
            if not sender.buffer_is_empty:
                busy.append(stream)
        if len(busy) < len(self._streams_queue):
            for stream in self._streams_queue:
                if stream.sender.buffer_is_empty:
                    assert stream.stream_id is not None
                    self._resting[stream.stream_id] = stream
            self._streams_queue = busy[:]
        return busy

    def _tls_sender(self) -> QuicStreamSender:
        """The data for CRYPTO frames in 1-RTT packets."""
        stream = self._tls_stream
        if stream is None:
            stream = self._tls_stream = self._crypto_streams[Epoch.ONE_RTT]
        return stream.sender

    def _plan(self, stream: QuicStream, burst: _Burst) -> None:
        """Adds packets with the data of a stream to a burst.

        Each one has one STREAM frame, which extends to its end.
        """
        stream_id = stream.stream_id
        assert stream_id is not None
        sender: Any = stream.sender
        pending: Ranges = sender._pending
        most = end_of_credit(self, stream)
        sent_before = sender.highest_offset
        base = sender._buffer_start
        kind = _KIND + var(stream_id)
        while pending.parts:
            piece = pending.parts[0]
            start, end = piece.start, min(piece.stop, most)
            payloads, pieces, stop = frames(
                burst.room, burst.ack, kind, sender, sender._buffer, base, start, end
            )
            if payloads:
                burst.add(payloads, pieces)
                pending.subtract(start, stop)
                sender.highest_offset = max(sender.highest_offset, stop)
            if stop < piece.stop:
                break
        sender.buffer_is_empty = not pending.parts
        self._remote_max_data_used += sender.highest_offset - sent_before

    def _plan_shared(self, streams: list[QuicStream], burst: _Burst) -> list[QuicStream]:
        """Adds packets with the data of several streams, until one has data left. Returns that one.

        The stream with the least data is sent first, so that small messages do not wait for the
        bulk data of other streams.
        """
        while len(streams) > 1:
            ack = burst.ack
            wanted = sum(map(_pending_size, streams)) + _MAX_HEAD * len(streams)
            room = burst.room.take(len(ack), wanted)
            parts: list[Buffer] = [ack]
            pieces: list[Piece] = []
            for stream in streams:
                room -= self._take_pieces(stream, room, parts, pieces)
            if not pieces:
                return []  # flow or congestion control allows none of them to send
            burst.add([b"".join(parts)], [pieces])
            streams = [each for each in streams if not each.sender.buffer_is_empty]
        return streams

    def _take_pieces(
        self, stream: QuicStream, room: int, parts: list[Buffer], pieces: list[Piece]
    ) -> int:
        """Adds STREAM frames with pending data, at most `room` bytes. Returns their size."""
        assert stream.stream_id is not None
        sender: Any = stream.sender
        pending: Ranges = sender._pending
        most = end_of_credit(self, stream)
        base, sent_before = sender._buffer_start, sender.highest_offset
        kind = _KIND_WITH_LENGTH + var(stream.stream_id)
        taken = 0
        while pending.parts:
            piece = pending.parts[0]
            start = piece.start
            head = kind + var(start)
            stop = min(piece.stop, start + room - taken - len(head) - _LENGTH_SIZE, most)
            if stop <= start:
                break
            length = (stop - start | 0x4000).to_bytes(_LENGTH_SIZE, "big")
            parts += (head + length, sender._buffer[start - base : stop - base])
            pieces.append((sender, start, stop))
            taken += len(head) + _LENGTH_SIZE + stop - start
            pending.subtract(start, stop)
            sender.highest_offset = max(sender.highest_offset, stop)
            if stop < piece.stop:
                break
        sender.buffer_is_empty = not pending.parts
        self._remote_max_data_used += sender.highest_offset - sent_before
        return taken

    def _send_burst(self, burst: _Burst, now: float) -> list[Batch]:
        """Returns protected packets and records them as sent. The first one has the ACK frame."""
        number = self._packet_number
        payloads, pieces = burst.payloads, burst.pieces
        crypto = self.keys.send
        if crypto.aead is not self._sealed_with:
            self._sealed_with = crypto.aead
            self._seal_keys = seal_keys(crypto)
        first = 0x40 | self._spin_bit << 5 | crypto.key_phase << 2 | NUMBER_LENGTH - 1
        cid = self._peer_cid.cid
        batches = seal(self._seal_keys, first, cid, number, payloads, MAX_SEGMENTS, MAX_SEGMENTED)
        space = self._loss.spaces[-1]
        handlers: Handlers = ()
        if burst.had_ack:
            handlers = ((self._on_ack_delivery, (space, space.largest_received_packet)),)
            space.ack_at = None
            self._told_at = now
        overhead = burst.room.overhead
        sizes = [len(payload) + overhead for payload in payloads]
        path = self._network_paths[0]
        path.bytes_sent += sum(sizes)
        self._late_sent = number, sizes, pieces, handlers, now, space
        if len(sizes) > 1:  # the pacer and the timer of the rest of a burst depend on it
            self.take_late_ack()
            self.take_late_sent()
        self._packet_number = number + len(payloads)
        return [(data, size, path.addr) for data, size in batches]

    def take_late_sent(self) -> None:
        late, self._late_sent = self._late_sent, None
        if late is None:
            return
        _, _, pieces, _, now, _ = late
        self._loss.on_burst_sent(*late)
        if pieces[0] and not self._ack_eliciting_sent_since_receipt:
            self._ack_eliciting_sent_since_receipt = True
            self._put_off_idle(now)


class _Burst:
    """Packets that are about to be sent together, and what may be added to them."""

    __slots__ = ("ack", "had_ack", "payloads", "pieces", "room")

    def __init__(self, quic: ShortPaths, ack: bytes, now: float, *, is_urgent: bool) -> None:
        """`ack` is an ACK frame for the first packet. If urgent, it is sent without pacing."""
        pacer, congestion = quic._loss._pacer, quic._loss._cc
        self.payloads: list[bytes] = []
        self.pieces: list[Sequence[Piece]] = []
        self.ack = ack
        self.had_ack = bool(ack)
        least = 1 if ack and is_urgent else -math.inf
        self.room = Room(
            quic._max_datagram_size,
            congestion.congestion_window - congestion.bytes_in_flight,
            max(pacer.pacer.room(now), least),
            max(pacer.left, least),
            1 + len(quic._peer_cid.cid) + NUMBER_LENGTH + TAG_LENGTH,
        )

    def add(self, payloads: list[bytes], pieces: list[Sequence[Piece]]) -> None:
        """Adds packets with these payloads, the first one with the ACK frame."""
        self.payloads += payloads
        self.pieces += pieces
        self.ack = b""


def _record(space: QuicPacketSpace, start: int, stop: int) -> None:
    """Records the packets from `start` to before `stop` as received."""
    if start >= stop:
        return
    queue: Any = space.ack_queue
    queue.add(start, stop)
    if len(queue.parts) > recovery.MAX_ACK_RANGES:
        queue.shift()
    received: Any = space.received_packets
    received.add(start, stop)


def _pending_size(stream: QuicStream) -> int:
    """Returns about how many bytes of a stream are to be sent."""
    sender = stream.sender
    pending: Any = sender._pending
    return sender._buffer_stop - pending.parts[0].start if pending.parts else 0


def _may_begin_run(receiver: QuicStreamReceiver, offset: int) -> bool:
    """Whether data at `offset` is in order, or may be stored behind a gap."""
    return offset == receiver._buffer_start or len(receiver._ranges) < _MOST_GAPS


def _keep_behind_gap(receiver: QuicStreamReceiver, offset: int, data: bytes) -> None:
    """Stores data at the end of a stream whose earlier data is missing."""
    missing = offset - receiver._buffer_start - len(receiver._buffer)
    if missing:
        receiver._buffer += bytes(missing)
    receiver._buffer += data
    receiver._ranges.add(offset, offset + len(data))


def _ack_frame(
    space: QuicPacketSpace, now: float, delay_exponent: int, marks: Sequence[int]
) -> bytes:
    """Returns an ACK frame of all received packets (RFC 9000, 19.3).

    `marks` are their numbers by ECN codepoint; without any, the frame has no ECN counts.
    """
    assert space.largest_received_time is not None
    delay = int((now - space.largest_received_time) * 1_000_000) >> delay_exponent
    *others, above = space.ack_queue
    kind = _ACK_ECN if any(marks) else _ACK
    frame = kind + var(above.stop - 1) + var(delay) + var(len(others)) + var(len(above) - 1)
    for received in reversed(others):
        frame += var(above.start - received.stop - 1) + var(len(received) - 1)
        above = received
    if kind == _ACK_ECN:
        frame += var(marks[ECT0]) + var(marks[ECT1]) + var(marks[CE])
    return frame
