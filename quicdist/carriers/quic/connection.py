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
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from quicdist.carriers import causes
from quicdist.carriers.base import (
    CloseKind,
    CloseReason,
    ConnectionHandler,
    ConnectionStatistics,
    DialError,
)
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic import tls_exporter
from quicdist.carriers.quic.closed_port import ClosedPort, Verdict
from quicdist.carriers.quic.engine import (
    BURST,
    Closed,
    Datagram,
    EngineConnection,
    EngineError,
    Path,
    SocketAddress,
)
from quicdist.carriers.quic.keep_alive import PROBE_PAUSE, KeepAlive, longest_silence
from quicdist.carriers.quic.receive_window import MemoryBudget, ReceiveWindow
from quicdist.carriers.quic.send_window import SendWindow
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Alert, CertificateError, PeerRefused
from quicdist.carriers.trust.names import fingerprint
from quicdist.errors import Cause
from quicdist.protocol.dialects import QUIC_DIALECTS, QuicDialect
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectError,
    DialectTraits,
    Gap,
    Received,
    Step,
    Write,
)
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role

_log = logging.getLogger("quicdist.quic")
_log.addFilter(LogRateLimit("not_believed", "distrusted"))

_GRANT_STEP = 512 * 1024
"""Credit in bytes that justifies a datagram for any window size."""

_CLOSE_REPEATS = 64
"""Maximum number of datagrams of a peer that are answered with CONNECTION_CLOSE after the end."""

_AMPLIFICATION = 3
"""Amplification limit for addresses that are not validated (RFC 9000, 8.1)."""

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

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Sends datagrams in order. Raises OSError if one of them cannot be sent."""

    def add_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Routes datagrams with this connection ID to the connection."""

    def remove_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Ends the routing of this connection ID."""

    def expect_reset(self, connection: QuicConnection, old: bytes, new: bytes) -> None:
        """Replaces the stateless reset token `old` of the peer by `new`."""

    def accept(self, connection: QuicConnection) -> ConnectionHandler:
        """Accepts an incoming connection after its first packet. Raises to reject it."""

    def proved(self, connection: QuicConnection) -> None:
        """Reports that the dialer has proved the cookie."""

    def ended(self, connection: QuicConnection, linger: float) -> None:
        """Reports the end. Late datagrams may arrive for `linger` seconds."""

    def local_address_of(self, local: bytes | None) -> tuple[str, int]:
        """Returns (host, port) for a packed local address, or of the socket for None."""

    def probe_silence(self) -> float:
        """Returns the seconds of silence after which a peer is probed; 0 for never."""

    def may_probe(self, now: float) -> bool:
        """Returns whether the rate of PINGs of all connections allows one more."""


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
    ) -> None:
        """`node` is the name of the dialed node; None for a listener."""
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
        self._limits = settings.limits
        self._verifier = settings.credentials.verifier
        self._node = node
        self._distrust: Alert | None = None
        self._path = path
        self._local = path[1]
        self._migrations = 0
        self._loop = asyncio.get_running_loop()
        # A dialer keeps sending to the address that it dialed, even if the listener moves.
        self._met_at = host.local_address_of(path[1]) if role is Role.LISTENER else None
        self.last_received = self._loop.time()
        self._has_heard = False
        self._dialect: QuicDialect | None = None
        self._handler: ConnectionHandler | None = None

        self._incoming: list[Packet] = []
        self._outstanding = 0  # bytes of packets that the owner has not consumed
        self._window = ReceiveWindow(
            settings.first_window(is_listener=role is Role.LISTENER),
            settings.limits.max_receive_window,
            host.budget,
        )
        self._limit = self._window.size  # number of stream bytes that the peer may send

        self._in_handshake = True
        self._pending: dict[int, list[Buffer]] = {}  # passed to the engine in `transmit`
        self._held: deque[Step] = deque()  # steps that wait for the end of a gap
        self._gap: Gap | None = None
        self._bytes_queued = 0
        self._bytes_acknowledged = 0
        self._bytes_sent = 0
        self._send_window = SendWindow(
            settings.limits.high_water, settings.limits.max_unacknowledged
        )
        self._writable = True
        self._flushers: list[asyncio.Future[bool]] = []

        self._ending: CloseReason | None = None
        self._closed: CloseReason | None = None
        self._told_lost = False
        self._close_datagrams: Sequence[Datagram] = ()
        self._closes_wanted = 0
        self._allowance = math.inf

        self.binding = b""
        self._reset_token = b""
        self._last_statistics: ConnectionStatistics | None = None

        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._gap_timer: asyncio.TimerHandle | None = None
        self._life_timer: asyncio.TimerHandle | None = None
        self._pings = KeepAlive(self._loop.time())
        self._is_kept_alive = False
        self._closed_port = ClosedPort()
        self._closed_port_timer: asyncio.TimerHandle | None = None
        if role is Role.LISTENER:
            self._life_timer = self._loop.call_later(self._limits.handshake_timeout, self._not_used)

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
        if self._dialect is not None:
            self._perform(self._dialect.handshake_bytes(message))

    def handshake_done(self) -> None:
        """Switches to frames in both directions, after the distribution handshake."""
        if self._dialect is None or self._closed:
            return
        self._perform(self._dialect.connected())
        self._in_handshake = False
        self._engine.peer_proved()
        self._window.raise_first(max(self._limits.receive_window, self._dialect.receive_window))
        self._grant()
        if self._gap is None:
            self._engine.send_whole(False)
        if self.role is Role.LISTENER:
            self._host.proved(self)
            if self.traits.renews_ids:
                self._engine.renew_id()
        self._take(0, b"")
        if self._incoming:
            self._loop.call_soon(self._deliver)

    def send_frame(self, parts: Sequence[Buffer]) -> None:
        """Queues a frame. An empty frame is a tick.

        The frames of one event loop iteration are sent together.
        """
        if self._dialect is None or self._closed:
            return
        write = self._dialect.frame_bytes(parts)
        self._bytes_queued += _size(write)
        if self._gap is None:
            self._write(write)
        else:
            self._held.append(write)
        if self._is_full:
            self._writable = False

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
        return self._last_statistics or ConnectionStatistics(
            bytes_sent=self._bytes_queued,
            bytes_received=self._engine.received(),
            bytes_unacknowledged=self._unacknowledged,
            round_trip=self._engine.round_trip(),
            datagrams_lost=self._engine.datagrams_lost(),
            migrations=self._migrations,
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
            self._verifier.named(node, self._engine.certificates, self.peer_address[0])

    @property
    def peer_fingerprint(self) -> str:
        """Fingerprint of the key that the peer presented; empty if it presented none."""
        certificates = self._engine.certificates
        return fingerprint(certificates[0]) if certificates else ""

    def check_again(self, node: str) -> None:
        """Verifies the peer again. Raises PeerRefused if it would be rejected now."""
        is_dialed, seen = self.role is Role.DIALER, self.peer_address[0]
        self._verifier.again(node, self._engine.certificates, dialed=is_dialed, observed=seen)

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

    def receive(self, data: bytes, path: Path, now: float) -> None:
        """Processes a datagram."""
        if self._closed:
            if path[0] == self._path[0]:
                self._allowance += _AMPLIFICATION * len(data)
            self._answer_with_close()
            return
        self.last_received = now
        self._has_heard = True
        self._closed_port.heard(now)
        if self.role is Role.DIALER:
            # The kernel selects the local address of a dialer, so the engine gets none.
            self._local = path[1]
            path = (path[0], None)
        try:
            self._engine.receive(data, path, now)
        except EngineError as error:
            self._ending = CloseReason(CloseKind.BROKEN, str(error), Cause.CARRIER)

    def after_batch(self) -> None:
        """Delivers the results of the datagrams of one event loop iteration.

        Work that can wait until the answer is sent is done in `transmit`, which is called next.
        """
        if self._closed:
            return
        self._engine.drain(self)
        if self.up is not None:
            self._look_open()
        self._deliver()
        if self._closed:
            return
        self._grant()
        over = self._engine.closed
        if over is not None:
            self.exceeded = over.exceeded
            self._end(_reason_of(over), over=over)
        elif self._ending is not None:
            self._end(self._ending, say=self._ending.text)

    def transmit(self, now: float) -> None:
        """Passes queued bytes to the engine and the resulting datagrams to the socket."""
        if self._closed:
            return
        try:
            if self._pending:
                pending, self._pending = self._pending, {}
                for stream, parts in pending.items():
                    self._engine.write(stream, parts)
            datagrams = self._engine.transmit(now)
        except EngineError as error:
            self._end(CloseReason(CloseKind.ERROR, str(error), Cause.CARRIER))
            return
        try:
            self._host.send(datagrams)
        except OSError as error:
            if self.up is not None and not self.up.done():
                text = error.strerror or str(error)
                self._end(CloseReason(CloseKind.ERROR, text, causes.of_error(error)))
                return
            # On an established connection, this is the same as a lost datagram.
        self._engine.drain(self)
        if self._incoming:  # the engine qh3 keeps data until it is requested
            self._loop.call_soon(self._deliver)
        acknowledged = self._engine.acknowledged()
        if acknowledged != self._bytes_acknowledged:
            self._bytes_acknowledged = acknowledged
            self._look_at_gap()
            self._look_at_flushers()
        self._look_at_watermarks()
        self._look_at_reset_token()
        self._expect_acknowledgement(now)
        path = self._engine.path
        if path is not self._path and path[0] != self._path[0]:
            self._path = path
            self._migrations += 1
        if len(datagrams) >= BURST:
            self._host.touch(self)
        self._arm_timer(now)

    def refused(self, now: float) -> None:
        """Handles ICMP Port Unreachable from the peer's host, which may be forged."""
        self._closed_port.refused(now)
        self._plan_look_at_port()

    def _plan_look_at_port(self) -> None:
        due = self._closed_port.due
        if due is not None and self._closed_port_timer is None:
            self._closed_port_timer = self._loop.call_at(due, self._look_at_port)

    def _look_at_port(self) -> None:
        self._closed_port_timer = None
        if self._closed:
            return
        now = max(self._loop.time(), self._closed_port.due or 0.0)
        verdict = self._closed_port.look(now, self._engine.round_trip() or 0.0)
        if verdict is Verdict.CLOSED:
            gone = CloseReason(CloseKind.PEER, _PORT_CLOSED, Cause.PORT_CLOSED)
            self._end(gone, say=_PORT_CLOSED)
            return
        if verdict is Verdict.PROBE:
            self.ping()
        self._plan_look_at_port()

    def fail(self, text: str, cause: Cause) -> None:
        """Closes the connection because of an error at this node, and notifies the peer."""
        self._end(CloseReason(CloseKind.ERROR, text, cause), say=text)

    def move(self) -> None:
        """Migrates a dialed connection to the new socket of the endpoint."""
        if self._closed:
            return
        self._local = None
        self._engine.move(self._loop.time())
        self._host.touch(self)

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
        self._engine.release()

    # -- the events of the engine ---------------------------------------------------------------

    def handshake_completed(self, alpn: str) -> None:
        """Verifies the peer and selects the dialect by the ALPN, before anything else is sent."""
        try:
            self._judge()
        except CertificateError as error:
            self._refuse(error)
            return
        make = QUIC_DIALECTS.get(alpn)
        if make is None:
            text = f"no dialect for the ALPN {alpn!r}"
            self._ending = CloseReason(CloseKind.ERROR, text, Cause.ALPN)
            return
        self._dialect = make(self.role, self._limits)
        self.traits = self._dialect.traits
        if self.traits.binds:
            self.binding = self._engine.export(tls_exporter.LABEL, tls_exporter.LENGTH)
        self._perform(self._dialect.opened())
        self._look_open()

    def _judge(self) -> None:
        certificates = self._engine.certificates
        if self._node is not None:
            self._verifier.dialed(self._node, certificates)
        else:
            self._verifier.dialer(certificates)

    def _refuse(self, error: CertificateError) -> None:
        self._distrust = (
            error.alert if isinstance(error, PeerRefused) else Alert.CERTIFICATE_UNKNOWN
        )
        self._ending = CloseReason(CloseKind.ERROR, str(error), error.cause)
        if self.role is Role.LISTENER:
            host, port = self.peer_address
            extra = {
                "event": "not_believed",
                "address": f"{host}:{port}",
                "cause": error.cause.value,
                "reason": str(error),
            }
            _log.warning("%s:%s: certificate rejected: %s", host, port, error, extra=extra)

    def stream_data(self, stream: int, data: bytes) -> None:
        """Processes stream data, which arrives in order."""
        self._take(stream, data)

    def stream_ended(self, stream: int, how: str) -> None:
        """Closes the connection; some peers only end the stream to close it."""
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
        token = self._engine.reset_token
        if token != self._reset_token:
            self._host.expect_reset(self, self._reset_token, token)
            self._reset_token = token

    def _take(self, stream: int, data: bytes) -> None:
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
            if self._gap is not None and self._gap.ends_on_receive:
                self._end_gap()
        if received.steps:
            self._perform(received.steps)
        if self.up is not None:
            self._look_open()

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
        """Passes packets and then the end to the owner, if there is one."""
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
                self._grant()
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
        engine, received = self._engine, self._engine.received()
        window = self._window.size
        credit = window - self._outstanding
        limit = received + credit
        if limit - self._limit < min(window // 2, _GRANT_STEP):
            return
        if not self._in_handshake:  # the window of an unauthenticated peer does not grow
            now = self._loop.time()
            self._window.received(received, self._outstanding, now, engine.round_trip())
        credit += max(self._window.size - window, 0)
        self._limit = received + credit
        engine.grant(credit)
        self._host.touch(self)

    # -- sending --------------------------------------------------------------------------------

    @property
    def _unacknowledged(self) -> int:
        return self._bytes_queued - self._bytes_acknowledged

    def _perform(self, steps: Sequence[Step]) -> None:
        if self._closed or not steps:
            return
        for step in steps:
            if isinstance(step, Write):
                self._bytes_queued += _size(step)
            if self._gap is None:
                self._step(step)
            else:
                self._held.append(step)
        if self._is_full:
            self._writable = False
        self._host.touch(self)

    def _step(self, step: Step) -> None:
        if isinstance(step, Write):
            self._write(step)
        elif isinstance(step, Gap):
            self._gap = step
            self._look_at_gap()
        else:
            self._engine.refuse(step.stream, step.error_code)

    def _write(self, write: Write) -> None:
        queue = self._pending.get(write.stream)
        if queue is None:
            self._pending[write.stream] = list(write.parts)
            self._host.touch(self)
        else:
            queue += write.parts

    def _look_at_gap(self) -> None:
        """Starts the timer of the gap when the peer has received all data before the gap.

        Otherwise lost data would be repeated together with the data after the gap. The
        acknowledgement arrives half a round trip later, and the next data takes another half.
        """
        if self._gap is None or self._gap_timer is not None or not self._arrived():
            return
        seconds = self._gap.seconds - (self._engine.round_trip() or 0.0)
        self._gap_timer = self._loop.call_later(max(seconds, 0.0), self._gap_time_over)

    def _arrived(self) -> bool:
        """Whether all data before the gap is acknowledged."""
        held = sum(_size(step) for step in self._held if isinstance(step, Write))
        return self._unacknowledged <= held

    def _gap_time_over(self) -> None:
        if not self._closed and self._gap is not None:
            self._end_gap()

    def _end_gap(self) -> None:
        if self._gap_timer is not None:
            self._gap_timer.cancel()
        self._gap = self._gap_timer = None
        if not self._in_handshake:
            self._engine.send_whole(False)
        while self._held and self._gap is None:
            self._step(self._held.popleft())
        self._host.touch(self)

    @property
    def _is_full(self) -> bool:
        return self._send_window.is_full(
            self._bytes_queued, self._bytes_sent, self._bytes_acknowledged
        )

    def _look_at_flushers(self) -> None:
        if not self._unacknowledged and self._flushers:
            for done in self._flushers:
                if not done.done():
                    done.set_result(True)
            self._flushers.clear()

    def _look_at_watermarks(self) -> None:
        self._bytes_sent = self._engine.sent()
        window = self._send_window
        engine = self._engine
        window.set_rate(
            engine.pacing_rate(),
            engine.round_trip() or 0.0,
            engine.least_round_trip(),
            engine.datagram_size,
        )
        if not self._writable and window.has_room(
            self._bytes_queued, self._bytes_sent, self._bytes_acknowledged, self._limits.low_water
        ):
            self._writable = True
            if self._handler is not None:
                self._handler.writable_again()

    # -- time -----------------------------------------------------------------------------------

    def _arm_timer(self, now: float) -> None:
        """Sets the timer. A timer that is set too early is kept, and set again when it expires."""
        at = self._engine.timer()
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        # An event loop may round a delay and call slightly too early.
        now = max(self._timer_at, self._loop.time())
        self._timer = None
        if self._closed:
            return
        at = self._engine.timer()
        if at is not None and at > now:
            self._arm_timer(now)
            return
        self._engine.handle_timer(now)
        self.after_batch()
        self._host.touch(self)

    def _not_used(self) -> None:
        """Closes an incoming connection on which no packet arrived in time."""
        if self.is_unused:
            self.fail("no packet arrived in time", Cause.NO_ANSWER)

    def _begin_keep_alive(self) -> None:
        """Sends PINGs from now on (see `keep_alive`)."""
        self._is_kept_alive = True
        self._keep_alive()

    def _keep_alive(self) -> None:
        """Sends a PING if one is due, and schedules the next look."""
        if self._closed:
            return
        now = self._loop.time()
        longest = longest_silence(
            idle_timeout=self._engine.idle_timeout(),
            probe_silence=self._host.probe_silence(),
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
        self._plan_keep_alive()

    def _plan_keep_alive(self) -> None:
        if self._life_timer is not None:
            self._life_timer.cancel()
        self._life_timer = self._loop.call_at(self._pings.due, self._keep_alive)

    def _expect_acknowledgement(self, now: float) -> None:
        """Looks earlier at the path if sent data is not acknowledged."""
        if self._is_kept_alive and self._unacknowledged and self._pings.due > now + PROBE_PAUSE:
            trip = self._engine.round_trip() or 0.0
            if self._pings.sent(now, trip):
                self._plan_keep_alive()

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
        linger = 3 * self._engine.probe_timeout()
        if over is None:
            if self._distrust is not None:
                self._engine.close_with_alert(self._distrust)
            else:
                self._engine.close(0, (say or "")[:200])
        if over is None or not over.by_peer:
            self._begin_close()
        self._closed = reason
        self.is_unused = False
        self._pending.clear()
        self._held.clear()
        self._window.close()
        timers = (self._timer, self._gap_timer, self._life_timer, self._closed_port_timer)
        for timer in timers:
            if timer is not None:
                timer.cancel()
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
        self._host.ended(self, linger)
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

    def _begin_close(self) -> None:
        self._allowance = self._engine.allowance
        try:
            self._close_datagrams = self._engine.transmit(self._loop.time())
        except EngineError:
            return
        self._send_close()

    def _send_close(self) -> None:
        size = sum(len(data) for data, _ in self._close_datagrams)
        if size > self._allowance:
            return
        self._allowance -= size
        with contextlib.suppress(OSError):
            self._host.send(self._close_datagrams)

    def _answer_with_close(self) -> None:
        """Repeats CONNECTION_CLOSE for a sending peer, at a decreasing rate (RFC 9000, 10.2.1)."""
        self._closes_wanted += 1
        wanted = self._closes_wanted
        if wanted <= _CLOSE_REPEATS and wanted & (wanted - 1) == 0:
            self._send_close()

    def repeat_close(self) -> None:
        """Repeats CONNECTION_CLOSE in case it was lost, because an idle peer cannot show this."""
        self._send_close()


def _size(write: Write) -> int:
    size = 0
    for part in write.parts:
        size += part.nbytes if isinstance(part, memoryview) else len(part)
    return size


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
