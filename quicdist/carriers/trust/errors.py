"""Errors of the certificates of this node and its peers. Each text is one line."""

from __future__ import annotations

import enum

from quicdist.errors import Cause, QuicdistError


class CertificateError(QuicdistError):
    """A certificate or key cannot be used. The text is one line with the reason."""

    cause: Cause = Cause.CERTIFICATE


class CertificateUnreadable(CertificateError):
    """A certificate or key file is missing, not readable, or has invalid content."""


class CertificateBusy(CertificateUnreadable):
    """Another process is changing the files. A later read can succeed."""


class CertificateExpired(CertificateError):
    """A certificate is expired or not yet valid."""


class CertificateMismatch(CertificateError):
    """A key does not match its certificate."""


class TrustError(CertificateError):
    """A carrier does not support the trust setting."""

    cause = Cause.SETTING


class Alert(enum.IntEnum):
    """TLS alert sent to a rejected peer (RFC 8446, 6.2). The error text is not sent."""

    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    CERTIFICATE_REQUIRED = 116


class PeerRefused(CertificateError):
    """A peer was rejected; `alert` is the TLS alert for it."""

    def __init__(
        self,
        text: str,
        alert: Alert = Alert.BAD_CERTIFICATE,
        cause: Cause = Cause.CERTIFICATE_THEIRS,
    ) -> None:
        super().__init__(text)
        self.cause = cause
        self.alert = alert
