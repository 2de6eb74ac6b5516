"""The causes of system errors, TLS alerts and QUIC error codes."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from quicdist.carriers import causes
from quicdist.carriers.base import DialError
from quicdist.carriers.trust import Alert, CertificateExpired, PeerRefused
from quicdist.errors import Cause


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EADDRINUSE, Cause.ADDRESS_IN_USE),
        (errno.EADDRNOTAVAIL, Cause.ADDRESS_NOT_AVAILABLE),
        (errno.EAFNOSUPPORT, Cause.ADDRESS_FAMILY),
        (errno.EACCES, Cause.PERMISSION),
        (errno.ECONNREFUSED, Cause.PORT_CLOSED),
        (errno.EHOSTUNREACH, Cause.UNREACHABLE),
        (errno.ENETUNREACH, Cause.UNREACHABLE),
        (errno.ETIMEDOUT, Cause.NO_ANSWER),
        (errno.ECONNRESET, Cause.PEER_CLOSED),
        (errno.EMFILE, Cause.SYSTEM),
    ],
)
def test_an_error_of_the_system_goes_by_its_number(number: int, cause: Cause) -> None:
    assert causes.of_errno(number) is cause
    assert causes.of_error(OSError(number, "a certificate, already in use")) is cause
    assert causes.of_error(OSError(number, os.strerror(number))) is cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), Cause.HOST_UNKNOWN),
        (socket.gaierror(socket.EAI_FAMILY, "x"), Cause.ADDRESS_FAMILY),
        (ConnectionRefusedError("without a number"), Cause.PORT_CLOSED),
        (TimeoutError(), Cause.NO_ANSWER),
        (ssl.SSLCertVerificationError(1, "x"), Cause.CERTIFICATE_THEIRS),
        (ssl.SSLError(1, "certificate"), Cause.TLS),
        (OSError("cookie"), Cause.SYSTEM),
        (ValueError("x"), Cause.SETTING),
        (ZeroDivisionError(), Cause.INTERNAL),
        (DialError("x", Cause.ALPN), Cause.ALPN),
        (PeerRefused("x"), Cause.CERTIFICATE_THEIRS),
        (CertificateExpired("x"), Cause.CERTIFICATE),
    ],
)
def test_an_exception_goes_by_its_cause_or_its_class(error: Exception, cause: Cause) -> None:
    assert causes.of_error(error) is cause


@pytest.mark.parametrize("alert", list(Alert))
def test_an_alert_about_a_certificate_is_about_the_receivers(alert: Alert) -> None:
    assert causes.of_alert(alert, by_peer=True) is Cause.CERTIFICATE_OURS
    assert causes.of_alert(alert, by_peer=False) is Cause.CERTIFICATE_THEIRS
    assert causes.of_quic_error(0x100 + alert, by_peer=True) is Cause.CERTIFICATE_OURS


@pytest.mark.parametrize("by_peer", [True, False])
def test_other_alerts(by_peer: bool) -> None:
    for alert in (40, 120):  # handshake_failure, no_application_protocol
        assert causes.of_alert(alert, by_peer=by_peer) is Cause.ALPN
    for alert in (10, 47, 51, 80):
        assert causes.of_alert(alert, by_peer=by_peer) is Cause.TLS


def test_other_errors_of_quic() -> None:
    assert causes.of_quic_error(0x0A, by_peer=True) is Cause.PEER_CLOSED
    assert causes.of_quic_error(0x0A, by_peer=False) is Cause.CARRIER


def test_a_port_counts_as_closed_only_where_no_address_says_otherwise() -> None:
    others = set(Cause) - {Cause.PORT_CLOSED, Cause.BEHIND_NAT, Cause.NO_ANSWER}
    assert causes.rank(Cause.PORT_CLOSED) < causes.rank(Cause.BEHIND_NAT)
    assert causes.rank(Cause.BEHIND_NAT) < causes.rank(Cause.NO_ANSWER)
    assert causes.rank(Cause.NO_ANSWER) < min(map(causes.rank, others))
