"""QUIC as a carrier of `Node`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quicdist.carriers.base import CarrierLimits, Connection
from quicdist.carriers.dialects import ALL_ALPNS
from quicdist.carriers.quic.congestion.choice import algorithm
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import AdmissionLimits, QuicSettings
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.refusals import Refusal
from quicdist.carriers.trust import Credentials
from quicdist.node.carrier import Accept, Carrier, Own, Place, Transport
from quicdist.node.errors import NodeError
from quicdist.node.names import Address

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}

_LONGEST_BUSY_WAIT = 1.0
"""More would be a core for nothing; it is likely to be meant in another unit."""


@dataclass(frozen=True, slots=True)
class Quic:
    """QUIC, for names of the form `port@ip`. The ALPN agreed on decides the dialect."""

    dial_alpns: Sequence[str] = ALL_ALPNS
    listen_alpns: Sequence[str] = ALL_ALPNS
    limits: CarrierLimits = field(default_factory=CarrierLimits)

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """What those who dial us can make us keep."""

    tracing: Tracing = field(default_factory=Tracing)
    """Keys and packets written down, for debugging."""

    engine: str = "aioquic"
    """The QUIC library: `aioquic`; `aioquic-plain`, which does without our short ways; `qh3`, the
    faster one (`pip install quicdist[fast]`), which has no qlog."""

    congestion: str = "bbr"
    """Congestion control of the aioquic engines: `bbr`, which models the path and keeps its rate
    where datagrams are lost; `cubic` (RFC 9438); `reno` (RFC 9002)."""

    max_datagram_size: int = 16_000
    """UDP payload that is sent at most, in bytes; what the path carries is found out."""

    busy_wait: float = 0.0
    """Seconds for which the event loop does not sleep after a datagram came or left: answers that
    come within them are read sooner, at the cost of CPU (`docs/limits.md`); 0 is off."""

    def __post_init__(self) -> None:
        if not 0 <= self.busy_wait <= _LONGEST_BUSY_WAIT:
            raise NodeError(
                f"busy_wait is in seconds, from 0 (off) to {_LONGEST_BUSY_WAIT:g}, "
                f"got {self.busy_wait}: 500 us are 0.0005"
            )

        try:
            algorithm(self.congestion)
        except ValueError as error:
            raise NodeError(str(error)) from None

    def make(self, credentials: Credentials) -> Carrier:
        return _QuicCarrier(self, credentials)


class _QuicCarrier:
    """A node called `port@ip` has one endpoint, one UDP socket, one port. Any other only dials, by
    an endpoint for each family of addresses, made when it is wanted."""

    transport = Transport.QUIC

    def __init__(self, settings: Quic, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._endpoint: Endpoint | None = None
        self._dialling: dict[int, Endpoint] = {}
        self._opening = asyncio.Lock()

    async def open(self, own: Own | None, accept: Accept) -> str | None:
        address = None if own is None else own.name.address
        if own is None or address is None:
            return None
        host, port = own.listen or (address.host, address.port)
        self._endpoint = await self._open(host, port, accept)
        return Address(address.host, address.port or self._endpoint.local_address[1]).name()

    async def dial(self, node: str, place: Place, timeout: float) -> Connection:
        endpoint = self._endpoint or await self._dialler(place)
        return await endpoint.dial(
            place.host,
            place.port,
            node=node,
            alpns=self._settings.dial_alpns,
            timeout=timeout,
        )

    async def close(self, timeout: float) -> None:
        endpoints = self._endpoints
        self._endpoint = None
        self._dialling.clear()
        await asyncio.gather(*(endpoint.close(timeout) for endpoint in endpoints))

    def rebind(self) -> None:
        for endpoint in self._endpoints:
            endpoint.rebind()

    def describe(self) -> str:
        return self._credentials.trust.describe()

    def refusals(self) -> Mapping[Refusal, int]:
        return {} if self._endpoint is None else self._endpoint.refusals

    @property
    def _endpoints(self) -> Sequence[Endpoint]:
        dialling = self._dialling.values()
        return [*dialling] if self._endpoint is None else [self._endpoint, *dialling]

    async def _open(self, host: str, port: int, accept: Accept | None) -> Endpoint:
        settings = QuicSettings(
            self._credentials,
            limits=self._settings.limits,
            admission=self._settings.admission,
            alpns=self._settings.listen_alpns,
            tracing=self._settings.tracing,
            engine=self._settings.engine,
            congestion=self._settings.congestion,
            max_datagram_size=self._settings.max_datagram_size,
            busy_wait=self._settings.busy_wait,
        )
        return await Endpoint.open(host, port, settings=settings, accept=accept)

    async def _dialler(self, place: Place) -> Endpoint:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)
        family = found[0][0]
        async with self._opening:
            endpoint = self._dialling.get(family)
            if endpoint is None:
                endpoint = await self._open(_ANY[family], 0, None)
                self._dialling[family] = endpoint
        return endpoint
