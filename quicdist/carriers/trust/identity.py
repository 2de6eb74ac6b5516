"""The identity of a node: a private key and its certificate, loaded or generated."""

from __future__ import annotations

import datetime
import errno
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicdist.carriers.trust import files
from quicdist.carriers.trust.errors import (
    CertificateBusy,
    CertificateExpired,
    CertificateMismatch,
    CertificateUnreadable,
)
from quicdist.carriers.trust.names import (
    Certificates,
    fingerprint,
    general_name,
    host_of,
    hosts_of,
    is_for_host,
    is_for_node,
    nodes_of,
)
from quicdist.setting_types import check_fields

_log = logging.getLogger("quicdist.trust")

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

KeySource: TypeAlias = Path | str | Callable[[], bytes | PrivateKey]
"""Source of a private key: a PEM file, or a function that returns PEM data or the key, for example
from a secret store."""

Passphrase: TypeAlias = bytes | str | Callable[[], bytes | str]

OVERLAP = datetime.timedelta(days=30)
"""How long after a rotation the former key signs the new certificates and is still accepted."""

_LIFETIME = datetime.timedelta(days=3650)
_RENEW_BEFORE = datetime.timedelta(days=30)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_KEY, _FORMER_KEY = "key.pem", "former-key.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and its certificate."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    chain: Certificates = ()
    """Further certificates to present: the intermediate certificates, nearest first, or the
    certificate of the former key, which has signed `certificate`."""
    files: Sequence[Path] = field(default=(), compare=False)
    """The files from which it was loaded."""
    kept_for: Sequence[str] | None = field(default=None, compare=False)
    """The `hosts` argument of `kept`; None for other identities."""
    load_again: Callable[[], Identity] | None = field(default=None, compare=False, repr=False)
    """Loads the identity again after its files have changed."""

    def __post_init__(self) -> None:
        """Raises TypeError."""
        check_fields(self)

    @classmethod
    def load(
        cls,
        certificate: Path | str,
        key: KeySource | None = None,
        *,
        passphrase: Passphrase | None = None,
    ) -> Identity:
        """Loads an identity from PEM files.

        Without `key`, the certificate file also contains the key. An encrypted key (PKCS #8)
        requires `passphrase`. `key` and `passphrase` can be functions, which are called again
        after a file has changed. Raises CertificateError if a file cannot be used, and any
        exception of the functions.
        """
        again = functools.partial(cls.load, certificate, key, passphrase=passphrase)
        certificate = Path(certificate)
        certificates = read_certificates(certificate)
        source = certificate if key is None else key
        origin: tuple[Path, ...] = (certificate,)
        if callable(source):
            private, place = _given_key(source, passphrase), "the key given by a function"
        else:
            path = Path(source)
            private, place = _read_key(path, passphrase), str(path)
            origin = (certificate, path)
        chain = tuple(certificates[1:])
        identity = cls(private, certificates[0], chain, origin, load_again=again)
        _check_pair(identity, place, certificate)
        check_times(identity.certificate, certificate)
        return identity

    @classmethod
    def kept(cls, hosts: Sequence[str], directory: Path | str | None = None) -> Identity:
        """Returns the identity stored in `directory`, which is created if it does not exist.

        `directory` defaults to the state directory. The key only changes with `rotate`. `hosts`
        are the IP addresses and DNS names in the certificate, which is stored in a file named
        after the first one. A certificate that lacks a host or is about to expire is replaced by
        a new one for the same key. Without hosts, the certificate contains no names and is
        generated for each call. Raises CertificateError if the directory cannot be used.
        """
        place = files.state_directory() if directory is None else Path(directory)
        try:
            files.make_directory(place)
            with files.locked(place / _KEY):
                return cls._kept(hosts, place)
        except TimeoutError:
            raise CertificateBusy(f"{place} is being changed by another process") from None
        except OSError as error:
            if error.errno in _READ_ONLY and (place / _KEY).exists():
                return cls._given(hosts, place)
            raise CertificateUnreadable(
                f"cannot store a certificate in {place}: {error.strerror or error}"
            ) from None

    @classmethod
    def _kept(cls, hosts: Sequence[str], place: Path) -> Identity:
        key_file = place / _KEY
        if not key_file.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            files.write(key_file, key_pem(made), mode=0o600, replace=False)
        key = _read_key(key_file)
        origin = (key_file,)
        if not hosts:
            made_now = _issued(key, hosts, place / _FORMER_KEY)
            return cls(key, made_now[0], tuple(made_now[1:]), origin, ())
        path = certificate_file(hosts[0], place)
        found = read_certificates(path) if path.exists() else []
        if not found or not _serves(found, key, hosts):
            found = _issued(key, hosts, place / _FORMER_KEY)
            files.write(path, pem(found), mode=0o644)
        return cls(key, found[0], tuple(found[1:]), (key_file, path), tuple(hosts))

    @classmethod
    def _given(cls, hosts: Sequence[str], place: Path) -> Identity:
        """Returns an identity for the existing key if the directory is read-only."""
        key_file = place / _KEY
        key = _read_key(key_file)
        found = _issued(key, hosts, place / _FORMER_KEY)
        return cls(key, found[0], tuple(found[1:]), (key_file,), tuple(hosts))

    @classmethod
    def rotate(cls, directory: Path | str | None = None) -> None:
        """Replaces the key in `directory`, which defaults to the state directory.

        For 30 days the former key signs the new certificates, so peers that know the former key
        accept the new one. Running nodes use the new key for their next connection. Raises
        CertificateError if there is no key or if it cannot be replaced.
        """
        place = files.state_directory() if directory is None else Path(directory)
        key_file, former_file = place / _KEY, place / _FORMER_KEY
        if not key_file.exists():
            raise CertificateUnreadable(
                f"no key in {place} to replace: the first start of a node creates one"
            )
        try:
            with files.locked(key_file):
                former = _read_key(key_file)
                files.write(former_file, key_pem(former), mode=0o600)
                new = ec.generate_private_key(ec.SECP256R1())
                files.write(key_file, key_pem(new), mode=0o600)
        except OSError as error:
            raise CertificateUnreadable(
                f"cannot replace the key in {place}: {error.strerror or error}"
            ) from None

    @classmethod
    def ephemeral(cls, hosts: Sequence[str] = ()) -> Identity:
        """Returns a new identity that is not stored, with a self-signed certificate for `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, self_signed(key, hosts))

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the SHA-256 hash of the public key in hex, which peers store or pin."""
        return fingerprint(self.certificate)

    def objection(self, node: str) -> str | None:
        """Returns why peers will reject the certificate for that node; None if they accept it."""
        own = self.certificate
        if not is_for_node(own, node):
            names = nodes_of(own)
        elif own.issuer != own.subject and not is_for_host(own, host_of(node)):
            names = hosts_of(own)  # peers only check the hosts of CA-signed certificates
        else:
            return None
        hosts = ", ".join(names) or "no host"
        return f"the certificate of this node is for {hosts}, not for {node}: peers will reject it"

    def reloaded(self) -> Identity:
        """Loads the identity from its files again; returns itself if it has no files.

        Raises CertificateError if a file cannot be used.
        """
        if self.kept_for is not None:
            return Identity.kept(self.kept_for, self.files[0].parent)
        return self if self.load_again is None else self.load_again()

    @property
    def expires(self) -> datetime.datetime:
        """When the certificate expires, in UTC."""
        return self.certificate.not_valid_after_utc


def certificate_file(host: str, directory: Path) -> Path:
    """Returns the certificate file for a host. Nodes of several hosts can share a directory."""
    return directory / f"cert-{host}.pem"


def self_signed(
    key: PrivateKey, hosts: Sequence[str], *, signer: PrivateKey | None = None
) -> x509.Certificate:
    """Returns a certificate for `key` that contains `hosts` (IP addresses and DNS names).

    `signer` signs it; the default is `key` itself. Raises CertificateError if a host name is
    invalid.
    """
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicdist")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([general_name(host) for host in dict.fromkeys(hosts)])
        builder = builder.add_extension(names, critical=False)
    return sign(builder, signer or key)


def sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    """Signs a certificate with the hash algorithm for the type of the key."""
    has_its_own = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(key, None if has_its_own else hashes.SHA256())


def key_pem(key: PrivateKey) -> bytes:
    """Returns the key as unencrypted PKCS #8 in PEM format."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem(certificates: Certificates) -> bytes:
    """Returns the certificates in PEM format, in the same order."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Reads all certificates in a PEM file.

    Raises CertificateUnreadable if the file is not readable or contains no certificate.
    """
    try:
        return x509.load_pem_x509_certificates(files.read(path))
    except ValueError:
        raise CertificateUnreadable(f"{path}: no PEM certificate found") from None


def check_times(certificate: x509.Certificate, path: Path) -> None:
    """Raises CertificateExpired if the certificate is expired or not yet valid."""
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateExpired(
            f"{path}: the certificate is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d}"
        )


def _given_key(
    source: Callable[[], bytes | PrivateKey], passphrase: Passphrase | None
) -> PrivateKey:
    given = source()
    place = "the key given by a function"
    return given if isinstance(given, PrivateKey) else _parse_key(given, place, passphrase)


def _parse_key(data: bytes, place: str, passphrase: Passphrase | None) -> PrivateKey:
    """Parses a PEM key. Raises CertificateUnreadable if that fails."""
    is_encrypted = b"ENCRYPTED" in data
    password: bytes | None = None
    if is_encrypted:
        if passphrase is None:
            raise CertificateUnreadable(f"{place}: the key is encrypted: a passphrase is needed")
        word = passphrase() if callable(passphrase) else passphrase
        password = word.encode() if isinstance(word, str) else word
    try:
        key = load_pem_private_key(data, password=password)
    except (TypeError, ValueError):
        what = "the passphrase is wrong" if is_encrypted else "no PEM private key found"
        raise CertificateUnreadable(f"{place}: {what}") from None
    if not isinstance(key, PrivateKey):
        raise CertificateUnreadable(f"{place}: TLS 1.3 cannot sign with this type of key")
    return key


def _read_key(path: Path, passphrase: Passphrase | None = None) -> PrivateKey:
    key = _parse_key(files.read(path), str(path), passphrase)
    files.warn_of_exposed(path)
    if files.is_for_others(path):
        extra = {"event": "key_exposed", "path": str(path)}
        _log.warning(
            "%s contains a private key that other users can access; run chmod 600",
            path,
            extra=extra,
        )
    return key


def _check_pair(identity: Identity, key: str, certificate: Path) -> None:
    if identity.key.public_key() != identity.certificate.public_key():
        raise CertificateMismatch(f"{key}: not the key of the certificate in {certificate}")


def _issued(key: PrivateKey, hosts: Sequence[str], former_file: Path) -> list[x509.Certificate]:
    """Returns a new certificate.

    During the overlap after a rotation, the former key signs it, and the certificate of the former
    key follows.
    """
    if not former_file.exists() or not _is_recent(_changed(former_file)):
        return [self_signed(key, hosts)]
    former = _read_key(former_file)
    return [self_signed(key, hosts, signer=former), self_signed(former, ())]


def _changed(path: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)


def _is_recent(time: datetime.datetime) -> bool:
    return datetime.datetime.now(datetime.UTC) < time + OVERLAP


def _serves(certificates: Certificates, key: PrivateKey, hosts: Sequence[str]) -> bool:
    own = certificates[0]
    if own.public_key() != key.public_key():
        return False
    now = datetime.datetime.now(datetime.UTC)
    if now + _RENEW_BEFORE > own.not_valid_after_utc:
        return False
    if len(certificates) > 1 and not _is_recent(own.not_valid_before_utc):
        return False  # the overlap with the former key is over
    named = {general_name(host) for host in hosts_of(own)}
    return not nodes_of(own) and all(general_name(host) in named for host in hosts)
