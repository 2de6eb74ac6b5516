"""Sources of the private key: a plain or encrypted file, or a function."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from quicdist.carriers.trust import CertificateError, Identity
from quicdist.carriers.trust.identity import PrivateKey, key_pem, pem

WORD = "correct horse"


def encrypted(key: PrivateKey) -> bytes:
    encryption = BestAvailableEncryption(WORD.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture
def identity() -> Identity:
    return Identity.ephemeral(["127.0.0.1"])


def written(path: Path, data: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def test_a_key_with_a_passphrase(tmp_path: Path, identity: Identity) -> None:
    certificate = written(tmp_path / "cert.pem", pem([identity.certificate]))
    key = written(tmp_path / "key.pem", encrypted(identity.key))
    for passphrase in (WORD, WORD.encode(), lambda: WORD):
        loaded = Identity.load(certificate, key, passphrase=passphrase)
        assert loaded.fingerprint == identity.fingerprint
        assert loaded.reloaded().fingerprint == identity.fingerprint
    with pytest.raises(CertificateError, match="a passphrase is needed"):
        Identity.load(certificate, key)
    with pytest.raises(CertificateError, match="the passphrase is wrong"):
        Identity.load(certificate, key, passphrase="wrong")


def test_a_key_in_the_same_file_as_its_certificate(tmp_path: Path, identity: Identity) -> None:
    both = written(tmp_path / "node.pem", pem([identity.certificate]) + encrypted(identity.key))
    assert Identity.load(both, passphrase=WORD).fingerprint == identity.fingerprint


def test_a_key_of_others_is_reported_unless_systemd_passed_it(
    tmp_path: Path,
    identity: Identity,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = written(tmp_path / "node.pem", pem([identity.certificate]) + key_pem(identity.key))
    both.chmod(0o440)
    Identity.load(both)
    assert [record.event for record in caplog.records] == ["key_exposed"]  # type: ignore[attr-defined]
    caplog.clear()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    Identity.load(both)
    assert not caplog.records


def test_a_passphrase_for_a_key_that_is_not_encrypted_is_not_used(
    tmp_path: Path, identity: Identity
) -> None:
    both = written(tmp_path / "node.pem", pem([identity.certificate]) + key_pem(identity.key))
    assert Identity.load(both, passphrase=WORD).fingerprint == identity.fingerprint


def test_a_key_from_a_function_is_asked_for_again_when_the_certificate_changes(
    tmp_path: Path, identity: Identity
) -> None:
    path = written(tmp_path / "cert.pem", pem([identity.certificate]))
    keys: list[bytes | PrivateKey] = [identity.key, encrypted(identity.key)]
    loaded = Identity.load(path, keys.pop, passphrase=WORD)
    assert loaded.reloaded().fingerprint == identity.fingerprint
    assert not keys
    other = Identity.ephemeral()
    with pytest.raises(CertificateError, match="given by a function: not the key of"):
        Identity.load(path, lambda: other.key)


def test_a_key_is_in_no_text(tmp_path: Path, identity: Identity) -> None:
    path = written(tmp_path / "cert.pem", pem([identity.certificate]))
    loaded = Identity.load(path, lambda: identity.key, passphrase=WORD)
    assert WORD not in repr(loaded)
