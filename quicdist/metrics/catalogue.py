"""The metrics, each with its name, its unit, and where in the statistics it is read."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from quicdist.gateway.info import GatewayStatistics
from quicdist.node.info import NodeStatistics
from quicdist.runtime.counters import Traffic

Statistics: TypeAlias = "NodeStatistics | GatewayStatistics"

Sample: TypeAlias = tuple[tuple[str, ...], float]
"""The values of a metric's labels, and its own."""


class Kind(enum.Enum):
    """What may become of a value."""

    COUNTER = "counter"
    """It only grows, from the start of the node or of the connection."""

    GAUGE = "gauge"
    """It goes up and down."""


class Unit(enum.Enum):
    """What a value is measured in; one in other units would be scaled."""

    NONE = ""
    BYTES = "bytes"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Each sample also carries the node it is of."""

    name: str
    kind: Kind
    text: str
    read: Callable[[Any], Iterable[Sample]]
    """Of the statistics that have it: those of nodes, of gateways, or both."""
    unit: Unit = Unit.NONE
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Any], float]) -> Callable[[Any], Iterable[Sample]]:
    return lambda node: [((), read(node))]


def _by_reason(
    read: Callable[[Any], Mapping[str, int]],
) -> Callable[[Any], Iterable[Sample]]:
    return lambda node: [((reason,), count) for reason, count in read(node).items()]


def _by_role(node: Statistics) -> Iterable[Sample]:
    return [(("dialer",), node.dialed), (("listener",), node.accepted)]


def _by_peer(
    read: Callable[[Any], float | None],
) -> Callable[[Any], Iterable[Sample]]:
    def samples(node: Statistics) -> Iterable[Sample]:
        for peer in node.connections:
            value = read(peer)
            if value is not None:
                yield (peer.name, peer.carrier, peer.role.value), value

    return samples


def _certificate_left(node: Statistics) -> Iterable[Sample]:
    if node.certificate_expires is not None:
        yield (), node.certificate_expires - time.time()


def _gauge(name: str, text: str, read: Callable[[Any], float], unit: Unit = Unit.NONE) -> Metric:
    return Metric(name, Kind.GAUGE, text, _one(read), unit)


def _counter(name: str, text: str, read: Callable[[Any], float]) -> Metric:
    return Metric(name, Kind.COUNTER, text, _one(read))


def _peer_gauge(
    name: str, text: str, read: Callable[[Any], float | None], unit: Unit = Unit.NONE
) -> Metric:
    return Metric(f"peer_{name}", Kind.GAUGE, text, _by_peer(read), unit, _PEER)


def _traffic(name: str, text: str, read: Callable[[Traffic], float], unit: Unit) -> list[Metric]:
    """Twice: over all connections there have been, and over each that is up."""
    return [
        Metric(name, Kind.COUNTER, text, _one(lambda node: read(node.traffic)), unit),
        Metric(
            f"peer_{name}",
            Kind.COUNTER,
            f"{text}, over the connection that is up",
            _by_peer(lambda peer: read(peer.traffic)),
            unit,
            _PEER,
        ),
    ]


_PEER = ("peer", "carrier", "role")


_BOTH: tuple[Metric, ...] = (
    _gauge("start_time_seconds", "Unix time of the start", lambda n: n.since, Unit.SECONDS),
    _gauge("connections", "Connections that are up", lambda n: len(n.connections)),
    _gauge("connecting", "Connections that are not up yet", lambda n: n.connecting),
    Metric(
        "connections_made",
        Kind.COUNTER,
        "Connections that came up, by who dialed",
        _by_role,
        labels=("role",),
    ),
    Metric(
        "connections_ended",
        Kind.COUNTER,
        "Connections that were up and are gone, by why",
        _by_reason(lambda n: n.ended),
        labels=("reason",),
    ),
    Metric(
        "refused",
        Kind.COUNTER,
        "What was sent or made to us and was turned away, by why",
        _by_reason(lambda n: n.refused),
        labels=("reason",),
    ),
    Metric(
        "certificate_left_seconds",
        Kind.GAUGE,
        "Time until our certificate expires; below 0 once it has",
        _certificate_left,
        Unit.SECONDS,
    ),
    *_traffic("sent_bytes", "Stream bytes sent", lambda t: t.bytes_sent, Unit.BYTES),
    *_traffic("received_bytes", "Stream bytes received", lambda t: t.bytes_received, Unit.BYTES),
    *_traffic("lost_datagrams", "Datagrams taken for lost", lambda t: t.datagrams_lost, Unit.NONE),
    *_traffic("migrations", "Changes of a peer's address", lambda t: t.migrations, Unit.NONE),
    _peer_gauge(
        "start_time_seconds",
        "Unix time when the connection came up",
        lambda p: p.since,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "round_trip_seconds",
        "Time to the peer and back, smoothed",
        lambda p: p.round_trip,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "unacknowledged_bytes",
        "Bytes that the carrier has and the peer has not acknowledged",
        lambda p: p.bytes_unacknowledged,
        Unit.BYTES,
    ),
)

OF_NODES: tuple[Metric, ...] = (
    *_BOTH,
    _gauge("processes", "Processes, the node's own included", lambda n: n.processes),
    _gauge("mailboxes", "Processes that are mailboxes", lambda n: n.mailboxes),
    _gauge("mailbox_messages", "Messages waiting in mailboxes", lambda n: n.messages_waiting),
    _gauge(
        "mailbox_bytes",
        "Memory of the messages waiting in mailboxes",
        lambda n: n.bytes_waiting,
        Unit.BYTES,
    ),
    _counter(
        "dropped_messages", "Messages thrown away by full mailboxes", lambda n: n.messages_dropped
    ),
    _counter(
        "killed_mailboxes",
        "Processes ended because their mailbox was full",
        lambda n: n.mailboxes_killed,
    ),
    _counter(
        "refused_signals",
        "Answers and signals dropped because only another node may send them",
        lambda n: n.signals_refused,
    ),
    *_traffic("sent_messages", "Messages and signals sent", lambda t: t.messages_sent, Unit.NONE),
    *_traffic(
        "received_messages",
        "Messages and signals received",
        lambda t: t.messages_received,
        Unit.NONE,
    ),
    *_traffic(
        "refused_messages",
        "Messages received and dropped, because their payload cannot be read",
        lambda t: t.messages_refused,
        Unit.NONE,
    ),
    *_traffic(
        "rate_holds",
        "How often peers were held back because they sent or called more in a second than they may",
        lambda t: t.rate_holds,
        Unit.NONE,
    ),
    *_traffic(
        "held_back_seconds",
        "Time that peers were held back by full receivers",
        lambda t: t.held_back,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "queued_bytes", "Messages that wait for the carrier", lambda p: p.bytes_queued, Unit.BYTES
    ),
    _peer_gauge(
        "held_back", "1 while receivers here hold the peer back", lambda p: int(p.is_held_back)
    ),
)

OF_GATEWAYS: tuple[Metric, ...] = (
    *_BOTH,
    _gauge(
        "registered",
        "1 while the BEAM node that it stands for is there",
        lambda g: int(g.is_registered),
    ),
    _counter(
        "policy_refusals",
        "Messages that the policy has refused, or would have",
        lambda g: g.policy_refusals,
    ),
    _peer_gauge(
        "untaken_bytes",
        "Bytes of the peer's that the BEAM node has not taken yet",
        lambda p: p.bytes_untaken,
        Unit.BYTES,
    ),
)

METRICS: tuple[Metric, ...] = tuple(dict.fromkeys(OF_NODES + OF_GATEWAYS))
"""All, each once, in the order that they are exported."""


def metrics_of(stats: Statistics) -> tuple[Metric, ...]:
    """Those that such statistics have."""
    return OF_GATEWAYS if isinstance(stats, GatewayStatistics) else OF_NODES
