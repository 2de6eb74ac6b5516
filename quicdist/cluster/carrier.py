"""What the node floor asks of a carrier, which is one way to reach nodes.

A `Node` is given frozen settings, each of which makes a carrier for that node. A new carrier is a
module beside `quic` and `tcp`, and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from quicdist.carriers.base import Connection, ConnectionHandler
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Credentials
from quicdist.cluster.names import NodeName

Accept: TypeAlias = Callable[[Connection], ConnectionHandler]
"""Given each connection that a peer made; returns its owner."""


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Who this node is to be to others, which says how they reach it."""

    name: NodeName
    listen: tuple[str, int] | None
    """Where to bind when the name does not say it."""
    is_hidden: bool


class Transport(enum.Enum):
    """What kind of port a node listens at."""

    QUIC = "quic"
    """UDP."""
    TCP = "tcp"
    """With TLS or without: nothing in a name, nor in EPMD, tells which."""


@dataclass(frozen=True, slots=True)
class TransportAddress:
    """Where a node is."""

    transport: Transport
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.transport.value}:{self.host}:{self.port}"


class Carrier(Protocol):
    """One way to reach nodes, made for one node."""

    transport: Transport

    async def open(self, own: ListenerSettings | None, accept: Accept) -> str | None:
        """Gets ready, and listens if nodes of our name are reached this way.

        Returns that name, whole, where it listens, None where it only dials: always when `own` is
        None. Raises OSError, CertificateError, EpmdError.
        """

    async def dial(self, node: str, place: TransportAddress, timeout: float) -> Connection:
        """A connection to that node, whose transport is up.

        Raises OSError, TimeoutError among them, NotBelieved for a node that is another.
        """

    async def close(self, timeout: float) -> None:
        """Ends listening, and all connections."""

    def rebind(self) -> None:
        """Our address may be another: takes the connections there that can be. Raises OSError."""

    def describe(self) -> str:
        """One line for the log at the first use: what is verified, and what is not."""

    def refusals(self) -> Mapping[RejectReason, int]:
        """Of those who dialed us since it was opened: how many were turned away, and why."""


class CarrierSettings(Protocol):
    """What a node is given to make a carrier of."""

    def make(self, credentials: Credentials) -> Carrier:
        """A carrier for one node."""
