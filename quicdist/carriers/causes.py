"""Which `Cause` an error of the operating system, of TLS or of QUIC stands for.

Judged by errno, by the number of a TLS alert (RFC 8446, 6; RFC 7301, 3.2) and by QUIC's error codes
(RFC 9000, 20; RFC 9001, 4.8), never by a text.
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
"""QUIC's code of a TLS alert is this plus the number of the alert (RFC 9001, 4.8)."""

_NO_ALPN = frozenset({40, 120})
"""`no_application_protocol`, and `handshake_failure`, which older releases of aioquic send
instead: QUIC implies TLS 1.3, so hardly anything else is left to disagree about."""

_RANKS = MappingProxyType({Cause.PORT_CLOSED: 0, Cause.NO_ANSWER: 1})

_CERTIFICATE_ALERTS = frozenset(int(alert) for alert in Alert)


def rank(cause: Cause) -> int:
    """Of the causes found at several addresses of a peer, the highest is told.

    Another cause says more than no answer, and no answer more than a closed port: the port counts
    as closed only where every address says so, for anyone can forge that answer (ICMP).
    """
    return _RANKS.get(cause, 2)


def of_errno(number: int | None) -> Cause:
    """Of a socket's error."""
    return Cause.SYSTEM if number is None else _BY_ERRNO.get(number, Cause.SYSTEM)


def of_error(error: BaseException) -> Cause:
    """Of an exception: the cause that it carries, else what an exception of Python's says."""
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
    """Of a TLS alert, sent by the peer or by us."""
    if alert in _NO_ALPN:
        return Cause.ALPN
    if alert in _CERTIFICATE_ALERTS:
        return Cause.CERTIFICATE_OURS if by_peer else Cause.CERTIFICATE_THEIRS
    return Cause.TLS


def of_quic_error(code: int, *, by_peer: bool) -> Cause:
    """Of the error code of a CONNECTION_CLOSE of the transport, sent by the peer or by us."""
    if _CRYPTO_ERROR <= code < 2 * _CRYPTO_ERROR:
        return of_alert(code - _CRYPTO_ERROR, by_peer=by_peer)
    return Cause.PEER_CLOSED if by_peer else Cause.CARRIER
