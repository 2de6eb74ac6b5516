"""The direct paths of an endpoint's connections: connects `paths` with sockets, timers and QUIC."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

from quicdist.carriers.base import PathKind
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Bind, Endpoint
from quicdist.carriers.quic.engine import Path, SocketAddress
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.relay.candidates import Address, Candidate, normalized, own_candidates
from quicdist.carriers.relay.host_addresses import host_addresses
from quicdist.carriers.relay.offers import OfferError
from quicdist.carriers.relay.paths import (
    Output,
    PathMode,
    PeerPaths,
    SendOffer,
    Switched,
    Unreachable,
    path_mode,
)
from quicdist.carriers.relay.port_mapping import PortMapping
from quicdist.carriers.relay.punching import Transmit, session_of
from quicdist.carriers.relay.transport import Paths, binder
from quicdist.errors import Cause
from quicdist.protocol.role import Role

_log = logging.getLogger("quicdist.relay")
_log.addFilter(LogRateLimit("path_changed"))

_SENT_INTERVAL = 0.1
"""Seconds between two looks at which paths are in use."""

Observe = Callable[[], Sequence[Address]]
"""Returns the addresses at which others see this node, as far as they are known."""


class DirectPaths:
    """The owner of all `PeerPaths` of an endpoint (`endpoint.PathChooser`)."""

    def __init__(
        self, endpoint: Endpoint, paths: Paths, mode: PathMode, observe: Observe | None = None
    ) -> None:
        """`observe` is that of the relay client; without one nobody dials this node at a relay."""
        self._endpoint = endpoint
        self._paths = paths
        self._mode = mode
        self._observe = observe or _nothing_observed
        self._mapping: PortMapping | None = None
        self._loop = asyncio.get_running_loop()
        self._peers: dict[QuicConnection, PeerPaths] = {}
        self._sessions: dict[bytes, QuicConnection] = {}
        self._names: dict[QuicConnection, Sequence[bytes]] = {}
        """The sessions of each connection."""
        self._used: dict[QuicConnection, Path] = {}
        """The constant paths of connections that are direct."""
        self._timer: asyncio.TimerHandle | None = None
        self._sent_timer: asyncio.TimerHandle | None = None
        paths.aside = self._take_aside
        paths.on_sent = self._look_at_sent
        endpoint.chooser = self

    # -- what the endpoint reports --------------------------------------------------------------

    def connected(self, connection: QuicConnection) -> None:
        """Has the listener of a relayed connection offer its candidates."""
        if not connection.is_relayed:
            return
        connection.path_kind = PathKind.RELAYED
        peer = self._add(connection)
        peer.seen = normalized(*connection.peer_address)
        self._perform(connection, peer.proved(self._loop.time()))

    def offered(self, connection: QuicConnection, offer: bytes) -> None:
        """Handles an offer or answer. One that is malformed closes the connection."""
        peer = self._peers.get(connection)
        if peer is None:
            if connection.role is Role.LISTENER:
                return
            connection.path_kind = PathKind.RELAYED
            peer = self._add(connection)
            self._perform(connection, peer.proved(self._loop.time()))
        peer.own = self._candidates()
        now = self._loop.time()
        try:
            outputs = peer.offer_received(offer, now, connection.round_trip)
        except OfferError as error:
            connection.fail(str(error), Cause.CARRIER)
            return
        self._perform(connection, outputs)

    def offers_refused(self, connection: QuicConnection) -> None:
        """Ends the search for a peer that does not know of direct paths."""
        peer = self._peers.get(connection)
        if peer is not None:
            peer.declined()

    def moved(self, connection: QuicConnection) -> None:
        """Follows a dialer whose address at the relay has changed."""
        peer = self._peers.get(connection)
        if peer is None or connection.role is Role.DIALER:
            return
        peer.seen = normalized(*connection.peer_address)
        if peer.address is not None:
            self._route(connection, peer.address)

    def ended(self, connection: QuicConnection) -> None:
        """Forgets a connection."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return
        self._use_sessions(connection, ())
        self._route(connection, None)
        self._look_at_pinged()

    def map_port(self) -> None:
        """Has the router forward a port to this node (see `port_mapping.check`)."""
        port = self._endpoint.local_address[1]
        self._mapping = PortMapping(port, self.addresses_changed)

    async def leave(self, timeout: float) -> None:
        """Has the router delete the mapping of the port."""
        if self._mapping is not None:
            await self._mapping.leave(timeout)

    def close(self) -> None:
        """Stops the timers."""
        if self._mapping is not None:
            self._mapping.close()
        for timer in (self._timer, self._sent_timer):
            if timer is not None:
                timer.cancel()

    # -- what the relay client reports ----------------------------------------------------------

    def addresses_changed(self) -> None:
        """Reports that others see this node at another address than before."""
        now = self._loop.time()
        own = self._candidates()
        for peer in self._peers.values():
            if own != peer.own and peer.own:
                peer.own = own
                peer.renew(now)
        self._plan()

    # -- pings ----------------------------------------------------------------------------------

    def _take_aside(self, data: bytes, address: SocketAddress) -> None:
        connection = self._sessions.get(session_of(data))
        if connection is None:
            self._endpoint.rejected[RejectReason.PING] += 1
            return
        source = normalized(address[0], address[1])
        peer = self._peers[connection]
        ignored = peer.rejected.total()
        self._perform(connection, peer.receive(data, source, self._loop.time()))
        self._endpoint.rejected[RejectReason.PING] += peer.rejected.total() - ignored

    def _look_at_sent(self) -> None:
        """Has the paths checked on which datagrams are sent, ten times a second."""
        if self._sent_timer is None:
            self._loop.call_soon(self._note_sent)
            self._sent_timer = self._loop.call_later(_SENT_INTERVAL, self._forget_sent)

    def _note_sent(self) -> None:
        now = self._loop.time()
        for connection, path in self._used.items():
            if path in self._paths.sent:
                self._peers[connection].sent(now)
        self._plan()

    def _forget_sent(self) -> None:
        self._sent_timer = None
        self._note_sent()
        self._paths.sent.clear()

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection, peer in list(self._peers.items()):
            if peer.next_at <= now:
                self._perform(connection, peer.tick(now))
        self._plan()

    def _plan(self) -> None:
        due = min((peer.next_at for peer in self._peers.values()), default=math.inf)
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._timer = self._loop.call_at(due, self._tick)

    # -- what the machines want -----------------------------------------------------------------

    def _perform(self, connection: QuicConnection, outputs: Sequence[Output]) -> None:
        peer = self._peers[connection]
        for output in outputs:
            match output:
                case Transmit(data, address):
                    self._paths.send_aside(data, address)
                case SendOffer(data):
                    connection.send_offer(data)
                case Switched():
                    self._use(connection, peer)
                case Unreachable():
                    connection.fail("there is no direct path to the peer", Cause.UNREACHABLE)
                    return
        if peer.sessions:
            connection.has_direct_paths = self._paths.is_used = True
        self._use_sessions(connection, peer.sessions)
        self._look_at_pinged()
        self._plan()

    def _use(self, connection: QuicConnection, peer: PeerPaths) -> None:
        kind = PathKind.RELAYED if peer.address is None else PathKind.DIRECT
        self._route(connection, peer.address)
        connection.path_changed(kind)
        host, port = peer.address or connection.peer_address
        where = f"{host}:{port}"
        extra = {"event": "path_changed", "path": kind.value, "address": where}
        _log.info("the path of a connection is %s now (%s)", kind.value, where, extra=extra)

    def _route(self, connection: QuicConnection, address: Address | None) -> None:
        """Sends the datagrams of a connection to an address, or through the relay if None."""
        old = self._used.pop(connection, None)
        if old is not None and old not in self._used.values():
            self._paths.use_relay(old)
        if address is not None:
            self._used[connection] = connection.path
            self._paths.use_direct(connection.path, self._paths.socket_address(address))

    def _use_sessions(self, connection: QuicConnection, names: Sequence[bytes]) -> None:
        for old in self._names.pop(connection, ()):
            self._sessions.pop(old, None)
        if names:
            self._names[connection] = names
            self._sessions.update(dict.fromkeys(names, connection))

    def _look_at_pinged(self) -> None:
        self._paths.pinged = {
            self._paths.socket_address(address)
            for peer in self._peers.values()
            for address in peer.pinged
        }

    def _add(self, connection: QuicConnection) -> PeerPaths:
        peer = self._peers[connection] = PeerPaths(connection.role, self._mode)
        peer.own = self._candidates()
        return peer

    def _candidates(self) -> Sequence[Candidate]:
        """Returns the candidates of this node that its socket can use."""
        if self._mode is PathMode.RELAY_ONLY:
            return ()
        host, port = self._endpoint.local_address
        hosts = [host] if host not in ("0.0.0.0", "::") else host_addresses()
        mapping = None if self._mapping is None else self._mapping.address
        mapped = [] if mapping is None else [mapping]
        found = own_candidates(hosts, port, observed=self._observe(), mapped=mapped)
        return [one for one in found if self._paths.can_reach(one.address)]


async def open_with_direct_paths(
    path: str, open_endpoint: Callable[[Bind], Awaitable[Endpoint]]
) -> Endpoint:
    """Opens an endpoint without a relay whose connections to nodes at a relay may become direct.

    `path` is the name of a `PathMode`, and `open_endpoint` opens the endpoint with its argument.
    """
    paths = Paths()
    endpoint = await open_endpoint(binder(paths))
    DirectPaths(endpoint, paths, path_mode(path))
    return endpoint


def _nothing_observed() -> Sequence[Address]:
    return ()
