"""QUIC as a carrier of `Node`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quicdist.carriers.base import CertificateRejected, Connection, DialError, FirstMessage
from quicdist.carriers.host_lookup import look_up_host
from quicdist.carriers.quic.endpoint import Bind, Endpoint
from quicdist.carriers.quic.settings import QuicOptions
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.relay.client import RelayClient, RelayStatus
from quicdist.carriers.relay.direct import open_with_direct_paths
from quicdist.carriers.trust import Credentials
from quicdist.cluster.carrier import Accept, Carrier, ListenerSettings, Transport, TransportAddress
from quicdist.cluster.names import Address
from quicdist.cluster.relays import open_via
from quicdist.errors import NodeError
from quicdist.protocol.dialects import ALL_ALPNS

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


@dataclass(frozen=True, slots=True)
class Quic(QuicOptions):
    """QUIC, for names of the form `port@ip`.

    The negotiated ALPN protocol ID selects the dialect.
    """

    dial_alpns: Sequence[str] = ALL_ALPNS
    listen_alpns: Sequence[str] = ALL_ALPNS

    def make(self, credentials: Credentials) -> Carrier:
        """Returns a carrier with these settings. It opens no socket until it is used."""
        return _QuicCarrier(self, credentials)


class _QuicCarrier:
    """A node named `port@ip` has one endpoint with one UDP socket.

    `port@localhost` has one for each address of localhost, with the same port. Other nodes only
    dial, through one endpoint for each address family, opened on first use.
    """

    transport = Transport.QUIC

    def __init__(self, settings: Quic, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._endpoint: Endpoint | None = None
        self._others: list[Endpoint] = []
        """The endpoints for further addresses of the host in the name of this node."""
        self._dialing: dict[int, Endpoint] = {}
        self._opening = asyncio.Lock()
        self._relay: RelayClient | None = None

    async def open(self, own: ListenerSettings | None, accept: Accept) -> str | None:
        if own is not None and own.via:
            return await self._open_via(own, accept)
        if self._settings.map_port:
            raise NodeError("map_port requires a relay: Node(via=...)")
        address = None if own is None else own.name.address
        if own is None or address is None:
            return None
        host, port = own.listen or (address.host, address.port)
        first, *others = await _addresses(host)
        self._endpoint = await self._open(first, port, accept)
        port = self._endpoint.local_address[1]
        for other in others:
            try:
                self._others.append(await self._open(other, port, accept))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:  # in use by another node
                    raise
        return Address(address.host, address.port or port).name()

    async def _open_via(self, own: ListenerSettings, accept: Accept) -> str:
        relayed = await open_via(
            own.via,
            self._credentials,
            asked=own.name.address,
            listen=own.listen,
            timeout=own.via_timeout,
            options=self._settings,
            open_endpoint=lambda host, port, bind: self._bind(host, port, accept, bind),
        )
        self._endpoint, self._relay = relayed.endpoint, relayed.client
        return relayed.address.name()

    async def dial(
        self,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None = None,
    ) -> Connection:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        endpoint = self._endpoint or await self._dialer(place, timeout)
        failure: DialError | None = None
        for one in (endpoint, *self._others):
            left = deadline - loop.time()
            if failure is not None and left <= 0:
                break
            try:
                return await one.dial(
                    place.host,
                    place.port,
                    node=node,
                    alpns=self._settings.dial_alpns,
                    timeout=left,
                    first=first,
                )
            except CertificateRejected:
                raise
            except DialError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    async def close(self, timeout: float) -> None:
        endpoints = self._endpoints
        self._endpoint = None
        self._others.clear()
        self._dialing.clear()
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.leave()
        await asyncio.gather(*(endpoint.close(timeout) for endpoint in endpoints))
        if relay is not None:
            relay.close()

    def rebind(self) -> None:
        for endpoint in self._endpoints:
            endpoint.rebind()

    def describe(self) -> str:
        return self._credentials.trust.describe()

    def rejected(self) -> Mapping[RejectReason, int]:
        counted: Counter[RejectReason] = Counter()
        for endpoint in self._endpoints:
            counted.update(endpoint.rejected)
        return counted

    def bound(self) -> tuple[str, int] | None:
        return None if self._endpoint is None else self._endpoint.local_address[:2]

    def relay(self) -> RelayStatus | None:
        return None if self._relay is None else self._relay.status()

    @property
    def _endpoints(self) -> Sequence[Endpoint]:
        listening = [] if self._endpoint is None else [self._endpoint, *self._others]
        return [*listening, *self._dialing.values()]

    async def _open(self, host: str, port: int, accept: Accept | None) -> Endpoint:
        """Opens an endpoint without a relay. What it dials may be at a relay all the same."""
        return await open_with_direct_paths(
            self._settings.path, lambda bind: self._bind(host, port, accept, bind)
        )

    async def _bind(self, host: str, port: int, accept: Accept | None, bind: Bind) -> Endpoint:
        alpns = self._settings.listen_alpns
        settings = self._settings.with_credentials(self._credentials, alpns)
        return await Endpoint.open(host, port, settings=settings, accept=accept, bind=bind)

    async def _dialer(self, place: TransportAddress, timeout: float) -> Endpoint:
        kind = socket.SOCK_DGRAM
        found = await look_up_host(place.host, place.port, kind=kind, timeout=timeout)
        family = found[0][0]
        async with self._opening:
            endpoint = self._dialing.get(family)
            if endpoint is None:
                endpoint = await self._open(_ANY[family], 0, None)
                self._dialing[family] = endpoint
        return endpoint


async def _addresses(host: str) -> Sequence[str]:
    """Returns the addresses to bind for a host.

    A lookup of `localhost` may return any of its addresses.
    """
    if host != "localhost":
        return [host]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))
