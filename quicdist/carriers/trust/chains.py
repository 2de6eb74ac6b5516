"""Verification of certificate chains up to a trusted authority.

OpenSSL, through pyOpenSSL, validates the certification path (RFC 5280, 6): signatures, validity
periods, basic constraints, path length and name constraints.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from quicdist.carriers.trust import files
from quicdist.carriers.trust.errors import Alert, CertificateUnreadable, PeerRefused
from quicdist.carriers.trust.names import Certificates

_PEM_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)

MAX_CHAIN = 8
"""Maximum number of certificates in a chain; typical chains have two to four."""


class Usage(enum.Enum):
    """How a peer uses its certificate in the TLS handshake (RFC 5280, 4.2.1.12)."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def check_length(certificates: Certificates) -> None:
    """Raises PeerRefused if the chain is longer than `MAX_CHAIN`."""
    if len(certificates) > MAX_CHAIN:
        raise PeerRefused(
            f"the peer presents {len(certificates)} certificates; the limit is {MAX_CHAIN}"
        )


def check_chain(certificates: Certificates, authorities: Certificates, usage: Usage) -> None:
    """Verifies the first certificate against the authorities, for the given use.

    Raises PeerRefused if it is expired, not valid for that use, or not signed by an authority.
    """
    own = certificates[0]
    _check_times(own)
    _check_usage(own, usage)
    store = crypto.X509Store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    chain = [crypto.X509.from_cryptography(one) for one in certificates[1:]]
    try:
        context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(own), chain)
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        reason = str(error.args[0]) if error.args else "not verified"
        raise PeerRefused(f"the peer's certificate: {reason}", Alert.UNKNOWN_CA) from None
    except crypto.Error:
        raise PeerRefused("the peer's certificate cannot be read") from None


def read_revocations(path: Path) -> Sequence[x509.CertificateRevocationList]:
    """Reads the CRLs (RFC 5280, 5) in a PEM file.

    Raises CertificateUnreadable if the file is not readable or contains no CRL.
    """
    blocks = _PEM_CRL.findall(files.read(path))
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError:
        lists = []
    if not lists:
        raise CertificateUnreadable(f"{path}: no PEM revocation list found")
    return lists


def check_revoked(
    certificates: Certificates,
    authorities: Certificates,
    lists: Sequence[x509.CertificateRevocationList],
) -> None:
    """Raises PeerRefused if a CRL of one of the authorities contains one of the certificates."""
    for revoked in lists:
        issuers = [one for one in authorities if one.subject == revoked.issuer]
        if not any(_has_signed(issuer, revoked) for issuer in issuers):
            continue
        for one in certificates:
            serial = one.serial_number
            is_listed = revoked.get_revoked_certificate_by_serial_number(serial) is not None
            if one.issuer == revoked.issuer and is_listed:
                raise PeerRefused("the peer's certificate is revoked", Alert.CERTIFICATE_REVOKED)


def _has_signed(issuer: x509.Certificate, revoked: x509.CertificateRevocationList) -> bool:
    try:
        return revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _check_times(certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        end = certificate.not_valid_after_utc
        raise PeerRefused(
            f"the peer's certificate expired on {end:%Y-%m-%d}", Alert.CERTIFICATE_EXPIRED
        )
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        raise PeerRefused(
            f"the peer's certificate is not valid before {begin:%Y-%m-%d}",
            Alert.CERTIFICATE_EXPIRED,
        )


def _check_usage(certificate: x509.Certificate, usage: Usage) -> None:
    """Checks the key usage extensions; without them a certificate is valid for any use."""
    try:
        extensions = certificate.extensions
    except (x509.DuplicateExtension, ValueError):
        raise PeerRefused("the peer's certificate cannot be read") from None
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            if usage.value in value or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in value:
                continue
        elif not isinstance(value, x509.KeyUsage) or value.digital_signature:
            continue
        raise PeerRefused(
            f"the peer's certificate is not valid for a TLS {usage.name.lower()}",
            Alert.UNSUPPORTED_CERTIFICATE,
        )
