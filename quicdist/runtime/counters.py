"""What a node counts, from its start on. Only ever grows."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quicdist.carriers.reject_reason import RejectReason
from quicdist.errors import Cause


class Ending(enum.Enum):
    """How a connection that ended, or never came up, is counted: a few causes count as one. The
    value is its name in statistics and metrics."""

    LEFT = "left"
    """We wanted it so: `disconnect`, or this node stops."""

    LOST = "lost"
    """The peer closed it, or the carrier lost it."""

    COOKIE = "cookie"
    """The peer has another cookie."""

    REFUSED = "refused"
    """One of the two does not want it: the name, the capabilities, the status said no."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The distribution handshake was not finished in time."""

    TICK_TIMEOUT = "tick_timeout"
    """Nothing was heard from the node for net_ticktime."""

    ANSWERS_UNREAD = "answers_unread"
    """It asked, and read none of the answers."""

    ADDRESS_RATE = "address_rate"
    """More were begun in a second from its address than may be."""

    PROTOCOL = "protocol"
    """The peer broke the protocol, or one of its limits."""

    SUPERSEDED = "superseded"
    """Another connection to the same node goes first."""

    INTERNAL = "internal"
    """Something went wrong here; the log says what."""


_ENDINGS = {
    Cause.DISCONNECTED: Ending.LEFT,
    Cause.STOPPED: Ending.LEFT,
    Cause.QUEUE_FULL: Ending.LEFT,
    Cause.COOKIE: Ending.COOKIE,
    Cause.NOT_ALLOWED: Ending.REFUSED,
    Cause.REFUSED_HERE: Ending.REFUSED,
    Cause.OTHER_NAME: Ending.REFUSED,
    Cause.CAPABILITIES: Ending.REFUSED,
    Cause.BINDING: Ending.REFUSED,
    Cause.SIMULTANEOUS: Ending.REFUSED,
    Cause.CROWDED: Ending.REFUSED,
    Cause.CERTIFICATE: Ending.REFUSED,
    Cause.CERTIFICATE_THEIRS: Ending.REFUSED,
    Cause.KEY_CHANGED: Ending.REFUSED,
    Cause.HANDSHAKE_TIMEOUT: Ending.HANDSHAKE_TIMEOUT,
    Cause.TICK_TIMEOUT: Ending.TICK_TIMEOUT,
    Cause.ANSWERS_UNREAD: Ending.ANSWERS_UNREAD,
    Cause.PROTOCOL: Ending.PROTOCOL,
    Cause.CARRIER: Ending.PROTOCOL,
    Cause.SUPERSEDED: Ending.SUPERSEDED,
    Cause.INTERNAL: Ending.INTERNAL,
}


def ending_of(cause: Cause) -> Ending:
    """What a connection that ended for this cause counts as: LOST where nothing else fits."""
    return _ENDINGS.get(cause, Ending.LOST)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over connections. Bytes are those of the carrier's streams."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_refused: int = 0
    """Received and dropped: their payload does not decode, or is beyond a bound."""
    datagrams_lost: int = 0
    migrations: int = 0
    rate_holds: int = 0
    """How often peers were held back because they sent or called more in a second than they may."""
    held_back: float = 0.0
    """Seconds that peers were held back by receivers here."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.messages_sent + other.messages_sent,
            self.messages_received + other.messages_received,
            self.messages_refused + other.messages_refused,
            self.datagrams_lost + other.datagrams_lost,
            self.migrations + other.migrations,
            self.rate_holds + other.rate_holds,
            self.held_back + other.held_back,
        )


@dataclass(slots=True)
class Overflows:
    """What mailboxes that were full have cost."""

    dropped: int = 0
    """Messages thrown away (WhenFull.DROP)."""

    killed: int = 0
    """Processes ended (WhenFull.KILL)."""


@dataclass(slots=True)
class NodeCounters:
    """One for each start of a node."""

    dialed: int = 0
    """Links that came up, made by us ..."""

    accepted: int = 0
    """... and made to us."""

    refused: Counter[Ending] = field(default_factory=Counter)
    """Links made to us that did not come up."""

    ended: Counter[Ending] = field(default_factory=Counter)
    """Links that were up."""

    past: Traffic = Traffic()
    """That of links which are over."""

    def refused_by_reason(
        self, by_carriers: Iterable[Mapping[RejectReason, int]]
    ) -> Mapping[str, int]:
        """Those, and what the carriers have turned away before the node heard of it."""
        counts = Counter({why.value: count for why, count in self.refused.items()})
        for refusals in by_carriers:
            counts.update({reason.value: count for reason, count in refusals.items()})
        return dict(counts)

    def ended_by_reason(self) -> Mapping[str, int]:
        """Links that were up, by why they are gone."""
        return {why.value: count for why, count in self.ended.items()}

    def link_ended(self, ending: Ending, traffic: Traffic) -> None:
        """One that was up is gone."""
        self.ended[ending] += 1
        self.past += traffic

    def link_refused(self, ending: Ending) -> None:
        """One made to us did not come up."""
        self.refused[ending] += 1
