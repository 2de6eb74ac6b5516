"""The gateway: a sidecar process that connects a stock BEAM node to other nodes over QUIC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from quicdist.carriers import causes, tcp
from quicdist.carriers.base import (
    CertificateRejected,
    CloseReason,
    Connection,
    ConnectionHandler,
    DialError,
    FirstMessage,
)
from quicdist.carriers.epmd import EpmdServer
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.reject_reason import RejectCounts
from quicdist.carriers.relay.client import RelayClient, RelayStatus
from quicdist.carriers.relay.direct import open_with_direct_paths
from quicdist.carriers.tcp import TcpConnection
from quicdist.carriers.trust import CertificateError, Credentials
from quicdist.carriers.trust.expiry import watch_expiry
from quicdist.carriers.trust.file_watcher import watch
from quicdist.cluster.audit import Audit
from quicdist.cluster.cookie_throttle import CookieThrottle
from quicdist.cluster.lan import Announcement, is_local_name
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.names import Address, NodeName
from quicdist.cluster.policy import Mode, Policy
from quicdist.cluster.policy_file import PolicyError, read_policy
from quicdist.cluster.relays import open_via
from quicdist.cluster.whereabouts import Whereabouts
from quicdist.cluster.whereabouts import dial as dial_doubtful
from quicdist.errors import Cause, NodeNameError, NotRunning, QuicdistError
from quicdist.gateway.directory import LOOPBACK, GatewayDirectory
from quicdist.gateway.info import GatewayStatistics
from quicdist.gateway.policy_filter import PolicyFilter
from quicdist.gateway.reachability import ReferenceBudget
from quicdist.gateway.relay import PeerRates, Relay
from quicdist.gateway.routes import Routes, Way, answer_target, ask_for, target_of
from quicdist.gateway.settings import GatewaySettings
from quicdist.gateway.term_scanner import AtomBudget
from quicdist.protocol.dialects import NATIVE_ALPNS
from quicdist.protocol.packet import Packet
from quicdist.runtime.counters import Ending, NodeCounters
from quicdist.stopping import stop_signals

_log = logging.getLogger("quicdist.gateway")
_log.addFilter(LogRateLimit("not_believed", "refused", "relay_not_up", "relay_refused"))


class GatewayError(QuicdistError):
    """The gateway cannot start. The text is one line; `cause` is the reason for programs."""

    def __init__(self, text: str, cause: Cause = Cause.SETTING) -> None:
        super().__init__(text)
        self.cause = cause


class _Endpoint(Protocol):
    """The methods of the QUIC endpoint that a gateway uses."""

    rejected: RejectCounts

    @property
    def local_address(self) -> tuple[str, int]: ...

    async def dial(
        self,
        host: str,
        port: int,
        *,
        node: str,
        alpns: Sequence[str],
        timeout: float,
        first: FirstMessage | None,
    ) -> Connection: ...

    def rebind(self) -> None: ...

    async def close(self, timeout: float) -> None: ...


Accept = Callable[[Connection], ConnectionHandler]
OpenEndpoint = Callable[[GatewaySettings, Credentials, Accept], Awaitable[_Endpoint]]


class Gateway:
    """A gateway for one BEAM node.

    Use it as `async with Gateway(GatewaySettings("5555@10.0.0.7")): ...`.
    """

    def __init__(
        self, settings: GatewaySettings | str, *, open_endpoint: OpenEndpoint | None = None
    ) -> None:
        """A name as `settings` uses the defaults. Raises NodeNameError if the name is invalid."""
        self.settings = (
            settings if isinstance(settings, GatewaySettings) else GatewaySettings(settings)
        )
        self._udp_address = self.settings.udp_address
        self._open_endpoint = open_endpoint or _open_quic
        self._relayed: RelayClient | None = None
        self._whereabouts = Whereabouts()
        self._use_name(str(self.settings.node))
        self._policy = self.settings.policy
        self._atoms = AtomBudget()
        self._references = ReferenceBudget()
        self._rates = PeerRates(self.settings.messages_per_second, self.settings.calls_per_second)
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._dismissing: set[asyncio.Task[None]] = set()
        self._counters = NodeCounters()
        self._policy_refusals = 0
        self._cookie_throttle = CookieThrottle()
        self._since = time.time()
        self._endpoint: _Endpoint | None = None
        self._watching: list[asyncio.Task[None]] = []
        trust, hosts = self.settings.trust, [self.settings.node.host]
        hosts += [one.host for one in self.settings.via if one.host not in hosts]
        self._credentials = Credentials(self.settings.identity, trust, hosts)
        self._epmd: EpmdServer | None = None
        self._announcement: Announcement | None = None

    def _use_name(self, name: str) -> None:
        """Sets the name of the BEAM node, which with `via` is known when the relay has answered."""
        self._name = name
        self._settings_named = replace(self.settings, name=name)
        self._routes = Routes(self.settings.routes, default_port=self.settings.port_of_others)
        self._directory = GatewayDirectory(
            name,
            routes=self._routes,
            max_remotes=self.settings.max_remotes,
            limits=self.settings.limits,
            connect=self._outgoing,
            is_open=self.settings.lan is not None,
        )
        self._audit = Audit(name) if self.settings.audit else None

    @property
    def name(self) -> str:
        """The name of the BEAM node. With `via` it is final after the start."""
        return self._name

    @property
    def relay(self) -> RelayStatus | None:
        """The state at the relay; None without `via`."""
        return None if self._relayed is None else self._relayed.status()

    @property
    def epmd_port(self) -> int:
        """The loopback TCP port for the EPMD requests of the BEAM node."""
        assert self._epmd is not None, "not started"
        return self._epmd.local_address[1]

    @property
    def quic_address(self) -> tuple[str, int]:
        """The local UDP address."""
        assert self._endpoint is not None, "not started"
        return self._endpoint.local_address

    @property
    def beam_port(self) -> int | None:
        """The distribution port of the BEAM node, or None if it is not registered."""
        return self._directory.beam_port

    @property
    def connections(self) -> int:
        """The number of connections through the gateway, including those being established."""
        return len(self._relays)

    def stats(self) -> GatewayStatistics:
        """Returns the current state and counters. Raises NotRunning."""
        if self._endpoint is None:
            raise NotRunning(f"the gateway for {self.name} is not running")
        connected = [relay for relay in self._relays if relay.connected]
        expires = self._credentials.expires
        counters, came = self._counters, sum(relay.is_incoming for relay in connected)
        return GatewayStatistics(
            name=self.name,
            since=self._since,
            is_registered=self.beam_port is not None,
            connections=[relay.info() for relay in connected if not relay.is_closing],
            connecting=sum(not relay.connected for relay in self._relays),
            dialed=counters.dialed + len(connected) - came,
            accepted=counters.accepted + came,
            ended=counters.ended_by_reason(),
            refused=counters.refused_by_reason([self._endpoint.rejected]),
            policy_refusals=sum(
                (relay.policy_refusals for relay in self._relays), self._policy_refusals
            ),
            traffic=sum((relay.traffic() for relay in connected), counters.past),
            certificate_expires=None if expires is None else expires.timestamp(),
        )

    def use_policy(self, policy: Policy) -> None:
        """Replaces the policy, also for existing connections.

        Connections to peers that the new policy does not permit are closed. If there was no policy
        before, all connections are closed.
        """
        self._policy = policy
        for relay in list(self._relays):
            relay.set_policy(policy)
        extra = {"event": "policy_changed", "node": self.name}
        _log.info("policy replaced: %s", _policy_line(policy), extra=extra)
        _warn_of_shells(policy, self.name)

    def recheck_peers(self) -> None:
        """Verifies the certificates of all peers again. See `Node.recheck_peers`."""
        for relay in list(self._relays):
            relay.recheck()

    async def start(self) -> None:
        """Opens the ports. Raises GatewayError and CertificateError."""
        if self.settings.via:
            await self._open_via()
        else:
            await self._open_udp()
        try:
            await self._open_epmd()
        except BaseException:
            await self._close_endpoint()
            raise
        if self.settings.lan is not None:
            host, port = self._udp_address
            port = port or self.quic_address[1]
            self._announcement = Announcement(self.settings.lan, self.name, host, port)
        self._watching = [
            asyncio.create_task(watch(self._credentials.verifier, self.recheck_peers)),
            asyncio.create_task(watch_expiry(self._credentials, self.name)),
        ]
        extra = {"event": "gateway_up", "node": self.name}
        _log.info("gateway for %s: QUIC at %s:%d", self.name, *self.quic_address, extra=extra)
        where = (LOOPBACK, self.epmd_port)
        _log.info("gateway for %s: EPMD requests at %s:%d", self.name, *where, extra=extra)
        trust = self.settings.trust
        _log.log(trust.log_level, "%s", trust.describe(), extra=extra)
        _log.info("%s", _policy_line(self.settings.policy), extra=extra)
        _warn_of_shells(self.settings.policy, self.name)

    async def _open_epmd(self) -> None:
        wanted = self._settings_named.beam_asks_at
        try:
            self._epmd = await EpmdServer.open(LOOPBACK, wanted, self._directory)
        except OSError as error:
            raise GatewayError(
                f"cannot bind TCP port {wanted} on {LOOPBACK} for requests of the BEAM node: "
                f"{_why(error)}",
                causes.of_error(error),
            ) from error

    async def _open_udp(self) -> None:
        try:
            self._endpoint = await self._open_endpoint(
                self.settings, self._credentials, self._incoming
            )
        except OSError as error:
            host, port = self._udp_address
            text = f"cannot bind UDP {host}:{port}: {_why(error)}"
            raise GatewayError(text, causes.of_error(error)) from error

    async def _open_via(self) -> None:
        quic = self.settings.with_credentials(self._credentials, self.settings.alpns)
        try:
            relayed = await open_via(
                self.settings.via,
                self._credentials,
                asked=self.settings.node.address if self.settings.name else None,
                listen=self.settings.listen,
                options=self.settings,
                open_endpoint=lambda host, port, bind: Endpoint.open(
                    host, port, settings=quic, accept=self._incoming, bind=bind
                ),
            )
        except OSError as error:
            raise GatewayError(_why(error), causes.of_error(error)) from error
        self._endpoint, self._relayed = relayed.endpoint, relayed.client
        self._use_name(relayed.address.name())
        self._credentials.say_objection(self.name)

    async def _close_endpoint(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        relayed, self._relayed = self._relayed, None
        if relayed is not None:
            relayed.leave()
        if endpoint is not None:
            await endpoint.close(self.settings.close_timeout)
        if relayed is not None:
            relayed.close()

    def rebind(self) -> None:
        """Opens a new UDP socket and migrates the connections that the BEAM node dialed.

        The connections stay up. See `Node.rebind`. Raises OSError.
        """
        assert self._endpoint is not None, "not started"
        self._endpoint.rebind()

    async def close(self) -> None:
        """Closes all connections, on both sides, and all ports."""
        for task in self._watching:
            task.cancel()
        if self._announcement is not None:
            await self._announcement.close()
        if self._epmd is not None:
            await self._epmd.close()
        await self._directory.close()
        for relay in list(self._relays):
            relay.close("the gateway stops")
        if self._relays:
            await asyncio.wait(self._relays.values(), timeout=self.settings.close_timeout)
        await self._close_endpoint()

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- from the BEAM node to peers --

    def _outgoing(self, name: str, near: TcpConnection) -> ConnectionHandler:
        try:
            ways = self._routes.ways(name)
        except NodeNameError as error:
            if self.settings.lan is None:
                raise ConnectionRefusedError(str(error)) from None
            ways = ()
        where = "{0.host}:{0.port}".format(ways[0].address) if ways else "the local network"
        relay = self._relay(self.name, name, where)
        self._start(relay, self._reach(relay, name, ways))
        relay.near.attach(near)
        return relay.near

    async def _reach(self, relay: Relay, name: str, ways: Sequence[Way]) -> None:
        if not self.settings.access.dials(name):
            relay.close("the settings do not permit a connection to it", Cause.REFUSED_HERE)
            return
        deadline = _now() + self.settings.dial_timeout
        ways = [*await self._announced(name, ways), *ways]
        if not ways:
            relay.close("no host of the local network announces it", Cause.NOT_FOUND)
            return
        failures = []
        found: list[Cause] = []
        for place, way in enumerate(ways):
            left = (deadline - _now()) / (len(ways) - place)
            try:
                host = way.address.host
                doubt = self._whereabouts.doubt(name, host)
                dialing = self._dial(name, way, left, relay.near.first_message)
                far = await dial_doubtful(dialing, host, doubt)
            except CertificateRejected as error:
                told = self._whereabouts.explained(name, way.address.host, error)
                failures.append(str(told))
                found.append(told.cause)
                continue
            except (DialError, OSError) as error:
                address = way.address
                failures.append(f"cannot reach {address.host}:{address.port}: {_why(error)}")
                found.append(causes.of_error(error))
                continue
            self._whereabouts.reached(host)
            relay.dialed_through(way.node)
            relay.far.attach(far)
            return
        relay.close("; ".join(failures), max(found, key=causes.rank))

    async def _announced(self, name: str, ways: Sequence[Way]) -> Sequence[Way]:
        """Returns the addresses of a node that is announced in the local network.

        They are only needed if its name contains no port, or a host in `.local`.
        """
        lan, parsed = self.settings.lan, NodeName.parse(name)
        is_routed = bool(ways) and not ways[0].asks and not is_local_name(ways[0].address.host)
        if lan is None or is_routed:
            return ()
        try:
            found = await lan.find(parsed, self.settings.dial_timeout / 3)
        except NotFound:
            return ()
        return [Way(Address(one.host, one.port), name, asks=False) for one in found]

    async def _dial(self, name: str, way: Way, timeout: float, first: FirstMessage) -> Connection:
        """Returns a connection that is ready for the distribution handshake. Raises DialError.

        `first` is sent early (see `FirstMessage`) to the node itself, not to a gateway that has to
        be asked for it or verified again.
        """
        assert self._endpoint is not None
        deadline = _now() + timeout
        native = tuple(alpn for alpn in self.settings.alpns if alpn in NATIVE_ALPNS)
        if way.asks and not native:
            text = f"other gateways can be asked for nodes only over {' or '.join(NATIVE_ALPNS)}"
            raise DialError(text, Cause.SETTING)
        far = await self._endpoint.dial(
            way.address.host,
            way.address.port,
            node=way.node,
            alpns=native if way.asks else self.settings.alpns,
            timeout=timeout,
            first=None if way.asks or way.node != name else first,
        )
        if way.asks and not await ask_for(far, name, deadline - _now()):
            far.close(f"{name} is not served")
            text = f"the gateway of {way.node} does not serve it"
            raise DialError(text, Cause.NOT_FOUND)
        if way.node != name:
            # A gateway that serves one name of a host is asked for other names there. It must
            # present the known key of that name, and a certificate for it.
            try:
                far.check_again(name)
            except CertificateError as error:
                far.close("the certificate is not trusted")
                raise DialError(str(error), error.cause) from None
        return far

    # -- from peers to the BEAM node --

    def _incoming(self, far: Connection) -> ConnectionHandler:
        self._check_room("{}:{}".format(*far.peer_address))
        return _UnroutedConnection(far, self._take)

    def _take(self, far: Connection, target: str | None) -> ConnectionHandler | None:
        """Handles a peer that dials a node, by default the gateway's. None if it is not here."""
        name = self.name if target is None else target
        if target is not None:
            is_here = name == self.name or self._directory.port_of(name) is not None
            answer_target(far, is_here=is_here)
            if not is_here:
                task = asyncio.create_task(self._close_later(far))
                self._dismissing.add(task)
                task.add_done_callback(self._dismissing.discard)
                return None
        relay = self._relay(name, None, "{}:{}".format(*far.peer_address))
        self._start(relay, self._reach_beam(relay, name))
        relay.far.attach(far)
        return relay.far

    async def _close_later(self, far: Connection) -> None:
        await far.flush(self.settings.close_timeout)
        far.close("unknown node")

    async def _reach_beam(self, relay: Relay, name: str) -> None:
        # Only the BEAM node knows the cookie, and it does not delay peers that guess it.
        await asyncio.sleep(self._patience(relay.peer_host))
        port = self._directory.port_of(name)
        if port is None:
            relay.close(f"{name} is not registered with its gateway")
            return
        try:
            near = await tcp.dial(
                LOOPBACK, port, timeout=self.settings.dial_timeout, limits=self.settings.limits
            )
        except OSError as error:
            relay.close(f"cannot connect to {name} at its port {port}: {_why(error)}")
            return
        relay.near.attach(near)

    def _patience(self, host: str | None) -> float:
        """Seconds by which connections from a host are delayed."""
        return 0.0 if host is None else self._cookie_throttle.delay(host, _now())

    # -- both directions --

    def _check_room(self, peer_address: str) -> None:
        """Raises ConnectionRefusedError if the limit of connections is reached."""
        if len(self._relays) >= self.settings.max_relays:
            count = len(self._relays)
            extra = {"event": "refused", "node": self.name, "address": peer_address}
            _log.warning("connection refused: %d are open already", count, extra=extra)
            raise ConnectionRefusedError("too many connections")

    def _relay(self, own_name: str, peer_name: str | None, peer_address: str) -> Relay:
        self._check_room(peer_address)
        return Relay(
            own_name,
            peer_name=peer_name,
            peer_address=peer_address,
            policy_filter=self._policy_filter(own_name, peer_name),
            audit=self._audit,
            access=self.settings.access,
            handshake_timeout=self.settings.handshake_timeout,
            keepalive=self.settings.keepalive,
            learn_peer=self._learn_peer if peer_name is None else self._routes.learn,
            rates=self._rates,
        )

    def _learn_peer(self, name: str, seen_at: tuple[str, int]) -> None:
        """Records the address of a peer that has connected and proved the cookie."""
        self._routes.learn(name, seen_at)
        self._whereabouts.connected_from(name, seen_at[0])

    def _policy_filter(self, own_name: str, peer_name: str | None) -> PolicyFilter | None:
        policy = self._policy
        if policy is None:
            return None
        return PolicyFilter(
            policy,
            own_name,
            dialed_peer=peer_name,
            atoms=self._atoms,
            references=self._references,
            is_audited=self._audit is not None or self._rates.limits_calls,
        )

    def _start(self, relay: Relay, reach: Coroutine[None, None, None]) -> None:
        """Starts the task of a relay: it connects the other side and waits for the end."""
        task = asyncio.create_task(self._run_relay(relay, reach))
        self._relays[relay] = task
        task.add_done_callback(lambda _: self._ended(relay))

    def _ended(self, relay: Relay) -> None:
        del self._relays[relay]
        self._policy_refusals += relay.policy_refusals
        counters = self._counters
        if relay.connected:
            counters.dialed += not relay.is_incoming
            counters.accepted += relay.is_incoming
            counters.connection_ended(relay.ending, relay.traffic())
        elif relay.is_incoming:
            counters.connection_refused(relay.ending)
            if relay.ending is Ending.COOKIE and relay.peer_host is not None:
                self._cookie_throttle.failed(relay.peer_host, _now())

    async def _run_relay(self, relay: Relay, reach: Coroutine[None, None, None]) -> None:
        reaching = asyncio.create_task(reach)
        closed = asyncio.create_task(relay.wait_closed())
        await asyncio.wait((reaching, closed), return_when=asyncio.FIRST_COMPLETED)
        if not reaching.done():
            reaching.cancel()
            await asyncio.wait((reaching,))
        elif error := reaching.exception():
            relay.close(_why(error))
        await closed


class _UnroutedConnection:
    """The handler of a connection until its first message contains the node that it is for.

    It is then replaced by the handler of a relay (carriers.base.ConnectionHandler).
    """

    def __init__(
        self,
        far: Connection,
        take: Callable[[Connection, str | None], ConnectionHandler | None],
    ) -> None:
        self._far = far
        self._take = take
        self._is_taken = False

    def packets_received(self, packets: Sequence[Packet]) -> int:
        if self._is_taken:
            return 0  # a further question: the connection is being closed
        self._is_taken = True
        try:
            target = target_of(packets[0])
            handler = self._take(self._far, target)
        except (NodeNameError, ConnectionRefusedError) as error:
            self._far.close(str(error))
            return 0
        consumed = 0
        if target is not None:
            consumed = len(packets[0].data)
            packets = packets[1:]
        if handler is not None and packets:
            consumed += handler.packets_received(packets)
        return consumed

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        pass


async def run(
    settings: GatewaySettings,
    *,
    started: Callable[[Gateway], None] | None = None,
    while_up: Callable[[Gateway], AbstractAsyncContextManager[None]] | None = None,
    policy_file: Path | None = None,
) -> None:
    """Runs a gateway until SIGINT, SIGTERM or SIGHUP.

    `started` is called when the ports are open, inside the context manager that `while_up` returns.
    With a `policy_file`, SIGHUP reloads the policy and does not end the gateway. Raises the
    exceptions of `Gateway` and `Gateway.start`.
    """
    _raise_file_limit(3 * (settings.max_remotes + settings.max_relays))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = set(stop_signals())
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        async with Gateway(settings) as gateway:
            if policy_file is not None:
                loop.add_signal_handler(signal.SIGHUP, _reread, gateway, policy_file)
                signals.add(signal.SIGHUP)
            async with contextlib.nullcontext() if while_up is None else while_up(gateway):
                if started is not None:
                    started(gateway)
                await stop.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _reread(gateway: Gateway, policy_file: Path) -> None:
    try:
        gateway.use_policy(read_policy(policy_file))
    except PolicyError as error:
        extra = {"event": "policy_failed", "node": gateway.name, "path": str(policy_file)}
        _log.error("the policy was not replaced: %s", error, extra=extra)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _raise_file_limit(wanted: int) -> None:
    """Raises the limit of open files, as far as permitted.

    Each remote node takes a port and each connection a socket; the usual limit is 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _open_quic(
    settings: GatewaySettings, credentials: Credentials, accept: Accept
) -> _Endpoint:
    credentials.say_objection(settings.name)
    quic = settings.with_credentials(credentials, settings.alpns)
    host, port = settings.udp_address
    return await open_with_direct_paths(
        settings.path,
        lambda bind: Endpoint.open(host, port, settings=quic, accept=accept, bind=bind),
    )


def _policy_line(policy: Policy | None) -> str:
    if policy is None:
        return "no policy: any node with the cookie can run any function on the node"
    if policy.mode is Mode.LOG:
        return "a policy that only logs: any node with the cookie can run any function on the node"
    return "the policy restricts what peers may do on the node"


def _warn_of_shells(policy: Policy | None, node: str) -> None:
    """Warns of each entry that allows a function by which peers can run any code."""
    if policy is None or policy.mode is Mode.LOG:
        return
    for place, rules in enumerate(policy.peers, 1):
        for pattern, function in rules.shells().items():
            extra = {"event": "policy_is_shell", "node": node, "what": pattern}
            _log.warning(
                "peers[%d] of the policy: calls %r allows %s, thus any code on the node",
                *(place, pattern, function),
                extra=extra,
            )


def _why(error: BaseException) -> str:
    """The text of an error, without the addresses that asyncio adds to it."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
