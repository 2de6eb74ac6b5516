"""Connections over a TCP socket: what `inet_tcp_dist` speaks, for stock nodes and the gateway.

Back-pressure is real both ways: reading stops while what was delivered is not consumed, and
`is_writable` goes by what the kernel has not taken yet.
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
from typing import TypeVar, cast

from quicdist.carriers import causes
from quicdist.carriers.base import CloseKind, CloseReason, ConnectionHandler, ConnectionStatistics
from quicdist.carriers.coalesce import joined
from quicdist.carriers.forking import descriptors_of, keep_from_children
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

_FLUSH_POLL = 0.005
"""Seconds between looks at the kernel's send queue; it tells nobody when it empties."""

_LAST_WRITE = 0.02
"""Seconds for the kernel to take what was queued when a connection is closed."""

Accept = Callable[["TcpConnection"], ConnectionHandler]
"""Given each accepted connection; returns its owner, or raises to refuse it."""


class _Scratch(threading.local):
    """Where a thread's connections find what they read: between one's reads it holds nothing, and
    a thousand idle ones would hold a quarter of a GiB."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ_SIZE))


_scratch = _Scratch()


class TcpConnection(asyncio.BufferedProtocol):
    """One distribution connection on one TCP socket (see carriers.base.Connection)."""

    dialect: type[SingleStreamDialect] = TcpDialect

    def __init__(self, role: Role, limits: CarrierLimits, accept: Accept | None = None) -> None:
        self.role = role
        self.traits: DialectTraits = self.dialect.traits
        self.binding = b""
        self.verifier: Verifier | None = None
        """Knows whose names are bound to a key; None, and nobody's are."""
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

    # -- what its owner uses --

    @property
    def handler(self) -> ConnectionHandler | None:
        """Who is told of packets. Nothing is read before there is one."""
        return self._handler

    @handler.setter
    def handler(self, handler: ConnectionHandler | None) -> None:
        self._handler = handler
        if self._early or self._closed:
            self._loop.call_soon(self._catch_up)
        self.consumed(0)

    @property
    def peer_address(self) -> tuple[str, int]:
        """The other end's address."""
        return self._peer_address

    @property
    def local_address(self) -> tuple[str, int]:
        """This end's address."""
        return self._local_address

    @property
    def is_writable(self) -> bool:
        """False from the high watermark of bytes the kernel has not taken, down to the low."""
        return self._writable

    def send_handshake(self, message: bytes) -> None:
        """Queues one handshake message."""
        self._perform(self._dialect.handshake_bytes(message))

    def handshake_done(self) -> None:
        """Frames from here on."""
        self._perform(self._dialect.connected())

    def send_frame(self, parts: Sequence[Buffer]) -> None:
        """Queues one frame; those of one loop tick leave in one write. No parts is a tick."""
        self._perform((self._dialect.frame_bytes(parts),))

    def consumed(self, count: int) -> None:
        """`count` bytes of packet data are dealt with: reading goes on when few are left."""
        self._unconsumed = max(0, self._unconsumed - count)
        if self._reading or self._closed or self._transport is None or self._handler is None:
            return
        if self._unconsumed <= self._limits.receive_window // 2:
            self._reading = True
            self._transport.resume_reading()

    def ping(self) -> None:
        """TCP has no way to ask; keep-alive probes are the kernel's."""

    def statistics(self) -> ConnectionStatistics:
        """Counts so far; unacknowledged includes what the kernel holds, where it says so."""
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            bytes_unacknowledged=self._pending() + self._in_kernel(),
        )

    async def flush(self, timeout: float) -> bool:
        """Waits until the peer's kernel has acknowledged all, at most `timeout` seconds.

        Best effort: on Linux the kernel tells what is unacknowledged; elsewhere this is True
        once the kernel here has taken everything. Nothing tells what the peer's program read.
        """
        deadline = self._loop.time() + timeout
        while not self._closed:
            self._write_queue()
            if not self._pending() and not self._in_kernel():
                return True
            left = deadline - self._loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(_FLUSH_POLL, left))
        return False

    def check_name(self, node: str) -> None:
        """A node whose key is known is not believed in the clear. Raises PeerRefused."""
        if self.verifier is not None and self.role is Role.LISTENER:
            self.verifier.in_the_clear(node)

    @property
    def peer_fingerprint(self) -> str:
        """Nothing is shown in the clear."""
        return ""

    def check_again(self, node: str) -> None:
        """It may be known by a key now. Raises PeerRefused."""
        if self.verifier is not None:
            self.verifier.in_the_clear(node)

    def must_bind(self, node: str) -> bool:
        """There is no TLS session, so whoever must bind is refused."""
        return self.verifier is not None and self.verifier.must_bind(node, over_tcp=True)

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Nothing is known that could be kept."""

    def close(self, reason: str) -> None:
        """Ends it now; the peer sees the socket close. What the kernel has not taken is lost."""
        self._end(CloseReason(CloseKind.LOCAL, reason, Cause.DISCONNECTED))

    # -- what the event loop calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is up."""
        # Not every loop's transports are of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        keep_from_children(self)
        self.last_received = self._loop.time()
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._peer_address = _address(transport.get_extra_info("peername"))
        self._local_address = _address(transport.get_extra_info("sockname"))
        # Told of the low watermark alone: the high one is ours, as it counts the queue too.
        self._transport.set_write_buffer_limits(self._limits.low_water, self._limits.low_water)
        self._perform(self._dialect.opened())
        self._reading = False
        self._transport.pause_reading()
        if self._accept is None:
            return  # the dialer sets the handler when it has the connection
        try:
            self.handler = self._accept(self)
        except Exception as error:
            self._end(CloseReason(CloseKind.ERROR, f"refused: {error}", causes.of_error(error)))

    def descriptors(self) -> Sequence[int]:
        """Its open files."""
        return [] if self._transport is None else descriptors_of(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. asyncio's TLS fills it by slices, which must be no copies."""
        return _scratch.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
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
            # asyncio of Python 3.10 begins to read although connection_made said not to.
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
        """The peer closed its half, which no node does: it is gone."""
        text = "the peer closed the connection"
        self._end(CloseReason(CloseKind.PEER, text, Cause.PEER_CLOSED, is_orderly=True))
        return False

    def pause_writing(self) -> None:
        """More than the low watermark waits for the kernel."""
        self._paused_by_transport = True

    def resume_writing(self) -> None:
        """No more than the low watermark waits for the kernel."""
        self._paused_by_transport = False
        self._become_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._closed is None:
            text = f"the connection broke: {exc}" if exc else "the peer closed the connection"
            cause = causes.of_error(exc) if exc else Cause.PEER_CLOSED
            self._closed = CloseReason(CloseKind.PEER, text, cause)
        self._queue.clear()
        self._queued = 0
        self._tell_lost()

    # -- inside --

    def _perform(self, steps: Sequence[Step]) -> None:
        if self._closed:
            return
        for step in steps:
            # The tcp dialect asks for no gaps.
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
        """Bytes in the kernel's send queue that the peer has not acknowledged (Linux: tcp(7))."""
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
            # What was queued in this very turn leaves when the kernel takes it at once.
            self._write_queue()
        self._closed = reason
        if self._transport is None:
            self._loop.call_soon(self._tell_lost)
        elif reason.kind is CloseKind.LOCAL and self._transport.get_write_buffer_size():
            # A loop may hand a turn's bytes to the kernel only at its end.
            self._transport.close()
            self._loop.call_later(_LAST_WRITE, self._transport.abort)
        else:
            self._transport.abort()

    def _catch_up(self) -> None:
        """Tells a new owner what it has missed."""
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
        """Each listens at the same port of another address."""
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
        """Listens; port 0 takes a free one. Of several hosts, those after the first may be missing
        on this machine. `make` makes another kind of connection, such as one in `tls`. Raises
        OSError."""
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
                # asyncio takes a process out of files for an address family that is not there.
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return server

        servers = [await listen(first, port)]
        try:
            port = _address(servers[0].sockets[0].getsockname())[1]
            for other in others:
                try:
                    servers.append(await listen(other, port))
                except OSError as error:
                    # The loop's own error of binding has another text, and may have no number.
                    if error.errno == errno.EADDRINUSE:
                        raise
        except BaseException:
            for server in servers:
                server.close()
            raise
        return cls(servers)

    @property
    def local_address(self) -> tuple[str, int]:
        """Where it listens."""
        return _address(self._servers[0].sockets[0].getsockname())

    async def close(self) -> None:
        """Accepts no more; connections accepted so far live on."""
        for server in self._servers:
            server.close()


async def dial(
    host: str, port: int, *, timeout: float, limits: CarrierLimits | None = None
) -> TcpConnection:
    """A connection to a node's distribution port.

    Raises OSError (TimeoutError among them) when none is up within `timeout` seconds.
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
    """A connection of the kind that `make` makes, in TLS or not. Raises as `dial`."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await asyncio.wait_for(
            loop.create_connection(make, host, port, ssl=tls), timeout
        )
    except TimeoutError:
        raise TimeoutError(f"no answer from {host}:{port} within {timeout:g} s") from None
    return connection


def _address(name: object) -> tuple[str, int]:
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return "", 0
