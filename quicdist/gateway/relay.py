"""Connects two connections: packets received on one are sent on the other.

Packets are re-framed and not decoded, except for the tags of handshake messages, which show where
frames begin and whether a node was refused, and the name of the peer, which is checked against its
certificate. With a policy, a `PolicyFilter` decodes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from quicdist.carriers.base import CloseKind, CloseReason, Connection
from quicdist.carriers.trust import CertificateError, PeerRefused
from quicdist.cluster.access import Access
from quicdist.cluster.audit import Audit, Outcome, PeerIdentity
from quicdist.cluster.policy import Policy
from quicdist.errors import Cause
from quicdist.gateway.info import RelayInfo
from quicdist.gateway.policy_filter import Passage, PolicyFilter
from quicdist.gateway.streams import FrameMerger, FrameSplitter
from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.errors import DistError, HandshakeRefused
from quicdist.protocol.handshake_messages import Status, build_status, parse_name
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from quicdist.runtime.counters import Ending, Traffic, ending_of
from quicdist.runtime.rate_limit import RateLimits

_log = logging.getLogger("quicdist.gateway")

_CHALLENGE_ACK = b"a"
"""The tag of the message that ends a handshake. Frames follow it in both directions."""

_CHALLENGE_REPLY = b"r"
"""The tag of the message in which the dialer proves that it has the cookie."""

_STATUS = b"s"
_REFUSALS = (b"snok", b"snot_allowed")

EVERYBODY = Access()

LearnPeer: TypeAlias = Callable[[str, tuple[str, int]], None]
"""Called with the name and the UDP address of a node."""

_MAX_REFUSALS_TOLD = 20
"""The number of kinds of refusals that one connection logs. Further refusals are counted."""

_LINGER = 5.0
"""Seconds that one side has to read the data of the other side after that has closed."""


def _nothing(name: str, address: tuple[str, int]) -> None:
    pass


class PeerRates:
    """The rates of messages and calls that each peer of a gateway may have, by name."""

    def __init__(self, messages: float | None = None, calls: float | None = None) -> None:
        """The rates are per second; None means no limit."""
        self._messages = None if messages is None else RateLimits(messages)
        self._calls = None if calls is None else RateLimits(calls)

    @property
    def is_unlimited(self) -> bool:
        """Whether there are no limits."""
        return self._messages is None and self._calls is None

    @property
    def limits_calls(self) -> bool:
        """Whether calls have to be recognized."""
        return self._calls is not None

    def take(self, name: str, now: float, *, is_call: bool) -> float:
        """Counts a message. Returns the seconds until the next one is allowed, 0 for at once."""
        pause = 0.0 if self._messages is None else self._messages.take(name, now)
        if is_call and self._calls is not None:
            pause = max(pause, self._calls.take(name, now))
        return pause


_UNLIMITED = PeerRates()


class Relay:
    """A connection between two nodes: `near` to the local BEAM node, `far` over QUIC.

    Memory is bounded by the buffers of the two carriers: bytes of one side are reported as
    consumed when the other side is below its low watermark.
    """

    def __init__(
        self,
        own_name: str,
        *,
        peer_name: str | None,
        peer_address: str,
        access: Access = EVERYBODY,
        handshake_timeout: float,
        keepalive: float,
        policy_filter: PolicyFilter | None = None,
        audit: Audit | None = None,
        learn_peer: LearnPeer = _nothing,
        rates: PeerRates = _UNLIMITED,
    ) -> None:
        """Prepares a relay whose sides are attached later.

        `peer_name` is the node that the BEAM node dials, or None for an incoming connection, whose
        peer sends its name. Names and address are only used in the log. `policy_filter` filters
        messages; None forwards all of them. `learn_peer` is called with the name and the address of
        a peer that has completed the handshake.

        The relay ends if the handshake takes longer than `handshake_timeout` seconds. A far side
        that may stop its ticks is probed every `keepalive` seconds.
        """
        self._own_name = own_name
        self._peer_address = peer_address
        self._access = access
        self._audit = audit
        self._incoming = peer_name is None
        self._has_connected = asyncio.Event()
        self.peer_name = peer_name
        self._peer: str | None = peer_name
        self._presents: str | None = None
        """The node in the certificate of the peer, if it differs from the peer."""
        self._learn_peer = learn_peer
        self._rates = rates
        self._is_slowed = False
        """Whether the log has the first pause of the peer."""
        self.cause = Cause.DISCONNECTED
        """The reason of the end."""
        self._up_since = 0.0
        self._traffic = Traffic()
        self._host: str | None = None
        self._has_proved = False
        """Whether the dialer has answered the challenge."""
        self.is_cookie_proved = False
        """Whether the BEAM node has accepted the peer's proof of the cookie."""
        self.near = _NearSide(self, "the BEAM node", policy_filter)
        self.far = _FarSide(self, "the peer", policy_filter)
        self.near.other, self.far.other = self.far, self.near
        self._handshake_timeout = handshake_timeout
        self._keepalive = keepalive
        self._splitter = FrameSplitter()
        self._refused = False
        self._refusals: Counter[str] = Counter()
        self._done = asyncio.Event()
        self._closed: CloseReason | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = asyncio.create_task(self._watch_over())

    @property
    def is_unlimited(self) -> bool:
        """Whether the peer has no rate limits."""
        return self._rates.is_unlimited

    @property
    def title(self) -> str:
        """The two nodes and the direction, for the log."""
        peer = f"{self.peer_name or 'a node'} ({self._peer_address})"
        pair = (peer, self._own_name) if self._incoming else (self._own_name, peer)
        return " -> ".join(pair)

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete."""
        return self._has_connected.is_set()

    @property
    def is_closing(self) -> bool:
        """Whether one side has closed or is being closed."""
        return self._closed is not None

    @property
    def is_incoming(self) -> bool:
        """Whether the peer dialed."""
        return self._incoming

    @property
    def peer_host(self) -> str | None:
        """The address of the current or last peer."""
        far = self.far.connection
        return self._host if far is None else far.peer_address[0]

    @property
    def policy_refusals(self) -> int:
        """The number of messages that were refused, or would have been."""
        return self._refusals.total()

    def traffic(self) -> Traffic:
        """The traffic over QUIC."""
        far = self.far.connection
        if far is None:
            return self._traffic
        carrier = far.statistics()
        return Traffic(
            bytes_sent=carrier.bytes_sent,
            bytes_received=carrier.bytes_received,
            datagrams_lost=carrier.datagrams_lost,
            migrations=carrier.migrations,
        )

    def info(self) -> RelayInfo:
        """Returns the statistics of a relay that is up."""
        far, near = self.far.connection, self.near.connection
        assert far is not None
        assert near is not None
        carrier = far.statistics()
        return RelayInfo(
            name=self.peer_name or "",
            role=Role.LISTENER if self._incoming else Role.DIALER,
            carrier=far.traits.name,
            alpn=far.traits.alpn,
            peer_address=far.peer_address,
            since=self._up_since,
            traffic=self.traffic(),
            bytes_unacknowledged=carrier.bytes_unacknowledged,
            bytes_untaken=near.statistics().bytes_unacknowledged,
            round_trip=carrier.round_trip,
            path=carrier.path.value,
            path_switches=carrier.path_switches,
            policy_refusals=self.policy_refusals,
        )

    def dialed_through(self, node: str) -> None:
        """Sets the gateway whose certificate is presented for the peer."""
        self._presents = node

    def set_policy(self, policy: Policy) -> None:
        """Replaces the policy.

        The connection is closed if the policy does not permit the peer, or if there was no policy
        before.
        """
        policy_filter = self.far.policy_filter
        if policy_filter is None:
            self.close("a policy was enabled: the node has to connect again")
            return
        try:
            policy_filter.set_policy(policy)
        except HandshakeRefused as refusal:
            self.close(str(refusal), refusal.cause)

    def recheck(self) -> None:
        """Closes the connection if the certificate of the peer is no longer trusted."""
        far = self.far.connection
        if far is None or self._peer is None:
            return
        try:
            far.check_again(self._presents or self._peer)
        except CertificateError as error:
            extra = {
                **self._fields("not_believed"),
                "cause": error.cause.value,
                "reason": str(error),
            }
            _log.warning(
                "%s: the certificate is no longer trusted: %s", self.title, error, extra=extra
            )
            self.close("its certificate is no longer trusted", error.cause)

    @property
    def ending(self) -> Ending:
        """The category of the end, for the counters."""
        return ending_of(self.cause)

    def close(self, reason: str, cause: Cause = Cause.DISCONNECTED) -> None:
        """Closes both sides at once."""
        self._end(CloseReason(CloseKind.LOCAL, reason, cause), linger=None)

    async def wait_closed(self) -> None:
        """Waits until both sides are closed."""
        await self._done.wait()

    # -- called by the sides --

    def send_to_peer(self, frame: bytes, far: Connection) -> None:
        """Sends a frame of the node or the policy filter. Raises ProtocolError if it is invalid."""
        if not frame or not far.traits.data_streams:
            far.send_frame((frame,) if frame else ())
            return
        stream, parts = self._splitter.split(frame)
        far.send_frame(parts, stream)

    def lost(self, side: _Side, reason: CloseReason) -> None:
        """Flushes and closes the other side when one side has closed, with its reason."""
        text = _one_line(reason.text)
        if side is self.near:
            closed = reason.kind is CloseKind.PEER
            text = "the BEAM node closed the connection" if closed else f"the BEAM node: {text}"
        self._end(
            CloseReason(reason.kind, text, self._cause_by(side, reason.cause)),
            linger=None if reason.kind is CloseKind.LOCAL else side.other,
        )

    def check_name(self, message: bytes) -> bool:
        """Checks the name in the first message of the peer. If it is rejected, the relay ends."""
        if self._peer is not None:
            return True
        far = self.far.connection
        assert far is not None
        try:
            name = parse_name(message).name
            self.peer_name = claimed_name(message)
            far.check_name(name)
            if not self._access.accepts(name):
                raise PeerRefused("not permitted to connect", cause=Cause.REFUSED_HERE)
        except (DistError, CertificateError) as error:
            self._refused = True
            reason = _one_line(str(error))
            extra = {
                **self._fields("not_believed"),
                "cause": error.cause.value,
                "reason": reason,
            }
            _log.warning("%s: refused: %s", self.title, reason, extra=extra)
            far.send_handshake(build_status(Status.NOT_ALLOWED))
            # An invalid first message counts as refused as well.
            cause = error.cause if error.cause.is_refusal else Cause.REFUSED_HERE
            said = CloseReason(CloseKind.LOCAL, "the name is refused", cause)
            self._end(said, linger=self.far)
            return False
        self._peer = name
        return True

    def cookie_proved(self) -> bool:
        """Called when the BEAM node sends the first frame to the peer, which proves the cookie.

        Returns False if the peer is refused because another key was learned for the name in the
        meantime.
        """
        self.is_cookie_proved = True
        far = self.far.connection
        if far is None or self._peer is None or "@" not in self._peer:
            return True
        try:
            # A name that the gateway of another node serves belongs to that gateway's key, too.
            for name in dict.fromkeys((self._presents or self._peer, self._peer)):
                far.remember(name)
        except CertificateError as error:
            self.close(str(error), error.cause)
            return False
        self._learn_peer(self._peer, far.peer_address)
        return True

    def protocol_violated(self, side: _Side, error: DistError) -> None:
        """Closes both sides because one of them violated the protocol."""
        text = f"{side.label} violated the protocol: {_one_line(str(error))}"
        self.close(text, Cause.PROTOCOL)

    def passing(self, side: _Side, message: bytes) -> None:
        """Handles a handshake message that `side` has sent."""
        if message[:1] in (b"N", b"n") and self.peer_name is None:
            self.peer_name = claimed_name(message)
        elif message[:1] == _CHALLENGE_REPLY:
            self._has_proved = True
        elif self.is_end_of_handshake(side, message) and not self.connected:
            self._has_connected.set()
            self._up_since = time.time()
            _log.info("%s: connected", self.title, extra=self._fields("relay_up"))
        elif message in _REFUSALS:
            self._refused = True
            status = message[1:].decode()
            extra = {**self._fields("relay_refused"), "by": side.label, "reason": status}
            _log.warning("%s: refused by %s (%s)", self.title, side.label, status, extra=extra)

    def is_end_of_handshake(self, side: _Side, message: bytes) -> bool:
        """Whether the acceptor confirms that the dialer has the cookie.

        The other direction proves nothing, since any dialer can send such a message.
        """
        acceptor = self.near if self._incoming else self.far
        return side is acceptor and message[:1] == _CHALLENGE_ACK

    def note(self, refusal: str) -> None:
        """Counts a refusal of the policy filter, and logs each kind once."""
        told = _one_line(refusal)
        if told not in self._refusals:
            if len(self._refusals) >= _MAX_REFUSALS_TOLD:
                told = "further kinds of messages are refused"
            if told not in self._refusals:
                extra = {**self._fields("policy_refusal"), "what": told}
                _log.warning("%s: %s", self.title, told, extra=extra)
        self._refusals[told] += 1

    def pause(self, packet: Packet, passage: Passage) -> float:
        """Counts a packet of the peer. Returns the seconds until the next one may be handled."""
        if not packet.data or isinstance(packet, HandshakePacket):
            return 0.0
        now = asyncio.get_running_loop().time()
        pause = self._rates.take(self.peer_name or "", now, is_call=passage.called is not None)
        if pause and not self._is_slowed:
            self._is_slowed = True
            extra = self._fields("peer_rate_limited")
            _log.warning("%s: exceeds its rate limit and is paused", self.title, extra=extra)
        return pause

    def write_audit(self, passage: Passage) -> None:
        """Writes the decision of the policy filter to the audit log.

        The results of calls are unknown.
        """
        if self._audit is None:
            return
        if passage.called is not None:
            self._audit.call(self._identity, passage.called, Outcome.PASSED)
        if passage.refused is not None:
            passes = passage.forward is not None
            outcome = Outcome.WOULD_BE_REFUSED if passes else Outcome.REFUSED
            self._audit.refused(self._identity, passage.refused, outcome)

    @property
    def _identity(self) -> PeerIdentity:
        far = self.far.connection
        return PeerIdentity(self.peer_name or "", "" if far is None else far.peer_fingerprint)

    def refuse(self, refusal: HandshakeRefused) -> None:
        """Refuses the connection for the policy filter: tells the dialer and closes both sides."""
        dialer = self.far if self._incoming else self.near
        if refusal.answer is not None and dialer.connection is not None:
            dialer.connection.send_handshake(refusal.answer)
        said = CloseReason(CloseKind.LOCAL, _one_line(str(refusal)), refusal.cause)
        self._end(said, linger=dialer)

    # -- internal --

    def _fields(self, event: str) -> dict[str, object]:
        """Returns the structured fields of a log line."""
        return {
            "event": event,
            "node": self._own_name,
            "peer": self.peer_name or "",
            "address": self._peer_address,
            "role": "listener" if self._incoming else "dialer",
        }

    def _cause_by(self, side: _Side, cause: Cause) -> Cause:
        """Returns the cause of the end if this side has closed for `cause`."""
        if self.connected:
            return Cause.DISCONNECTED if side is self.near else cause
        if self._refused:
            return Cause.NOT_ALLOWED
        if side is not self.near:
            return cause
        # A BEAM node closes without a message if the proof is wrong.
        return Cause.COOKIE if self._has_proved and self._incoming else Cause.NOT_ALLOWED

    def _end(self, reason: CloseReason, linger: _Side | None) -> None:
        if self._closed is None:
            self._closed = reason
            self.cause = reason.cause
            self._watch.cancel()
            if self._refusals:
                count = self._refusals.total()
                extra = {**self._fields("policy_refusals"), "count": count}
                _log.info("%s: messages refused by the policy: %d", self.title, count, extra=extra)
            clean = self.connected and reason.kind in (CloseKind.LOCAL, CloseKind.PEER)
            level = logging.INFO if clean or self._refused else logging.WARNING
            what = "closed" if self.connected else "not connected"
            event = "relay_down" if self.connected else "relay_not_up"
            extra = {**self._fields(event), "cause": reason.cause.value, "reason": reason.text}
            _log.log(level, "%s: %s: %s", self.title, what, reason.text, extra=extra)
            if linger is not None and linger.connection is not None and not linger.gone:
                task = asyncio.create_task(self._flush_and_close(linger.connection, reason.text))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._close_sides(reason.text)
        if self.near.gone and self.far.gone:
            self._done.set()
            # The two sides refer to each other: break the cycle.
            self._traffic, self._host = self.traffic(), self.peer_host
            self.near.connection = self.far.connection = None

    def _close_sides(self, text: str) -> None:
        for side in (self.near, self.far):
            side.close(text)

    async def _flush_and_close(self, connection: Connection, text: str) -> None:
        await connection.flush(_LINGER)
        self._close_sides(text)

    async def _watch_over(self) -> None:
        try:
            async with asyncio.timeout(self._handshake_timeout):
                await self._has_connected.wait()
        except TimeoutError:
            text = f"no handshake within {self._handshake_timeout:g} s"
            self.close(text, Cause.HANDSHAKE_TIMEOUT)
            return
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._keepalive)
            self._tick_for_the_peer(loop.time())

    def _tick_for_the_peer(self, now: float) -> None:
        """Sends ticks to the BEAM node for a peer that is alive and does not tick.

        The traits of a carrier tell whether its peers may stop ticks. With other carriers the
        peer's own ticks are forwarded, and no others are sent.
        """
        far, near = self.far.connection, self.near.connection
        if far is None or near is None or not far.traits.ticks_may_stop:
            return
        # The answer to each ping is about one interval old at this point.
        alive = now - far.last_received < 2 * self._keepalive
        if alive and not self.far.brought_packets:
            near.send_frame(())
        self.far.brought_packets = False
        far.ping()


def _one_line(text: str) -> str:
    """Removes line breaks from a close reason, whose text is chosen by the peer."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def claimed_name(message: bytes) -> str | None:
    """Returns the name in a name message for the log, or None if it cannot be printed.

    ERTS manual, Distribution Protocol, "Distribution Handshake": send_name, both forms.
    """
    if message[:1] == b"N":
        raw = message[15 : 15 + int.from_bytes(message[13:15], "big")]
    else:
        raw = message[7:]
    name = raw[:255].decode(errors="replace")
    return name if name.isprintable() and name else None


class _Side:
    """One side of a relay: the handler of a connection (carriers.base.ConnectionHandler)."""

    other: _Side

    def __init__(self, relay: Relay, label: str, policy_filter: PolicyFilter | None) -> None:
        self.label = label
        self.connection: Connection | None = None
        self.gone = True
        """None before the connection is attached and after it is closed."""
        self.brought_packets = False
        self._relay = relay
        self.policy_filter = policy_filter
        self._early: list[Packet] = []
        """Packets received before the other side was attached."""
        self._owed = 0
        """Bytes forwarded but not yet reported as consumed."""

    def attach(self, connection: Connection) -> None:
        """Attaches the connection of this side. The other side may have sent packets already."""
        self.connection = connection
        self.gone = False
        connection.handler = self
        early, self.other._early = self.other._early, []
        if early:
            self.other.take_early(early)
        if self._relay.is_closing:
            self.close("the other side is gone")

    def close(self, text: str) -> None:
        """Closes the connection, if there is one."""
        if self.connection is not None and not self.gone:
            self.connection.close(text)

    # -- called by the connection --

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Forwards packets. Packets received before the other side is attached are kept."""
        return self._pass_on(packets)

    def _pass_on(self, packets: Sequence[Packet]) -> int:
        """See `packets_received`."""
        self.brought_packets = True
        target = self.other.connection
        if self._relay.is_closing:
            return 0
        if target is None:
            self._early += packets
            return 0
        self._handle(packets, target)
        if self._relay.is_closing:
            return 0
        self._owed += sum(len(packet.data) for packet in packets)
        return self._settled()

    def _handle(self, packets: Sequence[Packet], target: Connection) -> None:
        """Forwards packets. If they violate the protocol or the policy, the relay ends."""
        with self._violations():
            self._filter(packets, target, self.policy_filter)

    @contextlib.contextmanager
    def _violations(self) -> Iterator[None]:
        """Ends the relay if this side violates the protocol or the policy."""
        try:
            yield
        except HandshakeRefused as refusal:
            self._relay.refuse(refusal)
        except DistError as error:
            self._relay.protocol_violated(self, error)

    def first_message(self, binding: bytes, traits: DialectTraits) -> bytes | None:
        """Returns the first handshake message of this side while the other one is dialed.

        See `FirstMessage`.
        """
        if not self._early:
            return None
        first = self._early[0]
        return first.data if isinstance(first, HandshakePacket) else None

    def take_early(self, packets: Sequence[Packet]) -> None:
        """Handles packets that were received before the other side was attached."""
        consumed = self._pass_on(packets)
        if self.connection is not None and not self.gone:
            self.connection.consumed(consumed)

    def writable_again(self) -> None:
        """Resumes the other side: this side can send again."""
        self.other._settle()
        self._settle()

    def connection_lost(self, reason: CloseReason) -> None:
        """Handles the end of the connection."""
        self.gone = True
        self._relay.lost(self, reason)

    def _filter(
        self, packets: Sequence[Packet], target: Connection, policy_filter: PolicyFilter | None
    ) -> None:
        """Forwards packets as the policy permits. Raises HandshakeRefused, ProtocolError."""
        raise NotImplementedError

    def _forward(self, packet: Packet, target: Connection) -> None:
        if not isinstance(packet, HandshakePacket):
            is_first = self is self._relay.near and not self._relay.is_cookie_proved
            if is_first and not self._relay.cookie_proved():
                return
            self._send(packet, target)
            return
        if self is self._relay.far and not self._relay.check_name(packet.data):
            return
        self._relay.passing(self, packet.data)
        target.send_handshake(packet.data)
        is_done = self._relay.is_end_of_handshake(self, packet.data)
        if is_done and self.connection is not None:
            target.handshake_done()
            self.connection.handshake_done()

    def _send(self, frame: FramePacket, target: Connection) -> None:
        """Sends a frame of this side on the other one. Raises ProtocolError."""
        raise NotImplementedError

    def _held_back(self) -> bool:
        """Whether bytes of this side must not be reported as consumed yet."""
        target = self.other.connection
        return target is None or not target.is_writable

    def _settled(self) -> int:
        """Returns the bytes that the other side has taken since the last report."""
        if self._held_back():
            return 0
        owed, self._owed = self._owed, 0
        return owed

    def _settle(self) -> None:
        owed = self._settled()
        if owed and self.connection is not None and not self.gone:
            self.connection.consumed(owed)


class _NearSide(_Side):
    """The BEAM node's side.

    Its messages pass; the policy filter learns the permitted answers from them.
    """

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """As `_Side`. The policy filter reads packets at once, so that the first one is known."""
        policy_filter = self.policy_filter
        if policy_filter is None or self._relay.is_closing:
            return self._pass_on(packets)
        passed: list[Packet] = []
        with self._violations():
            for packet in packets:
                passed.append(policy_filter.from_node(packet))
        return self._pass_on(passed)

    def _filter(
        self, packets: Sequence[Packet], target: Connection, policy_filter: PolicyFilter | None
    ) -> None:
        for packet in packets:
            if not self._relay.is_closing:
                self._forward(packet, target)

    def _send(self, frame: FramePacket, target: Connection) -> None:
        self._relay.send_to_peer(frame.data, target)


class _FarSide(_Side):
    """The peer's side. The policy filter filters its messages and answers those that it refuses."""

    def __init__(self, relay: Relay, label: str, policy_filter: PolicyFilter | None) -> None:
        super().__init__(relay, label, policy_filter)
        self._merger = FrameMerger()
        self._answered = False
        """Whether an answer was sent since bytes were last reported as consumed."""
        self._is_paused = False
        """Whether the peer has exceeded its rate limit."""
        self._waiting: list[Packet] = []
        """Packets that were received since then. Their bytes are not reported as consumed."""

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """As `_Side`. While the peer is paused, its packets are kept."""
        if not self._is_paused or self._relay.is_closing:
            return super().packets_received(packets)
        self.brought_packets = True
        self._waiting += packets
        self._owed += sum(len(packet.data) for packet in packets)
        return 0

    def connection_lost(self, reason: CloseReason) -> None:
        """Forwards the packets that wait before the relay ends."""
        self.gone = True
        self._resume()
        super().connection_lost(reason)

    def _pause(self, waiting: Sequence[Packet], seconds: float) -> None:
        self._is_paused = True
        self._waiting = list(waiting)
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self._is_paused:
            return
        self._is_paused = False
        waiting, self._waiting = self._waiting, []
        target = self.other.connection
        if waiting and target is not None and not self._relay.is_closing:
            self._handle(waiting, target)
        self._settle()

    def _filter(
        self, packets: Sequence[Packet], target: Connection, policy_filter: PolicyFilter | None
    ) -> None:
        if policy_filter is None and self._relay.is_unlimited:
            for packet in packets:
                if self._relay.is_closing:
                    return
                self._forward(packet, target)
            return
        any_passed = False
        for place, packet in enumerate(packets, 1):
            if self._relay.is_closing:
                return
            passage = Passage(packet) if policy_filter is None else policy_filter.from_peer(packet)
            any_passed |= passage.forward is not None
            self._proceed(passage, target)
            pause = self._relay.pause(packet, passage)
            if pause and not self.gone:
                self._pause(packets[place:], pause)
                break
        if not any_passed:
            # The node counts received data, and closes connections to silent peers.
            target.send_frame(())

    def _proceed(self, passage: Passage, target: Connection) -> None:
        self._relay.write_audit(passage)
        if passage.note is not None:
            self._relay.note(passage.note)
        if passage.forward is not None:
            self._forward(passage.forward, target)
        if passage.answer is not None and self.connection is not None:
            self._answered = True
            self._relay.send_to_peer(passage.answer.data, self.connection)

    def _send(self, frame: FramePacket, target: Connection) -> None:
        data = frame.data
        if data and self.connection is not None and self.connection.traits.data_streams:
            data = self._merger.merge(data, frame.stream)
        target.send_frame((data,) if data else ())

    def _held_back(self) -> bool:
        """Pauses a peer that does not read the answers, or exceeds its rate limit."""
        if self._is_paused or super()._held_back():
            return True
        if self._answered and self.connection is not None and not self.connection.is_writable:
            return True
        self._answered = False
        return False
