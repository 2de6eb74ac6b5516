"""Certificate chains: from a peer's certificate to an authority that we believe.

The chain itself is OpenSSL's business, by way of pyOpenSSL: signatures, times, who may issue, for
how deep, for which names (RFC 5280, 6), as `ssl` does for carriers over TCP.
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
"""Certificates that a peer may present; real chains have two to four."""


class Usage(enum.Enum):
    """What a certificate is used for in a handshake."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def check_length(certificates: Certificates) -> None:
    """Raises PeerRefused for a chain that is no honest one."""
    if len(certificates) > MAX_CHAIN:
        raise PeerRefused(
            f"the peer presents {len(certificates)} certificates, at most {MAX_CHAIN} are taken"
        )


def check_chain(certificates: Certificates, authorities: Certificates, usage: Usage) -> None:
    """Whether one of the authorities vouches for the first certificate, for that use.

    Raises PeerRefused.
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
    """The lists in a PEM file (RFC 5280, 5), at least one. Raises CertificateUnreadable."""
    blocks = _PEM_CRL.findall(files.read(path))
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError:
        lists = []
    if not lists:
        raise CertificateUnreadable(f"{path}: no PEM revocation list in it")
    return lists


def check_revoked(
    certificates: Certificates,
    authorities: Certificates,
    lists: Sequence[x509.CertificateRevocationList],
) -> None:
    """Whether an authority of ours has revoked one of the certificates. Raises PeerRefused."""
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
            f"the peer's certificate is good only from {begin:%Y-%m-%d}", Alert.CERTIFICATE_EXPIRED
        )


def _check_usage(certificate: x509.Certificate, usage: Usage) -> None:
    """A certificate may be restricted; one that says nothing is good for any use."""
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
            f"the peer's certificate is not for use by a TLS {usage.name.lower()}",
            Alert.UNSUPPORTED_CERTIFICATE,
        )
