"""Who we are: a private key and the certificate that goes with it, given, or made and kept."""

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

_log = logging.getLogger("quicdist.trust")

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

KeySource: TypeAlias = Path | str | Callable[[], bytes | PrivateKey]
"""Where a key comes from: a PEM file, or a function that returns the PEM or the key itself, as one
that asks a secret store."""

Passphrase: TypeAlias = bytes | str | Callable[[], bytes | str]

OVERLAP = datetime.timedelta(days=30)
"""How long a key that was replaced vouches for the new one, and is taken beside it."""

_LIFETIME = datetime.timedelta(days=3650)
_RENEW_BEFORE = datetime.timedelta(days=30)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_KEY, _FORMER_KEY = "key.pem", "former-key.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the certificate that goes with it."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    chain: Certificates = ()
    """What is presented besides: intermediate certificates, nearest first, or that of our former
    key, which has signed the certificate."""
    files: Sequence[Path] = field(default=(), compare=False)
    """Where it was read from."""
    kept_for: Sequence[str] | None = field(default=None, compare=False)
    """The hosts that `kept` was asked for."""
    load_again: Callable[[], Identity] | None = field(default=None, compare=False, repr=False)
    """As it was loaded, when its files have changed."""

    @classmethod
    def load(
        cls,
        certificate: Path | str,
        key: KeySource | None = None,
        *,
        passphrase: Passphrase | None = None,
    ) -> Identity:
        """From PEM files; without `key` both are in one. An encrypted key (PKCS #8) needs its
        `passphrase`. `key` and `passphrase` may be functions; they are called again whenever a file
        has changed. Raises CertificateError, and what the functions raise.
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
        """Our own, made when there is none; the key in `directory` stays the same until `rotate`.

        `hosts` are the IP addresses and DNS names that the certificate is good for; it is kept
        in a file of the first one's name. One that lacks any of them, or is about to expire, is
        made anew for the same key. Without hosts it is good for that key alone, and made each
        time. Raises CertificateError.
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
                f"no certificate can be kept in {place}: {error.strerror or error}"
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
        """Where nothing can be written, as in a container, the key is who we are."""
        key_file = place / _KEY
        key = _read_key(key_file)
        found = _issued(key, hosts, place / _FORMER_KEY)
        return cls(key, found[0], tuple(found[1:]), (key_file,), tuple(hosts))

    @classmethod
    def rotate(cls, directory: Path | str | None = None) -> None:
        """Gives what is kept in `directory` a new key. For 30 days its certificates are signed
        by the former one, so that those who know that key learn the new one by it.

        Nodes that run take the new key for their next connection. Raises CertificateError.
        """
        place = files.state_directory() if directory is None else Path(directory)
        key_file, former_file = place / _KEY, place / _FORMER_KEY
        if not key_file.exists():
            raise CertificateUnreadable(
                f"there is no key in {place} to replace: a node's first start makes one"
            )
        try:
            with files.locked(key_file):
                former = _read_key(key_file)
                files.write(former_file, key_pem(former), mode=0o600)
                new = ec.generate_private_key(ec.SECP256R1())
                files.write(key_file, key_pem(new), mode=0o600)
        except OSError as error:
            raise CertificateUnreadable(
                f"the key in {place} cannot be replaced: {error.strerror or error}"
            ) from None

    @classmethod
    def ephemeral(cls, hosts: Sequence[str] = ()) -> Identity:
        """One that nobody keeps."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, self_signed(key, hosts))

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the SHA-256 of the public key, in hex: what others know or pin."""
        return fingerprint(self.certificate)

    def objection(self, node: str) -> str | None:
        """What those will say who verify this as that node's certificate, where they say no."""
        own = self.certificate
        if not is_for_node(own, node):
            names = nodes_of(own)
        elif own.issuer != own.subject and not is_for_host(own, host_of(node)):
            names = hosts_of(own)  # of one that an authority has signed its hosts count
        else:
            return None
        whom = ", ".join(names) or "no host"
        return (
            f"our certificate is for {whom}, not for {node}: who verifies certificates refuses it"
        )

    def reloaded(self) -> Identity:
        """As its files have it now; itself where it has none. Raises CertificateError."""
        if self.kept_for is not None:
            return Identity.kept(self.kept_for, self.files[0].parent)
        return self if self.load_again is None else self.load_again()

    @property
    def expires(self) -> datetime.datetime:
        """When the certificate ends to be valid, in UTC."""
        return self.certificate.not_valid_after_utc


def certificate_file(host: str, directory: Path) -> Path:
    """Where the certificate for that host is kept: nodes of several hosts may share the place."""
    return directory / f"cert-{host}.pem"


def self_signed(
    key: PrivateKey, hosts: Sequence[str], *, signer: PrivateKey | None = None
) -> x509.Certificate:
    """A certificate for `hosts` (IP addresses and DNS names) that only says: I have this key.

    The `signer`, by default the key itself, says so too. Raises CertificateError.
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
    """With the hash that goes with the key."""
    has_its_own = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(key, None if has_its_own else hashes.SHA256())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem(certificates: Certificates) -> bytes:
    """One after the other."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All that are in a PEM file, at least one. Raises CertificateUnreadable."""
    try:
        return x509.load_pem_x509_certificates(files.read(path))
    except ValueError:
        raise CertificateUnreadable(f"{path}: no PEM certificate in it") from None


def check_times(certificate: x509.Certificate, path: Path) -> None:
    """Raises CertificateExpired."""
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateExpired(
            f"{path}: the certificate is good only from {certificate.not_valid_before_utc:%Y-%m-%d}"
        )


def _given_key(
    source: Callable[[], bytes | PrivateKey], passphrase: Passphrase | None
) -> PrivateKey:
    given = source()
    place = "the key given by a function"
    return given if isinstance(given, PrivateKey) else _parse_key(given, place, passphrase)


def _parse_key(data: bytes, place: str, passphrase: Passphrase | None) -> PrivateKey:
    """Raises CertificateUnreadable."""
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
        what = "the passphrase is wrong" if is_encrypted else "no PEM private key in it"
        raise CertificateUnreadable(f"{place}: {what}") from None
    if not isinstance(key, PrivateKey):
        raise CertificateUnreadable(f"{place}: a key of a kind that TLS 1.3 does not sign with")
    return key


def _read_key(path: Path, passphrase: Passphrase | None = None) -> PrivateKey:
    key = _parse_key(files.read(path), str(path), passphrase)
    files.warn_of_exposed(path)
    if files.is_for_others(path):
        extra = {"event": "key_exposed", "path": str(path)}
        _log.warning("%s holds a key, and is not for its owner alone: chmod 600", path, extra=extra)
    return key


def _check_pair(identity: Identity, key: str, certificate: Path) -> None:
    if identity.key.public_key() != identity.certificate.public_key():
        raise CertificateMismatch(f"{key}: not the key of the certificate in {certificate}")


def _issued(key: PrivateKey, hosts: Sequence[str], former_file: Path) -> list[x509.Certificate]:
    """A new certificate, and while a former key vouches for this one, that key's behind it."""
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
        return False  # the former key's word is not needed any more
    named = {general_name(host) for host in hosts_of(own)}
    return not nodes_of(own) and all(general_name(host) in named for host in hosts)
