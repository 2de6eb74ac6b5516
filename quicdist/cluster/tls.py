"""TLS on TCP as a carrier of `Node`: what stock Erlang speaks with `-proto_dist inet_tls`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers import tls
from quicdist.carriers.base import Connection
from quicdist.carriers.tcp import TcpListener
from quicdist.carriers.trust import Credentials, Trust, TrustBy
from quicdist.cluster.carrier import Accept, Carrier, TransportAddress
from quicdist.cluster.tcp import Tcp, TcpCarrier


@dataclass(frozen=True, slots=True)
class Tls(Tcp):
    """As `Tcp`, in TLS. Neither a name nor EPMD tells who speaks it: a node has one of the two.

    Nodes that dial us can be asked for certificates by authority alone; with any other `Trust` a
    node that listens takes `uncertified=["*"]`.
    """

    def make(self, credentials: Credentials) -> Carrier:
        return _TlsCarrier(self, credentials)


def tcp_or_tls(trust: Trust) -> Tcp:
    """What a node has for names of the form `name@host`, unless it is told. Who names authorities
    or pins, to know whom he talks to, does not mean to talk to anybody in the clear."""
    is_certified = trust.by in (TrustBy.AUTHORITY, TrustBy.PINS)
    return Tls() if is_certified or trust.require_tls else Tcp()


class _TlsCarrier(TcpCarrier):
    """As TCP's, but for how a connection is made."""

    async def _listen(self, host: str | Sequence[str], port: int, accept: Accept) -> TcpListener:
        return await tls.listen(
            host,
            port,
            accept=accept,
            credentials=self._credentials,
            limits=self._settings.limits,
        )

    async def dial(self, node: str, place: TransportAddress, timeout: float) -> Connection:
        return await tls.dial(
            node,
            place.host,
            place.port,
            credentials=self._credentials,
            timeout=timeout,
            limits=self._settings.limits,
        )

    def describe(self) -> str:
        trust = self._credentials.trust
        if trust.by is TrustBy.AUTHORITY:
            return f"over TCP, {trust.describe()}"
        return f"over TCP, {trust.describe('those that we dial')}"
