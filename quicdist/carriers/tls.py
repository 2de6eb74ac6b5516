"""Connections over TLS on TCP: what `inet_tls_dist` speaks.

As over QUIC, the certificates that the other side presents are for the verifier of our credentials
to judge, once TLS itself is done.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

from quicdist.carriers import tcp
from quicdist.carriers.base import CertificateRejected, ConnectionHandler
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.tcp import Accept, TcpConnection, TcpListener
from quicdist.carriers.trust import CertificateError, Certificates, Credentials, contexts
from quicdist.carriers.trust.names import fingerprint
from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.tls import TlsDialect
from quicdist.protocol.role import Role

_log = logging.getLogger("quicdist.tls")
_log.addFilter(LogRateLimit("not_believed"))


class TlsConnection(TcpConnection):
    """One distribution connection in one TLS connection."""

    dialect = TlsDialect

    def __init__(
        self,
        role: Role,
        limits: CarrierLimits,
        credentials: Credentials,
        accept: Accept | None = None,
    ) -> None:
        super().__init__(role, limits, None if accept is None else self._judging(accept))
        self.certificates: Certificates = ()
        """What the peer has presented, its own first."""
        self.cipher = ""
        """The TLS cipher suite."""
        self._verifier = credentials.verifier

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self.certificates = contexts.presented(tls)
        self.cipher = (tls.cipher() or ("",))[0]
        super().connection_made(transport)

    def check_name(self, node: str) -> None:
        """A peer that dialed us says that it is this node. Raises PeerRefused."""
        if self.role is Role.LISTENER:
            self._verifier.named(node, self.certificates)

    @property
    def peer_fingerprint(self) -> str:
        """Of the certificate presented in the TLS handshake."""
        return fingerprint(self.certificates[0]) if self.certificates else ""

    def check_again(self, node: str) -> None:
        """What is believed may have changed since. Raises PeerRefused."""
        self._verifier.again(node, self.certificates, dialed=self.role is Role.DIALER)

    def must_bind(self, node: str) -> bool:
        """By the setting, or because it has done so over QUIC: `ssl` has no exporter."""
        return self._verifier.must_bind(node, over_tcp=True)

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Keeps its key, where that is wanted. Raises PeerRefused."""
        if self.role is Role.LISTENER:
            self._verifier.learn_dialer(node, self.certificates, bound=bound)
        else:
            self._verifier.learn_dialed(node, self.certificates, bound=bound)

    def _judging(self, accept: Accept) -> Accept:
        def judged(connection: TcpConnection) -> ConnectionHandler:
            try:
                self._verifier.dialer(self.certificates)
            except CertificateError as error:
                host, port = self.peer_address
                extra = {
                    "event": "not_believed",
                    "address": f"{host}:{port}",
                    "cause": error.cause.value,
                    "reason": str(error),
                }
                _log.warning("%s:%s is refused: %s", host, port, error, extra=extra)
                raise
            return accept(connection)

        return judged


async def listen(
    host: str | Sequence[str],
    port: int,
    *,
    accept: Accept,
    credentials: Credentials,
    limits: CarrierLimits | None = None,
) -> TcpListener:
    """Listens; port 0 takes a free one. Raises OSError, CertificateError."""
    await credentials.prepare()
    bounds = limits or CarrierLimits()
    return await TcpListener.open(
        host,
        port,
        accept=accept,
        limits=bounds,
        make=lambda: TlsConnection(Role.LISTENER, bounds, credentials, accept),
        tls=_renewing(credentials),
    )


async def dial(
    node: str,
    host: str,
    port: int,
    *,
    credentials: Credentials,
    timeout: float,
    limits: CarrierLimits | None = None,
) -> TlsConnection:
    """A connection to this node's distribution port, where TLS is up and the node believed.

    Raises OSError (TimeoutError among them) when none is up within `timeout` seconds, NotBelieved.
    """
    await credentials.prepare()
    bounds = limits or CarrierLimits()
    connection = await tcp.connect(
        host,
        port,
        lambda: TlsConnection(Role.DIALER, bounds, credentials),
        timeout=timeout,
        tls=contexts.dialing(credentials),
    )
    try:
        credentials.verifier.dialed(node, connection.certificates)
    except CertificateError as error:
        connection.close(str(error))
        raise CertificateRejected(f"{host}:{port}: {error}", error.cause) from error
    return connection


def _renewing(credentials: Credentials) -> ssl.SSLContext:
    """A context that hands each connection over to one of our identity at that moment."""
    current = contexts.listening(credentials)
    first, identity = current, credentials.identity

    def renew(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal current, identity
        if credentials.identity is not identity:
            current, identity = contexts.listening(credentials), credentials.identity
        tls.context = current

    first.sni_callback = renew
    return first
