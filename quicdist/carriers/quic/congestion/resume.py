"""Careful Resume: a new connection starts with what an earlier one measured on the same path.

Source: draft-ietf-tsvwg-careful-resume. A sender in slow start needs many round trips to fill a
long path. `PathMemory` keeps what ended connections have measured, by the address of the peer, and
`CarefulResume` uses it once: after a round trip has confirmed that the path is similar, the sender
may have half of the earlier capacity in flight for a round trip, paced over that round trip. A loss
ends this phase, as do acknowledgements that confirm the capacity.

This module does no I/O and reads no clock. Sizes are in bytes, times in seconds, and rates in bytes
per second.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY
from quicdist.carriers.quic.congestion.controller import Ack, Controller
from quicdist.carriers.quic.congestion.rate_sample import SendState

LIFETIME = 600.0
"""Seconds for which a measurement is used. Paths and the traffic of others change."""
MOST_PATHS = 256
"""Maximum number of addresses that are remembered."""
LEAST_DELIVERED = 1024 * 1024
"""Bytes that a connection must have delivered for its measurement to be stored."""

LEAST_ROUND_TRIP = HOST_DELAY
"""Minimum round trip of a path that is stored. Slow start fills a shorter one at once."""

_SHARE = 0.5
"""Share of the earlier capacity that is used (3.3, Unvalidated Phase)."""
_RTT_RANGE = (0.5, 2.0)
"""Range of the round trip, relative to the earlier one, in which the path counts as the same."""
_PATIENCE = 10.0
"""Seconds for which a confirmed path waits for data."""
_ROUND_TRIPS = 3
"""Maximum length of the unvalidated phase, in round trips."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a connection has measured on a path."""

    in_flight: float
    """Bytes in flight that fill the path: the bandwidth-delay product."""
    round_trip: float
    """The minimum round trip."""


class PathMemory:
    """The capacities of paths, by the address of the peer. Only the newest ones are kept."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[Capacity, float]] = {}

    def store(self, address: str, capacity: Capacity, now: float) -> None:
        """Stores a measurement in place of an earlier one of that address."""
        if capacity.round_trip < LEAST_ROUND_TRIP:
            return
        self._paths.pop(address, None)
        if len(self._paths) >= MOST_PATHS:
            del self._paths[next(iter(self._paths))]
        self._paths[address] = (capacity, now)

    def take(self, address: str, now: float) -> Capacity | None:
        """Returns and removes the measurement of an address; None if there is none or it is old.

        One connection uses it. Several that start at the same time would overload the path.
        """
        known = self._paths.pop(address, None)
        return known[0] if known is not None and now - known[1] <= LIFETIME else None


class Phase(enum.Enum):
    """The phases of Careful Resume (3)."""

    RECONNAISSANCE = "reconnaissance"
    """Waits for a round trip that confirms the path."""
    UNVALIDATED = "unvalidated"
    """Sends up to half of the earlier capacity."""
    NORMAL = "normal"
    """The controller decides alone."""


class CarefulResume:
    """A controller that starts with an earlier capacity (see controller.Controller)."""

    def __init__(self, controller: Controller, capacity: Capacity) -> None:
        self.controller = controller
        self.phase = Phase.RECONNAISSANCE
        self._capacity = capacity
        self._window = 0.0
        self._rate = 0.0
        self._round_trip = 0.0
        self._ends = math.inf
        self._is_used = False
        """Whether more was sent than the controller allows alone."""
        self._to_confirm = 0.0

    @property
    def datagram_size(self) -> int:
        return self.controller.datagram_size

    @datagram_size.setter
    def datagram_size(self, size: int) -> None:
        self.controller.datagram_size = size

    @property
    def window(self) -> int:
        return max(self.controller.window, int(self._window))

    @property
    def pacing_rate(self) -> float:
        return max(self.controller.pacing_rate, self._rate)

    @property
    def capacity(self) -> float:
        return self.controller.capacity

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        is_ready = self.phase is Phase.UNVALIDATED and not self._is_used
        if is_ready and in_flight + size > self.controller.window:
            self._is_used = True
            self._ends = now + _ROUND_TRIPS * self._round_trip
        return self.controller.on_sent(now, in_flight, size)

    def on_app_limited(self, in_flight: int) -> None:
        self.controller.on_app_limited(in_flight)

    def on_ack(self, ack: Ack) -> None:
        self.controller.on_ack(ack)
        if self.phase is Phase.RECONNAISSANCE:
            self._look_at_path(ack)
        elif self.phase is Phase.UNVALIDATED:
            if self._is_used:
                self._to_confirm -= ack.acknowledged
            if ack.lost or ack.ecn_ce or self._to_confirm <= 0 or ack.now >= self._ends:
                self._end()

    def on_spurious_loss(self, now: float, size: int) -> None:
        self.controller.on_spurious_loss(now, size)

    def on_persistent_congestion(self) -> None:
        self._end()
        self.controller.on_persistent_congestion()

    def _look_at_path(self, ack: Ack) -> None:
        if ack.lost or ack.ecn_ce:
            self._end()
        elif ack.rtt is not None:
            least, most = (share * self._capacity.round_trip for share in _RTT_RANGE)
            if least <= ack.rtt <= most:
                self._begin(ack.rtt, ack.now)
            else:
                self._end()

    def _begin(self, round_trip: float, now: float) -> None:
        self.phase = Phase.UNVALIDATED
        self._window = self._to_confirm = _SHARE * self._capacity.in_flight
        self._rate = self._window / round_trip
        self._round_trip = round_trip
        self._ends = now + _PATIENCE

    def _end(self) -> None:
        self.phase = Phase.NORMAL
        self._window = self._rate = 0.0
