"""What is wrong with a certificate, ours or a peer's; each text is one line that says why."""

from __future__ import annotations

import enum

from quicdist.errors import Cause, QuicdistError


class CertificateError(QuicdistError):
    """A certificate or key that cannot be used; the text is one line that says why."""

    cause: Cause = Cause.CERTIFICATE


class CertificateUnreadable(CertificateError):
    """A file that is missing, not ours to read, or not what it should be."""


class CertificateBusy(CertificateUnreadable):
    """Files that another process is changing; they can be read in a moment."""


class CertificateExpired(CertificateError):
    """A certificate outside of its time."""


class CertificateMismatch(CertificateError):
    """A key that does not belong to its certificate."""


class TrustError(CertificateError):
    """A setting of trust that cannot be followed."""

    cause = Cause.SETTING


class Alert(enum.IntEnum):
    """What a peer is told that is not believed (RFC 8446, 6.2); the text stays with us."""

    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    CERTIFICATE_REQUIRED = 116


class PeerRefused(CertificateError):
    """A peer that is not believed."""

    def __init__(
        self,
        text: str,
        alert: Alert = Alert.BAD_CERTIFICATE,
        cause: Cause = Cause.CERTIFICATE_THEIRS,
    ) -> None:
        super().__init__(text)
        self.cause = cause
        self.alert = alert
