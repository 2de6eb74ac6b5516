"""The adapter of aioquic. The `aioquic_*` modules of this package are part of it.

It uses the sans-IO `QuicConnection` of aioquic. Private attributes are used where aioquic has no
public interface:

- to extend receive windows by the consumed bytes instead of the received ones
- to see which bytes are acknowledged
- to detect the close of a peer before the draining period is over
- to keep a handshake message in one STREAM frame
- to set and read stateless reset tokens
- to derive TLS exporter values
- to probe a new path immediately
- to request a certificate from dialers, and to read the presented one
- to see whether the handshake is confirmed

tests/carriers/test_aioquic_internals.py fails if one of them changes in aioquic.
"""

from __future__ import annotations

import logging
import math
import ssl
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TextIO, TypeAlias, cast

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnection,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Direction, Epoch, Group

from quicdist.carriers.coalesce import joined
from quicdist.carriers.quic.close_text import describe
from quicdist.carriers.quic.congestion.choice import algorithm
from quicdist.carriers.quic.congestion.resume import Capacity
from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.engine import (
    CONNECTION_ID_LENGTH,
    Batch,
    Closed,
    CompiledSocket,
    EngineError,
    EngineSink,
    Opening,
    Path,
    Progress,
    ResetTokenOf,
    VerifyPeer,
    reject_all,
)
from quicdist.carriers.quic.engine.aioquic_ack_frequency import FrequencyQuic
from quicdist.carriers.quic.engine.aioquic_bounds import end_of_credit
from quicdist.carriers.quic.engine.aioquic_ecn import MarkedQuic
from quicdist.carriers.quic.engine.aioquic_packets import alone
from quicdist.carriers.quic.engine.aioquic_qlog import Qlog, QlogTrace
from quicdist.carriers.quic.engine.aioquic_recovery import Congestion, Recovery, name_of
from quicdist.carriers.quic.engine.aioquic_short import ShortPaths, are_on
from quicdist.carriers.quic.mtu import BASE, PathMtu
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES, KEY_EXCHANGES
from quicdist.carriers.quic.tls_exporter import export
from quicdist.carriers.quic.tracing import KeyLog, QlogDirectory
from quicdist.carriers.trust import Certificates
from quicdist.protocol.dialects import LARGEST_WINDOW
from quicdist.protocol.dialects.base import Buffer

_Datagram: TypeAlias = tuple[bytes, Path]

_VERSIONS = [int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)]

# The end of the connection reports these errors. Without a handler they would go to stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())


_CAN_PROBE = hasattr(QuicConnection, "_flush_builder")
"""Older versions of aioquic have no probe datagrams, so path MTU discovery is disabled."""


class _Quic(FrequencyQuic):
    """aioquic's connection without automatic windows, and with whole messages in STREAM frames.

    Its connection IDs have given reset tokens instead of random ones.
    """

    whole = True
    reset_token_of: ResetTokenOf
    exporter_secret = b""
    """The exporter_master_secret of the TLS session; empty until it is known."""
    groups: Sequence[Group] = ()
    """Accepted key exchange groups. If empty, the library selects them."""
    asks_certificate = False
    """Whether a server requests a client certificate. The client may answer without one."""

    def receive_batch(self, data: bytes, size: int, addr: object, now: float, ecn: int) -> None:
        """Processes datagrams of `size` bytes from one address. The last one may be shorter."""
        for at in range(0, len(data), max(size, 1)):
            self.receive_datagram(data[at : at + size], addr, now)

    def batches_to_send(self, now: float) -> list[Batch]:
        """Returns the datagrams to send now."""
        return alone(self.datagrams_to_send(now))

    def wake_streams(self) -> None:
        """Reports that a stream may have other frames to send than those with data."""

    @property
    def late_bytes(self) -> int:
        """Number of bytes in flight that an acknowledgement which was put off may well remove."""
        return 0

    late_loss = False
    """Whether such an acknowledgement has revealed a loss that waits to be repaired."""

    def take_late_ack(self) -> None:
        """Processes an acknowledgement that was put off, before anything that depends on it."""

    def take_late_sent(self) -> None:
        """Records a sent packet that was put off, before anything that depends on it."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = self.asks_certificate
        if self.groups:
            self.tls._supported_groups = list(self.groups)

    def _update_traffic_key(
        self, direction: Direction, epoch: Epoch, cipher_suite: CipherSuite, secret: bytes
    ) -> None:
        # The first 1-RTT key is derived when the transcript ends with the server's Finished. The
        # exporter_master_secret uses the same transcript (RFC 8446, 7.1).
        if epoch is Epoch.ONE_RTT and not self.exporter_secret:
            assert self.tls.key_schedule is not None
            self.exporter_secret = self.tls.key_schedule.derive_secret(b"exp master")
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for known in self._host_cids:
            if not known.was_sent:
                known.stateless_reset_token = self.reset_token_of(known.cid)

    @property
    def carries_probes(self) -> bool:
        """Whether the current path is validated and only 1-RTT packets are in use."""
        is_up = self._handshake_confirmed and self._state is QuicConnectionState.CONNECTED
        return is_up and not self._close_pending and self._network_paths[0].is_validated

    def probe_size(
        self, size: int, now: float, told: Callable[[QuicDeliveryState, int], None]
    ) -> Sequence[_Datagram]:
        """Returns a datagram of `size` bytes with a PING. Its loss does not count as congestion."""
        path = self._network_paths[0]
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or 0,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        buffer = builder.start_frame(self.probe_frame, handler=told, handler_args=(size,))
        buffer.push_bytes(bytes(builder.remaining_buffer_space))
        assert builder._packet is not None
        builder._packet.in_flight = False
        return self._flush_builder(builder, path, self._peer_cid.cid, now)

    def set_datagram_size(self, size: int) -> None:
        """Sets the maximum size of sent datagrams."""
        self._max_datagram_size = size
        congestion: Any = self._loss._cc
        congestion._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        if self.request_pending:
            self.write_request(builder)
        # aioquic doubles a limit when half of it is used. Here no limit appears to be used.
        limit = self._local_max_data
        streams = self._local_max_streams_bidi
        if limit.value == limit.sent and streams.value == streams.sent:
            return
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if stream.max_stream_data_local == stream.max_stream_data_local_sent:
            return
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _write_stream_frame(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,
        stream: QuicStream,
        max_offset: int,
    ) -> int:
        if self.whole and not self._fits(builder, stream):
            return 0
        return super()._write_stream_frame(builder, space, stream, max_offset)

    def _fits(self, builder: QuicPacketBuilder, stream: QuicStream) -> bool:
        """Whether all queued data fits this packet, or cannot fit any packet."""
        pending = stream.sender._pending
        if not len(pending):
            return True
        wanted = len(pending[0]) + 16
        return wanted <= builder.remaining_flight_space or wanted > self._max_datagram_size - 64


class _FixedLimit(Limit):
    """Maximum number of streams that a peer may open in a connection.

    aioquic allows another stream for each finished one, which is unlimited work. No known peer
    needs it.
    """

    def __init__(self, theirs: Limit, value: int) -> None:
        self._value = value
        super().__init__(theirs.frame_type, theirs.name, value)

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        pass


def _has_data(quic: QuicConnection) -> bool:
    """Whether a stream has data to send."""
    return any(not stream.sender.buffer_is_empty for stream in quic._streams_queue)


class _ShortQuic(ShortPaths, _Quic):
    """The same connection with fast paths for frequent packets."""

    def _only_streams_wait(self, path: QuicNetworkPath) -> bool:
        if self.whole or self.request_pending:
            return False
        return super()._only_streams_wait(path)

    def _is_urgent(self, space: QuicPacketSpace) -> bool:
        has_begun = self.marks_have_begun()
        return super()._is_urgent(space) or has_begun


class AioquicConnection:
    """One connection (see `engine.EngineConnection`)."""

    def __init__(self, quic: _Quic, settings: QuicSettings, reset_token_of: ResetTokenOf) -> None:
        self._quic = quic
        self.verify_peer: VerifyPeer = reject_all
        self.has_more = False
        quic.reset_token_of = reset_token_of
        if not quic._is_client:
            # The first connection ID of a dialer has no token (RFC 9000, 18.2).
            quic._host_cids[0].stateless_reset_token = reset_token_of(quic.host_cid)
        quic._local_max_streams_bidi = _FixedLimit(
            quic._local_max_streams_bidi, settings.max_streams
        )
        quic._local_max_streams_uni = _FixedLimit(quic._local_max_streams_uni, 0)
        self.connection_ids: Sequence[bytes] = [quic.host_cid]
        recovery = quic._loss = Recovery(
            algorithm(settings.congestion),
            initial_rtt=quic._configuration.initial_rtt,
            max_datagram_size=quic._max_datagram_size,
            peer_completed_address_validation=not quic._is_client,
            send_probe=quic._send_probe,
            logger=quic._logger,
            quic_logger=quic._quic_logger,
        )
        self._recovery = recovery
        self._congestion: Congestion = recovery._cc
        self._congestion.max_in_flight = settings.max_in_flight
        self._pacer = recovery._pacer
        self._largest = settings.max_datagram_size
        self._mtu: PathMtu | None = None
        self._mtu_path: Path | None = None
        self._is_idle = False
        """Whether the idle timeout has ended the connection. The text of a close event does not
        tell, since it may be the peer's."""
        self._is_blocked = False
        """Whether the last call of `transmit` has left data that waits for credit."""
        self._now = 0.0
        self._is_unfinished = False
        self._pings = 0
        self._refused: set[int] = set()
        self._received = 0
        self._acknowledged = 0
        trace = quic._quic_logger
        self._trace = trace if isinstance(trace, QlogTrace) else None

    def connect(self, path: Path, now: float) -> None:
        """Starts the TLS handshake."""
        self._quic.connect(path, now)

    def receive(self, data: bytes, size: int, path: Path, now: float, ecn: int = NOT_ECT) -> None:
        """Processes a batch of datagrams. An exception of the library ends the connection."""
        self._now = now
        try:
            if self._is_unfinished:
                self._finish()
            self._quic.receive_batch(data, size, path, now, ecn)
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
        if self._trace is not None:
            self._trace.flush()

    def drain(self, sink: EngineSink) -> bool:
        """Reports all events since the last call to `sink`."""
        queue = self._quic._events
        while queue:
            event = queue.popleft()
            if isinstance(event, events.StreamDataReceived):
                self._received += len(event.data)
                if event.stream_id in self._refused:
                    continue
                if event.data:
                    sink.stream_data(event.stream_id, event.data)
                if event.end_stream:
                    sink.stream_ended(event.stream_id, "finished")
            elif isinstance(event, events.StreamReset):
                sink.stream_ended(event.stream_id, f"reset ({event.error_code})")
            elif isinstance(event, events.StopSendingReceived):
                sink.stream_ended(event.stream_id, f"stopped ({event.error_code})")
            elif isinstance(event, events.HandshakeCompleted):
                if self._is_accepted():
                    sink.handshake_completed(event.alpn_protocol or "")
            elif isinstance(event, events.ConnectionIdIssued):
                sink.connection_id_issued(event.connection_id)
            elif isinstance(event, events.ConnectionIdRetired):
                sink.connection_id_retired(event.connection_id)
        return self._quic._close_event is not None

    def _is_accepted(self) -> bool:
        """Calls `verify_peer`.

        Nothing was sent since TLS is complete: the peer of a server does not know that yet.
        """
        alert = self.verify_peer(self.certificates)
        if alert is None:
            return True
        code = QuicErrorCode.CRYPTO_ERROR + alert
        self._quic.close(error_code=code, frame_type=QuicFrameType.CRYPTO)
        return False

    @property
    def is_started(self) -> bool:
        """Whether a first packet could be decrypted."""
        return self._quic._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def certificates(self) -> Certificates:
        """TLS has only verified that the key of the first one has signed this handshake."""
        tls = self._quic.tls
        own = tls._peer_certificate
        return () if own is None else (own, *tls._peer_certificate_chain)

    @property
    def is_confirmed(self) -> bool:
        """For a dialer: whether HANDSHAKE_DONE has arrived."""
        return self._quic._handshake_confirmed

    @property
    def closed(self) -> Closed | None:
        """Read from a private attribute, because the event follows the draining period."""
        event = self._quic._close_event
        if event is None:
            return None
        return Closed(
            by_peer=self._quic._state is QuicConnectionState.DRAINING,
            is_idle=self._is_idle,
            is_application=event.frame_type is None,
            error_code=event.error_code,
            text=describe(
                is_application=event.frame_type is None,
                code=event.error_code,
                reason=event.reason_phrase,
            ),
            exceeded=self._quic.exceeded,
        )

    @property
    def path(self) -> Path:
        """The current path."""
        path: Path = self._quic._network_paths[0].addr
        return path

    @property
    def allowance(self) -> float:
        """Computed here, because aioquic does not apply the limit to CONNECTION_CLOSE."""
        path = self._quic._network_paths[0]
        if path.is_validated or self._quic._is_client:
            return math.inf
        return 3 * path.bytes_received - path.bytes_sent

    @property
    def cipher(self) -> str:
        """The IANA name of the cipher suite."""
        schedule = self._quic.tls.key_schedule
        return "" if schedule is None else f"TLS_{schedule.cipher_suite.name}"

    def export(self, label: bytes, length: int) -> bytes:
        """Derived from the secret that `_Quic` stores, because aioquic has no exporter."""
        schedule = self._quic.tls.key_schedule
        if schedule is None or not self._quic.exporter_secret:
            return b""
        return export(self._quic.exporter_secret, schedule.algorithm, label, b"", length)

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues bytes. Lower stream IDs are opened first, because aioquic requires that order."""
        try:
            self._write(stream, parts)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"stream {stream}: {error}") from error

    def _write(self, stream: int, parts: Sequence[Buffer]) -> None:
        quic = self._quic
        if stream not in quic._streams and stream % 2 == (0 if quic._is_client else 1):
            for lower in range(quic.get_next_available_stream_id(), stream, 4):
                quic.send_stream_data(lower, b"")
        sender = quic._get_or_create_stream_for_send(stream).sender
        for part in joined(parts):
            sender.write(part)  # type: ignore[arg-type]  # accepts any buffer

    def refuse(self, stream: int, error_code: int) -> None:
        """Sends RESET_STREAM and STOP_SENDING once, and drops later data."""
        if stream not in self._refused and stream in self._quic._streams:
            self._refused.add(stream)
            self._quic.stop_stream(stream, error_code)
            self._quic.reset_stream(stream, error_code)

    def send_whole(self, whole: bool) -> None:
        """Applies during the distribution handshake."""
        self._quic.whole = whole

    def keep_frames(self) -> None:
        """Replaces the range sets of data that is to be sent."""
        self._quic.keep_frames()

    def peer_proved(self) -> None:
        """Lifts the limits of aioquic_bounds."""
        self._quic.prove()

    def transmit(self, now: float, socket: CompiledSocket | None = None) -> Sequence[Batch]:
        """Returns the datagrams to send. `progress` does what can wait until these have left."""
        self._now = now
        quic, space = self._quic, self._quic._loss.spaces[-1]
        try:
            if self._is_unfinished:
                self._finish()
            if space.ack_at is not None:
                quic.hasten_ack(space, now)
            if quic._handshake_confirmed and quic.are_keys_due():
                quic.keys.update()
            if now >= quic.ask_at and self._congestion.bytes_in_flight > quic.late_bytes:
                quic.take_late_ack()
                quic.consider(now)  # a message on an idle path does not wait for this
            self._pacer.left = most = self._pacer.burst
            batches = quic.batches_to_send(now)
            path = quic._network_paths[0].addr
            may_probe = self._mtu is None or path is not self._mtu_path or self._mtu.is_due(now)
            if may_probe and _CAN_PROBE and quic.carries_probes:
                quic.take_late_ack()
                quic.take_late_sent()
                batches += alone(self._probes(path, now))
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
        finally:
            if self._trace is not None:
                self._trace.flush()
        if space.ack_at is None:
            quic.acknowledged(space)
        if self._pacer.left <= 0:
            quic._pacing_at = None  # the end of a burst has stopped it, not the pacer
        self._is_unfinished = True
        self.has_more = sum([-(-len(data) // size) for data, size, _ in batches]) >= most
        return batches

    def _finish(self) -> None:
        """Does what does not concern the datagrams of the last `transmit`."""
        self._is_unfinished = False
        quic, pacer = self._quic, self._pacer
        quic.take_late_ack()
        quic.take_late_sent()
        self._is_blocked = self._waits_for_credit()
        is_held = pacer.left <= 0 or pacer.pacer.is_idle
        if not is_held and (not _has_data(quic) or self._is_blocked):
            self._congestion.controller.on_app_limited(self._congestion.bytes_in_flight)
            pacer.pacer.on_idle()

    def progress(self) -> Progress:
        """Returns the state after `transmit`."""
        quic, loss = self._quic, self._recovery
        quic.take_late_ack()
        if self._is_unfinished:
            self._finish()
        return Progress(
            self.acknowledged(),
            quic._remote_max_data_used,
            self._congestion.controller.pacing_rate,
            loss._rtt_smoothed if loss._rtt_initialized else None,
            loss._rtt_min,
            quic._max_datagram_size,
            quic.get_timer(),
            self.has_more or quic.late_loss,
            bool(quic._events),
            loss.ecn.marks,
            self._is_blocked,
        )

    def _waits_for_credit(self) -> bool:
        """Whether data waits for the peer's credit and for nothing else."""
        quic, loss = self._quic, self._recovery
        waits = False
        for stream in quic._streams_queue:
            sender = stream.sender
            if sender.buffer_is_empty or stream.is_blocked or not len(sender._pending):
                continue
            if sender._pending[0].start < end_of_credit(quic, stream):
                return False
            waits = True
        left = loss.congestion_window - loss.bytes_in_flight
        return waits and left >= quic._max_datagram_size

    # -- path MTU discovery --

    def _probes(self, path: Path, now: float) -> Sequence[_Datagram]:
        if path is not self._mtu_path:
            self._begin_search(path)
        assert self._mtu is not None
        size = self._mtu.probe(now)
        return () if size is None else self._quic.probe_size(size, now, self._probed)

    def _begin_search(self, path: Path) -> None:
        """Starts path MTU discovery on a new path."""
        self._mtu_path = path
        self._mtu = PathMtu(path[0][0], self._largest)
        # A strong reference would be a cycle that delays the release of memory.
        self._congestion.sizes = weakref.proxy(self)
        if self._quic._max_datagram_size != self._mtu.size:
            self._quic.set_datagram_size(self._mtu.size)

    def _probed(self, delivery: QuicDeliveryState, size: int) -> None:
        assert self._mtu is not None
        if delivery is not QuicDeliveryState.ACKED:
            self._mtu.probe_lost(size, self._now)
            return
        self._mtu.probe_acknowledged(size)
        self._quic.set_datagram_size(self._mtu.size)

    def arrived(self, size: int) -> None:
        """Reports an acknowledged datagram (see aioquic_recovery.Sizes)."""
        if size <= BASE:
            return
        assert self._mtu is not None
        self._mtu.arrived(size)

    def lost(self, size: int) -> None:
        """Reports lost datagrams, the largest of which had this size."""
        assert self._mtu is not None
        if self._mtu.lost(size, self._now):
            self._quic.set_datagram_size(self._mtu.size)

    def handle_timer(self, now: float) -> None:
        """Runs loss detection and the idle timeout."""
        if self._is_unfinished:
            self._finish()
        self._now = now
        was_open = self._quic._close_event is None
        self._quic.handle_timer(now)
        if was_open and self._quic._close_event is not None:
            self._is_idle = True
        if self._trace is not None:
            self._trace.flush()

    def acknowledged(self) -> int:
        """The sum of the start offsets of the send buffers."""
        recovery = self._recovery
        if recovery.has_acked:
            recovery.has_acked = False
            streams = self._quic._streams.values()
            self._acknowledged = sum([stream.sender._buffer_start for stream in streams])
        else:
            self._acknowledged += recovery.acked
        recovery.acked = 0
        return self._acknowledged

    def measured(self) -> Capacity | None:
        """The model of the congestion controller."""
        in_flight = self._congestion.controller.capacity
        return Capacity(in_flight, self.least_round_trip()) if in_flight else None

    def resume(self, capacity: Capacity) -> None:
        """Wraps the congestion controller."""
        self._congestion.resume(capacity)

    def received(self) -> int:
        """Includes rejected streams, which use credit although their bytes are dropped."""
        return self._quic._local_max_data.used if self._refused else self._received

    def behind_gaps(self) -> int:
        """Computed from the use of MAX_DATA."""
        return self._quic._local_max_data.used - self.received()

    def grant(self, credit: int) -> None:
        """Extends MAX_DATA, and MAX_STREAM_DATA of every stream with less credit."""
        quic = self._quic
        for stream in quic._streams.values():
            # An idle stream keeps its limit, which costs no frame.
            limit = stream.receiver.starting_offset() + credit
            if limit - stream.max_stream_data_local >= credit // 64:
                stream.max_stream_data_local = limit
                quic.wake_streams()
        whole = quic._local_max_data
        whole.value = max(whole.value, self.received() + credit)

    def ping(self) -> None:
        """Sends a PING frame, which the peer must acknowledge."""
        self._pings += 1
        self._quic.send_ping(self._pings)

    @property
    def reset_token(self) -> bytes:
        """The token of the peer's current connection ID; empty if it is unknown."""
        return self._quic._peer_cid.stateless_reset_token or b""

    def is_reset(self, data: bytes, now: float) -> bool:
        """Returns False: this engine provides the reset tokens."""
        return False

    def renew_id(self) -> None:
        """Switches to an ID from a NEW_CONNECTION_ID frame, which has a reset token."""
        self._quic.change_connection_id()

    def move(self, now: float) -> None:
        """Migrates the connection. Packets in flight count as lost, and the PTO count is reset."""
        quic = self._quic
        quic.take_late_ack()
        if self._is_unfinished:
            self._finish()
        quic.change_connection_id()
        if self._mtu is not None:
            self._begin_search(self.path)
        self.ping()
        if quic._handshake_confirmed:
            quic._loss._pto_count = 0
            quic._loss.reschedule_data(now=now)

    def path_changed(self, now: float) -> None:
        """What is in flight may be lost: its probes leave at once."""
        quic = self._quic
        quic.take_late_ack()
        if self._is_unfinished:
            self._finish()
        self._recovery.restart(quic._max_datagram_size)
        self._begin_search(self.path)
        self.ping()
        if quic._handshake_confirmed:
            quic._loss.reschedule_data(now=now)

    def close(self, error_code: int, reason: str) -> None:
        """Sends CONNECTION_CLOSE of the application."""
        self._quic.close(error_code=error_code, reason_phrase=reason)

    def idle_timeout(self) -> float:
        """The minimum of the values of both peers."""
        return self._quic._idle_timeout()

    def probe_timeout(self) -> float:
        """The PTO (RFC 9002, 6.2)."""
        return self._quic._loss.get_probe_timeout()

    def round_trip(self) -> float | None:
        """The smoothed round trip; None before the first sample."""
        loss = self._quic._loss
        return loss._rtt_smoothed if loss._rtt_initialized else None

    def least_round_trip(self) -> float:
        """The minimum over the whole connection."""
        return self._quic._loss._rtt_min

    def datagrams_sent(self) -> int:
        """The next packet number, which aioquic counts over all packet number spaces."""
        return self._quic._packet_number

    def datagrams_lost(self) -> int:
        """The number of packets declared lost, without path MTU probes."""
        return self._congestion.lost

    def release(self) -> None:
        """Breaks the reference cycles of aioquic's callbacks."""
        for space in self._quic._loss.spaces:
            space.sent_packets.clear()
        self._quic.__dict__.clear()
        self.verify_peer = reject_all


class AioquicEngine:
    """aioquic with the settings of one endpoint."""

    versions: Sequence[int] = _VERSIONS
    socket_of = None
    hides_tokens = False
    batch = 48  # half a millisecond; an event loop iteration takes as long as five datagrams

    def __init__(
        self, settings: QuicSettings, reset_token_of: ResetTokenOf, kind: type[_Quic]
    ) -> None:
        self._settings = settings
        self._reset_token_of = reset_token_of
        self._kind = kind
        self.uses_ecn = issubclass(kind, MarkedQuic)
        tracing = settings.tracing
        self._key_log = KeyLog(tracing.key_log) if tracing.key_log else None
        self._qlog = Qlog(QlogDirectory(tracing.qlog)) if tracing.qlog else None

    def dialer(self, host: str, alpns: Sequence[str]) -> AioquicConnection:
        """Returns a client connection."""
        configuration = self._configuration(alpns, is_client=True)
        configuration.server_name = host
        configuration.verify_mode = (
            ssl.CERT_NONE
        )  # the connection verifies certificates for all engines
        return self._connection(self._kind(self._settings.bounds, configuration=configuration))

    def listener(self, opening: Opening) -> AioquicConnection:
        """Returns a server connection."""
        quic = self._kind(
            self._settings.bounds,
            configuration=self._configuration(self._settings.alpns, is_client=False),
            original_destination_connection_id=opening.destination_id,
            retry_source_connection_id=opening.retry_id,
        )
        quic.asks_certificate = self._settings.credentials.verifier.asks_dialers
        return self._connection(quic)

    def _connection(self, quic: _Quic) -> AioquicConnection:
        known = KEY_EXCHANGES["aioquic"]
        quic.groups = [Group(known[name]) for name in self._settings.key_exchanges]
        return AioquicConnection(quic, self._settings, self._reset_token_of)

    def _configuration(self, alpns: Sequence[str], *, is_client: bool) -> QuicConfiguration:
        limits = self._settings.limits
        identity = self._settings.credentials.identity
        return QuicConfiguration(
            is_client=is_client,
            certificate=identity.certificate,
            certificate_chain=list(identity.chain),
            private_key=identity.key,
            alpn_protocols=list(alpns),
            supported_versions=_VERSIONS,
            cipher_suites=[
                CipherSuite(CIPHER_SUITES[name]) for name in self._settings.cipher_suites
            ],
            congestion_control_algorithm=name_of(algorithm(self._settings.congestion)),
            connection_id_length=CONNECTION_ID_LENGTH,
            idle_timeout=limits.idle_timeout,
            max_data=self._settings.first_window(is_listener=not is_client),
            # The window of the connection limits the memory. The stream window depends on the
            # dialect, which is not known yet.
            max_stream_data=max(limits.receive_window, LARGEST_WINDOW),
            max_datagram_size=min(BASE, self._settings.max_datagram_size),
            quic_logger=self._qlog,
            secrets_log_file=cast("TextIO | None", self._key_log),
        )


def engine(settings: QuicSettings, reset_token_of: ResetTokenOf) -> AioquicEngine:
    """Creates the engine of one endpoint."""
    has_fast_paths = are_on(settings.engine)
    return AioquicEngine(settings, reset_token_of, _ShortQuic if has_fast_paths else _Quic)
