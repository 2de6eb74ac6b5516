"""A private certificate authority (CA), which issues certificates for nodes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicdist.carriers.trust.errors import CertificateError
from quicdist.carriers.trust.identity import Identity, PrivateKey, sign
from quicdist.carriers.trust.names import general_name, host_of, node_uri

_EARLY = datetime.timedelta(hours=1)
"""Time by which the start of the validity is set back, because clocks differ."""

_NO_USE = dict.fromkeys(
    (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def make_authority(name: str, days: int) -> Identity:
    """Creates a CA that can issue node certificates but no intermediate CA certificates.

    `name` is its common name, and `days` the length of its validity.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(key, days)
        .subject_name(subject)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **_NO_USE),
            critical=True,
        )
    )
    return Identity(key, sign(builder, key))


def issue(authority: Identity, nodes: Sequence[str], hosts: Sequence[str], days: int) -> Identity:
    """Issues a certificate with a new key for these nodes and hosts, valid for `days` days.

    If `nodes` is not empty, the certificate is valid only for these nodes. Raises CertificateError
    if a certificate cannot contain one of the host names.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    called = [*nodes, *hosts]
    named = dict.fromkeys([*map(host_of, nodes), *hosts])
    names: list[x509.GeneralName] = [general_name(host) for host in named]
    names += [node_uri(node) for node in nodes]
    issuer = authority.certificate
    builder = (
        _builder(key, days)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called[0][:64])]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_NO_USE),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    return Identity(key, sign(builder, authority.key), authority.chain)


def revoke(
    authority: Identity,
    certificate: x509.Certificate,
    former: x509.CertificateRevocationList | None,
    days: int,
) -> x509.CertificateRevocationList:
    """Returns a CRL (RFC 5280, 5) with the entries of `former` and this certificate.

    The CRL is valid for `days` days. Raises CertificateError if another authority issued the
    certificate.
    """
    if certificate.issuer != authority.certificate.subject:
        raise CertificateError("the certificate was not issued by this authority")
    revoked = [] if former is None else list(former)
    if all(one.serial_number != certificate.serial_number for one in revoked):
        one = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        revoked.append(one.revocation_date(datetime.datetime.now(datetime.UTC)).build())
    return revocation_list(authority, revoked, days)


def revocation_list(
    authority: Identity, revoked: Sequence[x509.RevokedCertificate], days: int
) -> x509.CertificateRevocationList:
    """The authority's list (RFC 5280, 5) of these certificates, which may be none."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(now + datetime.timedelta(days=days))
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(each)
    has_its_own = isinstance(authority.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(authority.key, None if has_its_own else hashes.SHA256())


def _builder(key: PrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
