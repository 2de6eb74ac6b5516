"""The state of a node at its relay, without I/O: dial, allocate, keep alive, fall back, retry.

There are two ways to a relay: QUIC on UDP, and TLS on TCP, which is used where UDP is blocked. Each
has a state of its own:

    idle --dial--> dialing --opened--> asking --allocated--> up
      ^               |                   |                   |
      +---------------+---- failed -------+-------------------+     and dialed again later

UDP is dialed first. TCP is dialed when UDP is not up after `tcp_delay`, or has failed. If UDP comes
up, TCP is closed. While only TCP is up, UDP is tried again from time to time.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.carriers.relay.frames import Allocated, Refusal

KEEP_ALIVE = 10.0
"""Seconds between two keep-alives. Common NATs drop a mapping after 30 s without a packet."""

SILENCE = 2.5 * KEEP_ALIVE
"""Seconds without anything from the relay after which the way counts as lost."""

_FIRST_RETRY = 0.5
_LONGEST_RETRY = 30.0
_RETRY_UDP = 60.0
"""Seconds between two attempts over UDP while TCP is up."""

_REFUSED_RETRY = 30.0
"""Seconds until the node asks again after a refusal."""


class Way(enum.Enum):
    """How the node reaches its relay. The values are those of logs and statistics."""

    UDP = "udp"
    TCP = "tcp"


class State(enum.Enum):
    """The state of one way."""

    IDLE = "idle"
    DIALING = "dialing"
    ASKING = "asking"
    """Connected; the relay has not answered the request for a port."""
    UP = "up"


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the relay in this way."""

    way: Way


@dataclass(frozen=True, slots=True)
class Ask:
    """Send an `Allocate` message."""

    way: Way


@dataclass(frozen=True, slots=True)
class KeepAliveNow:
    """Send something that the relay answers."""

    way: Way


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, or give up the attempt."""

    way: Way


@dataclass(frozen=True, slots=True)
class Use:
    """Send the datagrams of relayed peers in this way, or drop them if it is None."""

    way: Way | None


Action: TypeAlias = Dial | Ask | KeepAliveNow | Close | Use


@dataclass(slots=True)
class _WayState:
    state: State = State.IDLE
    due: float | None = None
    """When to dial it again, or to keep it alive."""
    heard: float = 0.0
    failures: int = 0


class Registration:
    """The state machine. Each method returns what to do next; `due` tells when to call `tick`."""

    def __init__(self, *, has_tcp: bool = True, tcp_delay: float = 1.0, spread: float = 0.0):
        """`spread`, from 0 to 1, lengthens the pauses before retries by that share.

        The nodes of a relay that was down then do not all return at once.
        """
        self._has_tcp = has_tcp
        self._tcp_delay = tcp_delay
        self._spread = spread
        self._ways = {way: _WayState() for way in Way}
        self._used: Way | None = None
        self.allocated: Allocated | None = None
        """The last answer of the relay. It stays when the connection is lost."""
        self.refusal: Refusal | None = None
        """The last refusal, if no answer came since."""

    @property
    def used(self) -> Way | None:
        """The way for datagrams; None while there is none."""
        return self._used

    @property
    def due(self) -> float | None:
        """When to call `tick`; None if nothing is planned."""
        return min((one.due for one in self._ways.values() if one.due is not None), default=None)

    def state(self, way: Way) -> State:
        """Returns the state of one way."""
        return self._ways[way].state

    def start(self, now: float) -> Sequence[Action]:
        """Starts the first attempt."""
        if self._has_tcp:
            self._ways[Way.TCP].due = now + self._tcp_delay
        return self._dial(Way.UDP)

    def opened(self, way: Way, now: float) -> Sequence[Action]:
        """Reports that the connection is established and the relay's certificate is verified."""
        one = self._ways[way]
        if one.state is not State.DIALING:
            return (Close(way),)
        one.state, one.heard, one.due = State.ASKING, now, now + SILENCE
        return (Ask(way),)

    def answered(self, way: Way, answer: Allocated, now: float) -> Sequence[Action]:
        """Reports that the relay has allocated the port."""
        one = self._ways[way]
        if one.state not in (State.ASKING, State.UP):
            return ()
        one.state, one.heard, one.due, one.failures = State.UP, now, now + KEEP_ALIVE, 0
        self.allocated, self.refusal = answer, None
        actions: list[Action] = []
        tcp = self._ways[Way.TCP]
        if way is Way.UDP:
            if tcp.state is not State.IDLE:
                actions.append(Close(Way.TCP))
            tcp.state, tcp.due = State.IDLE, None
        return [*self._use(), *actions]

    def refused(self, way: Way, refusal: Refusal, now: float) -> Sequence[Action]:
        """Reports that the relay gives no port, or has taken it away.

        A relay that stops is lost, and asked again as soon as a relay that died.
        """
        one = self._ways[way]
        if one.state not in (State.ASKING, State.UP):
            return ()
        if refusal is Refusal.STOPPING:
            return [Close(way), *self.failed(way, now)]
        self.refusal = refusal
        one.state, one.due = State.IDLE, now + _REFUSED_RETRY * (1 + self._spread)
        return [Close(way), *self._use()]

    def heard(self, way: Way, now: float) -> None:
        """Reports that something came from the relay."""
        one = self._ways[way]
        one.heard = max(one.heard, now)

    def failed(self, way: Way, now: float) -> Sequence[Action]:
        """Reports that an attempt failed, or that the connection is lost."""
        one = self._ways[way]
        if one.state is State.IDLE:
            return ()
        was_up = one.state is State.UP
        one.state = State.IDLE
        one.failures += 1
        delay = min(_FIRST_RETRY * 2 ** (one.failures - 1), _LONGEST_RETRY) * (1 + self._spread)
        if way is Way.UDP and self._ways[Way.TCP].state is State.UP:
            delay = max(delay, _RETRY_UDP)
        one.due = now + delay
        actions = self._use()
        if way is Way.UDP and self._has_tcp and self._ways[Way.TCP].state is State.IDLE:
            tcp = self._ways[Way.TCP]
            # A relay that restarts answers on UDP again first; only a blocked path is different.
            later = now + (self._tcp_delay if was_up else 0.0)
            tcp.due = min(tcp.due, later) if tcp.due is not None else later
            if tcp.failures:
                tcp.due = now + delay
        return actions

    def tick(self, now: float) -> Sequence[Action]:
        """Does what is due at this time."""
        actions: list[Action] = []
        for way, one in self._ways.items():
            if one.due is None or now < one.due:
                continue
            one.due = None
            if one.state is State.IDLE:
                if way is Way.UDP or self._ways[Way.UDP].state is not State.UP:
                    actions += self._dial(way)
            elif now - one.heard >= SILENCE:
                actions += [Close(way), *self.failed(way, now)]
            elif one.state is State.UP:
                one.due = now + KEEP_ALIVE
                actions.append(KeepAliveNow(way))
            else:
                one.due = one.heard + SILENCE
        return actions

    def _dial(self, way: Way) -> Sequence[Action]:
        one = self._ways[way]
        one.state, one.due = State.DIALING, None
        return (Dial(way),)

    def _use(self) -> Sequence[Action]:
        up = [way for way in Way if self._ways[way].state is State.UP]
        used = up[0] if up else None
        if used is self._used:
            return ()
        self._used = used
        return (Use(used),)
