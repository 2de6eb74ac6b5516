"""TLS carrier over TCP: the protocol of `inet_tls_dist`.

As over QUIC, the verifier of the node's credentials checks the peer's certificates after the TLS
handshake.
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
    """A distribution connection over TLS on TCP."""

    dialect = TlsDialect

    def __init__(
        self,
        role: Role,
        limits: CarrierLimits,
        credentials: Credentials,
        accept: Accept | None = None,
    ) -> None:
        super().__init__(role, limits, None if accept is None else self._verifying(accept))
        self.certificates: Certificates = ()
        """The certificates that the peer presented, its own first; empty if it presented none."""
        self.cipher = ""
        """Name of the TLS cipher suite."""
        self._verifier = credentials.verifier

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the TLS handshake is complete."""
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self.certificates = contexts.presented(tls)
        self.cipher = (tls.cipher() or ("",))[0]
        super().connection_made(transport)

    def check_name(self, node: str) -> None:
        """Checks the node name that a dialer claims.

        Raises PeerRefused if its certificate does not match.
        """
        if self.role is Role.LISTENER:
            self._verifier.verify_name(node, self.certificates, self.peer_address[0])

    @property
    def peer_fingerprint(self) -> str:
        """Fingerprint of the key that the peer presented; empty if it presented none."""
        return fingerprint(self.certificates[0]) if self.certificates else ""

    def check_again(self, node: str) -> None:
        """Verifies the peer again. Raises PeerRefused if it would be rejected now."""
        is_dialed, seen = self.role is Role.DIALER, self.peer_address[0]
        self._verifier.verify_again(node, self.certificates, dialed=is_dialed, observed=seen)

    def must_bind(self, node: str) -> bool:
        """Returns whether that node's cookie proof must be bound to the TLS session.

        `ssl` provides no exporter values, so the caller rejects such a node.
        """
        return self._verifier.must_bind(node, over_tcp=True)

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Stores the peer's key if the trust setting requires it.

        Raises PeerRefused if another key is stored for the node.
        """
        if self.role is Role.LISTENER:
            seen = self.peer_address[0]
            self._verifier.learn_dialer(node, self.certificates, bound=bound, observed=seen)
        else:
            self._verifier.learn_dialed(node, self.certificates, bound=bound)

    def _verifying(self, accept: Accept) -> Accept:
        def verify_then_accept(connection: TcpConnection) -> ConnectionHandler:
            try:
                self._verifier.verify_dialer(self.certificates)
            except CertificateError as error:
                host, port = self.peer_address
                extra = {
                    "event": "not_believed",
                    "address": f"{host}:{port}",
                    "cause": error.cause.value,
                    "reason": str(error),
                }
                _log.warning("connection from %s:%s rejected: %s", host, port, error, extra=extra)
                raise
            return accept(connection)

        return verify_then_accept


async def listen(
    host: str | Sequence[str],
    port: int,
    *,
    accept: Accept,
    credentials: Credentials,
    limits: CarrierLimits | None = None,
) -> TcpListener:
    """Starts to listen for TLS connections. Port 0 selects a free port.

    Raises OSError if the address cannot be bound, and CertificateError if this node's certificate
    cannot be loaded.
    """
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
    """Connects to the distribution port of `node` over TLS and verifies its certificate.

    Raises OSError if the connection fails, TimeoutError after `timeout` seconds, and
    CertificateRejected if the certificate is not trusted.
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
        credentials.verifier.verify_dialed(node, connection.certificates)
    except CertificateError as error:
        connection.close(str(error))
        raise CertificateRejected(f"{host}:{port}: {error}", error.cause) from error
    return connection


def _renewing(credentials: Credentials) -> ssl.SSLContext:
    """Returns a context that uses the current identity for each new connection."""
    current = contexts.listening(credentials)
    first, identity = current, credentials.identity

    def renew(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal current, identity
        if credentials.identity is not identity:
            current, identity = contexts.listening(credentials), credentials.identity
        tls.context = current

    first.sni_callback = renew
    return first
