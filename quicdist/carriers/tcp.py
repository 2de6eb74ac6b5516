"""TCP carrier: the protocol of `inet_tcp_dist`, for stock nodes and the gateway.

Both directions have flow control. Reading pauses while delivered data is not consumed, and
`is_writable` depends on the bytes that the kernel has not accepted yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import struct
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from quicdist.carriers import causes
from quicdist.carriers.base import (
    CloseKind,
    CloseReason,
    ConnectionHandler,
    ConnectionStatistics,
    DialError,
)
from quicdist.carriers.coalesce import joined
from quicdist.carriers.forking import descriptors_of, keep_from_children
from quicdist.carriers.host_lookup import look_up_host
from quicdist.carriers.polling import poll_until
from quicdist.carriers.trust import Verifier
from quicdist.errors import Cause
from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Buffer, DialectError, DialectTraits, Step, Write
from quicdist.protocol.dialects.single_stream import SingleStreamDialect
from quicdist.protocol.dialects.tcp import TcpDialect
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role

_READ_SIZE = 256 * 1024

ConnectionT = TypeVar("ConnectionT", bound="TcpConnection")

_LAST_WRITE = 0.02
"""Seconds that the kernel has, after a close, to accept the data queued before it."""

Accept = Callable[["TcpConnection"], ConnectionHandler]
"""Called with each accepted connection. Returns its owner; any exception rejects it."""


class _Scratch(threading.local):
    """The read buffer that all connections of a thread share.

    It holds no data between reads. A buffer per connection would cost 256 KiB for each idle one.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ_SIZE))


_scratch = _Scratch()


class TcpConnection(asyncio.BufferedProtocol):
    """A distribution connection over a TCP socket; implements `carriers.base.Connection`."""

    dialect: type[SingleStreamDialect] = TcpDialect

    def __init__(self, role: Role, limits: CarrierLimits, accept: Accept | None = None) -> None:
        self.role = role
        self.traits: DialectTraits = self.dialect.traits
        self.binding = b""
        self.verifier: Verifier | None = None
        """Decides which node names require a known key; with None no name does."""
        self._handler: ConnectionHandler | None = None
        self.last_received = 0.0
        self._limits = limits
        self._accept = accept
        self._dialect = self.dialect(role, limits)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._peer_address = ("", 0)
        self._local_address = ("", 0)
        self._early: list[Packet] = []
        self._unconsumed = 0
        self._reading = True
        self._queue: list[Buffer] = []
        self._queued = 0
        self._flush_planned = False
        self._writable = True
        self._paused_by_transport = False
        self._closed: CloseReason | None = None
        self._told_lost = False
        self._bytes_sent = 0
        self._bytes_received = 0

    # -- used by the owner --

    @property
    def handler(self) -> ConnectionHandler | None:
        """The owner of the connection. Reading starts when it is set."""
        return self._handler

    @handler.setter
    def handler(self, handler: ConnectionHandler | None) -> None:
        self._handler = handler
        if self._early or self._closed:
            self._loop.call_soon(self._catch_up)
        self.consumed(0)

    @property
    def peer_address(self) -> tuple[str, int]:
        """(host, port) of the peer."""
        return self._peer_address

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) of this end of the connection."""
        return self._local_address

    @property
    def is_writable(self) -> bool:
        """Whether the owner should send more.

        False after the bytes not accepted by the kernel reach the high watermark, until they fall
        to the low watermark.
        """
        return self._writable

    def send_handshake(self, message: bytes) -> None:
        """Queues one handshake message."""
        self._perform(self._dialect.handshake_bytes(message))

    def handshake_done(self) -> None:
        """Switches from handshake messages to frames."""
        self._perform(self._dialect.connected())

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        """Queues one frame.

        Frames queued in one event loop iteration are written together. An empty `parts` is a tick
        (ERTS, Distribution Protocol).
        """
        self._perform((self._dialect.frame_bytes(parts),))

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        """Queues frames that begin with their length."""
        self._perform((self._dialect.framed_bytes(frames),))

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        """Does nothing: all frames wait for the end of the event loop iteration."""
        return False

    def consumed(self, count: int) -> None:
        """Reports `count` consumed bytes of packet data.

        Reading resumes when at most half of the receive window is unconsumed.
        """
        self._unconsumed = max(0, self._unconsumed - count)
        if self._reading or self._closed or self._transport is None or self._handler is None:
            return
        if self._unconsumed <= self._limits.receive_window // 2:
            self._reading = True
            self._transport.resume_reading()

    def ping(self) -> None:
        """Does nothing: TCP has no ping. The kernel sends keep-alive probes."""

    def statistics(self) -> ConnectionStatistics:
        """Returns a snapshot of the counters.

        Unacknowledged bytes include the kernel's send queue on Linux.
        """
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            bytes_unacknowledged=self._pending() + self._in_kernel(),
        )

    async def flush(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds; returns whether all sent data was acknowledged.

        On Linux, acknowledged means that the peer's kernel has the data. On other systems it
        means that the local kernel has accepted it. TCP does not report what the peer's program
        has read.
        """
        self._write_queue()
        await poll_until(lambda: self._closed is not None or self._is_flushed(), timeout)
        return self._closed is None and self._is_flushed()

    def _is_flushed(self) -> bool:
        """Returns whether nothing is queued here or unacknowledged in the kernel.

        Linux has no event for an acknowledgement of data that was sent before. A socket is writable
        when there is room. With SO_TIMESTAMPING the kernel reports acknowledgements, but only of
        data that is written later, and through the error queue, which asyncio and uvloop treat as
        an error of the socket. So SIOCOUTQ has to be polled.
        """
        return not self._pending() and not self._in_kernel()

    def check_name(self, node: str) -> None:
        """Raises PeerRefused if a key is known for that name, since plain TCP presents no key."""
        if self.verifier is not None and self.role is Role.LISTENER:
            self.verifier.verify_unencrypted(node)

    @property
    def peer_fingerprint(self) -> str:
        """Always empty: plain TCP presents no certificate."""
        return ""

    def check_again(self, node: str) -> None:
        """Raises PeerRefused if a key has become known for that name."""
        if self.verifier is not None:
            self.verifier.verify_unencrypted(node)

    def must_bind(self, node: str) -> bool:
        """Returns whether that node's cookie proof must be bound to a TLS session.

        Plain TCP has no TLS session, so the caller rejects such a node.
        """
        return self.verifier is not None and self.verifier.must_bind(node, over_tcp=True)

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Does nothing: plain TCP presents no key."""

    def close(self, reason: str) -> None:
        """Closes the socket immediately. Data that the kernel has not accepted is lost."""
        self._end(CloseReason(CloseKind.LOCAL, reason, Cause.DISCONNECTED))

    # -- called by the event loop --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the socket is connected."""
        # The transports of some event loops are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        keep_from_children(self)
        self.last_received = self._loop.time()
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.role is Role.DIALER:
                _keep_alive(sock, self._limits.keep_alive)
        self._peer_address = _address(transport.get_extra_info("peername"))
        self._local_address = _address(transport.get_extra_info("sockname"))
        # The transport only gets the low watermark: the high one includes this class's queue.
        self._transport.set_write_buffer_limits(self._limits.low_water, self._limits.low_water)
        self._perform(self._dialect.opened())
        self._reading = False
        self._transport.pause_reading()
        if self._accept is None:
            return  # a dialer sets the handler later
        try:
            self.handler = self._accept(self)
        except Exception as error:
            self._end(CloseReason(CloseKind.ERROR, f"refused: {error}", causes.of_error(error)))

    def descriptors(self) -> Sequence[int]:
        """Its open files."""
        return [] if self._transport is None else descriptors_of(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns the buffer for the next read.

        It is a memoryview, because asyncio's TLS writes to slices of it, and slices of a bytearray
        would be copies.
        """
        return _scratch.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by asyncio after a read of `nbytes` bytes."""
        if self._closed:
            return
        self._bytes_received += nbytes
        try:
            received = self._dialect.receive(0, _scratch.buffer[:nbytes])
        except DialectError as error:
            self._end(CloseReason(CloseKind.BROKEN, str(error), Cause.PROTOCOL))
            return
        packets = received.packets
        if not packets:
            return
        self.last_received = self._loop.time()
        self._unconsumed += sum(len(packet.data) for packet in packets)
        if self._unconsumed >= self._limits.receive_window and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._handler is None:
            # asyncio of Python 3.10 starts to read although connection_made has paused reading.
            self._early += packets
        else:
            self._deliver(packets, self._handler)

    def _deliver(self, packets: Sequence[Packet], handler: ConnectionHandler) -> None:
        try:
            consumed = handler.packets_received(packets)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._end(CloseReason(CloseKind.ERROR, text, Cause.INTERNAL))
        else:
            self.consumed(consumed)

    def eof_received(self) -> bool:
        """Ends the connection: no Erlang node closes only one direction."""
        text = "the peer closed the connection"
        self._end(CloseReason(CloseKind.PEER, text, Cause.PEER_CLOSED, is_orderly=True))
        return False

    def pause_writing(self) -> None:
        """Called by asyncio when its write buffer exceeds the low watermark."""
        self._paused_by_transport = True

    def resume_writing(self) -> None:
        """Called by asyncio when its write buffer has fallen to the low watermark."""
        self._paused_by_transport = False
        self._become_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the socket is closed."""
        if self._closed is None:
            text = f"the connection broke: {exc}" if exc else "the peer closed the connection"
            cause = causes.of_error(exc) if exc else Cause.PEER_CLOSED
            self._closed = CloseReason(CloseKind.PEER, text, cause)
        self._queue.clear()
        self._queued = 0
        self._tell_lost()

    # -- private --

    def _perform(self, steps: Sequence[Step]) -> None:
        if self._closed:
            return
        for step in steps:
            # The tcp dialect only produces Write steps.
            if isinstance(step, Write):
                for part in step.parts:
                    self._queue.append(part)
                    self._queued += part.nbytes if isinstance(part, memoryview) else len(part)
        if self._queue and not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_tick)
        if self._pending() >= self._limits.high_water:
            self._writable = False

    def _flush_tick(self) -> None:
        self._flush_planned = False
        self._write_queue()
        if not self._paused_by_transport:
            self._become_writable()

    def _write_queue(self) -> None:
        if not self._queue or self._closed or self._transport is None:
            return
        queue, self._queue = self._queue, []
        self._bytes_sent += self._queued
        self._queued = 0
        for data in joined(queue):
            self._transport.write(data)

    def _become_writable(self) -> None:
        if self._writable or self._closed or self._pending() > self._limits.low_water:
            return
        self._writable = True
        if self._handler is not None:
            self._handler.writable_again()

    def _pending(self) -> int:
        taken = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._queued + taken

    def _in_kernel(self) -> int:
        """Returns the unacknowledged bytes in the kernel's send queue (SIOCOUTQ, tcp(7))."""
        if self._transport is None or self._closed or not sys.platform.startswith("linux"):
            return 0
        try:
            answer = fcntl.ioctl(
                self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)
            )
        except OSError:
            return 0
        (count,) = struct.unpack("i", answer)
        return int(count)

    def _end(self, reason: CloseReason) -> None:
        if self._closed:
            return
        if self._transport is not None and reason.kind is CloseKind.LOCAL:
            # Data queued in this event loop iteration is still sent if the kernel accepts it.
            self._write_queue()
        self._closed = reason
        if self._transport is None:
            self._loop.call_soon(self._tell_lost)
        elif reason.kind is CloseKind.LOCAL and self._transport.get_write_buffer_size():
            # An event loop may write to the kernel only at the end of an iteration.
            self._transport.close()
            self._loop.call_later(_LAST_WRITE, self._transport.abort)
        else:
            self._transport.abort()

    def _catch_up(self) -> None:
        """Delivers the events that happened before the owner was set."""
        if self._early and self._handler is not None:
            early, self._early = self._early, []
            self._deliver(early, self._handler)
        if self._closed:
            self._tell_lost()

    def _tell_lost(self) -> None:
        if self._told_lost or self._handler is None or self._closed is None:
            return
        self._told_lost = True
        handler, self._handler = self._handler, None
        handler.connection_lost(self._closed)


class TcpListener:
    """A TCP port that accepts distribution connections."""

    def __init__(self, servers: Sequence[asyncio.Server]) -> None:
        """All `servers` listen on the same port, each on a different address."""
        self._servers = servers
        keep_from_children(self)

    def descriptors(self) -> Sequence[int]:
        """Its open files."""
        return [sock.fileno() for server in self._servers for sock in server.sockets]

    @classmethod
    async def open(
        cls,
        host: str | Sequence[str],
        port: int,
        *,
        accept: Accept,
        limits: CarrierLimits | None = None,
        make: Callable[[], TcpConnection] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> TcpListener:
        """Starts to listen. Port 0 selects a free port.

        With several hosts, addresses after the first that this machine does not have are skipped.
        `make` creates the connections; the default is `TcpConnection`. Raises OSError if the port
        is in use, or if the first address cannot be bound.
        """
        bounds = limits or CarrierLimits()
        first, *others = [host] if isinstance(host, str) else host
        loop = asyncio.get_running_loop()

        async def listen(host: str, port: int) -> asyncio.Server:
            server = await loop.create_server(
                make or (lambda: TcpConnection(Role.LISTENER, bounds, accept)),
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else bounds.handshake_timeout,
            )
            if not server.sockets:
                # asyncio reports EMFILE as a missing address family.
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return server

        servers = [await listen(first, port)]
        try:
            port = _address(servers[0].sockets[0].getsockname())[1]
            for other in others:
                try:
                    servers.append(await listen(other, port))
                except OSError as error:
                    # The event loop replaces the bind error and may leave out its errno.
                    if error.errno == errno.EADDRINUSE:
                        raise
        except BaseException:
            for server in servers:
                server.close()
            raise
        return cls(servers)

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) of the first address."""
        return _address(self._servers[0].sockets[0].getsockname())

    async def close(self) -> None:
        """Stops listening. Accepted connections stay open."""
        for server in self._servers:
            server.close()


async def dial(
    host: str, port: int, *, timeout: float, limits: CarrierLimits | None = None
) -> TcpConnection:
    """Connects to the distribution port of a node.

    Raises DialError if the connection fails, OSError if the name of the host has no address, and
    TimeoutError after `timeout` seconds.
    """
    bounds = limits or CarrierLimits()
    return await connect(host, port, lambda: TcpConnection(Role.DIALER, bounds), timeout=timeout)


async def connect(
    host: str,
    port: int,
    make: Callable[[], ConnectionT],
    *,
    timeout: float,
    tls: ssl.SSLContext | None = None,
) -> ConnectionT:
    """Connects with the protocol object that `make` returns, over TLS if `tls` is given.

    Raises the same errors as `dial`.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _connect_to_any(host, port, make, tls, timeout)
    except TimeoutError:
        raise TimeoutError(f"no answer from {host}:{port} within {timeout:g} s") from None


async def _connect_to_any(
    host: str,
    port: int,
    make: Callable[[], ConnectionT],
    tls: ssl.SSLContext | None,
    timeout: float,
) -> ConnectionT:
    """Tries the addresses of a host in turn.

    Raises DialError with the failure of the highest `causes.rank`. asyncio would raise an OSError
    without an errno.
    """
    loop = asyncio.get_running_loop()
    failures: list[OSError] = []
    for *_, address in await look_up_host(host, port, kind=socket.SOCK_STREAM, timeout=timeout):
        try:
            _, connection = await loop.create_connection(
                make,
                _with_scope(address),
                port,
                ssl=tls,
                server_hostname=None if tls is None else host,
            )
        except OSError as error:
            failures.append(error)
        else:
            return connection
    worst = max(failures, key=lambda one: causes.rank(causes.of_error(one)))
    if isinstance(worst, ssl.SSLError):
        raise worst
    text = os.strerror(worst.errno).lower() if worst.errno else str(worst)
    raise DialError(f"{host}:{port}: {text}", causes.of_error(worst)) from worst


def _with_scope(address: tuple[Any, ...]) -> str:
    """Returns the IP address, with the scope id of a link-local one (RFC 4007)."""
    ip, _, *others = address
    scope = others[1] if others else 0
    return f"{str(ip).partition('%')[0]}%{scope}" if scope else str(ip)


def _keep_alive(sock: socket.socket, seconds: float) -> None:
    """Sets the interval of keepalive probes (tcp(7)); 0 leaves the interval of the kernel.

    A probe that is not answered is repeated at the same interval. After nine, the kernel ends the
    connection, which is later than `net_ticktime`.
    """
    # macOS has the first option under another name.
    for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):
        option = getattr(socket, name, None)
        if option is not None and seconds > 0:
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(seconds)))


def _address(name: object) -> tuple[str, int]:
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return "", 0
