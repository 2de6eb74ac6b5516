"""Who we are and who may be believed, for every carrier that speaks TLS."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

_LIFETIME = datetime.timedelta(days=3650)
_RENEW_BEFORE = datetime.timedelta(days=30)


class CertificateError(Exception):
    """A certificate or key that cannot be used; the text is one line that says why."""


class CertificateUnreadable(CertificateError):
    """A file that is missing, not ours to read, or not what it should be."""


class CertificateExpired(CertificateError):
    """A certificate outside of its time."""


class CertificateMismatch(CertificateError):
    """A key that does not belong to its certificate."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and the certificate that goes with it."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: Sequence[x509.Certificate] = ()
    """Intermediate certificates, nearest first."""

    @classmethod
    def load(cls, certificate: Path | str, key: Path | str | None = None) -> Identity:
        """From PEM files; without `key` both are in one. Raises CertificateError."""
        certificate = Path(certificate)
        key = certificate if key is None else Path(key)
        certificates = _read_certificates(certificate)
        private = _read_key(key)
        identity = cls(private, certificates[0], tuple(certificates[1:]))
        _check_pair(identity, key, certificate)
        _check_times(identity.certificate, certificate)
        return identity

    @classmethod
    def kept(cls, hosts: Sequence[str], directory: Path | str | None = None) -> Identity:
        """Our own, made when there is none; the key in `directory` stays the same for ever.

        `hosts` are the IP addresses and DNS names that the certificate is good for: one that
        lacks any of them, or is about to expire, is made anew for the same key.
        Raises CertificateError.
        """
        place = state_directory() if directory is None else Path(directory)
        key_file, certificate_file = place / "key.pem", place / "cert.pem"
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not key_file.exists():
                made = ec.generate_private_key(ec.SECP256R1())
                _write(key_file, _key_pem(made), mode=0o600, replace=False)
            key = _read_key(key_file)
            if certificate_file.exists():
                known = _read_certificates(certificate_file)[0]
                if _serves(known, key, hosts):
                    return cls(key, known)
            certificate = self_signed(key, hosts)
            _write(certificate_file, certificate.public_bytes(Encoding.PEM), mode=0o644)
        except OSError as error:
            raise CertificateUnreadable(
                f"no certificate can be kept in {place}: {error.strerror or error}"
            ) from None
        return cls(key, certificate)

    @classmethod
    def ephemeral(cls, hosts: Sequence[str] = ()) -> Identity:
        """One that nobody keeps."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, self_signed(key, hosts))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True)
class Trust:
    """What is asked of a peer's certificate. Pins, known nodes, client certificates: to come."""

    ca_file: Path | None = None
    """PEM file of the authorities that a dialled node's certificate must come from; such a
    certificate must carry the host dialled, as IP address or DNS name."""

    @classmethod
    def nothing(cls) -> Trust:
        """Believes whoever answers."""
        return cls()

    @classmethod
    def authority(cls, ca_file: Path | str) -> Trust:
        """Believes what the authorities in `ca_file` have signed. Raises CertificateError."""
        path = Path(ca_file)
        for certificate in _read_certificates(path):
            _check_times(certificate, path)
        return cls(path)

    def describe(self) -> str:
        """One line for the log: what is verified and what is not."""
        if self.ca_file is None:
            return (
                "TLS: traffic is encrypted, but no certificate is verified, of no peer: "
                "only the cookie tells who a node is"
            )
        return (
            f"TLS: nodes that we dial are verified (authority {self.ca_file}, host in the "
            "certificate); nodes that dial us are not: only the cookie tells who they are"
        )


def state_directory() -> Path:
    """Where what must survive a restart is kept: QUICDIST_STATE_DIR, or XDG's place for it."""
    chosen = os.environ.get("QUICDIST_STATE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "quicdist"


def self_signed(key: PrivateKey, hosts: Sequence[str]) -> x509.Certificate:
    """A certificate for `hosts` (IP addresses and DNS names) that only says: I have this key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicdist")])
    now = datetime.datetime.now(datetime.timezone.utc)
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
    algorithm = (
        None
        if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        else hashes.SHA256()
    )
    return builder.sign(key, algorithm)


def general_name(host: str) -> x509.GeneralName:
    """How a certificate names a host: as IP address where it is one, else as DNS name.

    Raises CertificateError.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CertificateError(f"{host!r}: no host name that a certificate can carry") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnreadable(f"{path}: {error.strerror or error}") from None


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise CertificateUnreadable(f"{path}: no PEM certificate in it") from None


def _read_key(path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise CertificateUnreadable(f"{path}: the key is encrypted") from None
    except ValueError:
        raise CertificateUnreadable(f"{path}: no PEM private key in it") from None
    if not isinstance(key, PrivateKey):
        raise CertificateUnreadable(f"{path}: a key of a kind that TLS 1.3 does not sign with")
    return key


def _check_pair(identity: Identity, key: Path, certificate: Path) -> None:
    if identity.key.public_key() != identity.certificate.public_key():
        raise CertificateMismatch(f"{key}: not the key of the certificate in {certificate}")


def _check_times(certificate: x509.Certificate, path: Path) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    if now > certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateExpired(
            f"{path}: the certificate is good only from {certificate.not_valid_before_utc:%Y-%m-%d}"
        )


def _serves(certificate: x509.Certificate, key: PrivateKey, hosts: Sequence[str]) -> bool:
    if certificate.public_key() != key.public_key():
        return False
    now = datetime.datetime.now(datetime.timezone.utc)
    if now + _RENEW_BEFORE > certificate.not_valid_after_utc:
        return False
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not hosts
    return all(general_name(host) in names for host in hosts)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, *, mode: int, replace: bool = True) -> None:
    """The whole file or none of it; an existing one stays unless it may be replaced."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
        if replace:
            os.replace(name, path)
        else:
            # Another node that starts at the same time may have been first.
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
