"""Counters of a node since its start. They never decrease."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quicdist.carriers.reject_reason import RejectReason
from quicdist.errors import Cause


class Ending(enum.Enum):
    """The class of reasons why a connection ended or was not established.

    Several `Cause` members map to one. The value is the name in statistics and metrics.
    """

    LEFT = "left"
    """This node closed it: `disconnect`, or the node stops."""

    LOST = "lost"
    """The peer closed the connection, or the carrier lost it."""

    COOKIE = "cookie"
    """The cookies differ."""

    REFUSED = "refused"
    """One of the nodes refused it because of the name, the capabilities or the status."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The distribution handshake did not finish in time."""

    TICK_TIMEOUT = "tick_timeout"
    """Nothing was received from the node for net_ticktime."""

    ANSWERS_UNREAD = "answers_unread"
    """The peer sent requests and did not read the answers."""

    ADDRESS_RATE = "address_rate"
    """The rate limit for connections from the peer's address was exceeded."""

    PROTOCOL = "protocol"
    """The peer violated the protocol or one of its limits."""

    SUPERSEDED = "superseded"
    """Another connection to the same node takes precedence."""

    INTERNAL = "internal"
    """An internal error of this node, which is logged."""


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
    Cause.NAME_AMBIGUOUS: Ending.REFUSED,
    Cause.HANDSHAKE_TIMEOUT: Ending.HANDSHAKE_TIMEOUT,
    Cause.TICK_TIMEOUT: Ending.TICK_TIMEOUT,
    Cause.ANSWERS_UNREAD: Ending.ANSWERS_UNREAD,
    Cause.PROTOCOL: Ending.PROTOCOL,
    Cause.CARRIER: Ending.PROTOCOL,
    Cause.SUPERSEDED: Ending.SUPERSEDED,
    Cause.INTERNAL: Ending.INTERNAL,
}


def ending_of(cause: Cause) -> Ending:
    """Returns the class of a cause, LOST by default."""
    return _ENDINGS.get(cause, Ending.LOST)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic counters. Bytes are those of the carrier's streams."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    messages_refused: int = 0
    """Messages received and dropped because their payload cannot be decoded or exceeds a limit."""
    datagrams_lost: int = 0
    migrations: int = 0
    rate_holds: int = 0
    """The number of pauses because a peer exceeded its rate limit."""
    held_back: float = 0.0
    """Seconds during which receivers on this node paused peers."""

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
    """Counters of full mailboxes."""

    dropped: int = 0
    """Messages dropped (WhenFull.DROP)."""

    killed: int = 0
    """Processes ended (WhenFull.KILL)."""


@dataclass(slots=True)
class NodeCounters:
    """The counters of one node incarnation."""

    dialed: int = 0
    """Established connections that this node dialed."""

    accepted: int = 0
    """Established connections that this node accepted."""

    refused: Counter[Ending] = field(default_factory=Counter)
    """Incoming connections that were not established."""

    ended: Counter[Ending] = field(default_factory=Counter)
    """Established connections that ended."""

    past: Traffic = Traffic()
    """The traffic of ended connections."""

    def refused_by_reason(
        self, by_carriers: Iterable[Mapping[RejectReason, int]]
    ) -> Mapping[str, int]:
        """Returns the refused connections by reason, including those that carriers rejected."""
        counts = Counter({why.value: count for why, count in self.refused.items()})
        for rejected in by_carriers:
            counts.update({reason.value: count for reason, count in rejected.items()})
        return dict(counts)

    def ended_by_reason(self) -> Mapping[str, int]:
        """Returns the ended connections by reason."""
        return {why.value: count for why, count in self.ended.items()}

    def connection_ended(self, ending: Ending, traffic: Traffic) -> None:
        """Counts an established connection that ended."""
        self.ended[ending] += 1
        self.past += traffic

    def connection_refused(self, ending: Ending) -> None:
        """Counts an incoming connection that was not established."""
        self.refused[ending] += 1
