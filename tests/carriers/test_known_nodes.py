"""Trust on first use: which keys are recorded, and the effect of a changed key."""

from __future__ import annotations

import datetime
import multiprocessing
import shlex
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.trust import (
    Certificates,
    Credentials,
    Identity,
    PeerRefused,
    Trust,
    TrustBy,
    Verifier,
    files,
    known_nodes,
)
from quicdist.carriers.trust.authority import issue, make_authority
from quicdist.carriers.trust.errors import CertificateError
from quicdist.carriers.trust.identity import key_pem, pem, self_signed
from quicdist.carriers.trust.known_nodes import KnownNodes
from quicdist.carriers.trust.names import fingerprint, parse_fingerprint, read, written

NODE = "4433@127.0.0.1"
KEY, OTHER_KEY = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
NOW = datetime.datetime.now(datetime.UTC)
TODAY = NOW.date()
DAY = datetime.timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the date of the file the same throughout a test."""
    monkeypatch.setattr(known_nodes, "_now", lambda: NOW)


def keys(known: KnownNodes, node: str = NODE) -> list[str]:
    return [one.fingerprint for one in known.keys(node)]


def test_the_first_key_is_kept_and_no_other_taken(tmp_path: Path) -> None:
    path = tmp_path / "state" / "known_nodes"
    assert KnownNodes(path).learn(NODE, KEY)
    again = KnownNodes(path)
    assert not again.learn(NODE, KEY)
    with pytest.raises(PeerRefused) as caught:
        again.learn(NODE, OTHER_KEY)
    assert f"{path}, line 1" in str(caught.value)
    pasted = f"quicdist cert accept {NODE} {OTHER_KEY} --known-nodes {path}"
    assert str(caught.value).endswith(pasted)
    assert path.read_text() == f"{NODE} {KEY} seen={TODAY}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_line_that_accepts_a_key_is_safe_to_paste(tmp_path: Path) -> None:
    path = tmp_path / "a place" / "known_nodes"
    known = KnownNodes(path)
    for node in ("*@10.0.0.7", "$(id)@a", "~root@b"):
        known.learn(node, KEY)
        line = str(known.changed(node, OTHER_KEY)).partition("Only if the new key is genuine: ")[2]
        *command, file = shlex.split(line)
        assert command == ["quicdist", "cert", "accept", written(node), OTHER_KEY, "--known-nodes"]
        assert file == str(path)
        assert line == shlex.join([*command, file])


def test_another_process_or_person_may_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    ours, theirs = KnownNodes(path), KnownNodes(path)
    ours.learn(NODE, KEY)
    theirs.accept(NODE, OTHER_KEY)
    assert keys(ours) == [OTHER_KEY]
    assert theirs.forget(NODE)
    assert keys(ours) == []
    path.write_text(
        f"# mine\n\n{NODE} {KEY} until={TODAY - DAY}\n{NODE} {OTHER_KEY} # the new one\n"
    )
    assert keys(ours) == [OTHER_KEY]
    ours.learn("a@b", KEY)
    assert path.read_text().startswith("# mine\n\n")


@pytest.mark.parametrize("line", ["nonsense", f"{NODE} sha256:12", f"{NODE} {KEY} until=soon"])
def test_a_line_that_is_none_is_not_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "known_nodes"
    path.write_text(f"a@b {KEY}\n{line}\n")
    with pytest.raises(CertificateError, match="line 2"):
        KnownNodes(path).keys(NODE)


@given(st.text(st.characters(max_codepoint=255), min_size=1, max_size=30))
def test_a_name_is_one_word_whatever_is_in_it(name: str) -> None:
    assert read(written(name)) == name
    assert written(name).isprintable()
    assert not set(written(name)) & set(" \t\n#%") - {"%"}


def test_names_that_peers_make_up_add_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    evil = f"x\n{NODE} {KEY}\n@a"
    known.learn(evil, OTHER_KEY)
    assert keys(known) == []
    assert keys(known, evil) == [OTHER_KEY]
    assert len(path.read_text().splitlines()) == 1


def test_fingerprints_are_read_as_people_write_them() -> None:
    assert parse_fingerprint("1" * 64) == KEY
    assert parse_fingerprint(f"SHA256:{':'.join(['AB'] * 32)}") == f"sha256:{'ab' * 32}"
    for text in ("", "sha256:", "1" * 63, "g" * 64, "md5:" + "1" * 32):
        with pytest.raises(CertificateError, match="invalid fingerprint"):
            parse_fingerprint(text)


def _learn(path: Path, node: str, key: str) -> bool:
    try:
        return KnownNodes(path).learn(node, key)
    except PeerRefused:
        return False


@pytest.mark.io
def test_several_processes_learn_at_once(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    same = [(path, NODE, f"sha256:{number:064x}") for number in range(12)]
    different = [(path, f"{number}@127.0.0.1", KEY) for number in range(1, 13)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.starmap(_learn, [*same, *different], chunksize=1)
    assert sum(won[:12]) == 1
    assert all(won[12:])
    lines = path.read_text().splitlines()
    assert len(lines) == 13
    assert keys(KnownNodes(path)) == [same[won.index(True)][2]]


@pytest.mark.io
def test_a_process_that_hangs_with_the_lock_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    with files.locked(path):
        assert known.learn(NODE, KEY)
    assert "is locked by another process" in caplog.text
    assert not path.exists()
    with pytest.raises(PeerRefused):
        known.learn(NODE, OTHER_KEY)


def test_what_cannot_be_written_is_known_while_the_process_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    known = KnownNodes(tmp_path / "file" / "known_nodes")
    with pytest.raises(CertificateError):
        known.keys(NODE)
    full = KnownNodes(tmp_path / "known_nodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "append", _no_space)
        assert full.learn(NODE, KEY)
    assert "No space left" in caplog.text
    with pytest.raises(PeerRefused):
        full.learn(NODE, OTHER_KEY)


def _no_space(*args: object, **more: object) -> None:
    raise OSError(28, "No space left on device")


# -- decisions of the verifier ----------------------------------------------------------------


def test_first_use_both_ways(tmp_path: Path) -> None:
    verifier = Trust.first_use(tmp_path / "known").verifier()
    first, second = ([Identity.ephemeral(["127.0.0.1"]).certificate] for _ in range(2))
    verifier.verify_dialed(NODE, first)
    verifier.verify_dialed(NODE, second)  # the cookie is not proved yet
    verifier.learn_dialed(NODE, first)
    with pytest.raises(PeerRefused, match="has changed"):
        verifier.verify_dialed(NODE, second)
    verifier.verify_dialer(second)
    with pytest.raises(PeerRefused, match="has changed"):
        verifier.verify_name(NODE, second)
    verifier.verify_name(NODE, first)


def test_who_makes_no_claim_to_a_name_is_not_remembered(tmp_path: Path) -> None:
    """A command on a free port is not recorded: the next node there may be another user's."""
    verifier = Trust.first_use(tmp_path / "known").verifier()
    for _ in range(2):
        bare = [Identity.ephemeral().certificate]
        verifier.verify_dialer(bare)
        verifier.verify_name(NODE, bare)
        verifier.learn_dialer(NODE, bare)
    assert not (tmp_path / "known").exists()
    verifier.learn_dialer(NODE, [Identity.ephemeral(["127.0.0.1"]).certificate])
    with pytest.raises(PeerRefused):
        verifier.verify_name(NODE, [Identity.ephemeral().certificate])


def test_a_certificate_that_names_nodes_is_good_for_these(tmp_path: Path) -> None:
    issued = issue(make_authority("any", 1), ["1@127.0.0.1", "2@127.0.0.1"], [], 1)
    verifier = Trust.first_use(tmp_path / "known").verifier()
    for node in ("1@127.0.0.1", "2@127.0.0.1"):
        verifier.verify_name(node, [issued.certificate])
    with pytest.raises(PeerRefused, match="certificate is not for"):
        verifier.verify_name("3@127.0.0.1", [issued.certificate])
    with pytest.raises(PeerRefused, match="certificate is not for"):
        verifier.verify_dialed("3@127.0.0.1", [issued.certificate])


def test_without_a_certificate(tmp_path: Path) -> None:
    strict = Trust.first_use(tmp_path / "known").verifier()
    with pytest.raises(PeerRefused, match="presents no certificate"):
        strict.verify_dialer([])
    some = Trust.first_use(tmp_path / "known", uncertified=["*@127.0.0.2"]).verifier()
    some.verify_dialer([])
    some.verify_name("1@127.0.0.2", [])
    with pytest.raises(PeerRefused, match="must present one"):
        some.verify_name(NODE, [])
    with pytest.raises(PeerRefused, match="no certificate"):
        some.verify_dialed("1@127.0.0.2", [])
    assert strict.demands_certificates
    assert some.demands_certificates
    assert not Trust.first_use(uncertified=["*"]).verifier().demands_certificates
    assert not Trust.nothing().verifier().demands_certificates


def test_the_authorities_are_read_again_when_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = make_authority("old", 1), make_authority("new", 1)
    file = tmp_path / "ca.pem"
    file.write_bytes(pem([old.certificate]))
    verifier = Trust.authority(file).verifier()
    by_old, by_new = (issue(one, [NODE], [], 1).certificate for one in (old, new))
    verifier.verify_dialed(NODE, [by_old])
    with pytest.raises(PeerRefused):
        verifier.verify_dialed(NODE, [by_new])
    file.write_bytes(pem([old.certificate, new.certificate]))
    for certificate in (by_old, by_new):
        verifier.verify_dialed(NODE, [certificate])
    file.write_text("scribble")
    verifier.verify_dialed(NODE, [by_old])
    assert "stay trusted" in caplog.text


def test_a_new_key_that_the_old_one_vouches_for(tmp_path: Path) -> None:
    """`cert rotate`: no restart, and both keys are accepted for a period."""
    mine, known = tmp_path / "mine", tmp_path / "known"
    credentials = Credentials(Identity.kept(["127.0.0.1"], mine), Trust.nothing())
    old = credentials.identity
    verifier = Trust.first_use(known).verifier()
    verifier.learn_dialed(NODE, [old.certificate])
    pins = Trust.pinned({NODE: old.fingerprint}).verifier()
    Identity.rotate(mine)
    new = credentials.identity
    assert new.fingerprint != old.fingerprint
    presented = [new.certificate, *new.chain]
    for one in (verifier, pins):
        one.verify_dialed(NODE, presented)
        one.verify_dialer(presented)
        one.verify_name(NODE, presented)
    verifier.learn_dialed(NODE, presented)
    verifier.verify_dialed(NODE, [new.certificate])
    verifier.verify_dialed(NODE, [old.certificate])
    assert f"{old.fingerprint} until={TODAY + 30 * DAY}" in known.read_text()
    assert stat.S_IMODE((mine / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((mine / "former-key.pem").stat().st_mode) == 0o600
    stranger = Identity.ephemeral(["127.0.0.1"]).certificate
    with pytest.raises(PeerRefused):  # the old certificate is not proof of its key
        verifier.verify_dialed(NODE, [stranger, old.certificate])
    assert fingerprint(new.chain[0]) == old.fingerprint


def test_a_certificate_that_is_broken_on_disk_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def put(identity: Identity) -> None:
        file.write_bytes(key_pem(identity.key) + pem([identity.certificate]))

    file = tmp_path / "node.pem"
    put(Identity.ephemeral())
    credentials = Credentials(Identity.load(file), Trust.nothing())
    before = credentials.identity
    file.write_text("half of it")
    assert credentials.identity == before
    assert "stays in use" in caplog.text
    put(new := Identity.ephemeral())
    assert credentials.identity.fingerprint == new.fingerprint


def let_in(verifier: Verifier, presented: Certificates) -> None:
    """The checks of a dialer's certificate."""
    verifier.verify_dialer(presented)
    verifier.verify_name(NODE, presented)


def test_certificates_that_hold_anything_are_refused_and_nothing_else(tmp_path: Path) -> None:
    """Fields are parsed on access, so a certificate from aioquic may still raise errors."""
    key = ed25519.Ed25519PrivateKey.generate()
    der = self_signed(key, ["127.0.0.1"]).public_bytes(Encoding.DER)
    unknown_key = x509.load_der_x509_certificate(der.replace(b"\x2b\x65\x70", b"\x2b\x65\x7f"))
    with pytest.raises(UnsupportedAlgorithm):
        unknown_key.public_key()
    at = der.index(b"\x55\x1d\x11") + 8
    broken_names = x509.load_der_x509_certificate(der[:at] + b"\xff" + der[at + 1 :])
    with pytest.raises(ValueError, match=r"."):
        assert broken_names.extensions
    good = Identity.ephemeral(["127.0.0.1"])
    authority = tmp_path / "ca.pem"
    authority.write_bytes(pem([good.certificate]))
    known = tmp_path / "known"
    known.write_text(f"{NODE} {KEY}\n")
    for trust in (
        Trust.first_use(known),
        Trust.pinned({NODE: KEY}),
        Trust.authority(authority),
    ):
        verifier = trust.verifier()
        for presented in (
            [good.certificate, unknown_key],
            [unknown_key],
            [broken_names],
            [broken_names, unknown_key],
        ):
            if trust.by is TrustBy.AUTHORITY and presented[0] is good.certificate:
                continue
            with pytest.raises(PeerRefused):
                verifier.verify_dialed(NODE, presented)
            with pytest.raises(PeerRefused):
                let_in(verifier, presented)
