"""The relay server: control connections, ports, and the forwarding of datagrams between them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
import os
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from types import TracebackType
from typing import Protocol, cast

from quicdist.carriers import causes
from quicdist.carriers.address_group import place_of
from quicdist.carriers.base import CloseReason, Connection, ConnectionHandler
from quicdist.carriers.half_open import HalfOpen
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import Datagram, SocketAddress
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.udp import Batch, UdpSocket
from quicdist.carriers.relay import proofs
from quicdist.carriers.relay.allocation import (
    Clients,
    Owner,
    PortFileError,
    PortTable,
    Rates,
    load,
)
from quicdist.carriers.relay.frames import (
    ALPN,
    FIRST_QUIC_BYTE,
    HEAD_IPV4,
    NONCE_LENGTH,
    Address,
    Allocate,
    Allocated,
    Challenge,
    FrameError,
    KeepAlive,
    Message,
    Observed,
    Proof,
    Refusal,
    Refused,
    decode,
    encode,
    head_size,
    unpack_address,
)
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
from quicdist.protocol.packet import Packet

_log = logging.getLogger("quicdist.relay")
_log.addFilter(LogRateLimit("relay_node", "relay_port_refused", "relay_port_failed"))

_BATCHES = 16
"""Batches read from a socket in one event loop iteration: up to 64 datagrams each."""

_MOST_UNPACKED = 16_384
"""Addresses in data frames that are remembered in the form of the socket."""

_BIND_ATTEMPTS = 8
_SWEEP = 5.0
"""Seconds between two removals of expired clients."""

_MOST_STRANGERS = 256
_MOST_PER_ADDRESS = 32
"""TLS connections without a port, in all and from one address."""

_PROOF_TIME = 10.0
"""Seconds for a node on TLS to prove its key and to ask for its port."""


class RelayError(QuicdistError):
    """The relay cannot start. The text is one line; `cause` is the reason for programs."""

    def __init__(self, text: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause


class Drop(enum.Enum):
    """Why a datagram was not forwarded. Values are names in statistics and metrics."""

    NOT_QUIC = "not_quic"
    """A datagram to a port whose first byte is not that of a QUIC packet."""
    UNKNOWN_SENDER = "unknown_sender"
    """A data frame from an address that is not that of a connected node."""
    MALFORMED = "malformed"
    """A data frame without an address or without a datagram."""
    NOT_PERMITTED = "not_permitted"
    """A data frame for an address that has not sent to the port of the node."""
    CLIENTS_FULL = "clients_full"
    """A datagram from a new address to a port that has too many clients."""
    RATE = "rate"
    """A rate limit is exceeded."""
    NODE_AWAY = "node_away"
    """A datagram to a port whose node has lost its connection to the relay."""


@dataclass(slots=True)
class RelayCounters:
    """Counters since the start."""

    datagrams_in: int = 0
    """Datagrams forwarded from ports to nodes."""
    datagrams_out: int = 0
    """Datagrams forwarded from nodes."""
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: Counter[Drop] = field(default_factory=Counter)
    refused: Counter[Refusal] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """A snapshot of a relay."""

    name: str
    address: Address
    since: float
    nodes_udp: int
    nodes_tcp: int
    ports_open: int
    ports_kept: int
    clients: int
    counters: RelayCounters


class Control(Protocol):
    """One control connection, on QUIC or TLS."""

    is_udp: bool
    instance: bytes

    @property
    def data_address(self) -> SocketAddress | None:
        """The validated address for data frames on UDP; None on TLS."""

    def tell(self, message: Message) -> None: ...

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        """Sends merged datagrams of one client to the node, with this head before each."""

    def close(self, reason: str) -> None: ...


class _Port:
    """A port with its socket: forwards between its clients and its node."""

    def __init__(self, relay: Relay, number: int, owner: Owner, udp: UdpSocket) -> None:
        self.number = number
        self.owner = owner
        self.udp = udp
        self.alias = ""
        """The address of the relay as the node dialed it."""
        self.controls: list[Control] = []
        """The control connections of its node, the one in use first."""
        self.routed: SocketAddress | None = None
        """The address from which data frames of its node are accepted."""
        self.clients = Clients(relay.limits)
        self.lingering: asyncio.TimerHandle | None = None
        self._relay = relay
        self._rate = relay.rates.of_key(owner.key)
        udp.ignore_errors()
        udp.watch(asyncio.get_running_loop(), self._on_ready)

    @property
    def control(self) -> Control | None:
        return self.controls[0] if self.controls else None

    def _on_ready(self) -> None:
        if self.udp.has_queue:
            self.udp.send_queue()
        batches = self.udp.receive_batches(_BATCHES)
        now = self._relay.now()
        for batch in batches:
            self.arrived(batch, now)

    def arrived(self, batch: Batch, now: float) -> None:
        """Datagrams of one client: to the node."""
        data, size, path = batch
        counters, control = self._relay.counters, self.control
        count = -(-len(data) // size) if size else 1
        client = None
        if not size or data[0] < FIRST_QUIC_BYTE:
            counters.dropped[Drop.NOT_QUIC] += count
        elif control is None:
            counters.dropped[Drop.NODE_AWAY] += count
        else:
            client = self.clients.heard(path[0], now)
            if client is None:
                counters.dropped[Drop.CLIENTS_FULL] += count
        if client is None or control is None:
            return
        if not self._rate.take(client.bucket, len(data), now):
            counters.dropped[Drop.RATE] += count
            return
        counters.datagrams_in += count
        counters.bytes_in += len(data)
        control.forward(client.head, data, size)

    def leaves(self, to: SocketAddress, data: bytes, size: int, head: int, now: float) -> None:
        """Data frames of the node with this size and head size, all for one address: to a client
        that has sent to this port, or to another port of the relay."""
        relay = self._relay
        counters = relay.counters
        count = -(-len(data) // size)
        other = relay.port_at(to, self.alias)
        client = self.clients.permitted(to, now) if other is None else self.clients.heard(to, now)
        length = len(data) - count * head
        if client is None:
            counters.dropped[Drop.NOT_PERMITTED] += count
        elif not self._rate.take(client.bucket, length, now):
            counters.dropped[Drop.RATE] += count
        else:
            counters.datagrams_out += count
            counters.bytes_out += length
            if other is None:
                self.udp.send_segments(without_heads(data, size, head), (to, None))
                return
            # The other node sees the address of this port, as it would from outside.
            source = cast(SocketAddress, (to[0], self.number, *to[2:]))
            for part in without_heads(data, size, head):
                other.arrived((part, len(part), (source, None)), now)


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
        """`credentials` verify nodes as their trust setting says. `may_use` tells whether a key (a
        fingerprint) may have ports; None allows all. `tcp_port` is for TLS; 0 disables it."""
        self.limits = limits or RelayLimits()
        self.counters = RelayCounters()
        self.rates = Rates(self.limits)
        self._where = host, port
        self._credentials = credentials
        self._range = ports
        self._file = port_file
        self._tcp_port = tcp_port
        self._may_use = may_use
        self._table = PortTable(ports, self.limits, {})
        self._ports: dict[int, _Port] = {}
        self._by_address: dict[SocketAddress, _Port] = {}
        self._nodes: dict[Control, _Port] = {}
        self._unpacked: dict[bytes, SocketAddress] = {}
        self.strangers: HalfOpen[_TcpControl] = HalfOpen(_MOST_STRANGERS, _MOST_PER_ADDRESS)
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
        return sock

    async def _listen_tcp(self, host: str) -> None:
        await self._credentials.prepare()
        self._tcp = await self._loop.create_server(
            self._tcp_control,
            ["::", "0.0.0.0"] if host == "::" else host,  # asyncio sets IPV6_V6ONLY
            self._tcp_port,
            ssl=self._tls_context(),
            ssl_handshake_timeout=_PROOF_TIME,
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
        return _TcpControl(self).connection

    def begin(self, control: _TcpControl, host: str) -> bool:
        """Whether a TLS connection from `host` may ask for a port. The oldest one of those that
        have none makes room for it."""
        if self.strangers.refuses(host):
            self.counters.refused[Refusal.RATE] += 1
            return False
        crowding = self.strangers.in_the_way(host)
        if crowding is not None:
            self.strangers.discard(crowding)
            crowding.connection.abort()
        self.strangers.add(control, host)
        return True

    def _sweep(self) -> None:
        now = self.now()
        for port in self._ports.values():
            port.clients.expire(now)
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
        return _QuicControl(self, cast(QuicConnection, connection))

    def _moved(self, connection: QuicConnection) -> None:
        control = connection.handler
        if isinstance(control, _QuicControl) and control in self._nodes:
            self._place(control)
            address = control.data_address
            if address is not None:
                control.tell(Observed(plain(address)))

    def allocate(
        self, control: Control, keys: Sequence[str], request: Allocate, host: str
    ) -> _Port | None:
        """Gives the node of a control connection its port, or refuses it. `keys` are that of the
        node and, after a rotation, its former one."""
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
            return None
        self._attach(control, answer, request)
        observed = control.data_address or (host, 0)
        control.tell(Allocated(answer.number, self.tcp_port, plain(observed)))
        return answer

    def _allocated(
        self, control: Control, keys: Sequence[str], request: Allocate, host: str
    ) -> _Port | Refusal:
        if self._may_use is not None and not any(map(self._may_use, keys)):
            return Refusal.NOT_ALLOWED
        owner, *former = (Owner(key, request.slot) for key in keys)
        if any(self._table.rotate(one, owner) for one in former):
            self._write_ports()
        if control not in self._nodes and len(self._nodes) >= self.limits.max_nodes:
            return Refusal.RATE
        before = self._table.port_of(owner)
        for _ in range(_BIND_ATTEMPTS):
            today = time.time()
            number = self._table.allocate(owner, request.wanted, place_of(host), self.now(), today)
            if isinstance(number, Refusal):
                return number
            port = self._ports.get(number)
            if port is None:
                port = self._open_port(number, owner)
            if port is not None:
                if number != before:
                    self._write_ports()
                return port
            self._table.unusable(number)
        return Refusal.PORTS_FULL

    def _open_port(self, number: int, owner: Owner) -> _Port | None:
        assert self._socket is not None
        address = cast(SocketAddress, (self._socket.address[0], number, *self._socket.address[2:]))
        try:
            udp = UdpSocket.bind(address, self._socket.family, 4 << 20)
        except OSError as error:
            extra = {"event": "relay_port_failed", "port": number, "reason": error.strerror}
            _log.warning("cannot bind port %d: %s", number, error.strerror, extra=extra)
            return None
        port = self._ports[number] = _Port(self, number, owner, udp)
        return port

    def _attach(self, control: Control, port: _Port, request: Allocate) -> None:
        if port.lingering is not None:
            port.lingering.cancel()
            port.lingering = None
        control.instance = request.instance
        for other in list(port.controls):
            if other.instance != request.instance:
                other.tell(Refused(Refusal.SUPERSEDED))
                self.detach(other)
        port.alias = request.relay[0]
        if self._nodes.get(control) is not port:
            self.detach(control)
            self._nodes[control] = port
            port.controls.append(control)
        port.controls.sort(key=lambda one: not one.is_udp)  # UDP is preferred
        self._place(control)
        extra = {"event": "relay_node", "port": port.number, "fingerprint": port.owner.key}
        way = "UDP" if control.is_udp else "TCP"
        _log.info("port %d is of %s over %s", port.number, port.owner.key, way, extra=extra)

    def _place(self, control: Control) -> None:
        """Routes data frames from the validated address of a node to its port."""
        port, address = self._nodes[control], control.data_address
        if address is None or address == port.routed:
            return
        self._unroute(port)
        port.routed = address
        self._by_address[address] = port

    def _unroute(self, port: _Port) -> None:
        if port.routed is not None and self._by_address.get(port.routed) is port:
            del self._by_address[port.routed]
        port.routed = None

    def detach(self, control: Control) -> None:
        """Reports that a control connection has ended."""
        port = self._nodes.pop(control, None)
        if port is None:
            return
        port.controls.remove(control)
        if control.is_udp:
            self._unroute(port)
        if not port.controls and port.lingering is None:
            self._table.released(port.number, time.time())
            port.lingering = self._loop.call_later(self.limits.linger, self._close_port, port)

    def _close_port(self, port: _Port) -> None:
        if port.lingering is not None:
            port.lingering.cancel()
        self._ports.pop(port.number, None)
        port.udp.close()

    # -- data -----------------------------------------------------------------------------------

    def port_at(self, to: SocketAddress, alias: str) -> _Port | None:
        """Returns the open port of this relay at an address. `alias` is a host that is also this
        relay, which may be behind a NAT of its own."""
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
        if size < len(data) and has_one_head(data, size):
            port.leaves(self._socket_address(data[1:HEAD_IPV4]), data, size, HEAD_IPV4, now)
            return
        for at in range(0, len(data), size):
            self.frame_of(port, data[at : at + size], now)

    def frame_of(self, port: _Port, frame: bytes, now: float) -> None:
        """One data frame of the node with this port."""
        size = head_size(frame[0]) if frame else 0
        if not 0 < size < len(frame) or frame[size] < FIRST_QUIC_BYTE:
            self.counters.dropped[Drop.MALFORMED] += 1
            return
        port.leaves(self._socket_address(frame[1:size]), frame, len(frame), size, now)

    def proved_key(self, proof: Proof, nonce: bytes) -> str | None:
        """The fingerprint of the key that a node on TLS has proved; None if it has not, or if the
        trust setting rejects its certificate."""
        try:
            signed = proofs.signed_bytes(self._credentials.identity.fingerprint, nonce)
            certificate = proofs.signer(proof.certificate, proof.signature, signed)
            if certificate is None:
                return None
            self._credentials.verifier.dialer([certificate])
        except CertificateError:
            return None
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

    def receive(self, limit: int) -> list[Datagram]:
        found: list[Datagram] = []
        now = self.relay.now()
        for batch in self.receive_batches(_BATCHES):
            data, size, _ = batch
            if not data:
                continue
            if all_frames(data, size):
                self.relay.frames_arrived(batch, now)
            else:
                self._sort(batch, found, now)
        return found

    def _sort(self, batch: Batch, found: list[Datagram], now: float) -> None:
        data, size, path = batch
        for at in range(0, len(data), size):
            one = data[at : at + size]
            if one[0] >= FIRST_QUIC_BYTE:
                found.append((one, path))
            else:
                self.relay.frames_arrived((one, len(one), path), now)


class _QuicControl:
    """A control connection on QUIC (carriers.base.ConnectionHandler)."""

    is_udp = True

    def __init__(self, relay: Relay, connection: QuicConnection) -> None:
        self.instance = b""
        self._relay = relay
        self._connection = connection

    @property
    def data_address(self) -> SocketAddress | None:
        return self._connection.validated_address

    def packets_received(self, packets: Sequence[Packet]) -> int:
        for packet in packets:
            try:
                message = decode(packet.data)
            except FrameError as error:
                self._connection.close(str(error))
                break
            self._take(message)
        return sum(len(packet.data) for packet in packets)

    def _take(self, message: Message) -> None:
        if isinstance(message, Allocate):
            connection = self._connection
            host = connection.peer_address[0]
            keys = connection.peer_keys
            if keys and self._relay.allocate(self, keys, message, host):
                connection.handshake_done()
        elif isinstance(message, KeepAlive):
            self.tell(message)
            if self.data_address is not None:
                self.tell(Observed(plain(self.data_address)))

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        self._relay.detach(self)

    def tell(self, message: Message) -> None:
        if self._connection.is_writable:
            self._connection.send_handshake(encode(message))
        else:
            self._connection.close("the node reads nothing")

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        address = self.data_address
        if address is not None:
            self._relay.send_to_node(head, data, size, address)

    def close(self, reason: str) -> None:
        self._connection.close(reason)


class _TcpControl:
    """A control connection on TLS, which carries the data frames as well."""

    is_udp = False

    def __init__(self, relay: Relay) -> None:
        self.instance = b""
        self._relay = relay
        self._key: str | None = None
        self._nonce = os.urandom(NONCE_LENGTH)
        self._port: _Port | None = None
        backlog = relay.limits.max_stream_backlog
        self.connection = FrameConnection(
            self._arrived, self._lost, on_made=self._made, backlog=backlog
        )
        self._patience = asyncio.get_running_loop().call_later(_PROOF_TIME, self._give_up)

    @property
    def data_address(self) -> SocketAddress | None:
        return None

    def _made(self) -> None:
        """TLS is done: asks for a proof of the key."""
        if self._relay.begin(self, self.connection.peer_address[0]):
            self.tell(Challenge(self._nonce))
        else:
            self.connection.abort()

    def _give_up(self) -> None:
        if self._port is None:
            self.connection.close()

    def _arrived(self, frames: Sequence[bytes]) -> None:
        now = self._relay.now()
        for frame in frames:
            if frame and head_size(frame[0]):
                if self._port is not None:
                    self._relay.frame_of(self._port, frame, now)
                continue
            try:
                message = decode(frame)
            except FrameError:
                self.connection.close()
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        host = self.connection.peer_address[0]
        if isinstance(message, Proof):
            self._key = self._relay.proved_key(message, self._nonce)
            if self._key is None:
                self._relay.counters.refused[Refusal.PROOF] += 1
                self.tell(Refused(Refusal.PROOF))
                self.connection.close()
        elif isinstance(message, Allocate) and self._key is not None:
            self._port = self._relay.allocate(self, (self._key,), message, host)
            if self._port is not None:
                self._relay.strangers.discard(self)
                self.connection.expect_data()
        elif isinstance(message, KeepAlive):
            self.tell(message)

    def _lost(self) -> None:
        self._patience.cancel()
        self._relay.strangers.discard(self)
        self._relay.detach(self)

    def tell(self, message: Message) -> None:
        self.connection.send(encode(message))

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        self.connection.send_frames(
            [head + data[at : at + size] for at in range(0, len(data), size)]
        )

    def close(self, reason: str) -> None:
        self.connection.close()


def _loaded(path: FilePath) -> dict[int, tuple[Owner, float]]:
    try:
        return load(path.read_bytes())
    except PortFileError as error:
        raise PortFileError(f"{path}: {error}") from None


def with_heads(data: bytes, size: int, head: bytes) -> bytes:
    """Merged datagrams of this size, with the head before each."""
    return head + head.join(without_heads(data, size, 0))


def without_heads(data: bytes, size: int, head: int) -> Sequence[bytes]:
    """The datagrams in merged data frames of this size, without their heads."""
    if size >= len(data):
        return (data[head:],)
    count, rest = divmod(len(data), size)
    parts = _layout(size, count, head).unpack_from(data)
    return (*parts, data[head - rest :]) if rest else parts


@functools.lru_cache(maxsize=1024)
def _layout(size: int, count: int, head: int) -> struct.Struct:
    """`count` datagrams of this size, each without its first `head` bytes. `struct` cuts them apart
    several times faster than slices do."""
    return struct.Struct(f"{head}x{size - head}s" * count)


def all_frames(data: bytes, size: int) -> bool:
    """Whether all merged datagrams are below QUIC's first byte."""
    if size >= len(data):
        return data[0] < FIRST_QUIC_BYTE
    return max(data[::size]) < FIRST_QUIC_BYTE


def has_one_head(data: bytes, size: int) -> bool:
    """Whether all merged datagrams are data frames for the same IPv4 address, with QUIC in them."""
    if size <= HEAD_IPV4 or head_size(data[0]) != HEAD_IPV4 or 0 < len(data) % size <= HEAD_IPV4:
        return False
    count = -(-len(data) // size)
    same = all(data[at::size].count(data[at]) == count for at in range(HEAD_IPV4))
    return same and min(data[HEAD_IPV4::size]) >= FIRST_QUIC_BYTE


def plain(address: SocketAddress) -> Address:
    """The address without the form that an IPv6 socket gives it."""
    return address[0].removeprefix("::ffff:"), address[1]
