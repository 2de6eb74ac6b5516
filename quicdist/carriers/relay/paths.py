"""The choice of the path to one peer: through the relay, or directly.

A connection starts on the relay. The listener offers its candidates, the dialer answers with its
own, and both ping (`punching`). The first address that answers a ping becomes the path. Each node
checks its own direction by pings of its own, since QUIC's silence does not tell whether a path is
dead. A path that misses three pings is given up for the relay, and is tried again later.

    event                            negotiation            path
    cookie proved (listener)         IDLE -> OFFERED
    offer (dialer), answer           any -> PUNCHING
    no answer in time, declined      OFFERED -> IDLE        retry later
    pong                             PUNCHING -> IDLE       relayed -> direct
    no pong in time                  PUNCHING -> IDLE       retry later
    three pings without a pong                              direct -> relayed, retry later
    pong from the lost path                                 relayed -> direct
    pings from the listener's path                          that path (dialer)

QUIC sees one constant address of the peer, so a change of the path is no migration. After a
`Switched` the owner must reset the congestion window, the round-trip time and the path MTU search
of the connection (RFC 9000, 9.4).
"""

from __future__ import annotations

import enum
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.carriers.relay.candidates import (
    MAX_CANDIDATES,
    Address,
    Candidate,
    CandidateKind,
    accepted,
)
from quicdist.carriers.relay.offers import SECRET_LENGTH, Form, Offer, decode
from quicdist.carriers.relay.punching import (
    PING_INTERVAL,
    Pinged,
    Pinger,
    Ponged,
    Punch,
    Refusal,
    SessionKey,
    Transmit,
    session_of,
)
from quicdist.errors import NodeError
from quicdist.protocol.role import Role

CHECK_ACTIVE = 0.4
"""Seconds between two pings of a path in use, at least 1.5 round trips."""

CHECK_IDLE = 10.0
"""Seconds between two pings of an idle path. NATs keep a mapping for 30 s (RFC 4787, 4.3)."""

MISSES = 3
"""Number of consecutive pings without a pong after which a path is given up."""

ACTIVE = 1.0
"""Seconds after a datagram for which its path counts as in use."""

RETRY = 2.0
"""Seconds before another attempt. They double with each failure, up to `RETRY_MAX`."""

RETRY_MAX = 300.0

SETTLED = 60.0
"""Seconds after which a direct path counts as good: a later loss is retried after `RETRY`."""

ANSWER_TIMEOUT = 10.0
"""Seconds to wait for the answer to an offer."""

DIRECT_TIMEOUT = 15.0
"""Seconds without a direct path after which a `direct-only` connection fails."""

RECHECK = 60.0
"""Seconds for which a lost path is still pinged, once a second."""

_RECHECK_INTERVAL = 1.0
_OFFER_INTERVAL = 1.0
"""Minimum time in seconds between two offers of a peer. Earlier ones are ignored, since each one
costs up to 640 pings to addresses that the peer chose."""


class PathMode(enum.Enum):
    """Which paths a connection to a relayed node may use."""

    AUTO = "auto"
    """Relayed, then direct where possible."""
    DIRECT_ONLY = "direct-only"
    """The relay is used to find a direct path. The connection fails if there is none."""
    RELAY_ONLY = "relay-only"
    """Always relayed. The peer does not learn the addresses of this node."""


def path_mode(text: str) -> PathMode:
    """Returns the mode with this name. Raises NodeError."""
    try:
        return PathMode(text)
    except ValueError:
        known = ", ".join(each.value for each in PathMode)
        raise NodeError(f"invalid path {text!r}: expected one of {known}") from None


class Negotiation(enum.Enum):
    """The state of the search for a direct path."""

    IDLE = "idle"
    OFFERED = "offered"
    """The listener waits for an answer."""
    PUNCHING = "punching"


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Send these bytes to the peer inside the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Switched:
    """The path has changed to a direct address, or to the relay if None."""

    address: Address | None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is no direct path, and no other is allowed. Reported once."""


Output: TypeAlias = Transmit | SendOffer | Switched | Unreachable


class PeerPaths:
    """The paths of one relayed connection. Created when both nodes have proved the cookie.

    All times are seconds of one clock. Each method returns what the owner must do, in order. The
    owner calls `tick` at the time `next_at`, which each call may change.
    """

    def __init__(
        self,
        role: Role,
        mode: PathMode = PathMode.AUTO,
        own: Sequence[Candidate] = (),
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.own = own
        """The candidates of this node. The owner keeps them current."""
        self.seen: Address | None = None
        """The address from which the peer's datagrams come, for the listener's offers."""
        self.address: Address | None = None
        """The direct path; None while the connection is relayed."""
        self.negotiation = Negotiation.IDLE
        self.round_trip: float | None = None
        """Of the direct path, by the last pong, in seconds."""
        self.rejected: Counter[Refusal] = Counter()
        self.switches = 0
        self._role = role
        self._mode = mode
        self._random = random
        self._round = 0
        self._secret = b""
        self._punch: Punch | None = None
        self._pinger: Pinger | None = None
        self._previous: Pinger | None = None
        self._heard: set[Address] = set()
        self._lost: Address | None = None
        self._misses = 0
        self._is_pong_due = False
        self._delay = RETRY
        self._direct_since = -math.inf
        self._offered_at = -math.inf
        self._sent_at = -math.inf
        self._pinged_at = -math.inf
        self._triggered_at = -math.inf
        self._pinged_from: Address | None = None
        self._repeats = 0
        self._recheck_until = -math.inf
        self._retry_at = math.inf
        self._check_at = math.inf
        self._fails_at = math.inf

    # -- what the owner asks --------------------------------------------------------------------

    @property
    def next_at(self) -> float:
        """When to call `tick`; infinite if there is nothing to do."""
        times = [self._retry_at, self._check_at, self._fails_at]
        if self.negotiation is Negotiation.PUNCHING and self._punch is not None:
            times.append(min(self._punch.next_at, self._punch.ends_at))
        return min(times)

    @property
    def sessions(self) -> Sequence[bytes]:
        """The names of the sessions whose pings this object handles."""
        return [one.key.name for one in (self._pinger, self._previous) if one is not None]

    @property
    def pinged(self) -> Sequence[Address]:
        """The addresses of the peer that are pinged in the current session."""
        return () if self._punch is None else self._punch.addresses

    # -- events ---------------------------------------------------------------------------------

    def proved(self, now: float) -> Sequence[Output]:
        """Starts the search, after the peer has proved the cookie."""
        if self._mode is PathMode.DIRECT_ONLY:
            self._fails_at = now + DIRECT_TIMEOUT
        if self._mode is PathMode.RELAY_ONLY and self._role is Role.LISTENER:
            # The dialer learns that it is relayed, and no address.
            return (SendOffer(Offer(Form.OFFER, 0, bytes(SECRET_LENGTH)).encode()),)
        return self._offer(now)

    def renew(self, now: float) -> None:
        """Has the listener offer again soon, because its addresses have changed."""
        if self._is_offering:
            self._delay = RETRY
            self._retry_at = min(self._retry_at, max(now, self._offered_at + RETRY))

    def declined(self) -> None:
        """Ends the search: the peer has rejected the stream of the offers."""
        self.negotiation = Negotiation.IDLE
        self._retry_at = math.inf

    def offer_received(self, data: bytes, now: float, round_trip: float | None) -> Sequence[Output]:
        """Handles an encoded offer or answer of the peer.

        `round_trip` is that of the relayed path in seconds. The dialer starts half of it after its
        answer, when the listener receives it. Raises OfferError.
        """
        offer = decode(data)
        if offer.form is Form.ANSWER:
            return self._answered(offer, now)
        if self._role is Role.LISTENER or now - self._offered_at < _OFFER_INTERVAL:
            return ()
        self._offered_at = now
        secret = self._random(SECRET_LENGTH)
        is_wanted = self._mode is not PathMode.RELAY_ONLY and bool(offer.candidates)
        own = self._with_seen(offer) if is_wanted else ()
        answer = Offer(Form.ANSWER, offer.round, secret, own)
        if own:
            self.own = own
            key = SessionKey.derive(secret, offer.secret)
            self._begin(key, offer.candidates, now + (round_trip or 0.0) / 2)
        return (SendOffer(answer.encode()),)

    def receive(self, data: bytes, address: Address, now: float) -> Sequence[Output]:
        """Handles a ping or pong, and ignores and counts every other datagram."""
        name = session_of(data)
        for pinger in (self._pinger, self._previous):
            if pinger is not None and pinger.key.name == name:
                return self._heard_of(pinger, pinger.receive(data, address, now), now)
        return self._refuse(Refusal.FORGED)

    def sent(self, now: float) -> None:
        """Reports that datagrams of the connection were sent. Has an idle path checked at once."""
        self._sent_at = now
        if self.address is not None:
            self._check_at = min(self._check_at, self._pinged_at + self._active_interval)

    def tick(self, now: float) -> Sequence[Output]:
        """Handles all timers that have expired."""
        outputs: list[Output] = []
        if self.negotiation is Negotiation.PUNCHING:
            outputs += self._punch_on(now)
        if now >= self._check_at:
            outputs += self._check(now)
        if now >= self._retry_at:
            self._retry_at = math.inf
            outputs += self._retry(now)
        if now >= self._fails_at:
            self._fails_at = math.inf
            outputs.append(Unreachable())
        return outputs

    # -- negotiation ----------------------------------------------------------------------------

    @property
    def _is_offering(self) -> bool:
        is_allowed = self._mode is not PathMode.RELAY_ONLY
        return self._role is Role.LISTENER and is_allowed and bool(self.own)

    def _offer(self, now: float) -> Sequence[Output]:
        if not self._is_offering:
            return ()
        self._round = (self._round + 1) % 2**32
        self._secret = self._random(SECRET_LENGTH)
        self._offered_at = now
        self.negotiation = Negotiation.OFFERED
        self._retry_at = now + ANSWER_TIMEOUT
        candidates = tuple(self.own)
        if self.seen is not None:
            candidates += (Candidate(CandidateKind.SEEN, self.seen),)
        return (SendOffer(Offer(Form.OFFER, self._round, self._secret, candidates).encode()),)

    def _with_seen(self, offer: Offer) -> Sequence[Candidate]:
        """Returns the own candidates and the own address that the peer sees."""
        seen = [one.address for one in offer.candidates if one.kind is CandidateKind.SEEN]
        known = {one.address for one in self.own}
        new = [Candidate(CandidateKind.OBSERVED, one) for one in seen if one not in known]
        return (*new, *self.own)[:MAX_CANDIDATES]

    def _answered(self, answer: Offer, now: float) -> Sequence[Output]:
        """Starts at once; an answer to an earlier offer is ignored."""
        if self.negotiation is not Negotiation.OFFERED or answer.round != self._round:
            return ()
        if not answer.candidates:
            self._later(now)
            return ()
        self._begin(SessionKey.derive(answer.secret, self._secret), answer.candidates, now)
        return self._punch_on(now)

    def _begin(self, key: SessionKey, offered: Sequence[Candidate], start: float) -> None:
        self._previous = self._pinger
        self._pinger = Pinger(key, self._role)
        self._punch = Punch(accepted(offered, self.own), start)
        self._heard = set() if self.address is None else {self.address}
        self._lost = None
        self._retry_at = math.inf
        self.negotiation = Negotiation.PUNCHING
        if self.address is None:
            self._check_at = math.inf

    def _punch_on(self, now: float) -> Sequence[Output]:
        assert self._punch is not None
        if now >= self._punch.ends_at:
            self._later(now)
            return ()
        return [self._ping(address, now) for address in self._punch.due(now)]

    def _retry(self, now: float) -> Sequence[Output]:
        if self.negotiation is Negotiation.OFFERED:
            self._later(now)
            return ()
        return self._offer(now)

    def _later(self, now: float) -> None:
        """An attempt has failed. Only the listener starts another one."""
        self.negotiation = Negotiation.IDLE
        if self._is_offering and self.address is None:
            self._retry_at = now + self._delay
            self._delay = min(2 * self._delay, RETRY_MAX)

    # -- pings ----------------------------------------------------------------------------------

    def _ping(self, address: Address, now: float) -> Transmit:
        assert self._pinger is not None
        return self._pinger.ping(address, now)

    def _keep_session(self, pinger: Pinger) -> None:
        """Makes the session of the path the current one.

        The peer may not know a later one: the answer that completes it may have come too late.
        """
        if pinger is self._previous:
            self._pinger, self._previous = self._previous, self._pinger

    def _refuse(self, refusal: Refusal) -> Sequence[Output]:
        self.rejected[refusal] += 1
        return ()

    def _heard_of(
        self, pinger: Pinger, what: Pinged | Ponged | Refusal, now: float
    ) -> Sequence[Output]:
        if isinstance(what, Refusal):
            return self._refuse(what)
        if isinstance(what, Pinged):
            return self._pinged(pinger, what, now)
        return self._ponged(pinger, what, now)

    def _pinged(self, pinger: Pinger, what: Pinged, now: float) -> Sequence[Output]:
        """Answers, and checks whether the address works in the other direction as well."""
        assert self._punch is not None
        if any(what.address == one.address for one in self.own):
            return self._refuse(Refusal.OWN)
        if what.address != self.address and not self._punch.met(what.address):
            return self._refuse(Refusal.CROWDED)
        is_new = what.address not in self._heard
        self._heard.add(what.address)
        self._repeats = self._repeats + 1 if what.address == self._pinged_from else 1
        self._pinged_from = what.address
        is_better = self.address is None or self._misses > 0 or self._is_chosen(what.address)
        is_wanted = what.address != self.address and is_better
        if not is_new and not (is_wanted and now - self._triggered_at >= PING_INTERVAL):
            return (what.pong,)
        self._triggered_at = now
        return (what.pong, pinger.ping(what.address, now))

    def _ponged(self, pinger: Pinger, what: Ponged, now: float) -> Sequence[Output]:
        self._heard.add(what.address)
        is_punched = self.negotiation is Negotiation.PUNCHING
        if is_punched:
            self.negotiation = Negotiation.IDLE
        if what.address == self.address:
            self._misses = 0
            self._is_pong_due = False
            self.round_trip = what.round_trip
            return ()
        is_good = self.address is not None and not is_punched and not self._misses
        if is_good and not self._is_chosen(what.address):
            return ()
        self._keep_session(pinger)
        return self._use(what, now)

    def _is_chosen(self, address: Address) -> bool:
        """Returns whether the listener has chosen this address: after the search it pings no other.

        The dialer follows, so that both directions depend on the same mappings of NATs.
        """
        is_repeated = address == self._pinged_from and self._repeats > 1
        return is_repeated and self._role is Role.DIALER

    # -- the path -------------------------------------------------------------------------------

    @property
    def _active_interval(self) -> float:
        return max(CHECK_ACTIVE, 1.5 * (self.round_trip or 0.0))

    def _use(self, what: Ponged, now: float) -> Sequence[Output]:
        self.address = what.address
        self.round_trip = what.round_trip
        self.switches += 1
        self._lost = None
        self._misses = 0
        self._is_pong_due = False
        self._direct_since = self._pinged_at = now
        self._check_at = now + self._active_interval
        self._fails_at = math.inf
        if self.negotiation is Negotiation.IDLE:
            self._retry_at = math.inf
        return (Switched(what.address),)

    def _check(self, now: float) -> Sequence[Output]:
        """Pings the path, or a path that was lost a short time ago."""
        if self.address is None:
            return self._recheck(now)
        self._misses = self._misses + 1 if self._is_pong_due else 0
        if self._misses >= MISSES:
            return self._lose(now)
        self._is_pong_due = True
        self._pinged_at = now
        is_active = self._misses > 0 or now - self._sent_at < ACTIVE
        self._check_at = now + (self._active_interval if is_active else CHECK_IDLE)
        return (self._ping(self.address, now),)

    def _lose(self, now: float) -> Sequence[Output]:
        self._lost, self.address = self.address, None
        self.round_trip = None
        self.switches += 1
        self._misses = 0
        self._is_pong_due = False
        self._recheck_until = now + RECHECK
        self._check_at = now + _RECHECK_INTERVAL
        if now - self._direct_since >= SETTLED:
            self._delay = RETRY
        if self._mode is PathMode.DIRECT_ONLY:
            self._fails_at = now + DIRECT_TIMEOUT
        if self.negotiation is Negotiation.IDLE:
            self._later(now)
        return (Switched(None),)

    def _recheck(self, now: float) -> Sequence[Output]:
        if self._lost is None or now >= self._recheck_until:
            self._check_at = math.inf
            return ()
        self._check_at = now + _RECHECK_INTERVAL
        return (self._ping(self._lost, now),)
