"""The address book: which carrier a node name takes.

A carrier here is one way to reach nodes, as the node floor sees it: it opens (listens, where it
does), says which names it reaches, and dials. A node asks its carriers in the order given. What a
`Node` is given are frozen settings, each of which makes a carrier for that node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from quicdist.carriers.base import CarrierLimits, Connection, ConnectionHandler
from quicdist.carriers.dialects import ALL_ALPNS
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.refusals import Refusal
from quicdist.carriers.trust import Identity, Trust
from quicdist.node.errors import NoConnection, NodeNameError
from quicdist.node.names import Address

Accept: TypeAlias = Callable[[Connection], ConnectionHandler]
"""Given each connection that a peer made; returns its owner."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who this node is to those who speak TLS with it, and whom it believes."""

    hosts: Sequence[str]
    """What a certificate of ours should be good for."""
    identity: Identity | None
    trust: Trust


class Carrier(Protocol):
    """One way to reach nodes, made for one node."""

    async def open(self, host: str, port: int, accept: Accept) -> tuple[str, int]:
        """Gets ready, and listens there where this carrier listens at all (port 0: any free one).

        Returns where. Raises OSError, CertificateError.
        """

    def takes(self, node: str) -> bool:
        """Whether this carrier can reach nodes with such a name."""

    async def dial(self, node: str, timeout: float) -> Connection:
        """A connection whose transport is up. Raises OSError, TimeoutError among them."""

    async def close(self, timeout: float) -> None:
        """Ends listening, and all connections."""

    def rebind(self) -> None:
        """Our address may be another: takes the connections there that can be. Raises OSError."""

    def describe(self) -> str:
        """One line for the log at start: what is verified, and what is not."""

    def refusals(self) -> Mapping[Refusal, int]:
        """Of those who dialled us since it was opened: how many were turned away, and why."""


class CarrierSettings(Protocol):
    """What a node is given to make a carrier of."""

    def make(self, credentials: Credentials) -> Carrier:
        """A carrier for one node."""


@dataclass(frozen=True, slots=True)
class Quic:
    """QUIC, for names of the form `port@ip`. The ALPN agreed on decides the dialect."""

    dial_alpns: Sequence[str] = ALL_ALPNS
    listen_alpns: Sequence[str] = ALL_ALPNS
    limits: CarrierLimits = field(default_factory=CarrierLimits)

    tracing: Tracing = field(default_factory=Tracing)
    """Keys and packets written down, for debugging."""

    def make(self, credentials: Credentials) -> Carrier:
        return _QuicCarrier(self, credentials)


class _QuicCarrier:
    """One endpoint, one UDP socket, one port."""

    def __init__(self, settings: Quic, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._endpoint: Endpoint | None = None

    async def open(self, host: str, port: int, accept: Accept) -> tuple[str, int]:
        identity = self._credentials.identity or Identity.kept(self._credentials.hosts)
        settings = QuicSettings(
            identity,
            self._credentials.trust,
            limits=self._settings.limits,
            alpns=self._settings.listen_alpns,
            tracing=self._settings.tracing,
        )
        self._endpoint = await Endpoint.open(host, port, settings=settings, accept=accept)
        return self._endpoint.local_address

    def takes(self, node: str) -> bool:
        try:
            return Address.parse(node).port > 0
        except NodeNameError:
            return False

    async def dial(self, node: str, timeout: float) -> Connection:
        assert self._endpoint is not None
        address = Address.parse(node)
        return await self._endpoint.dial(
            address.host, address.port, alpns=self._settings.dial_alpns, timeout=timeout
        )

    async def close(self, timeout: float) -> None:
        if self._endpoint is not None:
            await self._endpoint.close(timeout)

    def rebind(self) -> None:
        if self._endpoint is not None:
            self._endpoint.rebind()

    def describe(self) -> str:
        return self._credentials.trust.describe()

    def refusals(self) -> Mapping[Refusal, int]:
        return {} if self._endpoint is None else self._endpoint.refusals


class AddressBook:
    """The carriers of one node, in the order they are asked."""

    def __init__(self, carriers: Sequence[Carrier]) -> None:
        self.carriers = tuple(carriers)

    async def dial(self, node: str, timeout: float) -> Connection:
        """A connection to the node. Raises OSError, NoConnection where no carrier takes it."""
        for carrier in self.carriers:
            if carrier.takes(node):
                return await carrier.dial(node, timeout)
        raise NoConnection(node, "no carrier here reaches such a name; over QUIC it is 'port@ip'")
