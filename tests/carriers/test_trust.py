"""Loading, creating and storing identities, and the verification of certificates."""

from __future__ import annotations

import asyncio
import datetime
import errno
import ipaddress
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from quicdist.carriers.base import Connection, DialError
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import (
    CertificateError,
    CertificateExpired,
    CertificateMismatch,
    CertificateUnreadable,
    Credentials,
    Identity,
    Trust,
    files,
    state_directory,
)
from quicdist.carriers.trust.errors import CertificateBusy
from quicdist.carriers.trust.names import (
    general_name,
    hosts_of,
    is_for_host,
    is_for_node,
    node_uri,
    nodes_of,
)
from tests.carriers.owners import Owner
from tests.support.waiting import PATIENCE

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def pem(key: object, encryption: KeySerializationEncryption | None = None) -> bytes:
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


class Authority:
    """A certificate authority for one test."""

    def __init__(self, name: str = "test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - DAY)
            .not_valid_after(now() + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def issue(
        self,
        *names: x509.GeneralName,
        before: datetime.timedelta = -DAY,
        after: datetime.timedelta = DAY,
    ) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + before)
            .not_valid_after(now() + after)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Identity(key, certificate)


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def write(identity: Identity, directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "node.pem", directory / "node.key"
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(pem(identity.key))
    return certificate, key


# -- stored identities -------------------------------------------------------------------


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "state"
    first = Identity.kept(["127.0.0.1"], place)
    again = Identity.kept(["127.0.0.1"], place)
    assert again.fingerprint == first.fingerprint
    other_host = Identity.kept(["10.0.0.7", "node.example"], place)
    assert other_host.fingerprint == first.fingerprint
    assert other_host.certificate != first.certificate
    assert isinstance(first.key, ec.EllipticCurvePrivateKey)
    assert first.key.curve.name == "secp256r1"


def test_the_key_is_for_its_owner_only(tmp_path: Path) -> None:
    place = tmp_path / "state"
    Identity.kept(["127.0.0.1"], place)
    assert stat.S_IMODE((place / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    files = sorted(path.name for path in place.iterdir())
    assert files == [".key.pem.lock", "cert-127.0.0.1.pem", "key.pem"]


def test_a_key_that_others_can_read_is_used_and_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Identity.kept(["127.0.0.1"], tmp_path)
    (tmp_path / "key.pem").chmod(0o600)
    Identity.kept(["127.0.0.1"], tmp_path)
    assert not caplog.records
    (tmp_path / "key.pem").chmod(0o640)
    Identity.kept(["127.0.0.1"], tmp_path)
    assert (
        f"{tmp_path / 'key.pem'} contains a private key that other users can access" in caplog.text
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_root_replaces_stays_its_owners(tmp_path: Path) -> None:
    Identity.kept(["127.0.0.1"], tmp_path)
    os.chown(tmp_path / "key.pem", 12, 34)
    Identity.rotate(tmp_path)
    found = (tmp_path / "key.pem").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o600)


def test_nodes_of_several_hosts_share_a_place(tmp_path: Path) -> None:
    one = Identity.kept(["127.0.0.1"], tmp_path)
    two = Identity.kept(["10.0.0.7"], tmp_path)
    assert Identity.kept(["127.0.0.1"], tmp_path).certificate == one.certificate
    assert Identity.kept(["10.0.0.7"], tmp_path).certificate == two.certificate
    assert one.fingerprint == two.fingerprint


def test_a_key_in_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Identity.kept(["127.0.0.1"], tmp_path)

    def read_only(*args: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "locked", read_only)
    assert Identity.kept(["10.0.0.7"], tmp_path).fingerprint == kept.fingerprint
    with pytest.raises(CertificateUnreadable, match="Read-only"):
        Identity.kept(["127.0.0.1"], tmp_path / "other")


def test_without_hosts_there_is_the_key_alone(tmp_path: Path) -> None:
    bare = Identity.kept([], tmp_path)
    assert bare.fingerprint == Identity.kept(["127.0.0.1"], tmp_path).fingerprint
    assert not list(hosts_of(bare.certificate))


def test_names_in_the_certificate(tmp_path: Path) -> None:
    made = Identity.kept(["127.0.0.1", "::1", "node.example", "127.0.0.1"], tmp_path)
    names = made.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "::1",
    ]
    assert names.get_values_for_type(x509.DNSName) == ["node.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "node.example"])
@pytest.mark.parametrize("other", ["spiffe://example/a:b", "https://[::1]:8443/x", "urn:a:b:c"])
def test_uris_of_any_kind_are_no_hindrance(host: str, other: str) -> None:
    node = f"4433@{host}"
    names = [general_name(host), node_uri(node), x509.UniformResourceIdentifier(other)]
    certificate = Authority().issue(*names).certificate
    assert is_for_host(certificate, host)
    assert not is_for_host(certificate, "127.0.0.2")
    assert not is_for_host(certificate, "other.example")
    assert is_for_node(certificate, node)


def test_names_of_large_certificates_are_not_kept() -> None:
    """Any peer presents a certificate, and many names take much memory."""
    for count, is_kept in ((3, True), (300, False)):
        nodes = [f"{port}@node.example" for port in range(count)]
        certificate = Authority().issue(*map(node_uri, nodes)).certificate
        assert list(nodes_of(certificate)) == nodes
        assert (nodes_of(certificate) is nodes_of(certificate)) == is_kept


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "chosen"))
    assert state_directory() == tmp_path / "chosen"
    monkeypatch.delenv("QUICDIST_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_directory() == tmp_path / "xdg" / "quicdist"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == tmp_path / ".local" / "state" / "quicdist"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CertificateUnreadable, match="Permission denied"):
        Identity.kept(["127.0.0.1"], tmp_path / "state")


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateUnreadable, match="file"):
        Identity.kept(["127.0.0.1"], tmp_path / "file")


def test_a_kept_key_that_is_damaged_is_not_replaced(tmp_path: Path) -> None:
    Identity.kept(["127.0.0.1"], tmp_path)
    (tmp_path / "key.pem").write_text("scribble")
    with pytest.raises(CertificateUnreadable, match="no PEM private key"):
        Identity.kept(["127.0.0.1"], tmp_path)
    assert (tmp_path / "key.pem").read_text() == "scribble"


def test_hosts_that_no_certificate_can_name(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="invalid host name"):
        Identity.kept(["bücher.example"], tmp_path)


# -- supplied identities ------------------------------------------------------------------


def test_loading(tmp_path: Path) -> None:
    issued = Authority().issue(LOOPBACK)
    certificate, key = write(issued, tmp_path)
    assert Identity.load(certificate, key).fingerprint == issued.fingerprint
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert Identity.load(str(both)).fingerprint == issued.fingerprint


def test_loading_a_chain(tmp_path: Path) -> None:
    authority = Authority()
    issued = authority.issue(LOOPBACK)
    certificate, key = write(issued, tmp_path)
    with certificate.open("ab") as file:
        file.write(authority.certificate.public_bytes(Encoding.PEM))
    assert list(Identity.load(certificate, key).chain) == [authority.certificate]


def test_what_cannot_be_loaded_says_why_in_one_line(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = write(authority.issue(LOOPBACK), tmp_path)
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_bytes(b"")
    locked, odd = tmp_path / "locked", tmp_path / "odd"
    locked.write_bytes(
        pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret"))
    )
    odd.write_bytes(pem(dsa.generate_private_key(1024)))
    other = tmp_path / "other"
    other.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    for kind, pattern, given in (
        (CertificateUnreadable, "missing: No such file", (missing, key)),
        (CertificateUnreadable, "missing: No such file", (certificate, missing)),
        (CertificateUnreadable, "empty: no PEM certificate", (empty, key)),
        (CertificateUnreadable, "empty: no PEM private key", (certificate, empty)),
        (CertificateUnreadable, "Is a directory", (tmp_path, key)),
        (CertificateUnreadable, "encrypted", (certificate, locked)),
        (CertificateUnreadable, "this type of key", (certificate, odd)),
        (CertificateMismatch, "not the key of", (certificate, other)),
    ):
        with pytest.raises(kind, match=pattern) as caught:
            Identity.load(*given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "pattern"),
    [(-2 * DAY, -DAY, "expired on"), (DAY, 2 * DAY, "not valid before")],
)
def test_certificates_out_of_their_time(
    tmp_path: Path, before: datetime.timedelta, after: datetime.timedelta, pattern: str
) -> None:
    files = write(Authority().issue(LOOPBACK, before=before, after=after), tmp_path)
    with pytest.raises(CertificateExpired, match=pattern):
        Identity.load(*files)


# -- trust --------------------------------------------------------------------------------------


def test_what_is_verified_is_said(tmp_path: Path) -> None:
    assert "no certificate is verified" in Trust.nothing().describe()
    file = Authority().write(tmp_path / "ca.pem")
    line = Trust.authority(file).describe()
    assert str(file) in line
    assert "dialed nodes and dialers" in line
    assert "without" not in line
    assert "those that dial us" not in Trust.first_use(tmp_path / "known").describe("some")
    assert (
        "without a certificate: *@10.0.0.7"
        in Trust.first_use(tmp_path / "known", uncertified=["*@10.0.0.7"]).describe()
    )
    for text in (line, Trust.nothing().describe()):
        assert "\n" not in text


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CertificateUnreadable, match="No such file"):
        Trust.authority(tmp_path / "missing")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(CertificateUnreadable, match="no PEM certificate"):
        Trust.authority(tmp_path / "junk")


async def dial_with(identity: Identity, trust: Trust, host: str) -> None:
    """Connects to a node with that identity."""

    def accept(connection: Connection) -> Owner:
        return Owner(connection)

    there = await Endpoint.open(
        "127.0.0.1",
        0,
        settings=QuicSettings(Credentials(identity, Trust.nothing())),
        accept=accept,
    )
    here = await Endpoint.open(
        "127.0.0.1",
        0,
        settings=QuicSettings(Credentials(Identity.ephemeral(), trust)),
        accept=accept,
    )
    try:
        connection = await here.dial(host, there.local_address[1], timeout=PATIENCE)
        connection.handler = Owner(connection)
    finally:
        await here.close()
        await there.close()


@pytest.mark.io
async def test_an_authority_decides_who_may_be_dialed(tmp_path: Path) -> None:
    authority = Authority()
    trust = Trust.authority(authority.write(tmp_path / "ca.pem"))
    await dial_with(authority.issue(LOOPBACK), trust, "127.0.0.1")
    await dial_with(authority.issue(x509.DNSName("localhost")), trust, "localhost")
    for identity, host in (
        (Identity.ephemeral(["127.0.0.1"]), "127.0.0.1"),
        (Authority("impostor").issue(LOOPBACK), "127.0.0.1"),
        (authority.issue(x509.DNSName("localhost")), "127.0.0.1"),
        (authority.issue(LOOPBACK), "localhost"),
        (authority.issue(x509.IPAddress(ipaddress.ip_address("127.0.0.2"))), "127.0.0.1"),
        (authority.issue(LOOPBACK, before=-2 * DAY, after=-DAY), "127.0.0.1"),
    ):
        with pytest.raises(DialError, match=r"certificate|TLS"):
            await dial_with(identity, trust, host)
        await dial_with(identity, Trust.nothing(), host)


@pytest.mark.io
async def test_chains_are_sent(tmp_path: Path) -> None:
    """An intermediate authority between the trusted one and the node."""
    root, middle = Authority("root"), Authority("middle")
    signed_middle = (
        x509.CertificateBuilder()
        .subject_name(middle.name)
        .issuer_name(root.name)
        .public_key(middle.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    leaf = middle.issue(LOOPBACK)
    trust = Trust.authority(root.write(tmp_path / "ca.pem"))
    await dial_with(Identity(leaf.key, leaf.certificate, (signed_middle,)), trust, "127.0.0.1")
    with pytest.raises(DialError):
        await dial_with(leaf, trust, "127.0.0.1")


@pytest.mark.io  # one may wait for the lock of the other
async def test_two_processes_may_make_an_identity_at_once(tmp_path: Path) -> None:
    """The second process waits for the lock without blocking its event loop."""
    credentials = Credentials(None, Trust.nothing(), ["127.0.0.1"])
    place = files.state_directory()
    files.make_directory(place)
    with files.locked(place / "key.pem"):
        with pytest.raises(CertificateBusy):
            Identity.kept(["127.0.0.1"])  # on an event loop: at once
        making = asyncio.create_task(credentials.prepare())
        await asyncio.sleep(0)
    await making
    assert credentials.identity.certificate == Identity.kept(["127.0.0.1"]).certificate
    before = credentials.identity
    Identity.rotate()
    with files.locked(place / "key.pem"):
        assert credentials.identity is before
    assert credentials.identity.fingerprint != before.fingerprint
