"""The relay server: control connections, ports, and the forwarding of datagrams between them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from types import TracebackType
from typing import cast

from quicdist.carriers import causes
from quicdist.carriers.address_group import host_prefix
from quicdist.carriers.base import Connection, ConnectionHandler
from quicdist.carriers.half_open import HalfOpen
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import Batch, Received, SocketAddress
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay import proofs
from quicdist.carriers.relay.allocation import (
    Owner,
    PortFileError,
    PortTable,
    Rates,
    load,
)
from quicdist.carriers.relay.batches import all_frames, common_head, with_heads
from quicdist.carriers.relay.controls import PROOF_TIME, Control, QuicControl, TcpControl
from quicdist.carriers.relay.fast_path import FastPath
from quicdist.carriers.relay.frames import (
    ALPN,
    FIRST_QUIC_BYTE,
    Address,
    Allocate,
    Allocated,
    Lease,
    Observed,
    Proof,
    Refusal,
    Refused,
    head_size,
    plain,
    unpack_address,
)
from quicdist.carriers.relay.port import BATCHES, Port
from quicdist.carriers.relay.statistics import Drop, RelayCounters, RelayStatistics
from quicdist.carriers.relay.stream import FrameConnection
from quicdist.carriers.trust import (
    CertificateError,
    Credentials,
    contexts,
    files,
)
from quicdist.carriers.trust.names import fingerprint
from quicdist.errors import Cause, QuicdistError
from quicdist.limits import RelayLimits

_log = logging.getLogger("quicdist.relay")
_log.addFilter(LogRateLimit("relay_node", "relay_port_refused", "relay_port_failed"))

_MOST_UNPACKED = 16_384
"""Addresses in data frames that are remembered in the form of the socket."""

_BIND_ATTEMPTS = 8
_SWEEP = 5.0
"""Seconds between two removals of expired clients."""

_MOST_STRANGERS = 256
_MOST_PER_ADDRESS = 32
"""TLS connections without a port, in all and from one address."""


_OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that every port has, and that pass."""


class _OutOfResources(Exception):
    """The relay has no memory or file for another port."""


class RelayError(QuicdistError):
    """The relay cannot start. The text is one line; `cause` is the reason for programs."""

    def __init__(self, text: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause


class Relay:
    """A relay. Use it as `async with Relay(...)`, or with `start` and `close`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        credentials: Credentials,
        ports: range,
        port_file: FilePath | None,
        tcp_port: int = 0,
        may_use: Callable[[str], bool] | None = None,
        limits: RelayLimits | None = None,
    ) -> None:
        """`credentials` verify nodes as their trust setting says.

        `may_use` tells whether a key (a fingerprint) may have ports; None allows all. `tcp_port` is
        for TLS; 0 disables it.
        """
        self.limits = limits or RelayLimits()
        self.counters = RelayCounters()
        self.rates = Rates(self.limits)
        self.fast = FastPath(self.counters)
        self._where = host, port
        self._credentials = credentials
        self._range = ports
        self._file = port_file
        self._tcp_port = tcp_port
        self._may_use = may_use
        self._table = PortTable(ports, self.limits, {})
        self._ports: dict[int, Port] = {}
        self._by_address: dict[SocketAddress, Port] = {}
        self._nodes: dict[Control, Port] = {}
        self._unpacked: dict[bytes, SocketAddress] = {}
        self.strangers: HalfOpen[TcpControl] = HalfOpen(_MOST_STRANGERS, _MOST_PER_ADDRESS)
        """TLS connections that have no port yet."""
        self._endpoint: Endpoint | None = None
        self._socket: _MainSocket | None = None
        self._tcp: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None
        self._since = time.time()

    @property
    def address(self) -> Address:
        """The address of the main socket."""
        assert self._endpoint is not None, "not started"
        return self._endpoint.local_address

    @property
    def name(self) -> str:
        """The name of the relay, by which nodes verify its certificate if they know this host."""
        host, port = self.address
        return f"{port}@{host}"

    @property
    def key(self) -> str:
        """The fingerprint of its key."""
        return self._credentials.identity.fingerprint

    @property
    def main(self) -> UdpSocket:
        """The main socket."""
        assert self._socket is not None, "not started"
        return self._socket

    @property
    def tcp_port(self) -> int:
        """The port for TLS, or 0."""
        return 0 if self._tcp is None else self._tcp.sockets[0].getsockname()[1]

    def now(self) -> float:
        """The time of the event loop."""
        return self._loop.time()

    def stats(self) -> RelayStatistics:
        """Returns the current state and counters."""
        udp = sum(one.is_udp for one in self._nodes)
        return RelayStatistics(
            name=self.name,
            address=self.address,
            since=self._since,
            nodes_udp=udp,
            nodes_tcp=len(self._nodes) - udp,
            ports_open=len(self._ports),
            ports_kept=len(self._table),
            clients=sum(len(port.clients) for port in self._ports.values()),
            counters=self.counters,
        )

    # -- start and end --------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the sockets. Raises RelayError, CertificateError, PortFileError."""
        self._read_ports()
        host, port = self._where
        quic = QuicSettings(self._credentials, alpns=(ALPN,))
        try:
            self._endpoint = await Endpoint.open(
                host, port, settings=quic, accept=self._accept, bind=self._bind
            )
            self._endpoint.on_move = self._moved
            if self._tcp_port:
                await self._listen_tcp(host)
        except OSError as error:
            await self.close()
            where = f"{host}:{self._tcp_port} (TCP)" if self._endpoint else f"{host}:{port}"
            text = f"cannot bind {where}: {error.strerror or error}"
            raise RelayError(text, causes.of_error(error)) from error
        self._sweep()
        extra = {"event": "relay_started", "address": "{}:{}".format(*self.address)}
        _log.info("relay at %s:%d is up", *self.address, extra=extra)

    async def close(self) -> None:
        """Tells the nodes and closes all sockets."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for node in list(self._nodes):
            node.tell(Refused(Refusal.STOPPING))
            node.close("the relay stops")
        for port in list(self._ports.values()):
            self._close_port(port)
        if self._tcp is not None:
            self._tcp.close()
        if self._endpoint is not None:
            await self._endpoint.close(1.0)

    async def __aenter__(self) -> Relay:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _bind(self, address: SocketAddress, family: int, buffer_size: int) -> UdpSocket:
        self._socket = sock = cast(_MainSocket, _MainSocket.bind(address, family, buffer_size))
        sock.relay = self
        self.fast.clear()
        self.fast.watch(sock, sock.taken, frames=True)
        return sock

    async def _listen_tcp(self, host: str) -> None:
        await self._credentials.prepare()
        self._tcp = await self._loop.create_server(
            self._tcp_control,
            ["::", "0.0.0.0"] if host == "::" else host,  # asyncio sets IPV6_V6ONLY
            self._tcp_port,
            ssl=self._tls_context(),
            ssl_handshake_timeout=PROOF_TIME,
        )

    def _tls_context(self) -> ssl.SSLContext:
        """A context that presents the current identity on each new connection."""
        first = current = contexts.serving(self._credentials)
        identity = self._credentials.identity

        def renew(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            nonlocal current, identity
            if self._credentials.identity is not identity:
                current = contexts.serving(self._credentials)
                identity = self._credentials.identity
            tls.context = current

        first.sni_callback = renew
        return first

    def _tcp_control(self) -> FrameConnection:
        return TcpControl(self, backlog=self.limits.max_stream_backlog).connection

    def begin(self, control: TcpControl, host: str) -> bool:
        """Whether a TLS connection from `host` may ask for a port.

        The oldest one of those that have none makes room for it.
        """
        if self.strangers.refuses(host):
            self.counters.refused[Refusal.RATE] += 1
            return False
        evicted = self.strangers.to_evict(host)
        if evicted is not None:
            self.strangers.discard(evicted)
            evicted.connection.abort()
        self.strangers.add(control, host)
        return True

    def _sweep(self) -> None:
        now = self.now()
        for port in self._ports.values():
            port.expire(now)
        self._sweeping = self._loop.call_later(_SWEEP, self._sweep)

    # -- the file of ports ----------------------------------------------------------------------

    def _read_ports(self) -> None:
        kept = {}
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                kept = _loaded(self._file)
        self._table = PortTable(self._range, self.limits, kept)

    def _write_ports(self) -> None:
        if self._file is None:
            return
        try:
            files.make_directory(self._file.parent)
            files.write(self._file, self._table.dump(), mode=0o600)
        except OSError as error:
            extra = {"event": "relay_ports_not_kept", "path": str(self._file)}
            text = "cannot write %s: %s; nodes may get other names after a restart"
            _log.error(text, self._file, error.strerror or error, extra=extra)

    # -- nodes ----------------------------------------------------------------------------------

    def _accept(self, connection: Connection) -> ConnectionHandler:
        return QuicControl(self, cast(QuicConnection, connection))

    def _moved(self, connection: QuicConnection) -> None:
        control = connection.handler
        if isinstance(control, QuicControl) and control in self._nodes:
            self._route(self._nodes[control])
            address = control.data_address
            if address is not None:
                control.tell(Observed(plain(address)))

    def allocate(self, control: Control, keys: Sequence[str], request: Allocate, host: str) -> bool:
        """Gives the node of a control connection its port, or refuses it.

        Returns whether it has one.

        `keys` are that of the node and, after a rotation, its former one.
        """
        key = keys[0]
        answer = self._allocated(control, keys, request, host)
        if isinstance(answer, Refusal):
            self.counters.refused[answer] += 1
            extra = {
                "event": "relay_port_refused",
                "address": host,
                "fingerprint": key,
                "reason": answer.name.lower(),
            }
            _log.warning("%s (%s) gets no port: %s", host, key, answer.name.lower(), extra=extra)
            control.tell(Refused(answer))
            return False
        self._attach(control, answer, request)
        observed = control.data_address or (host, 0)
        control.tell(Allocated(answer.number, self.tcp_port, plain(observed)))
        if isinstance(control, TcpControl):
            self.strangers.discard(control)
        return True

    def _allocated(
        self, control: Control, keys: Sequence[str], request: Allocate, host: str
    ) -> Port | Refusal:
        if self._may_use is not None and not any(map(self._may_use, keys)):
            return Refusal.NOT_ALLOWED
        owner, *former = (_owner(key, request) for key in keys)
        if any(self._table.rotate(one, owner) for one in former):
            self._write_ports()
        if control not in self._nodes and len(self._nodes) >= self.limits.max_nodes:
            return Refusal.RATE
        before = self._table.port_of(owner)
        for _ in range(_BIND_ATTEMPTS):
            today = time.time()
            number = self._table.allocate(
                owner, request.wanted, host_prefix(host), self.now(), today
            )
            if isinstance(number, Refusal):
                return number
            self._vacate(before if before != number else None, control)
            port = self._ports.get(number)
            if port is not None and port.owner != owner:
                self._vacate(number, control)
                port = None
            if port is None:
                try:
                    port = self._open_port(number, owner)
                except _OutOfResources:
                    self._table.released(number, today)
                    self._table.closed(number)
                    return Refusal.RATE
            if port is not None:
                if number != before and not owner.is_temporary:
                    self._write_ports()
                return port
            self._table.unusable(number)
        return Refusal.PORTS_FULL

    def _open_port(self, number: int, owner: Owner) -> Port | None:
        """Returns None if the port cannot be bound. Raises _OutOfResources."""
        assert self._socket is not None
        address = cast(SocketAddress, (self._socket.address[0], number, *self._socket.address[2:]))
        try:
            udp = UdpSocket.bind(address, self._socket.family, 4 << 20)
        except OSError as error:
            extra = {"event": "relay_port_failed", "port": number, "reason": error.strerror}
            _log.warning("cannot bind port %d: %s", number, error.strerror, extra=extra)
            if error.errno in _OF_THE_MACHINE:
                raise _OutOfResources from None
            return None
        port = self._ports[number] = Port(self, number, owner, udp)
        return port

    def _attach(self, control: Control, port: Port, request: Allocate) -> None:
        control.instance = request.instance
        port.alias = request.relay[0]
        if self._nodes.get(control) is not port:
            self.detach(control)
            self._replace(port, control)
            self._nodes[control] = port
            # The last one is used, and UDP rather than TLS.
            port.controls.insert(0, control)
            port.controls.sort(key=lambda one: not one.is_udp)
        port.keep_open()
        self._route(port)
        extra = {"event": "relay_node", "port": port.number, "fingerprint": port.owner.key}
        way = "UDP" if control.is_udp else "TCP"
        _log.info("port %d is of %s over %s", port.number, port.owner.key, way, extra=extra)

    def _replace(self, port: Port, control: Control) -> None:
        """Ends the control connections of another process, and earlier ones of the same kind."""
        for other in list(port.controls):
            if other.instance != control.instance:
                self._supersede(other)
            elif other.is_udp is control.is_udp:
                self._remove(other)
                other.close("replaced by a new connection")

    def _supersede(self, control: Control) -> None:
        """Takes the port from a control connection, which closes unless it gets another one.

        The relay closes it only later, so that the node learns the reason. A connection without a
        port is counted by no limit.
        """
        control.tell(Refused(Refusal.SUPERSEDED))
        self._remove(control)
        self._loop.call_later(PROOF_TIME, self._end_without_port, control)

    def _end_without_port(self, control: Control) -> None:
        if control not in self._nodes:
            control.close("it has no port")

    def _vacate(self, number: int | None, control: Control) -> None:
        """Closes a port that is no longer that of its owner, on behalf of `control`.

        `control` may be one of its connections.
        """
        port = None if number is None else self._ports.pop(number, None)
        if port is None:
            return
        for one in list(port.controls):
            if one is control:
                self._remove(one)
            else:
                self._supersede(one)
        self.fast.clear()
        port.close()

    def _route(self, port: Port) -> None:
        """Accepts data frames of a port from the validated address of its node, and no other."""
        address = port.controls[0].data_address if port.controls else None
        if address == port.routed:
            return
        self.fast.clear()
        if port.routed is not None and self._by_address.get(port.routed) is port:
            del self._by_address[port.routed]
        port.routed = address
        if address is not None:
            self._by_address[address] = port

    def detach(self, control: Control) -> None:
        """Reports that a control connection has ended."""
        if isinstance(control, TcpControl):
            self.strangers.discard(control)
        port = self._remove(control)
        if port is not None and not port.controls:
            self._table.released(port.number, time.time())
            linger = 0.0 if port.owner.is_temporary else self.limits.linger
            port.lingering = self._loop.call_later(linger, self._close_port, port)

    def _remove(self, control: Control) -> Port | None:
        """Takes a control connection from its port and returns that; None if it has none."""
        port = self._nodes.pop(control, None)
        if port is not None:
            port.controls.remove(control)
            self._route(port)
        return port

    def _close_port(self, port: Port) -> None:
        self._ports.pop(port.number, None)
        self._table.closed(port.number)
        self.fast.clear()
        port.close()

    # -- data -----------------------------------------------------------------------------------

    def open_port(self, number: int) -> Port | None:
        """Returns the open port with this number."""
        return self._ports.get(number)

    def port_at(self, to: SocketAddress, alias: str) -> Port | None:
        """Returns the open port of this relay at an address.

        `alias` is a host that is also this relay, which may be behind a NAT of its own.
        """
        port = self._ports.get(to[1])
        if port is None:
            return None
        host = plain(to)[0]
        return port if host in (alias, self.address[0]) else None

    def frames_arrived(self, batch: Batch, now: float) -> None:
        """Data frames that came to the main socket."""
        data, size, path = batch
        port = self._by_address.get(path[0])
        if port is None:
            self.counters.dropped[Drop.UNKNOWN_SENDER] += -(-len(data) // size)
            return
        head = common_head(data, size) if size < len(data) else 0
        if head:
            port.leaves(self._socket_address(data[1:head]), data, size, head, now)
            return
        for at in range(0, len(data), size):
            self._frame_of(port, data[at : at + size], now)

    def frame_arrived(self, control: Control, frame: bytes, now: float) -> None:
        """Takes a data frame from the TLS connection of a node."""
        port = self._nodes.get(control)
        if port is None:
            self.counters.dropped[Drop.UNKNOWN_SENDER] += 1
        else:
            self._frame_of(port, frame, now)

    def _frame_of(self, port: Port, frame: bytes, now: float) -> None:
        size = head_size(frame[0]) if frame else 0
        if not 0 < size < len(frame) or frame[size] < FIRST_QUIC_BYTE:
            self.counters.dropped[Drop.MALFORMED] += 1
            return
        port.leaves(self._socket_address(frame[1:size]), frame, len(frame), size, now)

    def proved_key(self, proof: Proof, nonce: bytes) -> str | None:
        """The fingerprint of the key that a node on TLS has proved.

        None if it has not, or if the trust setting rejects its certificate.
        """
        found: str | None = None
        with contextlib.suppress(CertificateError):
            found = self._proved_key(proof, nonce)
        if found is None:
            self.counters.refused[Refusal.PROOF] += 1
        return found

    def _proved_key(self, proof: Proof, nonce: bytes) -> str | None:
        signed = proofs.signed_bytes(self._credentials.identity.fingerprint, nonce)
        certificate = proofs.signer(proof.certificate, proof.signature, signed)
        if certificate is None:
            return None
        self._credentials.verifier.verify_dialer([certificate])
        return fingerprint(certificate)

    def send_to_node(self, head: bytes, data: bytes, size: int, to: SocketAddress) -> None:
        """Sends merged datagrams to a node, each in a data frame."""
        assert self._socket is not None
        if size >= len(data):
            self._socket.send_segments((head + data,), (to, None))
        else:
            self._socket.send_merged(with_heads(data, size, head), size + len(head), (to, None))

    def _socket_address(self, packed: bytes) -> SocketAddress:
        known = self._unpacked.get(packed)
        if known is None:
            if len(self._unpacked) >= _MOST_UNPACKED:
                self._unpacked.clear()
            known = self._unpacked[packed] = self._unpack(packed)
        return known

    def _unpack(self, packed: bytes) -> SocketAddress:
        assert self._socket is not None
        host, port = unpack_address(packed)
        if self._socket.family == socket.AF_INET:
            return host, port
        return (f"::ffff:{host}" if ":" not in host else host), port, 0, 0


class _MainSocket(UdpSocket):
    """The main socket: gives data frames to the relay and QUIC datagrams to the endpoint."""

    relay: Relay

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._inbox: list[Received] = []

    def use_ecn(self) -> None:
        """Does nothing: the relay passes no marks on."""

    def receive(self, limit: int) -> list[Received]:
        """Returns the QUIC datagrams among those that wait."""
        batches = self.relay.fast.receive(self, BATCHES, frames=True)
        found, self._inbox = self._inbox, []
        now = self.relay.now()
        for batch in batches:
            self._arrived(batch, found, now)
        return found

    def taken(self, batch: Batch) -> None:
        """Takes a batch that was read on behalf of a port."""
        self._arrived(batch, self._inbox, self.relay.now())
        if self._inbox:
            self._on_ready()

    def close(self) -> None:
        """Closes the socket."""
        self.relay.fast.unwatch(self)
        super().close()

    def _arrived(self, batch: Batch, found: list[Received], now: float) -> None:
        data, size, _ = batch
        if not data:
            return
        if all_frames(data, size):
            self.relay.frames_arrived(batch, now)
        else:
            self._sort(batch, found, now)

    def _sort(self, batch: Batch, found: list[Received], now: float) -> None:
        data, size, path = batch
        for at in range(0, len(data), size):
            one = data[at : at + size]
            if one[0] >= FIRST_QUIC_BYTE:
                found.append((one, len(one), path, NOT_ECT))
            else:
                self.relay.frames_arrived((one, len(one), path), now)


def _owner(key: str, request: Allocate) -> Owner:
    if request.lease is Lease.TEMPORARY:
        return Owner(key, request.slot, request.instance)
    return Owner(key, request.slot)


def _loaded(path: FilePath) -> dict[int, tuple[Owner, float]]:
    try:
        return load(path.read_bytes())
    except PortFileError as error:
        raise PortFileError(f"{path}: {error}") from None
