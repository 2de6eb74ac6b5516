"""QUIC endpoint: dials and listens on one UDP socket, with routing by connection ID."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import itertools
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from quicdist.carriers import causes
from quicdist.carriers.base import (
    CertificateRejected,
    Connection,
    ConnectionHandler,
    DialError,
    FirstMessage,
)
from quicdist.carriers.host_lookup import look_up_host
from quicdist.carriers.quic.address_validation import AddressValidation
from quicdist.carriers.quic.admission import Admission
from quicdist.carriers.quic.busy_wait import BusyWait
from quicdist.carriers.quic.congestion.resume import Capacity, PathMemory
from quicdist.carriers.quic.connection import AttemptFailed, QuicConnection
from quicdist.carriers.quic.engine import (
    CONNECTION_ID_LENGTH,
    Batch,
    CompiledSocket,
    EngineError,
    Opening,
    Path,
    SocketAddress,
    is_relayed,
    load_engine,
)
from quicdist.carriers.quic.initial import is_initial, read_initial, version_negotiation
from quicdist.carriers.quic.local_address import address_towards, is_assigned
from quicdist.carriers.quic.receive_window import MemoryBudget
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.stateless_reset import StatelessResetTokens, token_in
from quicdist.carriers.quic.strays import STRAYS_PER_SECOND, Strays
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.quic.udp import UdpSocket, reader_of
from quicdist.carriers.reject_reason import RejectCounts, RejectReason
from quicdist.carriers.token_bucket import TokenBucket
from quicdist.carriers.trust.names import host_of
from quicdist.errors import Cause
from quicdist.protocol.dialects import alpns_within
from quicdist.protocol.role import Role

_log = logging.getLogger("quicdist.quic")

_LONG_HEADER = 0x80
"""Bit of the first byte of a packet with a long header (RFC 9000, 17)."""

_LONG = bytes((_LONG_HEADER,))
"""No packet with a short header begins with this or more."""

_ID_END = 1 + CONNECTION_ID_LENGTH
"""Where the connection ID of a short-header packet ends (RFC 9000, 17.3)."""

_MIN_INITIAL = 1200
"""Minimum size of a first datagram in bytes (RFC 9000, 14.1)."""

_RETRY_DELAY = 0.025
"""Base delay between dial attempts in seconds. The delay doubles before each attempt."""

_ATTEMPTS = 5

_LOOK_AGAIN = 0.5
"""Seconds between two checks of the local address after a send has failed."""

_REJECTED = frozenset(
    {
        *(Cause.CERTIFICATE_OURS, Cause.CERTIFICATE_THEIRS),
        *(Cause.KEY_CHANGED, Cause.NAME_AMBIGUOUS),
    }
)

_PINGS_PER_SECOND = 100
"""Maximum PINGs per second over all idle connections, and over all that wait for an
acknowledgement."""

Accept = Callable[[Connection], ConnectionHandler]
"""Called with each incoming connection at its first packet. Any exception rejects it."""

Bind = Callable[[SocketAddress, int, int], UdpSocket]
"""Makes a bound socket from an address, its family and the size of the buffers."""


class PathChooser(Protocol):
    """The owner of the direct paths of an endpoint's connections (`carriers.relay.direct`)."""

    def connected(self, connection: QuicConnection) -> None:
        """Both nodes have proved the cookie."""

    def offered(self, connection: QuicConnection, offer: bytes) -> None:
        """The peer has sent a message about direct paths."""

    def offers_refused(self, connection: QuicConnection) -> None:
        """The peer wants no such messages."""

    def moved(self, connection: QuicConnection) -> None:
        """The address of the peer is validated; it may be another one."""

    def ended(self, connection: QuicConnection) -> None:
        """The connection has ended."""

    async def leave(self, timeout: float) -> None:
        """The endpoint is about to close. Undoes what would last longer, within `timeout`."""

    def close(self) -> None:
        """The endpoint closes."""


def _ignore_move(connection: QuicConnection) -> None:
    """Nothing depends on the addresses of peers."""


class Endpoint:
    """A QUIC endpoint: the UDP socket and all QUIC connections of a node. Created by `open`."""

    def __init__(
        self,
        udp: UdpSocket,
        settings: QuicSettings,
        accept: Accept | None,
        bind: Bind = UdpSocket.bind,
    ) -> None:
        self._udp = udp
        self._bind = bind
        self.on_move: Callable[[QuicConnection], None] = _ignore_move
        """Called when the address of a connection's peer is validated, at first and when it has
        changed."""
        self.chooser: PathChooser | None = None
        """Set before the first connection if connections may get direct paths."""
        self._settings = settings
        self._accept = accept
        self.rejected: RejectCounts = Counter()
        """Number of rejected incoming connections by reason."""
        self._reset_tokens = StatelessResetTokens(settings.credentials.reset_secret, udp.address[1])
        self._engine = load_engine(settings, self._reset_tokens.of)
        self._loop = asyncio.get_running_loop()
        self._busy_wait = BusyWait(self._loop, settings.busy_wait)
        self._routes: dict[bytes, QuicConnection] = {}
        self._ids: dict[QuicConnection, set[bytes]] = {}
        self._lingering: dict[QuicConnection, None] = {}
        self._resets: dict[bytes, QuicConnection] = {}
        """Connections by the stateless reset token of the peer. Python uses a keyed hash for bytes,
        so the timing of a look-up reveals no token (RFC 9000, 10.3.1)."""
        self._may_reset = TokenBucket(settings.admission.resets_per_second)
        self._may_probe = TokenBucket(_PINGS_PER_SECOND)
        self._may_ask_all = TokenBucket(settings.admission.resets_per_second)
        self._admission = Admission(settings.admission)
        self._proofs = AddressValidation()
        self._paths = PathMemory()
        self._home = udp.address
        self._look: asyncio.TimerHandle | None = None
        self._dialing: dict[SocketAddress, set[QuicConnection]] = {}
        self._touched: dict[QuicConnection, None] = {}
        self._strays = Strays()
        self._stray_turn: asyncio.TimerHandle | None = None
        self.budget = MemoryBudget(settings.limits.window_budget)
        self._tick_planned = False
        self._received_at: float | None = None
        """When datagrams were received of which `_busy_wait` is to be told after the answer."""
        self._is_closing = False
        self._emptied: asyncio.Event = asyncio.Event()
        self._watch_socket()

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        *,
        settings: QuicSettings,
        accept: Accept | None,
        bind: Bind = UdpSocket.bind,
    ) -> Endpoint:
        """Opens an endpoint on `host` (a name, an address, `0.0.0.0` or `::`) and `port`.

        Port 0 selects a free port. Without `accept` the endpoint only dials and ignores incoming
        connections. `bind` makes its sockets.

        Raises OSError if the socket cannot be bound, ValueError if the engine is not installed or
        does not support the settings, and CertificateError if the identity cannot be loaded.
        """
        await settings.credentials.prepare()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]
        _warn_of(settings.tracing)
        udp = bind(cast(SocketAddress, address), family, settings.socket_buffer)
        try:
            return cls(udp, settings, accept, bind)
        except BaseException:
            udp.close()
            raise

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) to which the socket is bound."""
        host, port = self._udp.address[:2]
        return host, port

    @property
    def connections(self) -> Sequence[QuicConnection]:
        """The open connections."""
        return [connection for connection in self._ids if connection not in self._lingering]

    async def dial(
        self,
        host: str,
        port: int,
        *,
        node: str | None = None,
        alpns: Sequence[str] | None = None,
        timeout: float | None = None,
        first: FirstMessage | None = None,
    ) -> QuicConnection:
        """Connects to a node and returns the connection after the QUIC handshake.

        If the peer closes an attempt, another one follows, for up to `timeout` seconds in total.
        The default is the handshake timeout. The peer's certificate must be valid for `node`, by
        default `port@host`. The caller must set `handler` before its next await. With `first`, the
        first handshake message is sent with the end of the TLS handshake if the peer is a quicdist
        node or gateway, and not again when the caller sends it.

        Raises CertificateRejected if a certificate is not trusted, and DialError for other
        failures.
        """
        if self._is_closing:
            raise DialError("the endpoint is closed", Cause.STOPPED)
        if timeout is None:
            timeout = self._settings.limits.handshake_timeout
        deadline = self._loop.time() + timeout
        no_answer = f"no answer in {timeout:.3g} s", Cause.NO_ANSWER
        failures = []
        addresses = await self._resolve(host, port, timeout)
        for place, address in enumerate(addresses):
            # If there is no listener at the first address of a name, the others are tried.
            now = self._loop.time()
            turn = now + (deadline - now) / (len(addresses) - place)
            try:
                return await self._dial_address(
                    node or f"{port}@{host}", address, alpns, turn, first
                )
            except AttemptFailed as error:
                if error.cause in _REJECTED:
                    raise CertificateRejected(f"{host}:{port}: {error}", error.cause) from None
                failures.append((str(error), error.cause))
            except TimeoutError:
                failures.append(no_answer)
        text, cause = max(failures, key=lambda each: causes.rank(each[1]), default=no_answer)
        raise DialError(f"{host}:{port}: {text}", cause)

    async def close(self, timeout: float = 1.0) -> None:
        """Closes all connections and the socket.

        Peers are notified. Waits up to `timeout` seconds to repeat lost notifications, and for the
        router to delete a mapped port.
        """
        if not self._is_closing:
            self._is_closing = True
            for connection in sorted(self.connections, key=lambda one: one.traits.is_control):
                connection.close("the node stops")
        if self.chooser is None:
            await self._linger(timeout)
        else:
            await asyncio.gather(self._linger(timeout), self.chooser.leave(timeout))
        self._shut()

    async def _linger(self, timeout: float) -> None:
        if self._lingering and self._udp.fileno() >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout)

    # -- moving ---------------------------------------------------------------------------------

    def rebind(self, host: str | None = None, port: int | None = None) -> None:
        """Replaces the socket by one on `host` (an address) and `port`.

        The default is the address of `open`. If this machine no longer has it, the address with a
        route to the peers is used. Dialed connections migrate to the new socket. Incoming
        connections continue only if this machine still has their local address, since a listener
        cannot migrate (RFC 9000, 9). The endpoint calls this itself when its address disappears.
        Raises OSError if no socket can be bound.
        """
        if self._is_closing:
            return
        old = self.local_address
        if host is None and port is None:
            self._renew_socket(self._candidates())
        else:
            home_host, home_port, *rest = self._home
            wanted = (host or home_host, home_port if port is None else port, *rest)
            self._renew_socket([cast(SocketAddress, wanted)])
            self._home = self._udp.address
        extra = {"event": "rebound", "address": "{}:{}".format(*self.local_address)}
        text = "the local address changed from %s:%d to %s:%d"
        _log.info(text, *old, *self.local_address, extra=extra)
        for connection in self.connections:
            if connection.role is Role.DIALER:
                connection.move()
            elif self._still_reaches(connection):
                connection.rebound()
            else:
                connection.fail("the local address has changed", Cause.ADDRESS_NOT_AVAILABLE)

    def _watch_socket(self) -> None:
        if self._engine.uses_ecn:
            self._udp.use_ecn()
        self._udp.compile(self._engine.socket_of or reader_of())
        self._udp.watch(self._loop, self._on_ready)

    def _renew_socket(self, addresses: Sequence[SocketAddress]) -> None:
        """Binds a new socket to the first available address."""
        old = self._udp
        failure: OSError | None = None
        for address in addresses:
            try:
                if address == old.address:
                    self._release_socket(old)
                self._udp = self._bind(address, old.family, self._settings.socket_buffer)
            except OSError as error:
                failure = error
                continue
            self._release_socket(old)
            self._watch_socket()
            return
        raise failure or OSError("no local address with a route to the peers")

    def _candidates(self) -> Sequence[SocketAddress]:
        """Returns the addresses to bind after an address change, in order of preference.

        These are the original address and the local addresses with a route to dialed peers, with
        the same port and with a free one.
        """
        found = [self._home] if is_assigned(self._home[0], self._udp.family) else []
        peers = (one.peer_socket_address for one in self.connections if one.role is Role.DIALER)
        for peer in peers:
            host = address_towards(peer, self._udp.family)
            if host is not None:
                rest = self._home[2:]
                found.append(cast(SocketAddress, (host, self._home[1], *rest)))
                found.append(cast(SocketAddress, (host, 0, *rest)))
                break
        return found

    def _release_socket(self, udp: UdpSocket) -> None:
        if udp.fileno() >= 0:
            udp.close()

    def _still_reaches(self, connection: QuicConnection) -> bool:
        """Returns whether the peer of a connection can still reach this node."""
        if connection.is_relayed:
            return True
        host, port = connection.local_address
        here, here_port = self.local_address
        if port != here_port:
            return False
        return host == here or (self._udp.is_wildcard and is_assigned(host, self._udp.family))

    def _doubt_address(self) -> None:
        """Schedules a check of the local address after a send has failed."""
        if self._look is None and not self._udp.is_wildcard and not self._is_closing:
            self._look = self._loop.call_later(0, self._look_at_address)

    def _look_at_address(self) -> None:
        self._look = None
        if self._is_closing:
            return
        family = self._udp.family
        is_lost = self._udp.fileno() < 0 or not is_assigned(self._udp.address[0], family)
        is_home = self._udp.address == self._home
        if is_home and not is_lost:
            return
        if is_lost or is_assigned(self._home[0], family):
            with contextlib.suppress(OSError):
                self.rebind()
        # Peers know this node by its original address, so the endpoint returns to it when possible.
        self._look = self._loop.call_later(_LOOK_AGAIN, self._look_at_address)

    # -- the interface for connections (connection.Host) ----------------------------------------

    def touch(self, connection: QuicConnection) -> None:
        """Schedules one transmission for the connection at the end of this event loop iteration."""
        self._touched[connection] = None
        if not self._tick_planned:
            self._tick_planned = True
            self._loop.call_soon(self._tick)

    def sender_to(self, address: SocketAddress) -> CompiledSocket | None:
        """Returns what an engine may send through to this address, if it does."""
        return None if self._engine.socket_of is None else self._udp.sender_to(address)

    def send(self, batches: Sequence[Batch]) -> None:
        """Sends datagrams through the socket."""
        if not batches or self._udp.fileno() < 0:
            return
        try:
            self._udp.send_all(batches)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # a path MTU probe may be too large
                self._doubt_address()
            raise

    def leave_unmarked(self, address: SocketAddress) -> None:
        """Sends without ECT(0) to this address from now on."""
        self._udp.leave_unmarked(address)

    def add_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Routes another connection ID to a connection."""
        if connection in self._ids:
            self._ids[connection].add(connection_id)
            self._routes[connection_id] = connection

    def remove_id(self, connection: QuicConnection, connection_id: bytes) -> None:
        """Removes the route of a connection ID."""
        if connection in self._ids:
            self._ids[connection].discard(connection_id)
            self._routes.pop(connection_id, None)

    def expect_reset(self, connection: QuicConnection, old: bytes, new: bytes) -> None:
        """Replaces the stateless reset token of a connection's peer."""
        if self._resets.get(old) is connection:
            del self._resets[old]
        if new:
            self._resets.setdefault(new, connection)

    def take_capacity(self, connection: QuicConnection) -> Capacity | None:
        """Returns and removes the measurement for the address of the peer."""
        return self._paths.take(connection.peer_address[0], self._loop.time())

    def store_capacity(self, connection: QuicConnection, capacity: Capacity) -> None:
        """Stores a measurement for the address of the peer."""
        self._paths.store(connection.peer_address[0], capacity, self._loop.time())

    def accept(self, connection: QuicConnection) -> ConnectionHandler:
        """Offers an incoming connection to the node, which may reject it."""
        assert self._accept is not None, "no incoming connection without accept"
        self._admission.used(connection)
        try:
            return self._accept(connection)
        except Exception:
            self.rejected[RejectReason.NOT_TAKEN] += 1
            raise

    def proved(self, connection: QuicConnection) -> None:
        """Reports that the peer has proved the cookie; the connection is no longer half-open."""
        self._admission.proved(connection)

    def moved(self, connection: QuicConnection) -> None:
        """Reports that the address of a connection's peer is validated."""
        self.on_move(connection)
        if self.chooser is not None:
            self.chooser.moved(connection)

    def connected(self, connection: QuicConnection) -> None:
        """Reports that both nodes have proved the cookie."""
        if self.chooser is not None:
            self.chooser.connected(connection)

    def offered(self, connection: QuicConnection, offer: bytes) -> None:
        """Reports a message about direct paths."""
        if self.chooser is not None:
            self.chooser.offered(connection, offer)

    def offers_refused(self, connection: QuicConnection) -> None:
        """Reports that the peer rejects messages about direct paths."""
        if self.chooser is not None:
            self.chooser.offers_refused(connection)

    def ended(self, connection: QuicConnection) -> None:
        """Removes a connection.

        Its connection IDs stay reserved until `forget`, because late datagrams may arrive.
        """
        if self.chooser is not None:
            self.chooser.ended(connection)
        was_unused = self._admission.ended(connection)
        if connection.exceeded is not None:
            self.rejected[connection.exceeded] += 1
        elif was_unused:
            is_spoken_to = bool(connection.traits.alpn)
            self.rejected[RejectReason.UNUSED if is_spoken_to else RejectReason.TLS] += 1
        self._touched.pop(connection, None)
        self._emptied.clear()
        self._lingering[connection] = None

    def forget(self, connection: QuicConnection) -> None:
        """Removes the connection IDs of a connection that has ended."""
        for connection_id in self._ids.pop(connection, ()):
            self._routes.pop(connection_id, None)
        self._lingering.pop(connection, None)
        connection.forgotten()
        if not self._lingering:
            self._emptied.set()

    def local_address_of(self, local: bytes | None) -> tuple[str, int]:
        """Returns the local address as (host, port), for a packed address or for the bound one.

        That of a relayed path is the port at the relay.
        """
        host, port = self.local_address
        if local is None:
            return host, port
        if is_relayed(local):
            return str(ipaddress.ip_address(local[:-2])), int.from_bytes(local[-2:], "big")
        address = ipaddress.ip_address(local)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return str(address), port

    def probe_silence(self) -> float:
        """Returns the seconds of silence after which a peer is probed for its end; 0 for never.

        With many connections it is longer, so that all idle ones together send few datagrams.
        """
        silence = self._settings.probe_silence
        if not self._udp.tells_refusals or not silence:
            return 0.0
        return max(silence, len(self._ids) / _PINGS_PER_SECOND)

    def may_probe(self, now: float) -> bool:
        """Returns whether one more connection may probe its path."""
        return self._may_probe.take(now)

    def unread(self) -> int:
        """Returns about how many received bytes wait in the socket."""
        return self._udp.unread()

    # -- receiving ------------------------------------------------------------------------------

    def _on_ready(self) -> None:
        if self._udp.has_queue:
            self._udp.send_queue()
        touched: dict[QuicConnection, None] = {}
        batches = self._udp.receive(self._engine.batch)
        # The clock is read after receiving. Otherwise a pause of the process before would shorten
        # the measured round trips.
        now = self._loop.time()
        for data, size, path, ecn in batches:
            if size < len(data):
                self._route_each(data, size, path, now, ecn, touched)
            else:
                self._route_run(data, size, path, now, ecn, touched)
        if self._udp.bounced:
            self._on_bounced()
        for connection in touched:
            self._settle(connection)
        if self._stray_turn is None and self._strays:
            self._handle_strays()
        if self._tick_planned and not self._busy_wait.is_awake:
            self._received_at = now
        else:
            self._busy_wait.received(now)

    def wake(self) -> None:
        """Processes datagrams that the socket has received in another way than from the kernel."""
        self._on_ready()

    def _destination(self, data: bytes) -> QuicConnection | None:
        """Returns the connection of the first datagram of a batch."""
        if len(data) < _ID_END:
            return None
        if data[0] & _LONG_HEADER:
            return self._routes.get(data[6 : 6 + data[5]])
        return self._routes.get(data[1:_ID_END])

    def _route_each(
        self,
        data: bytes,
        size: int,
        path: Path,
        now: float,
        ecn: int,
        touched: dict[QuicConnection, None],
    ) -> None:
        """Routes each datagram of a batch by its own connection ID.

        The kernel joins datagrams by their addresses. Those in a row for one connection stay
        together.
        """
        start = 0
        mark = _mark(data, 0)
        for at in range(size, len(data), size):
            if data[at + 1 : at + _ID_END] == mark and data[at] < _LONG_HEADER:
                continue
            self._route_run(data[start:at], size, path, now, ecn, touched)
            start, mark = at, _mark(data, at)
        self._route_run(data[start:], size, path, now, ecn, touched)

    def _route_run(
        self,
        data: bytes,
        size: int,
        path: Path,
        now: float,
        ecn: int,
        touched: dict[QuicConnection, None],
    ) -> None:
        """Routes datagrams to the connection of the first one."""
        # Most datagrams have a short header, as in `_destination`.
        is_short = data[:1] < _LONG
        connection = self._routes.get(data[1:_ID_END]) if is_short else self._destination(data)
        if connection is None:
            self._queue_strays(data, size, path, ecn)
        else:
            connection.receive(data, size, path, now, ecn)
            touched[connection] = None

    def _queue_strays(self, data: bytes, size: int, path: Path, ecn: int) -> None:
        """Queues datagrams of which the first belongs to no connection."""
        for at in range(0, len(data), max(size, 1)):
            one = data[at : at + size]
            if len(one) < _ID_END:
                self.rejected[RejectReason.STRAY] += 1
            elif not self._is_closing and not self._strays.add(one, path, ecn):
                self.rejected[RejectReason.OVERLOAD] += 1

    def _handle_strays(self) -> None:
        """Handles some of the queued datagrams, and schedules the next turn.

        An earlier datagram may have opened the connection of a later one.
        """
        touched: dict[QuicConnection, None] = {}
        now = self._loop.time()
        strays = self._strays.take_turn()
        for data, path, ecn in strays:
            connection = self._destination(data)
            if connection is not None:
                connection.receive(data, len(data), path, now, ecn)
                touched[connection] = None
            elif not self._is_closing:
                self._arrived(data, path, now, ecn)
        for connection in touched:
            self._settle(connection)
        pause = len(strays) / STRAYS_PER_SECOND
        self._stray_turn = self._loop.call_later(pause, self._next_strays)

    def _next_strays(self) -> None:
        self._stray_turn = None
        if self._strays:
            self._handle_strays()

    def _on_bounced(self) -> None:
        """Handles an ICMP error for that address.

        It fails dial attempts immediately, instead of after a timeout. For established connections
        it is only a hint, because ICMP messages can be forged.
        """
        bounced, self._udp.bounced = self._udp.bounced, {}
        now = self._loop.time()
        for connection in self.connections:
            number = bounced.get(connection.peer_socket_address)
            if number == errno.ECONNREFUSED and connection.dialed is None:
                connection.refused(now)
        for address, number in bounced.items():
            for connection in list(self._dialing.get(address, ())):
                if connection.dialed == address:
                    connection.fail(os.strerror(number).lower(), causes.of_errno(number))

    def _arrived(self, data: bytes, path: Path, now: float, ecn: int) -> None:
        """Handles a datagram that belongs to no connection."""
        if data[0] & 0x80:
            refusal = self._objection(data, path) or self._listen(data, path, now, ecn)
        else:
            refusal = self._missed(data, path, now)
        if refusal is not None:
            self.rejected[refusal] += 1

    def _objection(self, data: bytes, path: Path) -> RejectReason | None:
        """Returns the reason to reject a first datagram according to its header, or None."""
        if self._accept is None or len(data) < _MIN_INITIAL:
            return RejectReason.STRAY
        version = int.from_bytes(data[1:5], "big")
        if version not in self._engine.versions:
            answer = version_negotiation(data, self._engine.versions)
            if answer is not None:
                self._send_quietly(answer, path)
            return RejectReason.VERSION
        return None if is_initial(data, version) else RejectReason.STRAY

    def _listen(self, data: bytes, path: Path, now: float, ecn: int) -> RejectReason | None:
        """Opens a connection for an Initial packet, or returns the reason to reject it.

        A packet that cannot be decrypted leaves no state.
        """
        initial = read_initial(data)
        if initial is None:
            return RejectReason.BROKEN
        opening: Opening | None = Opening(initial.destination_id)
        if initial.token:
            opening = self._proofs.check(initial, path[0], now)
        if opening is None:
            return RejectReason.BAD_PROOF
        has_proved = opening.retry_id is not None
        if len(self._ids) >= self._settings.admission.max_connections and self._lingering:
            self.forget(next(iter(self._lingering)))
        refusal = self._admission.check(path[0], len(self._ids), has_proved=has_proved, now=now)
        if refusal is RejectReason.UNPROVED:
            self._send_quietly(self._proofs.ask(initial, path[0], now), path)
        if refusal is not None:
            return refusal
        engine = self._engine.listener(opening)
        try:
            engine.receive(data, len(data), path, now, ecn)
        except EngineError:
            return RejectReason.BROKEN
        if not engine.is_started:
            return RejectReason.BROKEN
        self._make_room(path[0])
        connection = QuicConnection(self, engine, Role.LISTENER, path, self._settings)
        self._admission.opened(connection, path[0])
        self._add(connection, [initial.destination_id, *engine.connection_ids])
        self._settle(connection)
        return None

    def _make_room(self, address: SocketAddress) -> None:
        """Closes a half-open connection to make room for one from `address`, if necessary."""
        evicted = self._admission.to_evict(address)
        if evicted is not None:
            self.rejected[RejectReason.PUSHED_OUT] += 1
            text = "too many half-open connections from this address"
            cast(QuicConnection, evicted).fail(text, Cause.CROWDED)

    def _missed(self, data: bytes, path: Path, now: float) -> RejectReason | None:
        """Handles a short-header packet without a connection.

        It is a stateless reset by a peer, or it is answered with a stateless reset.
        """
        connection = self._resets.get(token_in(data))
        if connection is None and self._engine.hides_tokens and self._may_ask_all.take(now):
            connection = self._ask_all(data, path, now)
        if connection is not None and self._may_come_from(path[0], connection):
            connection.was_reset()
            return None
        answer = self._reset_tokens.answer(data, data[1 : 1 + CONNECTION_ID_LENGTH])
        if answer is None or not self._may_reset.take(now):
            return RejectReason.STRAY
        self._send_quietly(answer, path)
        return RejectReason.RESET

    def _may_come_from(self, address: SocketAddress, connection: QuicConnection) -> bool:
        return connection.has_direct_paths or connection.peer_socket_address == address

    def _ask_all(self, data: bytes, path: Path, now: float) -> QuicConnection | None:
        """Returns the connection whose engine recognizes the datagram as a stateless reset."""
        for connection in self.connections:
            is_from_peer = self._may_come_from(path[0], connection)
            if is_from_peer and connection.is_reset(data, now):
                return connection
        return None

    def _settle(self, connection: QuicConnection) -> None:
        try:
            connection.after_batch()
        except Exception:
            self.failed(connection)
        self.touch(connection)

    def failed(self, connection: QuicConnection) -> None:
        """Closes only the connection on which an internal error occurred."""
        host, port = connection.peer_address
        extra = {"event": "internal_error", "address": f"{host}:{port}"}
        _log.exception("%s:%d: internal error of a connection", host, port, extra=extra)
        connection.fail("internal error", Cause.INTERNAL)

    # -- sending --------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._tick_planned = False
        touched, self._touched = self._touched, {}
        for connection in touched:
            try:
                # One may have sent for the next one, whose time must not go back.
                connection.transmit(self._loop.time())
            except Exception:
                self.failed(connection)
        if self._received_at is not None:
            self._busy_wait.received(self._received_at)
            self._received_at = None
        self._busy_wait.extend()

    def _send_quietly(self, data: bytes, path: Path) -> None:
        with contextlib.suppress(OSError):
            self.send([(data, len(data), path)])

    # -- dialing -------------------------------------------------------------------------------

    async def _resolve(self, host: str, port: int, timeout: float) -> list[SocketAddress]:
        """Returns all addresses that this socket can reach, in order of preference."""
        mapped = self._udp.family == socket.AF_INET6
        if mapped and self._udp.takes_ipv4:
            family = socket.AF_UNSPEC
        else:
            family = socket.AF_INET6 if mapped else socket.AF_INET
        try:
            datagrams = socket.SOCK_DGRAM
            found = await look_up_host(host, port, kind=datagrams, timeout=timeout, family=family)
        except OSError as error:
            text = f"{host}:{port}: {error.strerror or error}"
            raise DialError(text, causes.of_error(error)) from error
        addresses: list[SocketAddress] = []
        for found_family, _, _, _, address in found:
            if found_family == socket.AF_INET and mapped:
                addresses.append((f"::ffff:{address[0]}", int(address[1]), 0, 0))
            else:
                addresses.append(cast(SocketAddress, address))
        return addresses

    async def _dial_address(
        self,
        node: str,
        address: SocketAddress,
        alpns: Sequence[str] | None,
        deadline: float,
        first: FirstMessage | None,
    ) -> QuicConnection:
        """Makes up to `_ATTEMPTS` attempts to connect to one address.

        Raises AttemptFailed if the last attempt fails or a retry is useless, and TimeoutError.
        """
        offered = alpns_within(alpns or self._settings.alpns, self._settings.limits)
        for attempt in itertools.count(1):
            left = deadline - self._loop.time()
            try:
                return await self._attempt(node, address, offered, left, first)
            except AttemptFailed as error:
                delay = _RETRY_DELAY * 2**attempt
                is_last = attempt == _ATTEMPTS or deadline - self._loop.time() < delay
                if is_last or not error.why.may_retry:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("not reached")

    async def _attempt(
        self,
        node: str,
        address: SocketAddress,
        alpns: Sequence[str],
        timeout: float,
        first: FirstMessage | None,
    ) -> QuicConnection:
        engine = self._engine.dialer(host_of(node), alpns)
        path: Path = (address, None)
        connection = QuicConnection(
            self, engine, Role.DIALER, path, self._settings, node=node, first=first
        )
        connection.up = up = self._loop.create_future()
        self._add(connection, engine.connection_ids)
        engine.connect(path, self._loop.time())
        self.touch(connection)
        dialing = self._dialing.setdefault(address, set())
        dialing.add(connection)
        try:
            failure = await asyncio.wait_for(up, timeout)
        except BaseException:
            connection.close("given up")
            raise
        finally:
            dialing.discard(connection)
            if not dialing:
                self._dialing.pop(address, None)
        if failure is not None:
            raise AttemptFailed(failure)
        return connection

    # -- housekeeping ---------------------------------------------------------------------------

    def _add(self, connection: QuicConnection, ids: Sequence[bytes]) -> None:
        self._ids[connection] = set()
        for connection_id in ids:
            self.add_id(connection, connection_id)

    def _shut(self) -> None:
        self._busy_wait.stop()
        if self.chooser is not None:
            self.chooser.close()
        if self._udp.fileno() < 0:
            return
        for connection in list(self._lingering):
            self.forget(connection)
        self._strays.clear()
        for timer in (self._look, self._stray_turn):
            if timer is not None:
                timer.cancel()
        self._release_socket(self._udp)


def _mark(data: bytes, at: int) -> bytes:
    """Returns the connection ID of the short-header packet at `at`; empty for a long header."""
    return b"" if data[at] & _LONG_HEADER else data[at + 1 : at + _ID_END]


def _warn_of(tracing: Tracing) -> None:
    """Logs a warning if traces are written."""
    if tracing.key_log is not None:
        _log.warning(
            "TLS KEYS ARE WRITTEN TO %s, which allows to decrypt all traffic of this node; "
            "for debugging only",
            tracing.key_log,
            extra={"event": "keys_written", "path": str(tracing.key_log)},
        )
    if tracing.qlog is not None:
        extra = {"event": "packets_written", "path": str(tracing.qlog)}
        text = "all QUIC packets are logged in %s; for debugging only"
        _log.warning(text, tracing.qlog, extra=extra)
