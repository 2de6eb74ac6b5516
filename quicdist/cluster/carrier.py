"""The interface between a node and its carriers.

A `Node` takes frozen settings, each of which makes a carrier for that node. A new carrier is a
module beside `quic` and `tcp`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from quicdist.carriers.base import Connection, ConnectionHandler, FirstMessage
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.relay.client import RelayStatus
from quicdist.carriers.trust import Credentials
from quicdist.cluster.names import NodeName
from quicdist.cluster.via import Relays

Accept: TypeAlias = Callable[[Connection], ConnectionHandler]
"""Called with each incoming connection. Returns its handler."""


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """The name, address and visibility with which this node listens."""

    name: NodeName
    listen: tuple[str, int] | None
    """The address to bind, if it differs from the name."""
    is_hidden: bool
    via: Relays = ()
    """The relays that give this node its address. The name then has no port, or the port that the
    node wants."""
    via_timeout: float = 5.0
    """Seconds for the last relay, from the look-up of its host to the port."""


class Transport(enum.Enum):
    """The kind of port that a node listens on."""

    QUIC = "quic"
    """A UDP port."""
    TCP = "tcp"
    """A TCP port, with or without TLS. Neither a name nor EPMD distinguishes them."""


@dataclass(frozen=True, slots=True)
class TransportAddress:
    """The transport address of a node."""

    transport: Transport
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.transport.value}:{self.host}:{self.port}"


class Carrier(Protocol):
    """A transport, made for one node."""

    transport: Transport

    async def open(self, own: ListenerSettings | None, accept: Accept) -> str | None:
        """Opens the carrier. Listens if the name of this node belongs to this carrier.

        Returns the complete name if it listens, or None if it only dials. It always only dials if
        `own` is None. Raises OSError, CertificateError, EpmdError.
        """

    async def dial(
        self,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None = None,
    ) -> Connection:
        """Dials a node. Returns a connection whose transport is established.

        A carrier may send the message `first` early (see `FirstMessage`).

        Raises OSError, TimeoutError included, and NotBelieved if the node is not the expected one.
        """

    async def close(self, timeout: float) -> None:
        """Stops listening and closes all connections."""

    def rebind(self) -> None:
        """Opens a new socket after an address change and moves the connections that allow it.

        Raises OSError.
        """

    def describe(self) -> str:
        """Returns one log line about what this carrier verifies, logged at its first use."""

    def relay(self) -> RelayStatus | None:
        """Returns the state at the relay of this node; None without one."""

    def bound(self) -> tuple[str, int] | None:
        """Returns the local UDP address of this node; None without one."""

    def rejected(self) -> Mapping[RejectReason, int]:
        """Returns the number of rejected dialers since the start, by reason."""


@runtime_checkable
class CarrierSettings(Protocol):
    """The settings of a carrier, as `Node(carriers=...)` takes them."""

    def make(self, credentials: Credentials) -> Carrier:
        """Makes a carrier for one node."""
