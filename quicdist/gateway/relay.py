"""Two connections back to back: what comes in on one goes out on the other.

Packets are re-framed and never read, but for the tag of a handshake message, which tells where
frames begin and whether a node was refused, and the name that a peer claims, which must be its.
Where there is a policy its guard reads them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from quicdist.carriers.base import CloseKind, CloseReason, Connection
from quicdist.carriers.trust import CertificateError, PeerRefused
from quicdist.cluster.access import Access
from quicdist.cluster.audit import Audit, Outcome, PeerIdentity
from quicdist.cluster.policy import Policy
from quicdist.errors import Cause
from quicdist.gateway.info import RelayInfo
from quicdist.gateway.policy_filter import Passage, PolicyFilter
from quicdist.protocol.errors import DistError, HandshakeRefused
from quicdist.protocol.handshake_messages import Status, build_status, parse_name
from quicdist.protocol.packet import HandshakePacket, Packet
from quicdist.protocol.role import Role
from quicdist.runtime.counters import Ending, Traffic, ending_of

_log = logging.getLogger("quicdist.gateway")

_CHALLENGE_ACK = b"a"
"""Tag of the message that ends a handshake; frames follow it, both ways."""

_CHALLENGE_REPLY = b"r"
"""Tag of the message with which who has dialed proves that it has the cookie."""

_STATUS = b"s"
_REFUSALS = (b"snok", b"snot_allowed")

EVERYBODY = Access()

Met: TypeAlias = Callable[[str, tuple[str, int]], None]
"""Given a node's name and its UDP address."""

_MAX_REFUSALS_TOLD = 20
"""Different refusals that one connection may write into the log; further ones are counted."""

_LINGER = 5.0
"""Seconds that one side gets to take what the other said before it left."""


def _nothing(name: str, address: tuple[str, int]) -> None:
    pass


class Relay:
    """One connection between two nodes: `near` to the BEAM beside us, `far` over QUIC.

    Memory is bounded by what both carriers may hold: a side is told that its bytes are consumed
    only once the other side is below its watermark again.
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
        guard: PolicyFilter | None = None,
        audit: Audit | None = None,
        met: Met = _nothing,
    ) -> None:
        """`peer_name` is whom the BEAM asked for; None for a peer that came to us, which is then
        called by the name it claims. Names and address are for the log alone. `guard` says what
        may pass; None lets everything, unread. `met` is told the name and address of a peer that
        the BEAM node believes.
        Without a finished handshake within `handshake_timeout` seconds it is given up. A far
        side whose ticks may stop is asked for a sign of life every `keepalive` seconds.
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
        """The node whose certificate the peer presents, where that is not its own."""
        self._met = met
        self.cause = Cause.DISCONNECTED
        """Why it is over."""
        self._up_since = 0.0
        self._traffic = Traffic()
        self._host: str | None = None
        self._has_proved = False
        """Who has dialed has answered the challenge."""
        self.is_believed = False
        """The BEAM node talks to the peer, whose proof of the cookie it has seen."""
        self.near = _NearSide(self, "the BEAM node", guard)
        self.far = _FarSide(self, "the peer", guard)
        self.near.other, self.far.other = self.far, self.near
        self._handshake_timeout = handshake_timeout
        self._keepalive = keepalive
        self._refused = False
        self._refusals: Counter[str] = Counter()
        self._done = asyncio.Event()
        self._closed: CloseReason | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = asyncio.create_task(self._watch_over())

    @property
    def title(self) -> str:
        """Who connects to whom, for the log."""
        peer = f"{self.peer_name or 'a node'} ({self._peer_address})"
        pair = (peer, self._own_name) if self._incoming else (self._own_name, peer)
        return " -> ".join(pair)

    @property
    def connected(self) -> bool:
        """Whether the handshake is done."""
        return self._has_connected.is_set()

    @property
    def is_closing(self) -> bool:
        """Whether one side is gone, or was told to go."""
        return self._closed is not None

    @property
    def is_incoming(self) -> bool:
        """Whether it was the peer that dialed."""
        return self._incoming

    @property
    def peer_host(self) -> str | None:
        """The address of a peer that is, or was, there."""
        far = self.far.connection
        return self._host if far is None else far.peer_address[0]

    @property
    def policy_refusals(self) -> int:
        """Messages that were refused, or would have been."""
        return self._refusals.total()

    def traffic(self) -> Traffic:
        """What went over QUIC so far."""
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
        """Of one that is up."""
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
            policy_refusals=self.policy_refusals,
        )

    def dialed_through(self, node: str) -> None:
        """It is the gateway of this node that presents a certificate for the peer."""
        self._presents = node

    def obey(self, policy: Policy) -> None:
        """From now on another policy says what may pass. Where it wants no such peer, or there
        was none before, the connection ends."""
        guard = self.far.guard
        if guard is None:
            self.close("there is a policy now: it has to connect anew")
            return
        try:
            guard.obey(policy)
        except HandshakeRefused as refusal:
            self.close(str(refusal), refusal.cause)

    def recheck(self) -> None:
        """Ends it where the peer's certificate would not be believed any more."""
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
            _log.warning("%s: not believed any more: %s", self.title, error, extra=extra)
            self.close("its certificate is not believed any more", error.cause)

    @property
    def ending(self) -> Ending:
        """What it counts as, once it is over."""
        return ending_of(self.cause)

    def close(self, reason: str, cause: Cause = Cause.DISCONNECTED) -> None:
        """Ends both sides now."""
        self._end(CloseReason(CloseKind.LOCAL, reason, cause), linger=None)

    async def wait_closed(self) -> None:
        """Returns when both sides are gone."""
        await self._done.wait()

    # -- what the sides tell --

    def lost(self, side: _Side, reason: CloseReason) -> None:
        """One side is gone: the other gets what it said last, and is closed with the reason."""
        text = _one_line(reason.text)
        if side is self.near:
            closed = reason.kind is CloseKind.PEER
            text = "the BEAM node closed the connection" if closed else f"the BEAM node: {text}"
        self._end(
            CloseReason(reason.kind, text, self._cause_by(side, reason.cause)),
            linger=None if reason.kind is CloseKind.LOCAL else side.other,
        )

    def check_name(self, message: bytes) -> bool:
        """Whether the peer's first message has a name that is its own; else the relay ends."""
        if self._peer is not None:
            return True
        far = self.far.connection
        assert far is not None
        try:
            name = parse_name(message).name
            self.peer_name = claimed_name(message)
            far.check_name(name)
            if not self._access.accepts(name):
                raise PeerRefused("it may not connect", cause=Cause.REFUSED_HERE)
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
            # A first message that is none of a node's counts as refused too.
            cause = error.cause if error.cause.is_refusal else Cause.REFUSED_HERE
            said = CloseReason(CloseKind.LOCAL, "its name is refused", cause)
            self._end(said, linger=self.far)
            return False
        self._peer = name
        return True

    def believed(self) -> bool:
        """The BEAM node sends the peer a first frame. False where the peer is refused, after all:
        another key has just been learned for the same name."""
        self.is_believed = True
        far = self.far.connection
        if far is None or self._peer is None or "@" not in self._peer:
            return True
        try:
            far.remember(self._presents or self._peer)
        except CertificateError as error:
            self.close(str(error), error.cause)
            return False
        self._met(self._peer, far.peer_address)
        return True

    def passing(self, side: _Side, message: bytes) -> None:
        """A handshake message goes across, from `side`."""
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
        """Whether who was dialed says that the dialer has the cookie. Anybody may dial and say
        so."""
        acceptor = self.near if self._incoming else self.far
        return side is acceptor and message[:1] == _CHALLENGE_ACK

    def note(self, refusal: str) -> None:
        """The guard did not let something through, or would not have. Each kind is said once."""
        told = _one_line(refusal)
        if told not in self._refusals:
            if len(self._refusals) >= _MAX_REFUSALS_TOLD:
                told = "more is refused, of other kinds"
            if told not in self._refusals:
                extra = {**self._fields("policy_refusal"), "what": told}
                _log.warning("%s: %s", self.title, told, extra=extra)
        self._refusals[told] += 1

    def judged(self, passage: Passage) -> None:
        """The guard has judged a message of the peer's: for the audit log. How a call that passes
        ends is not seen."""
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

    def turn_away(self, refusal: HandshakeRefused) -> None:
        """The guard wants no such connection: who dialed is told, and both sides are closed."""
        dialer = self.far if self._incoming else self.near
        if refusal.answer is not None and dialer.connection is not None:
            dialer.connection.send_handshake(refusal.answer)
        said = CloseReason(CloseKind.LOCAL, _one_line(str(refusal)), refusal.cause)
        self._end(said, linger=dialer)

    # -- inside --

    def _fields(self, event: str) -> dict[str, object]:
        """What a line in the log has besides its text, for programs that read it."""
        return {
            "event": event,
            "node": self._own_name,
            "peer": self.peer_name or "",
            "address": self._peer_address,
            "role": "listener" if self._incoming else "dialer",
        }

    def _cause_by(self, side: _Side, cause: Cause) -> Cause:
        """Why it is over when this side is gone, which its carrier says is for `cause`."""
        if self.connected:
            return Cause.DISCONNECTED if side is self.near else cause
        if self._refused:
            return Cause.NOT_ALLOWED
        if side is not self.near:
            return cause
        # A BEAM node says nothing to a proof that is none, and closes.
        return Cause.COOKIE if self._has_proved and self._incoming else Cause.NOT_ALLOWED

    def _end(self, reason: CloseReason, linger: _Side | None) -> None:
        if self._closed is None:
            self._closed = reason
            self.cause = reason.cause
            self._watch.cancel()
            if self._refusals:
                count = self._refusals.total()
                extra = {**self._fields("policy_refusals"), "count": count}
                _log.info("%s: against the policy in all: %d", self.title, count, extra=extra)
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
            # The two sides refer to each other, and would keep these until Python looks for cycles.
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
        """Ticks to the BEAM for a peer that lives and does not tick: it would be taken for dead.

        A carrier with such peers says so in its traits. Of any other, ticks are what the peer
        sends itself, and none are made up.
        """
        far, near = self.far.connection, self.near.connection
        if far is None or near is None or not far.traits.ticks_may_stop:
            return
        # Each ping's answer is about one interval old by now.
        alive = now - far.last_received < 2 * self._keepalive
        if alive and not self.far.brought_packets:
            near.send_frame(())
        self.far.brought_packets = False
        far.ping()


def _one_line(text: str) -> str:
    """A peer chooses the words of its close: none of them may break a line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def claimed_name(message: bytes) -> str | None:
    """The name in a handshake's name message, for the log; None when it cannot be shown.

    ERTS manual, Distribution Protocol, "Distribution Handshake": send_name, both forms.
    """
    if message[:1] == b"N":
        raw = message[15 : 15 + int.from_bytes(message[13:15], "big")]
    else:
        raw = message[7:]
    name = raw[:255].decode(errors="replace")
    return name if name.isprintable() and name else None


class _Side:
    """One end of a relay: its connection's owner (carriers.base.ConnectionHandler)."""

    other: _Side

    def __init__(self, relay: Relay, label: str, guard: PolicyFilter | None) -> None:
        self.label = label
        self.connection: Connection | None = None
        self.gone = True
        """No connection, or none any more."""
        self.brought_packets = False
        self._relay = relay
        self.guard = guard
        self._early: list[Packet] = []
        """What came before there was another side to send it to."""
        self._owed = 0
        """Bytes sent across but not yet reported consumed."""

    def attach(self, connection: Connection) -> None:
        """This side's connection is up. The other may have been talking before."""
        self.connection = connection
        self.gone = False
        connection.handler = self
        early, self.other._early = self.other._early, []
        if early:
            self.other.take_early(early)
        if self._relay.is_closing:
            self.close("the other side is gone")

    def close(self, text: str) -> None:
        """Ends the connection, if there is one."""
        if self.connection is not None and not self.gone:
            self.connection.close(text)

    # -- what the connection tells --

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Sends them to the other side; those before there is one wait, and are not consumed.

        Raises ProtocolError for what the guard cannot read.
        """
        self.brought_packets = True
        target = self.other.connection
        if self._relay.is_closing:
            return 0
        if target is None:
            self._early += packets
            return 0
        try:
            self._guarded(packets, target, self.guard)
        except HandshakeRefused as refusal:
            self._relay.turn_away(refusal)
        if self._relay.is_closing:
            return 0
        self._owed += sum(len(packet.data) for packet in packets)
        return self._settled()

    def take_early(self, packets: Sequence[Packet]) -> None:
        """What came before there was another side: as if it came now."""
        consumed = self.packets_received(packets)
        if self.connection is not None and not self.gone:
            self.connection.consumed(consumed)

    def writable_again(self) -> None:
        """This side takes more: the other may go on sending."""
        self.other._settle()
        self._settle()

    def connection_lost(self, reason: CloseReason) -> None:
        """This side is gone."""
        self.gone = True
        self._relay.lost(self, reason)

    def _guarded(
        self, packets: Sequence[Packet], target: Connection, guard: PolicyFilter | None
    ) -> None:
        """As `_forward`, of what the guard lets pass. Raises HandshakeRefused, ProtocolError."""
        raise NotImplementedError

    def _forward(self, packet: Packet, target: Connection) -> None:
        if not isinstance(packet, HandshakePacket):
            is_first = self is self._relay.near and not self._relay.is_believed
            if is_first and not self._relay.believed():
                return
            target.send_frame((packet.data,) if packet.data else ())
            return
        if self is self._relay.far and not self._relay.check_name(packet.data):
            return
        self._relay.passing(self, packet.data)
        target.send_handshake(packet.data)
        is_done = self._relay.is_end_of_handshake(self, packet.data)
        if is_done and self.connection is not None:
            target.handshake_done()
            self.connection.handshake_done()

    def _held_back(self) -> bool:
        """Whether what this side sent is not to be called consumed yet."""
        target = self.other.connection
        return target is None or not target.is_writable

    def _settled(self) -> int:
        """Bytes that the other side has taken since they were last reported."""
        if self._held_back():
            return 0
        owed, self._owed = self._owed, 0
        return owed

    def _settle(self) -> None:
        owed = self._settled()
        if owed and self.connection is not None and not self.gone:
            self.connection.consumed(owed)


class _NearSide(_Side):
    """The node's end. What it says passes; the guard learns from it whom it lets answer."""

    def _guarded(
        self, packets: Sequence[Packet], target: Connection, guard: PolicyFilter | None
    ) -> None:
        for packet in packets:
            if not self._relay.is_closing:
                self._forward(packet if guard is None else guard.from_node(packet), target)


class _FarSide(_Side):
    """The peer's end. The guard judges what it says, and answers what it refuses."""

    _answered = False
    """Something went back since this side's bytes were last called consumed."""

    def _guarded(
        self, packets: Sequence[Packet], target: Connection, guard: PolicyFilter | None
    ) -> None:
        any_passed = False
        for packet in packets:
            if self._relay.is_closing:
                return
            passage = Passage(packet) if guard is None else guard.from_peer(packet)
            any_passed |= passage.forward is not None
            self._proceed(passage, target)
        if not any_passed:
            # The node counts what it hears, and takes a silent peer for dead.
            target.send_frame(())

    def _proceed(self, passage: Passage, target: Connection) -> None:
        self._relay.judged(passage)
        if passage.note is not None:
            self._relay.note(passage.note)
        if passage.forward is not None:
            self._forward(passage.forward, target)
        if passage.answer is not None and self.connection is not None:
            self._answered = True
            self.connection.send_frame((passage.answer.data,))

    def _held_back(self) -> bool:
        """Who does not read the answers is heard no further."""
        if super()._held_back():
            return True
        if self._answered and self.connection is not None and not self.connection.is_writable:
            return True
        self._answered = False
        return False
