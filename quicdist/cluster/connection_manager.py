"""The connections of a node: one for each peer, established on demand.

If two nodes connect to each other at the same time, the attempt of the node with the greater name
continues, as in OTP.

ERTS manual, Distribution Protocol, "The Handshake in Detail" (status); OTP, dist_util.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from quicdist.carriers import causes
from quicdist.carriers.address_group import host_prefix
from quicdist.carriers.base import CertificateRejected, Connection, ConnectionHandler
from quicdist.carriers.half_open import HalfOpen
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.private_addresses import is_seen_elsewhere, scope_of
from quicdist.carriers.token_bucket import TokenBuckets
from quicdist.carriers.trust import CertificateError, PeerRefused
from quicdist.carriers.trust.names import written
from quicdist.carriers.trust.verifiers import another_node
from quicdist.cluster.access import AccessControl
from quicdist.cluster.cookie_throttle import CookieThrottle
from quicdist.cluster.liveness import BEAT, LoopWatch
from quicdist.cluster.names import NodeName
from quicdist.cluster.peer import Peer, ReceiverOfRun, State, no_receiver
from quicdist.cluster.resolver import Resolver
from quicdist.errors import Cause, NoConnection
from quicdist.etf import Atom, EtfEncodeError, Options, Pid, Term
from quicdist.limits import NodeLimits
from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake import NOT_BOUND, LocalNode, first_message
from quicdist.protocol.handshake_messages import Named, Status, is_node_name, settle_simultaneous
from quicdist.protocol.role import Role
from quicdist.protocol.session import Session
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from quicdist.runtime.backpressure import Source
from quicdist.runtime.counters import Ending, NodeCounters
from quicdist.runtime.identifiers import new_creation
from quicdist.runtime.process_table import Handler, Route
from quicdist.runtime.rate_limit import RateLimits

logger = logging.getLogger("quicdist.node")
logger.addFilter(
    LogRateLimit("peer_refused", "not_believed", "not_allowed", "call_raised", "payload_refused")
)

_MAX_QUEUED = 10_000
"""The maximum number of signals queued for one connection attempt."""

_FINAL_STATUSES = frozenset({Status.NOT_ALLOWED.value, Status.WRONG_COOKIE.value})
"""Refusals that are final: another attempt would be refused as well."""


_FINAL_ERRORS = (NoConnection, CertificateRejected, CertificateError, UnicodeError)
"""Dial errors that are final: an unresolvable name, a rejected certificate, a missing local
certificate, a host that IDNA cannot encode."""

_FINAL_CAUSES = frozenset({Cause.ADDRESS_FAMILY, Cause.HOST_UNKNOWN, Cause.BEHIND_NAT})
"""Causes that are final."""

_REPORTED_BY_ICMP = frozenset({Cause.PORT_CLOSED, Cause.UNREACHABLE})
"""Causes of dials that end at once, and are final if they repeat (`closed_port_dials`)."""

_YIELD = 1.5
"""Seconds that this node waits for the peer's simultaneous attempt. It is short, since that peer
is not authenticated yet."""


class Listener(Protocol):
    """Receives events about connections."""

    def peer_up(self, peer: Peer) -> None:
        """Called when the distribution handshake of a connection is complete."""

    def peer_down(self, peer: Peer, reason: str) -> None:
        """Called when an established connection has ended. `reason` is one line for the log."""

    def unreachable(self, node: Atom, reason: str, cause: Cause) -> None:
        """Called if no connection could be established and signals were queued for it."""

    def named(self, name: str, creation: int) -> None:
        """Called when the naming node has assigned a name. Calls `Connections.begin` with it."""

    def name_lost(self, reason: str) -> None:
        """Called when the connection to the naming node is lost.

        That node may assign the name again.
        """

    def probe(self, peer: Peer) -> None:
        """Called to send a request that every live node answers. See `Liveness`."""


@dataclass(frozen=True, slots=True)
class _WaitingCall:
    """A call that begins when the connection is up, or fails."""

    begin: Callable[[Peer], None]
    fail: Callable[[Exception], None]


class _Attempt:
    """The attempt to connect to one node, shared by all callers."""

    def __init__(self, node: Atom, deadline: float) -> None:
        self.node = node
        self.deadline = deadline
        self.result: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        self.signals: deque[tuple[Pid, Signal, Payload] | _WaitingCall] = deque()
        self.posted = 0
        """The number of signals in the queue, without calls: each call has a caller that waits."""
        self.dialed: Peer | None = None
        """The connection that this node dialed, during its handshake."""
        self.is_watched = False
        """Whether a failure must be reported to the listener."""
        self.changed = asyncio.Event()
        """Set when a connection, dialed or accepted, has come up or ended."""
        self.has_yielded = False
        """Whether the peer's attempt has taken precedence. That happens once only, since any
        node that knows the peer's name could make it."""
        self.is_yielding = False
        """Whether this node waits for the peer's attempt."""
        self.closed_port_dials = 0
        """The number of consecutive dials that failed because the port was closed."""
        self.last_error = "no answer"
        self.cause = Cause.NO_ANSWER
        self.has_failed = False
        self.task: asyncio.Task[None] | None = None

    def failed(self, reason: str, cause: Cause) -> None:
        """Records a failed try. A refusal is more informative than a later timeout."""
        self.has_failed = True
        if cause.is_refusal or not self.cause.is_refusal:
            self.last_error = reason
            self.cause = cause


OnPayloadRefused: TypeAlias = Callable[[Signal, str, Source], None]


def _ignore_refused(signal: Signal, reason: str, source: Source) -> None:
    """Does nothing: no message arrives before the node has started."""


class Connections:
    """The connections of a node, and the attempts to establish some."""

    def __init__(
        self,
        resolver: Resolver,
        listener: Listener,
        limits: NodeLimits,
        access: AccessControl,
        options: Options,
        counters: NodeCounters,
    ) -> None:
        self.local: LocalNode | None = None
        """This node as the handshake presents it, once known."""
        self.up: dict[Atom, Peer] = {}
        self._resolver = resolver
        self._listener = listener
        self._handlers: dict[type[Signal], Handler] = {}
        self._receiver_of_run: ReceiverOfRun = no_receiver
        self._on_payload_refused: OnPayloadRefused = _ignore_refused
        self._limits = limits
        rate = limits.messages_per_second
        self._message_rates = None if rate is None else RateLimits(rate)
        self._access = access
        self._cookie_throttle = CookieThrottle()
        self._options = options
        self._counters = counters
        self._attempts: dict[Atom, _Attempt] = {}
        self._half_open: HalfOpen[Peer] = HalfOpen(
            limits.handshakes_at_once, limits.handshakes_per_address
        )
        """Incoming connections that have not proved the cookie yet."""
        self._rates = TokenBuckets(limits.handshakes_per_second)
        self._namer: Atom | None = None
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._watch = LoopWatch(self._loop.time())
        self._beat = self._loop.call_later(BEAT, self._on_beat)

    # -- for the node --

    def begin(
        self,
        local: LocalNode,
        handlers: dict[type[Signal], Handler],
        on_payload_refused: OnPayloadRefused,
        receiver_of_run: ReceiverOfRun = no_receiver,
    ) -> None:
        """Starts to establish and accept connections.

        `receiver_of_run` returns the process that takes messages in a row with the same signal.

        `on_payload_refused` is called for each message that was dropped because its payload cannot
        be decoded, with the reason and the peer.
        """
        self.local = local
        self._handlers = handlers
        self._receiver_of_run = receiver_of_run
        self._on_payload_refused = on_payload_refused

    async def be_named(self, by: Atom, asking: LocalNode) -> None:
        """Connects to the node that assigns the name of this node.

        Raises NoConnection, NodeNameError.
        """
        self.local = asking
        self._namer = by
        await self.connect(by)

    async def connect(self, node: Atom) -> Peer:
        """Returns the connection to a node.

        Connects first if necessary. Raises NoConnection, NodeNameError.
        """
        peer = self.up.get(node)
        if peer is not None:
            return peer
        # A cancelled caller does not cancel the shared attempt.
        return await asyncio.shield(self._attempt(node).result)

    def obstacle(self, node: Atom) -> NoConnection | None:
        """Returns why the current attempt to connect to a node has failed so far.

        Returns None if there is no attempt, or if no try has failed yet.
        """
        attempt = self._attempts.get(node)
        if attempt is None or not attempt.has_failed:
            return None
        return NoConnection(node, attempt.last_error, attempt.cause)

    def post(self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        """Sends a signal without waiting. Connects first if necessary."""
        peer = self.up.get(node)
        if peer is not None:
            peer.post(sender, signal, payload)
            return
        attempt = self._watched_attempt(node)
        if attempt is None:
            return
        attempt.posted += 1
        if attempt.posted <= _MAX_QUEUED:
            attempt.signals.append((sender, signal, payload))
        else:
            # A signal must not be lost silently: the attempt fails, so that links and monitors are
            # informed.
            text = f"more than {_MAX_QUEUED} signals wait for the connection"
            self._give_up(attempt, text, Cause.QUEUE_FULL)

    def when_up(
        self, node: Atom, begin: Callable[[Peer], None], fail: Callable[[Exception], None]
    ) -> None:
        """Calls `begin` with the connection to a node when it is up, or `fail`.

        The order with queued signals is kept. Raises NoConnection, NodeNameError.
        """
        peer = self.up.get(node)
        if peer is not None:
            begin(peer)
        else:
            self._attempt(node).signals.append(_WaitingCall(begin, fail))

    def is_up(self, node: Atom) -> bool:
        """Returns whether a connection to the node is established."""
        return node in self.up

    def watch(self, node: Atom) -> None:
        """Connects if there is no connection. Informs the listener if that fails."""
        if node not in self.up:
            self._watched_attempt(node)

    def _watched_attempt(self, node: Atom) -> _Attempt | None:
        try:
            attempt = self._attempt(node)
        except (NoConnection, ValueError) as error:
            cause = error.cause if isinstance(error, NoConnection) else Cause.NAME
            told = (node, str(error), cause)
            asyncio.get_running_loop().call_soon(self._listener.unreachable, *told)
            return None
        attempt.is_watched = True
        return attempt

    def post_if_connected(
        self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends without waiting, in order with queued signals.

        Drops the signal if there is no connection.
        """
        peer = self.up.get(node)
        if peer is not None:
            peer.post(sender, signal, payload)
        elif (attempt := self._attempts.get(node)) is not None and attempt.signals:
            attempt.signals.append((sender, signal, payload))

    def send(self, route: Route, payload: Term) -> Awaitable[None] | None:
        """Sends a message.

        Returns an awaitable if there is no connection or the backlog is high.
        """
        peer = self.up.get(route.node)
        return self._connect_and_send(route, payload) if peer is None else peer.send(route, payload)

    async def _connect_and_send(self, route: Route, payload: Term) -> None:
        peer = await self.connect(route.node)
        waits = peer.send(route, payload)
        if waits is not None:
            await waits

    def disconnect(self, node: Atom) -> bool:
        """Closes the connection to a node. Returns whether there was one."""
        peer = self.up.get(node)
        if peer is None:
            return False
        peer.leave("disconnected by this node")
        return True

    async def drain(self, timeout: float) -> None:
        """Waits until everything sent has been acknowledged, at most `timeout` seconds."""
        self._is_closing = True
        for attempt in list(self._attempts.values()):
            if all(isinstance(one, _WaitingCall) for one in attempt.signals):
                self._give_up(attempt, "the node is stopping", Cause.STOPPED)
        pending = [attempt.result for attempt in self._attempts.values()]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if pending:
            await asyncio.wait(pending, timeout=timeout)
        if self.up:
            drains = [self._drain(peer, deadline) for peer in self.up.values()]
            await asyncio.gather(*drains)

    async def _drain(self, peer: Peer, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await peer.outbox.drained()
        left = deadline - loop.time()
        if peer.state is State.UP and (left <= 0 or not await peer.connection.flush(left)):
            text = "%s has not acknowledged everything that was sent to it"
            logger.warning(text, peer, extra=peer.fields("peer_not_flushed"))

    def change_cookies(self, cookies: Sequence[str]) -> None:
        """Replaces the cookies for new connections. The first is offered when dialing."""
        if self.local is not None:
            more = tuple(cookies[1:])
            self.local = replace(self.local, cookie=cookies[0], more_cookies=more)

    def recheck(self) -> None:
        """Closes connections to peers that are no longer trusted."""
        for peer in list(self.up.values()):
            try:
                peer.connection.check_again(str(peer.name))
            except CertificateError as error:
                extra = {
                    **peer.fields("not_believed"),
                    "cause": error.cause.value,
                    "reason": str(error),
                }
                logger.warning("%s is no longer trusted: %s", peer, error, extra=extra)
                peer.fail("its certificate is no longer trusted", error.cause)

    def close(self) -> None:
        """Closes all connections and ends all attempts, at once."""
        self._is_closing = True
        self._beat.cancel()
        for attempt in list(self._attempts.values()):
            self._give_up(attempt, "the node has stopped", Cause.STOPPED)
        for peer in [*self.up.values(), *self._half_open]:
            peer.leave("the node has stopped", Cause.STOPPED)

    # -- outgoing --

    def _attempt(self, node: Atom) -> _Attempt:
        attempt = self._attempts.get(node)
        if attempt is not None:
            return attempt
        if self.local is None or self._is_closing:
            raise NoConnection(node, "this node is not running", Cause.STOPPED)
        NodeName.parse(node)
        if node == self.local.name:
            raise NoConnection(node, "the name is that of this node", Cause.NAME)
        if not self._access.access.dials(node):
            text = "the access rules of this node do not allow dialing it"
            raise NoConnection(node, text, Cause.REFUSED_HERE)
        loop = asyncio.get_running_loop()
        attempt = _Attempt(node, loop.time() + self._limits.connect_timeout)
        # The result may never be read, so its exception is marked as retrieved.
        attempt.result.add_done_callback(_look_at)
        self._attempts[node] = attempt
        attempt.task = loop.create_task(self._make(attempt), name=f"connect to {node}")
        return attempt

    async def _make(self, attempt: _Attempt) -> None:
        """Dials until a connection is up, the deadline has passed, or a refusal is final."""
        # With an eager task factory, a task runs before `create_task` returns and before the caller
        # has queued its signals.
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        pause = 0.05
        while (left := attempt.deadline - loop.time()) > 0:
            # Half of the remaining time, so that a handshake that hangs leaves time for another
            # try.
            try:
                is_final = await self._dial_once(attempt, max(left / 2, min(left, 1.0)))
            except Exception as error:
                # Callers must not wait for ever.
                extra = {"event": "internal_error", "peer": str(attempt.node)}
                logger.exception("internal error while connecting to %s", attempt.node, extra=extra)
                attempt.failed(f"internal error: {error!r}", Cause.INTERNAL)
                is_final = True
            if attempt.result.done():
                return
            if is_final:
                break
            await asyncio.sleep(min(pause, max(attempt.deadline - loop.time(), 0)))
            pause *= 2
        self._give_up(attempt, attempt.last_error, attempt.cause)

    async def _dial_once(self, attempt: _Attempt, timeout: float) -> bool:
        """Makes one try. Returns True if another one would be pointless."""
        node = attempt.node
        if attempt.is_yielding:
            await self._await_change(attempt, min(timeout, _YIELD))
            attempt.is_yielding = False
            return False
        try:
            connection = await self._resolver.dial(node, timeout, self._first_message)
        except (*_FINAL_ERRORS, OSError) as error:
            # The event loop may keep the error in a reference cycle, and its traceback refers to
            # the attempt.
            error.with_traceback(None)
            text = error.reason if isinstance(error, NoConnection) else str(error)
            cause = causes.of_error(error)
            attempt.failed(text or f"no answer within {timeout:g} s", cause)
            is_closed = cause in _REPORTED_BY_ICMP
            attempt.closed_port_dials = attempt.closed_port_dials + 1 if is_closed else 0
            if attempt.closed_port_dials >= self._limits.closed_port_dials:
                return True
            return cause in _FINAL_CAUSES or isinstance(error, _FINAL_ERRORS)
        if attempt.result.done() or attempt.is_yielding:
            connection.close("another connection to the same node takes precedence")
            return False
        peer = self._peer(connection, node, timeout)
        attempt.dialed = peer
        connection.handler = peer
        peer.start()
        deadline = asyncio.get_running_loop().time() + timeout + 1
        while peer.state is State.HANDSHAKE and not attempt.result.done():
            # The change may concern a connection that the peer dialed.
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await self._await_change(attempt, left):
                break
        attempt.dialed = None
        if attempt.result.done():
            return True
        if peer.refusal is not None and peer.refusal.status == Status.NOK.value:
            # The peer dials this node, and its connection takes precedence.
            await self._await_change(attempt, timeout)
        if peer.refusal is None:
            return False
        return peer.refusal.status is None or peer.refusal.status in _FINAL_STATUSES

    def _first_message(self, binding: bytes, traits: DialectTraits) -> bytes:
        """Returns the first message of this node as a dialer (see `FirstMessage`)."""
        assert self.local is not None
        return first_message(self.local, binding, early_proofs=traits.early_proofs)

    async def _await_change(self, attempt: _Attempt, timeout: float) -> bool:
        attempt.changed.clear()
        try:
            return await asyncio.wait_for(attempt.changed.wait(), timeout)
        except TimeoutError:
            attempt.failed(f"no answer within {timeout:.3g} s", Cause.NO_ANSWER)
            return False

    def _give_up(self, attempt: _Attempt, reason: str, cause: Cause) -> None:
        self._attempts.pop(attempt.node, None)
        task, attempt.task = attempt.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if attempt.dialed is not None:
            attempt.dialed.leave(reason)
        if not attempt.result.done():
            attempt.result.set_exception(NoConnection(attempt.node, reason, cause))
        for waiting in attempt.signals:
            if isinstance(waiting, _WaitingCall):
                waiting.fail(NoConnection(attempt.node, reason, cause))
        if attempt.is_watched:
            self._listener.unreachable(attempt.node, reason, cause)

    # -- incoming --

    def accept(self, connection: Connection) -> ConnectionHandler:
        """Returns the handler of an incoming connection. Raises ConnectionRefusedError."""
        if self._is_closing or self.local is None:
            raise ConnectionRefusedError("the node is not running")
        host = connection.peer_address[0]
        if not self._rates.take(host_prefix(host), self._loop.time()):
            self._counters.connection_refused(Ending.ADDRESS_RATE)
            raise ConnectionRefusedError(f"too many connections per second from {host}")
        if self._half_open.refuses(host):
            raise ConnectionRefusedError(f"too many concurrent handshakes from {host}")
        evicted = self._half_open.to_evict(host)
        if evicted is not None:
            evicted.fail("evicted by a newer handshake", Cause.CROWDED)
        peer = self._peer(connection, None, self._limits.handshake_timeout)
        self._half_open.add(peer, host)
        return peer

    @property
    def in_progress(self) -> int:
        """The number of connections, dialed and accepted, that are not established yet."""
        return len(self._attempts) + len(self._half_open)

    def _peer(self, connection: Connection, node: Atom | None, timeout: float) -> Peer:
        assert self.local is not None
        session = Session(
            self.local,
            Role.LISTENER if node is None else Role.DIALER,
            challenge=secrets.randbits(32),
            expected_peer=node,
            limits=self._limits.session,
            options=self._options,
            binding=connection.binding,
            must_bind=node is not None and connection.must_bind(node),
            early_proofs=connection.traits.early_proofs,
        )
        return Peer(
            connection,
            session,
            self,
            self._handlers,
            self._limits,
            name=node,
            handshake_timeout=timeout,
            watch=self._watch,
            rates=self._message_rates,
            receiver_of_run=self._receiver_of_run,
        )

    def _on_beat(self) -> None:
        """Logs if the event loop was blocked long enough for peers to close connections."""
        self._beat = self._loop.call_later(BEAT, self._on_beat)
        length = self._watch.beat(self._loop.time())
        if length >= self._limits.net_ticktime / 4:
            extra = {"event": "loop_stood_still", "seconds": length}
            text = (
                "the event loop of this node was blocked for %.1f s: nothing was sent or read, and "
                "peers may have closed connections; run blocking code in a thread, e.g. with "
                "asyncio.to_thread"
            )
            logger.warning(text, length, extra=extra)

    # -- events of peers --

    def peer_named(self, peer: Peer, name: str) -> Status:
        """Returns the handshake status for a node that connects to this node."""
        assert self.local is not None
        if not self._may_connect(peer, name):
            return Status.NOT_ALLOWED
        node = Atom(name)
        if node in self.up:
            return Status.ALIVE
        attempt = self._attempts.get(node)
        if attempt is None or attempt.has_yielded:
            return Status.OK
        status = settle_simultaneous(self.local.name, name)
        if status is Status.OK_SIMULTANEOUS:
            attempt.has_yielded = attempt.is_yielding = True
            if attempt.dialed is not None:
                text = "the peer's attempt to connect takes precedence"
                attempt.dialed.fail(text, Cause.SUPERSEDED)
        return status

    def patience(self, peer: Peer) -> float:
        """Returns the delay in seconds before a dialer gets an answer to its name."""
        now = asyncio.get_running_loop().time()
        return self._cookie_throttle.delay(peer.connection.peer_address[0], now)

    def name_asked(self, peer: Peer, host: str) -> Named | Status:
        """Assigns a new random name, so that its pids belong to no other node."""
        name = f"dyn-{secrets.token_hex(8)}@{host}"
        if not is_node_name(name) or not self._may_connect(peer, name):
            return Status.NOT_ALLOWED
        return Named(name, new_creation())

    def _may_connect(self, peer: Peer, name: str) -> bool:
        try:
            peer.connection.check_name(name)
            if peer.connection.must_bind(name) and not peer.offers_binding:
                raise PeerRefused(NOT_BOUND.format(written(name)), cause=Cause.BINDING)
            if self._is_weaker(peer, name):
                raise PeerRefused(
                    f"{written(name)} is connected over TLS; plain TCP cannot replace it"
                )
            if self._is_another(peer, name):
                raise another_node(name, peer.connection.peer_address[0])
        except CertificateError as error:
            extra = {
                **peer.fields("not_believed"),
                "cause": error.cause.value,
                "reason": str(error),
            }
            logger.warning("%s was refused: %s", peer, error, extra=extra)
            return False
        if not self._access.access.accepts(name):
            logger.warning(
                "%s is not allowed to connect",
                peer,
                extra=peer.fields("not_allowed"),
            )
            return False
        return True

    def _is_weaker(self, peer: Peer, name: str) -> bool:
        """Returns whether the existing connection of that name uses TLS and this one does not."""
        live = self.up.get(Atom(name))
        if live is None or peer.connection.traits.is_encrypted:
            return False
        return live.connection.traits.is_encrypted

    def _is_another(self, peer: Peer, name: str) -> bool:
        """Returns whether another node behind another NAT is connected under that name.

        The keys differ, and the address in the name is not the one that was observed.
        """
        live = self.up.get(Atom(name))
        if live is None or not live.fingerprint or not peer.fingerprint:
            return False
        if not is_seen_elsewhere(name, peer.connection.peer_address[0]):
            return False
        return live.fingerprint != peer.fingerprint

    def _hint(self, peer: Peer) -> str:
        """Returns what the reason of a refused dial may be, or an empty string."""
        assert self.local is not None
        scope = scope_of(self.local.name.rpartition("@")[2])
        is_refused = peer.is_dialer and peer.cause is Cause.NOT_ALLOWED
        if not is_refused or scope is None or scope_of(peer.connection.peer_address[0]) is not None:
            return ""
        return (
            f"; the name of this node, {self.local.name}, contains {scope.value}, so a node behind "
            "another NAT may have the same name there. A relay gives a unique name: Node(via=...) "
            "or --via"
        )

    def alive_asked(self, peer: Peer) -> Status:
        """Answers a peer that considers this node connected already."""
        return Status.FALSE if peer.name in self.up else Status.TRUE

    def peer_up(self, peer: Peer) -> None:
        """Called when a handshake has finished, dialed or accepted."""
        assert peer.name is not None
        assert self.local is not None
        self._half_open.discard(peer)
        try:
            if self._is_weaker(peer, peer.name):
                raise PeerRefused("the node has connected over TLS in the meantime")
            peer.connection.remember(peer.name, bound=peer.session.is_bound)
        except CertificateError as error:
            peer.fail(str(error), error.cause)
            return
        if not peer.is_dialer:
            seen_at = peer.connection.peer_address[0]
            self._resolver.whereabouts.connected_from(peer.name, seen_at)
        if Flag.NAME_ME in self.local.flags:
            self._listener.named(peer.local_name, peer.local_creation)
            peer.handlers = self._handlers
            peer.receiver_of_run = self._receiver_of_run
        old = self.up.get(peer.name)
        if old is not None:
            old.fail("replaced by a newer connection to the same node", Cause.SUPERSEDED)
        self.up[peer.name] = peer
        if peer.is_dialer:
            self._counters.dialed += 1
        else:
            self._counters.accepted += 1
        self._listener.peer_up(peer)
        attempt = self._attempts.pop(peer.name, None)
        if attempt is not None:
            self._settle(attempt, peer)

    def _settle(self, attempt: _Attempt, peer: Peer) -> None:
        for waiting in attempt.signals:
            if isinstance(waiting, _WaitingCall):
                waiting.begin(peer)
                continue
            sender, signal, payload = waiting
            try:
                peer.post(sender, signal, payload)
            except EtfEncodeError as error:
                extra = {**peer.fields("signal_not_a_term"), "reason": str(error)}
                logger.error("a signal to %s cannot be encoded: %s", peer, error, extra=extra)
        attempt.signals.clear()
        if attempt.dialed is not None and attempt.dialed is not peer:
            attempt.dialed.fail("another connection to the same node is up", Cause.SUPERSEDED)
        attempt.dialed = None
        if not attempt.result.done():
            attempt.result.set_result(peer)
        task, attempt.task = attempt.task, None
        if task is not None:
            task.cancel()

    def payload_refused(self, peer: Peer, signal: Signal, reason: str) -> None:
        """Called when a message of a peer was dropped."""
        self._on_payload_refused(signal, reason, peer)

    def peer_down(self, peer: Peer, reason: str) -> None:
        """Called when a connection has ended or was not established."""
        self._half_open.discard(peer)
        name = peer.name
        if name is not None and self.up.get(name) is peer:
            del self.up[name]
            self._counters.connection_ended(peer.ending, peer.traffic(peer.connection.statistics()))
            self._listener.peer_down(peer, reason)
            if name == self._namer and not self._is_closing:
                self._listener.name_lost(f"lost the connection to the naming node {name}: {reason}")
            return
        attempt = None if name is None else self._attempts.get(name)
        if attempt is not None:
            if peer.is_dialer or attempt.dialed is None:
                attempt.failed(reason + self._hint(peer), peer.cause)
            if not peer.is_dialer:
                attempt.is_yielding = False
            attempt.changed.set()
        if not peer.is_dialer:
            self._counters.connection_refused(peer.ending)
            if peer.ending is Ending.COOKIE:
                now = asyncio.get_running_loop().time()
                self._cookie_throttle.failed(peer.connection.peer_address[0], now)
            extra = {
                **peer.fields("peer_refused"),
                "ending": peer.ending.value,
                "cause": peer.cause.value,
                "reason": reason,
            }
            text = "a connection from %s was not established: %s"
            logger.warning(text, peer, reason, extra=extra)

    def probe(self, peer: Peer) -> None:
        """Sends a request to a peer that may no longer respond."""
        self._listener.probe(peer)


def _look_at(result: asyncio.Future[Peer]) -> None:
    if not result.cancelled():
        result.exception()
