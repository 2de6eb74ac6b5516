"""QUIC carrier: a connection that combines an engine connection with a dialect.

The dialect converts packets to stream data and back. The flow control credit of the peer grows with
the data that the owner consumes. Watermarks on the unacknowledged data limit what the owner can
queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from quicdist.carriers import causes
from quicdist.carriers.alarm import Alarm
from quicdist.carriers.base import (
    CloseKind,
    CloseReason,
    ConnectionHandler,
    ConnectionStatistics,
    DialError,
    FirstMessage,
    PathKind,
)
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic import closed_port, closing, tls_exporter
from quicdist.carriers.quic.closed_port import ClosedPort
from quicdist.carriers.quic.closing import Closing
from quicdist.carriers.quic.congestion.resume import LEAST_DELIVERED, Capacity
from quicdist.carriers.quic.engine import (
    Batch,
    Closed,
    CompiledSocket,
    EngineConnection,
    EngineError,
    Path,
    Progress,
    SocketAddress,
    is_relayed,
)
from quicdist.carriers.quic.gaps import Gaps
from quicdist.carriers.quic.keep_alive import PROBE_PAUSE, KeepAlive, longest_silence
from quicdist.carriers.quic.receive_window import MemoryBudget, ReceiveWindow
from quicdist.carriers.quic.send_window import SendWindow
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Alert, CertificateError, Certificates, PeerRefused
from quicdist.carriers.trust.names import fingerprint
from quicdist.carriers.trust.verifiers import vouched_keys
from quicdist.errors import Cause
from quicdist.protocol.dialects import QuicDialect, dialect_for, native
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectError,
    DialectTraits,
    Gap,
    Received,
    Step,
    Write,
)
from quicdist.protocol.dialects.native import NativeDialect
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role

_log = logging.getLogger("quicdist.quic")
_log.addFilter(LogRateLimit("not_believed", "distrusted"))

_UNANSWERED = 2
"""Number of expired timers before the first acknowledgement after which datagrams are sent without
ECT(0), in case the path drops such datagrams."""
_QUIET = 0.001
"""Seconds after a transmission from which a frame leaves at once. Until then, those of one event
loop iteration leave together: a datagram for each would cost more than a turn of the loop."""
_SMALL = 2048
"""Number of received bytes that are not worth a measurement of the receive window."""
_RESTARTED = "the peer has restarted and no longer knows this connection"
_PORT_CLOSED = "the peer's port is closed: its process has ended"
_RESET = Closed(
    by_peer=True, is_idle=False, is_application=False, error_code=0, text="stateless reset"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a dialed connection ended before it was established.

    `up` holds it as a value: an exception would keep the connection alive by its traceback.
    """

    text: str
    cause: Cause
    may_retry: bool


class AttemptFailed(DialError):
    """A dialed connection ended before it was established; `why` states whether to retry."""

    def __init__(self, why: Failure) -> None:
        super().__init__(why.text, why.cause)
        self.why = why


class Host(Protocol):
    """The interface of the endpoint that a connection uses."""

    budget: MemoryBudget
    """The memory for the receive windows of all connections."""

    def touch(self, connection: QuicConnection) -> None:
        """Schedules a transmission for a connection that has data to send."""

    def sender_to(self, address: SocketAddress) -> CompiledSocket | None:
        """Returns what an engine may send through to this address, if it does."""

    def failed(self, connection: QuicConnection) -> None:
        """Closes a connection after an internal error, which is being handled."""

    def send(self, batches: Sequence[Batch]) -> None:
        """Sends datagrams in order. Raises OSError if one of them cannot be sent."""

    def leave_unmarked(self, address: SocketAddress) -> None:
        """Sends without ECT(0) to this address from now on (RFC 9000, 13.4.2)."""

    def add_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Routes datagrams with this connection ID to the connection."""

    def remove_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Ends the routing of this connection ID."""

    def expect_reset(self, connection: QuicConnection, old: bytes, new: bytes) -> None:
        """Replaces the stateless reset token `old` of the peer by `new`."""

    def accept(self, connection: QuicConnection) -> ConnectionHandler:
        """Accepts an incoming connection after its first packet. Raises to reject it."""

    def take_capacity(self, connection: QuicConnection) -> Capacity | None:
        """Returns what an earlier connection has measured on the path, once."""

    def store_capacity(self, connection: QuicConnection, capacity: Capacity) -> None:
        """Stores what the connection has measured on its path."""

    def proved(self, connection: QuicConnection) -> None:
        """Reports that the dialer has proved the cookie."""

    def connected(self, connection: QuicConnection) -> None:
        """Both nodes have proved the cookie."""

    def offered(self, connection: QuicConnection, offer: bytes) -> None:
        """The connected peer has sent a message about direct paths."""

    def offers_refused(self, connection: QuicConnection) -> None:
        """The peer wants no messages about direct paths."""

    def moved(self, connection: QuicConnection) -> None:
        """The address of the peer is validated; it may be another one."""

    def ended(self, connection: QuicConnection) -> None:
        """Reports the end. Late datagrams may arrive until `forget`."""

    def forget(self, connection: QuicConnection) -> None:
        """Reports the end of the closing state: no more datagrams are expected."""

    def local_address_of(self, local: bytes | None) -> tuple[str, int]:
        """Returns (host, port) for a packed local address, or of the socket for None."""

    def probe_silence(self) -> float:
        """Returns the seconds of silence after which a peer is probed; 0 for never."""

    def may_probe(self, now: float) -> bool:
        """Returns whether the rate of PINGs of all connections allows one more."""

    def unread(self) -> int:
        """Returns about how many received bytes wait in the socket; 0 if it is unknown."""


class QuicConnection:
    """A QUIC connection; implements `carriers.base.Connection`."""

    traits: DialectTraits

    def __init__(
        self,
        host: Host,
        engine: EngineConnection,
        role: Role,
        path: Path,
        settings: QuicSettings,
        *,
        node: str | None = None,
        first: FirstMessage | None = None,
    ) -> None:
        """`node` is the name of the dialed node; None for a listener. `first` is that of `dial`."""
        self.role = role
        self.traits = DialectTraits(name="quic", alpn="")
        self.is_unused = role is Role.LISTENER
        self.up: asyncio.Future[Failure | None] | None = None
        """Set by the dialer. Its result is None once the distribution handshake can start, or the
        failure."""
        self.exceeded: RejectReason | None = None
        """The limit that the peer exceeded, if that ended the connection."""

        self._host = host
        self._engine = engine
        engine.verify_peer = self.verify_peer
        self._limits = settings.limits
        self._verifier = settings.credentials.verifier
        self._node = node
        self._first = first
        self._sent_first: bytes | None = None
        """The first message, sent before its owner asks for that."""
        self._distrust: CloseReason | None = None
        self._path = path
        self._local = path[1]
        self._migrations = 0
        self.path_kind: PathKind = PathKind.PLAIN
        self.path_switches = 0
        self.has_direct_paths = False
        """Whether datagrams of the peer may come from addresses that QUIC does not know."""
        self._early_offer: bytes | None = None
        self._validated: Path | None = None
        self._loop = asyncio.get_running_loop()
        # A dialer keeps sending to the address that it dialed, even if the listener moves.
        self._met_at = host.local_address_of(path[1]) if role is Role.LISTENER else None
        self.last_received = self._loop.time()
        self._has_heard = False
        self._unmarked: SocketAddress | None = None
        """Where datagrams are sent without ECT(0)."""
        self._unanswered = 0
        """Number of expired timers before the first acknowledgement."""
        self._dialect: QuicDialect | None = None
        self._handler: ConnectionHandler | None = None

        self._incoming: list[Packet] = []
        self._outstanding = 0  # bytes of packets that the owner has not consumed
        self._first_window = settings.first_window(is_listener=False)
        """The first window after the handshake."""
        self._window = ReceiveWindow(
            settings.first_window(is_listener=role is Role.LISTENER),
            settings.limits.max_receive_window,
            host.budget,
        )
        self._limit = self._window.size  # number of stream bytes that the peer may send
        self._grant_from = 0
        """The count of received bytes, also behind gaps, from which credit or a measurement of the
        window may be due."""

        self._in_handshake = True
        self._pending: dict[int, list[Buffer]] = {}  # passed to the engine in `_depart`
        self._quiet_from = 0.0
        """Event loop time from which a frame leaves at once."""
        self._gaps = Gaps()
        self._bytes_queued = 0
        self._bytes_acknowledged = 0
        self._send_window = SendWindow(
            settings.limits.high_water, settings.limits.max_unacknowledged
        )
        self._full_at = self._send_window.least
        """The count of queued bytes from which the send window may be full."""
        self._writable = True
        self._flushers: list[asyncio.Future[bool]] = []
        self._blocked_since: float | None = None
        """Since when data waits for the peer's credit."""
        self._blocked_before = 0.0
        """Seconds for which it waited before."""

        self._ending: CloseReason | None = None
        self._closed: CloseReason | None = None
        self._told_lost = False
        self._closing: Closing | None = None
        self._close_datagrams: Sequence[Batch] = ()

        self.binding = b""
        self._reset_token = b""
        self._last_statistics: ConnectionStatistics | None = None

        self._pings: KeepAlive | None = None
        self._closed_port = ClosedPort()
        is_listener = role is Role.LISTENER
        expires = self.last_received + self._limits.handshake_timeout if is_listener else None
        self._expires = expires
        """When a listener closes the connection if the dialer has not used it. A dialer has its own
        time limit."""
        self._alarm = Alarm(self._loop, self._on_alarm)
        self._alarm.set(expires)

    # -- the interface for the owner ------------------------------------------------------------

    @property
    def handler(self) -> ConnectionHandler | None:
        """The receiver of packets and of the end. It also receives earlier packets, once set."""
        return self._handler

    @handler.setter
    def handler(self, handler: ConnectionHandler | None) -> None:
        self._handler = handler
        if handler is not None and (self._incoming or self._closed):
            self._loop.call_soon(self._deliver)

    @property
    def peer_address(self) -> tuple[str, int]:
        """(host, port) of the peer; changes when the peer migrates."""
        path = self._path if self._closed else self._engine.path
        host, port = path[0][:2]
        return host.removeprefix("::ffff:"), port

    @property
    def peer_socket_address(self) -> SocketAddress:
        """The address of the peer in the format of the socket."""
        return (self._path if self._closed else self._engine.path)[0]

    @property
    def validated_address(self) -> SocketAddress | None:
        """The last validated address of the peer, as the socket has it (RFC 9000, 8)."""
        return None if self._validated is None else self._validated[0]

    @property
    def path(self) -> Path:
        """The path that QUIC knows. It is constant, whatever way the datagrams take."""
        return self._path if self._closed else self._engine.path

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds; None before the first measurement."""
        return self._engine.round_trip()

    @property
    def is_relayed(self) -> bool:
        """Whether the peer dialed our port at a relay."""
        return self._path[1] is not None and is_relayed(self._path[1])

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) of this node as the peer sees it, unless there is a NAT."""
        return self._met_at or self._host.local_address_of(self._local)

    @property
    def cipher(self) -> str:
        """The TLS cipher suite of the connection."""
        return self._engine.cipher

    @property
    def is_writable(self) -> bool:
        """Whether the owner should send more.

        False after the send window is full, until part of it has been sent, and while too many
        bytes are unacknowledged.
        """
        return self._writable

    def send_handshake(self, message: bytes) -> None:
        """Queues a handshake message."""
        sent, self._sent_first = self._sent_first, None
        if message != sent and self._dialect is not None:
            self._perform(self._dialect.handshake_bytes(message))

    def handshake_done(self) -> None:
        """Switches to frames in both directions, after the distribution handshake."""
        if self._dialect is None or self._closed:
            return
        self._perform(self._dialect.connected())
        self._in_handshake = False
        self._engine.peer_proved()
        self._resume()
        self._window.raise_first(max(self._first_window, self._dialect.receive_window))
        self._grant_from = 0
        self._grant()
        if not self._gaps.is_waiting:
            self._engine.send_whole(False)
        if self.role is Role.LISTENER:
            self._host.proved(self)
            if self.traits.renews_ids:
                self._engine.renew_id()
        self.stream_data(0, b"")
        if self._incoming:
            self._loop.call_soon(self._deliver)
        if self.traits.has_offers:
            self._host.connected(self)
            if self._early_offer is not None:
                self._host.offered(self, self._early_offer)
                self._early_offer = None

    def _resume(self) -> None:
        """Starts congestion control with an earlier measurement of the path."""
        if self._is_plain_path:
            capacity = self._host.take_capacity(self)
            if capacity is not None:
                self._engine.resume(capacity)

    def _keep_capacity(self) -> None:
        """Stores the measurement of the path for the next connection."""
        is_enough = self._bytes_acknowledged >= LEAST_DELIVERED
        if is_enough and not self._in_handshake and self._is_plain_path:
            capacity = self._engine.measured()
            if capacity is not None:
                self._host.store_capacity(self, capacity)

    @property
    def _is_plain_path(self) -> bool:
        """Whether the peer's address stands for its path: no relay is involved."""
        is_plain = self.path_kind is PathKind.PLAIN and not self.path_switches
        return is_plain and not self.is_relayed

    def send_offer(self, offer: bytes) -> None:
        """Queues a message about direct paths. The dialect must have them."""
        assert isinstance(self._dialect, NativeDialect), "a dialect without offers"
        self._perform((self._dialect.offer_bytes(offer),))

    def path_changed(self, kind: PathKind) -> None:
        """Reports that the datagrams take another path than before."""
        self.path_kind = kind
        self.path_switches += 1
        if not self._closed:
            self._unmarked = None
            self._engine.path_changed(self._loop.time())
            self._host.touch(self)

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        """Queues a frame on a stream of quicdist.protocol.streams. An empty frame is a tick.

        The frames of one event loop iteration are sent together, except one after a pause.
        """
        if self._dialect is None or self._closed:
            return
        self._queue(self._dialect.frame_bytes(parts, stream))

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        """Sends a frame that begins with its length, if nothing was sent shortly before."""
        if self._pending or not self._writable or self._loop.time() < self._quiet_from:
            return False
        if self._dialect is not None and not self._closed:
            self._queue(self._dialect.framed_bytes((frame,), stream))
        return True

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        """Queues frames that begin with their length."""
        if self._dialect is not None and not self._closed:
            self._queue(self._dialect.framed_bytes(frames, stream))

    def _queue(self, write: Write) -> None:
        parts = write.parts
        self._bytes_queued += len(parts[0]) if len(parts) == 1 else write.size
        if self._gaps.is_waiting:
            self._gaps.hold(write)
        elif not self._pending and (now := self._loop.time()) >= self._quiet_from:
            self._pending[write.stream] = list(parts)
            try:
                self._depart(now)
            except Exception:
                self._host.failed(self)
            if self._closed:
                return
            self._host.touch(self)  # for the rest of the work
        else:
            self._write(write)
        if self._bytes_queued >= self._full_at:
            self._look_if_full()

    def consumed(self, count: int) -> None:
        """Reports that `count` bytes of packet data were consumed, which extends the credit."""
        self._outstanding -= min(count, self._outstanding)
        self._grant()

    def ping(self) -> None:
        """Sends a PING frame. Its acknowledgement updates `last_received`."""
        if not self._closed:
            self._engine.ping()
            self._host.touch(self)

    def statistics(self) -> ConnectionStatistics:
        """Returns the statistics. `bytes_sent` includes queued bytes."""
        if self._last_statistics is not None:
            return self._last_statistics
        progress = self._engine.progress()
        return ConnectionStatistics(
            bytes_sent=self._bytes_queued,
            bytes_received=self._engine.received(),
            bytes_unacknowledged=self._unacknowledged,
            round_trip=self._engine.round_trip(),
            datagrams_sent=self._engine.datagrams_sent(),
            datagrams_lost=self._engine.datagrams_lost(),
            datagram_size=progress.datagram_size,
            pacing_rate=progress.pacing_rate,
            flow_blocked=self._blocked_until(self._loop.time()),
            migrations=self._migrations,
            path=self.path_kind,
            path_switches=self.path_switches,
        )

    async def flush(self, timeout: float) -> bool:
        """Waits until the peer has acknowledged all bytes. Returns False on timeout or closure."""
        if self._closed:
            return False
        if not self._unacknowledged:
            return True
        done: asyncio.Future[bool] = self._loop.create_future()
        self._flushers.append(done)
        try:
            return await asyncio.wait_for(done, timeout)
        except TimeoutError:
            return False
        finally:
            if done in self._flushers:
                self._flushers.remove(done)

    def check_name(self, node: str) -> None:
        """Checks the node name that a peer claims.

        Raises PeerRefused if the certificate does not match.
        """
        if self.role is Role.LISTENER:
            self._verifier.verify_name(node, self._engine.certificates, self.peer_address[0])

    @property
    def peer_fingerprint(self) -> str:
        """Fingerprint of the key that the peer presented; empty if it presented none."""
        certificates = self._engine.certificates
        return fingerprint(certificates[0]) if certificates else ""

    @property
    def peer_keys(self) -> Sequence[str]:
        """Fingerprints of the peer's key and, after a rotation, of its former key."""
        return vouched_keys(self._engine.certificates)

    def check_again(self, node: str) -> None:
        """Verifies the peer again. Raises PeerRefused if it would be rejected now."""
        is_dialed, seen = self.role is Role.DIALER, self.peer_address[0]
        self._verifier.verify_again(
            node, self._engine.certificates, dialed=is_dialed, observed=seen
        )

    def must_bind(self, node: str) -> bool:
        """Returns whether that node's cookie proof must be bound to the TLS session."""
        return self._verifier.must_bind(node)

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Stores the peer's key if the trust setting requires it.

        Raises PeerRefused if another key is stored for the node.
        """
        certificates = self._engine.certificates
        if self.role is Role.LISTENER:
            seen = self.peer_address[0]
            self._verifier.learn_dialer(node, certificates, bound=bound, observed=seen)
        else:
            self._verifier.learn_dialed(node, certificates, bound=bound)

    def close(self, reason: str) -> None:
        """Closes the connection immediately with CONNECTION_CLOSE (RFC 9000, 19.19)."""
        self._end(CloseReason(CloseKind.LOCAL, reason, Cause.DISCONNECTED), say=reason)

    @property
    def dialed(self) -> SocketAddress | None:
        """The dialed address until the first answer from it, then None."""
        is_waiting = self.up is not None and not self.up.done() and not self._has_heard
        return self._path[0] if is_waiting else None

    # -- the interface for the endpoint ---------------------------------------------------------

    def receive(self, data: bytes, size: int, path: Path, now: float, ecn: int) -> None:
        """Processes a batch of datagrams (see `engine.Received`)."""
        if self._closing is not None:
            if self._closing.received(len(data) if path[0] == self._path[0] else 0):
                self._send_close()
            return
        self.last_received = now
        self._has_heard = True
        if self._closed_port.due is not None:
            self._closed_port.heard(now)
        if self.role is Role.DIALER:
            # The kernel selects the local address of a dialer, so the engine gets none.
            self._local = path[1]
            if self.has_direct_paths:
                path = self._path
            elif path[1] is not None:
                path = (path[0], None)
        elif self.has_direct_paths and not (path[1] and is_relayed(path[1])):
            path = self._engine.path
        try:
            self._engine.receive(data, size, path, now, ecn)
        except EngineError as error:
            self._ending = CloseReason(CloseKind.BROKEN, str(error), Cause.CARRIER)

    def after_batch(self) -> None:
        """Delivers the results of the datagrams of one event loop iteration.

        Work that can wait until the answer is sent is done in `transmit`, which is called next.
        """
        if self._closed:
            return
        has_ended = self._engine.drain(self)
        if self.up is not None:
            self._look_open()
        if has_ended or self._ending is not None:
            self._quiet_from = math.inf  # the engine may refuse an answer, and give a wrong reason
        self._hand_over()
        if self._closed:
            return
        over = self._engine.closed if has_ended else None
        if over is not None:
            self.exceeded = over.exceeded
            self._end(self._distrust or _reason_of(over), over=over)
        elif self._ending is not None:
            self._end(self._ending, say=self._ending.text)

    def transmit(self, now: float) -> None:
        """Sends what there is to send, and does what could wait for that."""
        if self._closed:
            return
        has_data = bool(self._pending)
        if not has_data:
            self._grant()
        self._depart(now)
        if self._closed:
            return
        if has_data:
            self._grant()
        self._look_at_progress(self._engine.progress(), now)

    def _depart(self, now: float) -> None:
        """Passes queued bytes to the engine and the resulting datagrams to the socket."""
        self._quiet_from = now + _QUIET
        try:
            if self._pending:
                pending, self._pending = self._pending, {}
                for stream, parts in pending.items():
                    self._engine.write(stream, parts)
            # The address may be that before the last migration, which changes only marks.
            batches = self._engine.transmit(now, self._host.sender_to(self._path[0]))
        except EngineError as error:
            self._end(CloseReason(CloseKind.ERROR, str(error), Cause.CARRIER))
            return
        try:
            if batches:
                self._host.send(batches)
        except OSError as error:
            if self.up is not None and not self.up.done():
                text = error.strerror or str(error)
                self._end(CloseReason(CloseKind.ERROR, text, causes.of_error(error)))
                return
            # On an established connection, this is the same as a lost datagram.

    def _look_at_progress(self, progress: Progress, now: float) -> None:
        if progress.has_events:
            self._engine.drain(self)
            if self._incoming:  # an engine may keep data until it is granted
                self._loop.call_soon(self._deliver)
        if progress.acknowledged != self._bytes_acknowledged:
            self._bytes_acknowledged = progress.acknowledged
            self._full_at = progress.acknowledged + self._send_window.least
            if self._gaps.is_waiting:
                self._start_gap()
            if self._flushers:
                self._look_at_flushers()
        if not self._writable:
            self._look_at_watermarks(progress)
            if self._closed:
                return
        if self._engine.reset_token != self._reset_token:
            self._look_at_reset_token()
        if self._bytes_acknowledged != self._bytes_queued:
            self._expect_acknowledgement(now)
        path = self._engine.path
        if path is not self._path and path[0] != self._path[0]:
            self._path = path
            self._migrations += 1
        if not progress.marks:
            self._leave_unmarked(path[0])
        if progress.is_blocked or self._blocked_since is not None:
            self._blocked_before = self._blocked_until(now)
            self._blocked_since = now if progress.is_blocked else None
        if path != self._validated and math.isinf(self._engine.allowance):
            self._validated = path
            self._host.moved(self)
        if progress.has_more:
            self._host.touch(self)
        self._alarm.set(progress.timer)

    def _blocked_until(self, now: float) -> float:
        """Returns the seconds up to `now` in which data waited for the peer's credit."""
        since = self._blocked_since
        return self._blocked_before + (0.0 if since is None else max(now - since, 0.0))

    def _leave_unmarked(self, address: SocketAddress) -> None:
        if address != self._unmarked:
            self._unmarked = address
            self._host.leave_unmarked(address)

    def refused(self, now: float) -> None:
        """Handles ICMP Port Unreachable from the peer's host, which may be forged."""
        self._closed_port.refused(now)
        if not self._closed:
            self._alarm.set(self._closed_port.due)

    def fail(self, text: str, cause: Cause) -> None:
        """Closes the connection because of an error at this node, and notifies the peer."""
        self._end(CloseReason(CloseKind.ERROR, text, cause), say=text)

    def move(self) -> None:
        """Migrates a dialed connection to the new socket of the endpoint."""
        if self._closed:
            return
        self._local = self._unmarked = None
        self._engine.move(self._loop.time())
        self._host.touch(self)

    def rebound(self) -> None:
        """Keeps an accepted connection on the new socket of the endpoint, which knows no paths."""
        if self._unmarked is not None:
            self._host.leave_unmarked(self._unmarked)

    def is_reset(self, data: bytes, now: float) -> bool:
        """Whether the engine recognizes a datagram from the peer's address as a stateless reset."""
        return self._engine.is_reset(data, now)

    def was_reset(self) -> None:
        """Ends the connection after a stateless reset, without an answer (RFC 9000, 10.3.1)."""
        self._end(CloseReason(CloseKind.PEER, _RESTARTED, Cause.PEER_RESTARTED), over=_RESET)

    def forgotten(self) -> None:
        """Releases the engine after the end, when no datagram is routed to this connection.

        The parts of the engine form reference cycles, which the garbage collector would find much
        later.
        """
        self._last_statistics = self.statistics()
        self._alarm.stop()
        self._engine.release()

    # -- the events of the engine ---------------------------------------------------------------

    def handshake_completed(self, alpn: str) -> None:
        """Selects the dialect by the ALPN."""
        make = dialect_for(alpn)
        if make is None:
            text = f"no dialect for the ALPN {alpn!r}"
            self._ending = CloseReason(CloseKind.ERROR, text, Cause.ALPN)
            return
        self._dialect = make(self.role, self._limits)
        self.traits = self._dialect.traits
        if self.traits.keeps_frames:
            self._engine.keep_frames()
        if self.traits.binds:
            self.binding = self._engine.export(tls_exporter.LABEL, tls_exporter.LENGTH)
        self._perform(self._dialect.opened())
        if self._first is not None and self.traits.binds:
            # This node trusts the peer. The peer reads this only after it has accepted the
            # certificate of this node, since it follows the Finished message.
            message = self._first(self.binding, self.traits)
            if message is not None:
                self.send_handshake(message)
                self._sent_first = message
        self._look_open()

    def verify_peer(self, certificates: Certificates) -> Alert | None:
        """Decides on the peer's certificates (see `engine.VerifyPeer`)."""
        try:
            if self._node is not None:
                self._verifier.verify_dialed(self._node, certificates)
            else:
                self._verifier.verify_dialer(certificates)
        except CertificateError as error:
            self._refuse(error)
            return error.alert if isinstance(error, PeerRefused) else Alert.CERTIFICATE_UNKNOWN
        return None

    def _refuse(self, error: CertificateError) -> None:
        self._distrust = CloseReason(CloseKind.ERROR, str(error), error.cause)
        if self.role is Role.LISTENER:
            host, port = self.peer_address
            extra = {
                "event": "not_believed",
                "address": f"{host}:{port}",
                "cause": error.cause.value,
                "reason": str(error),
            }
            _log.warning("%s:%s: certificate rejected: %s", host, port, error, extra=extra)

    def stream_ended(self, stream: int, how: str) -> None:
        """Closes the connection; some peers only end the stream to close it."""
        if self.traits.has_offers and stream == native.OFFERS:
            self._host.offers_refused(self)
        if self._dialect is None or self._dialect.carries(stream):
            text = f"the peer {how} stream {stream}"
            self._ending = CloseReason(CloseKind.PEER, text, Cause.PEER_CLOSED)

    def connection_id_issued(self, connection_id: bytes) -> None:
        """Routes a new local connection ID to this connection."""
        self._host.add_id(self, connection_id)

    def connection_id_retired(self, connection_id: bytes) -> None:
        """Removes the route of a local connection ID."""
        self._host.remove_id(self, connection_id)

    # -- receiving ------------------------------------------------------------------------------

    def _look_at_reset_token(self) -> None:
        old, self._reset_token = self._reset_token, self._engine.reset_token
        self._host.expect_reset(self, old, self._reset_token)

    def stream_data(self, stream: int, data: bytes) -> None:
        """Processes stream data, which arrives in order."""
        if self._dialect is None or self._ending:
            return
        try:
            received: Received = self._dialect.receive(stream, data)
        except DialectError as error:
            text = f"{self.traits.name}: {error}"
            self._ending = CloseReason(CloseKind.BROKEN, text, Cause.PROTOCOL)
            return
        if received.packets:
            for packet in received.packets:
                self._outstanding += len(packet.data)
            self._incoming += received.packets
            if self._gaps.is_waiting and self._gaps.packet_received():
                self._release()
        if received.steps:
            self._perform(received.steps)
        for offer in received.offers:
            self._take_offer(offer)
        if self.up is not None:
            self._look_open()

    def _take_offer(self, offer: bytes) -> None:
        """The listener may send one as soon as the handshake is complete for it."""
        if not self._in_handshake:
            self._host.offered(self, offer)
        elif self.role is Role.DIALER:
            self._early_offer = offer

    def _look_open(self) -> None:
        if self._dialect is None or not self._dialect.is_open:
            return
        if self.role is Role.DIALER and not self._engine.is_confirmed:
            return  # the peer has not verified this node yet
        if self.up is not None and not self.up.done():
            self.up.set_result(None)
            self._begin_keep_alive()
        self.up = None

    def _deliver(self) -> None:
        """Passes packets and then the end to the owner, if there is one, and grants credit."""
        self._hand_over()
        self._grant()

    def _hand_over(self) -> None:
        packets = self._incoming
        if packets and (self._handler is not None or self._accepted()):
            self._incoming = []
            assert self._handler is not None
            try:
                consumed = self._handler.packets_received(packets)
            except Exception as error:
                host, port = self.peer_address
                extra = {"event": "internal_error", "address": f"{host}:{port}"}
                _log.exception(
                    "%s:%d: the owner of a connection raised an exception", host, port, extra=extra
                )
                text = f"{type(error).__name__}: {error}"
                self._end(CloseReason(CloseKind.ERROR, text, Cause.INTERNAL), say="internal error")
            else:
                self._outstanding -= consumed
        if self._closed and self._handler is not None and not self._told_lost:
            self._told_lost = True
            handler, self._handler = self._handler, None
            handler.connection_lost(self._closed)

    def _accepted(self) -> bool:
        """Offers an incoming connection with its first packet to the owner of the endpoint."""
        if not self.is_unused or self._closed:
            return False
        self.is_unused = False
        try:
            self._handler = self._host.accept(self)
            if self._handler is None:
                raise ConnectionRefusedError("the endpoint does not accept connections")
        except Exception as error:
            self._incoming = []
            text = f"refused: {error}"
            self._end(CloseReason(CloseKind.ERROR, text, causes.of_error(error)), say="refused")
            return False
        self._begin_keep_alive()
        return True

    def _grant(self) -> None:
        """Extends the credit of the peer if the extension is large enough for a frame.

        The bytes of an incomplete frame count as consumed. They are limited by the maximum frame
        size, and a frame larger than the window would otherwise block itself.
        """
        if self._closed:
            return
        engine, window = self._engine, self._window
        received, behind = engine.received(), engine.behind_gaps()
        total = received if behind is None else received + behind
        if total < self._grant_from:
            return
        now = self._loop.time()
        # The window of an unauthenticated peer does not grow.
        if not self._in_handshake and window.is_due(now):
            progress = engine.progress()
            window.received(
                total,  # a lost datagram is no pause of the reader
                self._outstanding,
                now,
                progress.round_trip,
                least=progress.least_round_trip,
                unread=0 if behind is None else self._host.unread(),
            )
        credit = self._credit
        if received + credit - self._limit >= window.step:
            self._limit = received + credit
            engine.grant(credit)
            self._host.touch(self)
        self._grant_from = 0
        if not self._outstanding and window.ahead is None:
            # A small message tells nothing about the path, and the credit is at most the window.
            self._grant_from = min(self._limit + window.step - window.size, total + _SMALL)

    @property
    def _credit(self) -> int:
        """How many bytes the peer may send beyond those received in order."""
        window = self._window
        withheld = 0 if self._dialect is None else self._dialect.withheld
        credit = window.size - self._outstanding - withheld
        if window.ahead is not None:
            credit = min(credit, window.ahead + (self._engine.behind_gaps() or 0))
        return credit

    # -- sending --------------------------------------------------------------------------------

    @property
    def _unacknowledged(self) -> int:
        return self._bytes_queued - self._bytes_acknowledged

    def _perform(self, steps: Sequence[Step]) -> None:
        if self._closed or not steps:
            return
        for step in steps:
            if isinstance(step, Write):
                self._bytes_queued += step.size
            if self._gaps.is_waiting:
                self._gaps.hold(step)
            else:
                self._step(step)
        if self._bytes_queued >= self._full_at:
            self._look_if_full()
        self._host.touch(self)

    def _step(self, step: Step) -> None:
        if isinstance(step, Write):
            self._write(step)
        elif isinstance(step, Gap):
            self._gaps.begin(step)
            self._start_gap()
        else:
            self._engine.refuse(step.stream, step.error_code)

    def _write(self, write: Write) -> None:
        queue = self._pending.get(write.stream)
        if queue is None:
            self._pending[write.stream] = list(write.parts)
            self._host.touch(self)
        else:
            queue += write.parts

    def _start_gap(self) -> None:
        """Starts the time of a gap once the data before it is acknowledged."""
        gaps = self._gaps
        if gaps.is_waiting and gaps.due is None:
            round_trip = self._engine.round_trip() or 0.0
            gaps.acknowledged(self._unacknowledged, self._loop.time(), round_trip)
            self._alarm.set(gaps.due)

    def _release(self) -> None:
        """Performs the steps that a gap has held."""
        if not self._in_handshake:
            self._engine.send_whole(False)
        for step in self._gaps.release():
            self._step(step)
        self._start_gap()
        self._host.touch(self)

    def _look_if_full(self) -> None:
        """Adapts the send window to the path; most messages fit into any."""
        progress = self._engine.progress()
        self._follow_path(progress)
        self._full_at = self._send_window.full_at(progress.sent, progress.acknowledged)
        if self._bytes_queued >= self._full_at:
            self._writable = False

    def _follow_path(self, progress: Progress) -> None:
        self._send_window.set_rate(
            progress.pacing_rate,
            progress.round_trip or 0.0,
            progress.least_round_trip,
            progress.datagram_size,
        )

    def _look_at_flushers(self) -> None:
        if not self._unacknowledged:
            for done in self._flushers:
                if not done.done():
                    done.set_result(True)
            self._flushers.clear()

    def _look_at_watermarks(self, progress: Progress) -> None:
        self._follow_path(progress)
        if self._send_window.has_room(
            self._bytes_queued, progress.sent, progress.acknowledged, self._limits.low_water
        ):
            self._writable = True
            if self._handler is not None:
                self._handler.writable_again()

    # -- time -----------------------------------------------------------------------------------

    def _on_alarm(self, now: float) -> None:
        """Does what is due and sets the alarm again. It may ring early."""
        if self._closed is None:
            self._look_at_port(now)
        if self._closed is None and self._expires is not None and now >= self._expires:
            self._expires = None
            self.fail("no packet arrived in time", Cause.NO_ANSWER)
        if self._closed is None:
            self._look_at_keep_alive(now)
        if self._closed is None:
            if self._gaps.look(now):
                self._release()
            self._look_at_engine(now)
        if self._closing is not None:
            self._look_at_closing(now)
            self._alarm.set(self._closing.due)
            return
        pings = None if self._pings is None else self._pings.due
        for due in (self._closed_port.due, self._expires, pings, self._gaps.due):
            self._alarm.set(due)

    def _look_at_engine(self, now: float) -> None:
        at = self._engine.progress().timer
        if at is None or at > now:
            self._alarm.set(at)
            return
        self._engine.handle_timer(now)
        if self._engine.round_trip() is None:
            self._unanswered += 1
            if self._unanswered == _UNANSWERED:
                self._leave_unmarked(self._engine.path[0])
        self.after_batch()
        self._host.touch(self)  # the transmission sets the alarm for the engine

    def _look_at_port(self, now: float) -> None:
        if self._closed_port.due is None or now < self._closed_port.due:
            return
        match self._closed_port.look(now, self._engine.round_trip() or 0.0):
            case closed_port.Verdict.PROBE:
                self.ping()
            case closed_port.Verdict.CLOSED:
                gone = CloseReason(CloseKind.PEER, _PORT_CLOSED, Cause.PORT_CLOSED)
                self._end(gone, say=_PORT_CLOSED)

    def _look_at_keep_alive(self, now: float) -> None:
        if self._pings is None or now < self._pings.due:
            return
        # A direct path has pings of its own, and ICMP messages about it are ignored.
        is_direct = self.path_kind is PathKind.DIRECT
        longest = longest_silence(
            idle_timeout=self._engine.idle_timeout(),
            probe_silence=0.0 if is_direct else self._host.probe_silence(),
            keep_alive=self._limits.keep_alive,
            is_dialer=self.role is Role.DIALER,
        )
        awaits = self._unacknowledged > 0
        trip = self._engine.round_trip() or 0.0
        is_due = self._pings.look(
            now, self.last_received, longest=longest, awaits=awaits, round_trip=trip
        )
        if is_due and (not awaits or self._host.may_probe(now)):
            self.ping()

    def _look_at_closing(self, now: float) -> None:
        assert self._closing is not None
        match self._closing.look(now):
            case closing.Verdict.REPEAT:
                self._send_close()
            case closing.Verdict.FORGET:
                self._host.forget(self)

    def _begin_keep_alive(self) -> None:
        """Sends PINGs from now on (see `keep_alive`), since the connection is used."""
        if self._closed is None:
            self._expires = None
            now = self._loop.time()
            self._pings = KeepAlive(now)
            self._look_at_keep_alive(now)
            self._alarm.set(self._pings.due)

    def _expect_acknowledgement(self, now: float) -> None:
        """Looks earlier at the path, since sent data is not acknowledged."""
        pings = self._pings
        if pings is None or pings.due <= now + PROBE_PAUSE:
            return
        if pings.sent(now, self._engine.round_trip() or 0.0):
            self._alarm.set(pings.due)

    # -- the end --------------------------------------------------------------------------------

    def _end(
        self, reason: CloseReason, *, say: str | None = None, over: Closed | None = None
    ) -> None:
        """Ends the connection, once.

        `say` is the reason in CONNECTION_CLOSE, and `over` the end that the engine reported.
        """
        if self._closed:
            return
        self._path = self._engine.path
        self._keep_capacity()
        linger = 3 * self._engine.probe_timeout()
        if over is None:
            self._engine.close(0, (say or "")[:200])
        self._begin_close(linger, is_told=over is None or not over.by_peer)
        self._closed = reason
        self.is_unused = False
        self._pending.clear()
        self._gaps.clear()
        self._window.close()
        for done in self._flushers:
            if not done.done():
                done.set_result(False)
        self._flushers.clear()
        if self.up is not None and not self.up.done():
            self.up.set_result(Failure(reason.text, reason.cause, _may_retry(over)))
        rejected = reason.cause is Cause.CERTIFICATE_OURS
        if over is not None and self.role is Role.LISTENER and rejected:
            self._say_distrusted(over)
        self._host.expect_reset(self, self._reset_token, b"")
        self._host.ended(self)
        self._loop.call_soon(self._deliver)

    def _say_distrusted(self, over: Closed) -> None:
        """Logs that the dialer rejected this node's certificate."""
        host, port = self.peer_address
        extra = {
            "event": "distrusted",
            "address": f"{host}:{port}",
            "cause": Cause.CERTIFICATE_OURS.value,
            "reason": over.text,
        }
        text = "%s:%s rejected this node's certificate, or requires one (%s)"
        _log.warning(text, host, port, over.text, extra=extra)

    def _begin_close(self, linger: float, *, is_told: bool) -> None:
        """Enters the closing state, or the draining state if the peer has closed."""
        now = self._loop.time()
        allowance = self._engine.allowance
        if is_told:
            with contextlib.suppress(EngineError):
                self._close_datagrams = self._engine.transmit(now)
        size = sum(len(data) for data, _, _ in self._close_datagrams)
        self._closing = Closing(now, linger, size, allowance)
        self._send_close()
        self._alarm.set(self._closing.due)

    def _send_close(self) -> None:
        assert self._closing is not None
        if self._closing.may_send():
            with contextlib.suppress(OSError):
                self._host.send(self._close_datagrams)


def _reason_of(over: Closed) -> CloseReason:
    if over.is_idle:
        text = "no datagram from the peer within the idle timeout"
        return CloseReason(CloseKind.IDLE, text, Cause.NO_ANSWER)
    cause = _cause_of(over)
    if cause is Cause.CERTIFICATE_OURS:
        text = f"the peer rejected this node's certificate, or requires one ({over.text})"
        return CloseReason(CloseKind.PEER, text, cause)
    if over.by_peer:
        text = f"the peer closed the connection ({over.text})"
        is_orderly = over.is_application and over.error_code == 0
        return CloseReason(CloseKind.PEER, text, cause, is_orderly)
    return CloseReason(CloseKind.ERROR, over.text, cause)


def _cause_of(over: Closed) -> Cause:
    if over.is_application:
        return Cause.PEER_CLOSED if over.by_peer else Cause.DISCONNECTED
    return causes.of_quic_error(over.error_code, by_peer=over.by_peer)


def _may_retry(over: Closed | None) -> bool:
    """Whether a retry may succeed. After a TLS alert it cannot."""
    return over is not None and over.by_peer and not 0x100 <= over.error_code < 0x200
