"""Maps errors of the operating system, TLS and QUIC to a `Cause`.

The mapping uses the errno, the TLS alert number (RFC 8446, 6; RFC 7301, 3.2) and the QUIC error
code (RFC 9000, 20; RFC 9001, 4.8). It never depends on an error text.
"""

from __future__ import annotations

import errno
import socket
import ssl
from types import MappingProxyType

from quicdist.carriers.trust import Alert
from quicdist.errors import Cause

_BY_ERRNO = MappingProxyType(
    {
        errno.EADDRINUSE: Cause.ADDRESS_IN_USE,
        errno.EADDRNOTAVAIL: Cause.ADDRESS_NOT_AVAILABLE,
        errno.EAFNOSUPPORT: Cause.ADDRESS_FAMILY,
        errno.EACCES: Cause.PERMISSION,
        errno.EPERM: Cause.PERMISSION,
        errno.ECONNREFUSED: Cause.PORT_CLOSED,
        errno.ENETUNREACH: Cause.UNREACHABLE,
        errno.EHOSTUNREACH: Cause.UNREACHABLE,
        errno.ENETDOWN: Cause.UNREACHABLE,
        errno.EHOSTDOWN: Cause.UNREACHABLE,
        errno.ETIMEDOUT: Cause.NO_ANSWER,
        errno.ECONNRESET: Cause.PEER_CLOSED,
        errno.ECONNABORTED: Cause.PEER_CLOSED,
        errno.EPIPE: Cause.PEER_CLOSED,
    }
)

_BY_LOOKUP = MappingProxyType(
    {
        getattr(socket, "EAI_ADDRFAMILY", None): Cause.ADDRESS_FAMILY,
        socket.EAI_FAMILY: Cause.ADDRESS_FAMILY,
    }
)

_CRYPTO_ERROR = 0x100
"""Base of the QUIC error codes for TLS alerts; the alert number is added (RFC 9001, 4.8)."""

_NO_ALPN = frozenset({40, 120})
"""Alerts that mean that the ALPN protocols do not match: `no_application_protocol`, and
`handshake_failure`, which older aioquic releases send instead. QUIC requires TLS 1.3, so
`handshake_failure` rarely has another reason."""

_RANKS = MappingProxyType({Cause.PORT_CLOSED: 0, Cause.BEHIND_NAT: 1, Cause.NO_ANSWER: 2})

_CERTIFICATE_ALERTS = frozenset(int(alert) for alert in Alert)


def rank(cause: Cause) -> int:
    """Returns the priority of a cause among the causes found at several addresses of a peer.

    The cause with the highest rank is reported. `PORT_CLOSED` ranks lowest, because anyone can
    forge the ICMP message behind it: the port counts as closed only if every address reports that.
    `BEHIND_NAT` and `NO_ANSWER` rank next, and all other causes rank highest.
    """
    return _RANKS.get(cause, 3)


def of_errno(number: int | None) -> Cause:
    """Returns the cause for an errno; `Cause.SYSTEM` if it is None or unknown."""
    return Cause.SYSTEM if number is None else _BY_ERRNO.get(number, Cause.SYSTEM)


def of_error(error: BaseException) -> Cause:
    """Returns the cause of an exception: its `cause` attribute, else a mapping of its type."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Cause):
        return cause
    match error:
        case socket.gaierror():
            return _BY_LOOKUP.get(error.errno, Cause.HOST_UNKNOWN)
        case ssl.SSLCertVerificationError():
            return Cause.CERTIFICATE_THEIRS
        case ssl.SSLError():
            return Cause.TLS
        case OSError(errno=int() as number):
            return of_errno(number)
        case TimeoutError():
            return Cause.NO_ANSWER
        case ConnectionRefusedError():
            return Cause.PORT_CLOSED
        case OSError():
            return Cause.SYSTEM
        case ValueError():
            return Cause.SETTING
    return Cause.INTERNAL


def of_alert(alert: int, *, by_peer: bool) -> Cause:
    """Returns the cause for a TLS alert that the peer (`by_peer`) or this node sent."""
    if alert in _NO_ALPN:
        return Cause.ALPN
    if alert in _CERTIFICATE_ALERTS:
        return Cause.CERTIFICATE_OURS if by_peer else Cause.CERTIFICATE_THEIRS
    return Cause.TLS


def of_quic_error(code: int, *, by_peer: bool) -> Cause:
    """Returns the cause for the error code of a transport CONNECTION_CLOSE (RFC 9000, 19.19).

    `by_peer` states whether the peer sent it.
    """
    if _CRYPTO_ERROR <= code < 2 * _CRYPTO_ERROR:
        return of_alert(code - _CRYPTO_ERROR, by_peer=by_peer)
    return Cause.PEER_CLOSED if by_peer else Cause.CARRIER
