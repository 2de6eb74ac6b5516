"""The list of metrics, with names, units, and the statistics that they are read from."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from quicdist.carriers.relay.statistics import RelayStatistics
from quicdist.gateway.info import GatewayStatistics
from quicdist.node.info import NodeStatistics
from quicdist.runtime.counters import Traffic

Statistics: TypeAlias = "NodeStatistics | GatewayStatistics | RelayStatistics"

Sample: TypeAlias = tuple[tuple[str, ...], float]
"""The values of a metric's labels, and its value."""


class Kind(enum.Enum):
    """The type of a metric."""

    COUNTER = "counter"
    """Only increases, from the start of the node or of the connection."""

    GAUGE = "gauge"
    """Increases and decreases."""


class Unit(enum.Enum):
    """The unit of a metric, always unscaled."""

    NONE = ""
    BYTES = "bytes"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. Each sample has the name of its node as a label in addition to `labels`."""

    name: str
    kind: Kind
    text: str
    read: Callable[[Any], Iterable[Sample]]
    """Returns the samples of a metric, from the statistics of a node or a gateway."""
    unit: Unit = Unit.NONE
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Any], float]) -> Callable[[Any], Iterable[Sample]]:
    return lambda node: [((), read(node))]


def _by_reason(
    read: Callable[[Any], Mapping[str, int]],
) -> Callable[[Any], Iterable[Sample]]:
    return lambda node: [((reason,), count) for reason, count in read(node).items()]


def _by_role(node: NodeStatistics | GatewayStatistics) -> Iterable[Sample]:
    return [(("dialer",), node.dialed), (("listener",), node.accepted)]


def _by_peer(
    read: Callable[[Any], float | None],
) -> Callable[[Any], Iterable[Sample]]:
    def samples(node: NodeStatistics | GatewayStatistics) -> Iterable[Sample]:
        for peer in node.connections:
            value = read(peer)
            if value is not None:
                yield (peer.name, peer.carrier, peer.role.value), value

    return samples


def _certificate_left(node: NodeStatistics | GatewayStatistics) -> Iterable[Sample]:
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
    """Returns two metrics: the total of all connections, and the value of each connection."""
    return [
        Metric(name, Kind.COUNTER, text, _one(lambda node: read(node.traffic)), unit),
        Metric(
            f"peer_{name}",
            Kind.COUNTER,
            f"{text}, over the current connection",
            _by_peer(lambda peer: read(peer.traffic)),
            unit,
            _PEER,
        ),
    ]


_PEER = ("peer", "carrier", "role")


_BOTH: tuple[Metric, ...] = (
    _gauge("start_time_seconds", "Unix time of the start", lambda n: n.since, Unit.SECONDS),
    _gauge("connections", "Connections that are up", lambda n: len(n.connections)),
    _gauge("connecting", "Connections that are being made", lambda n: n.connecting),
    Metric(
        "connections_made",
        Kind.COUNTER,
        "Connections that came up, by role",
        _by_role,
        labels=("role",),
    ),
    Metric(
        "connections_ended",
        Kind.COUNTER,
        "Connections that came up and have ended, by reason",
        _by_reason(lambda n: n.ended),
        labels=("reason",),
    ),
    Metric(
        "refused",
        Kind.COUNTER,
        "Connections and datagrams that were rejected, by reason",
        _by_reason(lambda n: n.refused),
        labels=("reason",),
    ),
    Metric(
        "certificate_left_seconds",
        Kind.GAUGE,
        "Time until the certificate of this node expires, negative after it has expired",
        _certificate_left,
        Unit.SECONDS,
    ),
    *_traffic("sent_bytes", "Stream bytes sent", lambda t: t.bytes_sent, Unit.BYTES),
    *_traffic("received_bytes", "Stream bytes received", lambda t: t.bytes_received, Unit.BYTES),
    *_traffic("lost_datagrams", "Datagrams declared lost", lambda t: t.datagrams_lost, Unit.NONE),
    *_traffic("migrations", "Changes of a peer's address", lambda t: t.migrations, Unit.NONE),
    _peer_gauge(
        "start_time_seconds",
        "Unix time when the connection came up",
        lambda p: p.since,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "round_trip_seconds",
        "Smoothed round-trip time",
        lambda p: p.round_trip,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "direct",
        "1 on a direct path to a node that was dialed at a relay, 0 while the relay carries it",
        lambda p: None if p.path == "plain" else float(p.path == "direct"),
    ),
    Metric(
        "peer_path_switches",
        Kind.COUNTER,
        "Changes between the relay and a direct path",
        _by_peer(lambda p: None if p.path == "plain" else p.path_switches),
        labels=_PEER,
    ),
    _peer_gauge(
        "unacknowledged_bytes",
        "Bytes that the peer has not acknowledged",
        lambda p: p.bytes_unacknowledged,
        Unit.BYTES,
    ),
)

OF_NODES: tuple[Metric, ...] = (
    *_BOTH,
    _gauge("processes", "Processes, including those of the node itself", lambda n: n.processes),
    _gauge("mailboxes", "Processes with a mailbox", lambda n: n.mailboxes),
    _gauge("mailbox_messages", "Messages waiting in mailboxes", lambda n: n.messages_waiting),
    _gauge(
        "mailbox_bytes",
        "Memory of the messages waiting in mailboxes",
        lambda n: n.bytes_waiting,
        Unit.BYTES,
    ),
    _counter(
        "dropped_messages",
        "Messages dropped because a mailbox was full",
        lambda n: n.messages_dropped,
    ),
    _counter(
        "killed_mailboxes",
        "Processes ended because their mailbox was full",
        lambda n: n.mailboxes_killed,
    ),
    _counter(
        "refused_signals",
        "Forged answers and signals that were dropped",
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
        "Received messages dropped because their payload cannot be decoded",
        lambda t: t.messages_refused,
        Unit.NONE,
    ),
    *_traffic(
        "rate_holds",
        "How often a peer was paused because it exceeded a rate limit",
        lambda t: t.rate_holds,
        Unit.NONE,
    ),
    *_traffic(
        "held_back_seconds",
        "Time that full receivers on this node paused peers",
        lambda t: t.held_back,
        Unit.SECONDS,
    ),
    _peer_gauge(
        "queued_bytes",
        "Bytes of messages that wait for the carrier",
        lambda p: p.bytes_queued,
        Unit.BYTES,
    ),
    _peer_gauge(
        "held_back", "1 while receivers on this node pause the peer", lambda p: int(p.is_held_back)
    ),
)

OF_GATEWAYS: tuple[Metric, ...] = (
    *_BOTH,
    _gauge(
        "registered",
        "1 while the BEAM node is registered",
        lambda g: int(g.is_registered),
    ),
    _counter(
        "policy_refusals",
        "Messages that the policy rejected, or would reject with mode log",
        lambda g: g.policy_refusals,
    ),
    _peer_gauge(
        "untaken_bytes",
        "Bytes received from the peer that the BEAM node has not read",
        lambda p: p.bytes_untaken,
        Unit.BYTES,
    ),
)

_START = _BOTH[0]

OF_RELAYS: tuple[Metric, ...] = (
    _START,
    Metric(
        "relay_nodes",
        Kind.GAUGE,
        "Connected nodes, by how they reach the relay",
        lambda r: [(("udp",), r.nodes_udp), (("tcp",), r.nodes_tcp)],
        labels=("way",),
    ),
    _gauge("relay_open_ports", "Ports with a socket", lambda r: r.ports_open),
    _gauge("relay_kept_ports", "Ports that belong to a key", lambda r: r.ports_kept),
    _gauge(
        "relay_clients",
        "Addresses that nodes may send to, because they have sent to a port",
        lambda r: r.clients,
    ),
    Metric(
        "relay_forwarded_datagrams",
        Kind.COUNTER,
        "Forwarded datagrams, by direction as nodes see it",
        lambda r: [(("in",), r.counters.datagrams_in), (("out",), r.counters.datagrams_out)],
        labels=("direction",),
    ),
    Metric(
        "relay_forwarded_bytes",
        Kind.COUNTER,
        "Forwarded bytes, by direction as nodes see it",
        lambda r: [(("in",), r.counters.bytes_in), (("out",), r.counters.bytes_out)],
        Unit.BYTES,
        ("direction",),
    ),
    Metric(
        "relay_dropped_datagrams",
        Kind.COUNTER,
        "Datagrams that were not forwarded, by reason",
        lambda r: [((why.value,), count) for why, count in r.counters.dropped.items()],
        labels=("reason",),
    ),
    Metric(
        "relay_refused",
        Kind.COUNTER,
        "Nodes that got no port, by reason",
        lambda r: [((why.name.lower(),), count) for why, count in r.counters.refused.items()],
        labels=("reason",),
    ),
)

METRICS: tuple[Metric, ...] = tuple(dict.fromkeys(OF_NODES + OF_GATEWAYS + OF_RELAYS))
"""All metrics, in the order of export."""


def metrics_of(stats: Statistics) -> tuple[Metric, ...]:
    """Returns the metrics of a node, a gateway or a relay."""
    if isinstance(stats, RelayStatistics):
        return OF_RELAYS
    return OF_GATEWAYS if isinstance(stats, GatewayStatistics) else OF_NODES
