"""TLS over TCP as a carrier of `Node`: the protocol of stock Erlang with `-proto_dist inet_tls`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers import tls
from quicdist.carriers.base import Connection, FirstMessage
from quicdist.carriers.tcp import TcpListener
from quicdist.carriers.trust import Credentials, Trust, TrustBy
from quicdist.cluster.carrier import Accept, Carrier, TransportAddress
from quicdist.cluster.tcp import Tcp, TcpCarrier


@dataclass(frozen=True, slots=True)
class Tls(Tcp):
    """TLS over TCP, with the options of `Tcp`.

    Neither a name nor EPMD distinguishes `Tcp` and `Tls`, so a node has one of them. Dialers can
    only be required to present certificates with `Trust` by authority. With any other `Trust`, a
    node that listens needs `uncertified=["*"]`.
    """

    def make(self, credentials: Credentials) -> Carrier:
        """Returns a carrier with these settings. It opens no socket until it is used."""
        return _TlsCarrier(self, credentials)


def tcp_or_tls(trust: Trust) -> Tcp:
    """Returns the default carrier for names of the form `name@host`.

    Trust by authority or pins, or `require_tls`, selects TLS, since plain TCP does not authenticate
    peers.
    """
    is_certified = trust.by in (TrustBy.AUTHORITY, TrustBy.PINS)
    return Tls() if is_certified or trust.require_tls else Tcp()


class _TlsCarrier(TcpCarrier):
    """The TCP carrier with TLS connections."""

    async def _listen(self, host: str | Sequence[str], port: int, accept: Accept) -> TcpListener:
        return await tls.listen(
            host,
            port,
            accept=accept,
            credentials=self._credentials,
            limits=self._settings.limits,
        )

    async def dial(
        self,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None = None,
    ) -> Connection:
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
        return f"over TCP, {trust.describe('nodes that this node dials')}"
