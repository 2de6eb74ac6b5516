"""Statistics of a relay: snapshots taken by `Relay.stats`."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from quicdist.carriers.relay.frames import Address, Refusal


class Drop(enum.Enum):
    """Why a datagram was not forwarded. Values are names in statistics and metrics."""

    NOT_QUIC = "not_quic"
    """A datagram to a port whose first byte is not that of a QUIC packet."""
    UNKNOWN_SENDER = "unknown_sender"
    """A data frame from an address that is not that of a connected node."""
    MALFORMED = "malformed"
    """A data frame without an address or without a datagram."""
    NOT_PERMITTED = "not_permitted"
    """A data frame for an address that has not sent to the port of the node."""
    CLIENTS_FULL = "clients_full"
    """A datagram from a new address to a port with too many confirmed clients."""
    RATE = "rate"
    """A rate limit is exceeded."""
    NODE_AWAY = "node_away"
    """A datagram to a port whose node has lost its connection to the relay."""


@dataclass(slots=True)
class RelayCounters:
    """Counters since the start."""

    datagrams_in: int = 0
    """Datagrams forwarded from ports to nodes."""
    datagrams_out: int = 0
    """Datagrams forwarded from nodes."""
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: Counter[Drop] = field(default_factory=Counter)
    refused: Counter[Refusal] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """A snapshot of a relay."""

    name: str
    address: Address
    since: float
    nodes_udp: int
    nodes_tcp: int
    ports_open: int
    ports_kept: int
    clients: int
    counters: RelayCounters
