"""Bounds of the file of known nodes.

Peers cannot add patterns to it, exceed its line limit, or block the event loop.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from pathlib import Path

import pytest

from quicdist import Identity, Trust
from quicdist.carriers.trust import CertificateError, PeerRefused, files, known_nodes
from quicdist.carriers.trust.known_nodes import KnownNodes, is_short_lived
from quicdist.protocol.handshake_messages import is_node_name
from tests.support.waiting import until

NODE = "4433@127.0.0.1"
KEY, OTHER_KEY = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
NOW = datetime.datetime.now(datetime.UTC)
TODAY = NOW.date()
LONG_AGO = TODAY - datetime.timedelta(days=91)


@pytest.fixture(autouse=True)
def _no_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the date of the file the same throughout a test."""
    monkeypatch.setattr(known_nodes, "_now", lambda: NOW)


@pytest.mark.parametrize("name", ["*@*", "*@127.0.0.1", "443?@127.0.0.1", "[0-9]*@127.0.0.1"])
def test_a_name_that_was_learned_is_no_pattern(tmp_path: Path, name: str) -> None:
    """A learned line is a valid pin for exactly that name, if the name is valid."""
    path = tmp_path / "known_nodes"
    KnownNodes(path).learn(name, KEY)
    assert not set("*?[]") & set(path.read_text().split()[0])
    stranger = Identity.ephemeral(["127.0.0.1"])
    path.write_text(path.read_text().replace(KEY, stranger.fingerprint))
    verifier = Trust.pinned(path).verifier()
    with pytest.raises(PeerRefused, match="not pinned for"):
        verifier.verify_name(NODE, [stranger.certificate])


def test_a_pattern_is_for_pins_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    someone = Identity.ephemeral(["127.0.0.1"])
    path.write_text(f"*@127.0.0.1 {someone.fingerprint}\n")
    Trust.pinned(path).verifier().verify_name(NODE, [someone.certificate])
    with pytest.raises(CertificateError, match=r"line 1.*is a pattern"):
        KnownNodes(path).keys(NODE)


def test_what_is_encoded_or_in_brackets_is_literal_in_pins(tmp_path: Path) -> None:
    path = tmp_path / "pins"
    someone = Identity.ephemeral(["127.0.0.1"])
    path.write_text(f"%2A@127.0.0.1 {someone.fingerprint}\n[0-9]@127.0.0.1 {someone.fingerprint}\n")
    verifier = Trust.pinned(path).verifier()
    for name in ("4@127.0.0.1", NODE):
        with pytest.raises(PeerRefused, match="not pinned for"):
            verifier.verify_name(name, [someone.certificate])


@pytest.mark.parametrize("name", ["*@*", "a?@b", "a\n@b", "a b@c", "a\x1b[31m@b", "a@b\x7f", "@b"])
def test_no_node_is_called_like_a_pattern_nor_with_control_characters(name: str) -> None:
    assert not is_node_name(name)
    assert is_node_name("näme-1@host.example")


def test_an_unknown_word_is_not_skipped(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    path.write_text(f"{NODE} {KEY} unbound\n")
    with pytest.raises(CertificateError, match=r"line 1.*'unbound' is unknown"):
        KnownNodes(path).keys(NODE)


@pytest.mark.parametrize(
    "name",
    [
        "rabbitmqcli-417-rabbit@host1",
        "rpc-3f9a1c-app@host1",
        "rem-77ab@host1",
        "remsh1234-app@host1",
        "dyn-0123456789abcdef@host1",
        "3PKD7XOYHGI0Y@host1",
    ],
)
def test_a_command_run_once_leaves_no_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    assert is_short_lived(name)
    assert not known.learn(name, KEY)
    assert not path.exists()
    for lasting in ("rabbit@host1", "4433@127.0.0.1", "rpc@host1", "remote@host1", "REM@host1"):
        assert not is_short_lived(lasting)


def _full(path: Path, most: int, seen: str) -> None:
    path.write_text("".join(f"{port}@10.0.0.1 {KEY}{seen}\n" for port in range(most)))


def test_those_not_met_for_long_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_nodes, "MOST", 10)
    path = tmp_path / "known_nodes"
    _full(path, 9, f" seen={LONG_AGO}")
    path.write_text(f"mine@10.0.0.2 {KEY}\n{path.read_text()}")
    known = KnownNodes(path)
    assert known.learn(NODE, KEY)
    assert path.read_text() == f"mine@10.0.0.2 {KEY}\n{NODE} {KEY} seen={TODAY}\n"
    assert [one.line for one in known.keys(NODE)] == [2]


def test_those_that_a_person_wrote_or_that_were_met_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known_nodes, "MOST", 10)
    path = tmp_path / "known_nodes"
    for seen in ("", f" seen={TODAY}"):
        _full(path, 10, seen)
        before = path.read_text()
        assert KnownNodes(path).learn(NODE, KEY)
        assert path.read_text() == before
    assert "the file already has 10 lines" in caplog.text


def test_that_a_node_was_met_is_written_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    lately = TODAY - datetime.timedelta(days=3)
    path.write_text(f"a@b {KEY} seen={LONG_AGO}\nc@d {KEY} seen={lately}\ne@f {KEY}\n")
    known = KnownNodes(path)
    for node in ("a@b", "c@d", "e@f"):
        assert not known.learn(node, KEY)
    assert sorted(path.read_text().splitlines()) == [
        f"a@b {KEY} seen={TODAY}",
        f"c@d {KEY} seen={lately}",
        f"e@f {KEY}",
    ]


def test_that_a_node_binds_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    known.learn(NODE, KEY)
    known.learn(NODE, KEY, bound=True)
    known.learn(NODE, KEY)
    assert path.read_text() == f"{NODE} {KEY} bound seen={TODAY}\n"
    known.supersede(NODE, OTHER_KEY, datetime.timedelta(days=1), bound=True)
    assert all(one.is_bound for one in KnownNodes(path).keys(NODE))


async def test_an_event_loop_does_not_wait_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learned key applies at once and is written when the other process releases the lock."""

    def sleep(seconds: float) -> None:
        assert not files.is_on_event_loop(), "the event loop sleeps"
        os.sched_yield()

    monkeypatch.setattr(time, "sleep", sleep)
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    with files.locked(path):
        assert known.learn(NODE, KEY)
        with pytest.raises(PeerRefused):
            known.learn(NODE, OTHER_KEY)
        assert not path.exists()
    await until(path.exists)
    assert [one.fingerprint for one in KnownNodes(path).keys(NODE)] == [KEY]


def test_learning_adds_a_line_and_reads_none_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each new node would cost time proportional to all known nodes."""
    path = tmp_path / "known_nodes"
    known = KnownNodes(path)
    known.learn(NODE, KEY)
    monkeypatch.setattr(KnownNodes, "_lines", lambda self: pytest.fail("read again"))
    known.learn("a@b", KEY)
    assert [one.line for one in known.keys("a@b")] == [2]
    with path.open() as file:
        assert len(file.readlines()) == 2


def test_a_line_that_a_person_left_open_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "known_nodes"
    path.write_text(f"a@b {KEY}")
    KnownNodes(path).learn(NODE, KEY)
    assert path.read_text().splitlines() == [f"a@b {KEY}", f"{NODE} {KEY} seen={TODAY}"]


# -- file ownership -----------------------------------------------------------------------


def test_a_file_that_others_may_write_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    path = place / "known_nodes"
    path.write_text("")
    path.chmod(0o600)
    known = KnownNodes(path)
    known.keys(NODE)
    assert not caplog.records
    path.chmod(0o666)
    path.write_text(f"{NODE} {KEY}\n")
    known.keys(NODE)
    assert f"{path} has mode 0666: other users can change" in caplog.text
    caplog.clear()
    path.chmod(0o600)
    place.chmod(0o777)
    path.write_text("")
    for _ in range(2):
        KnownNodes(path).keys(NODE)
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert f"{place} has mode 0777" in record.getMessage()


def test_a_link_in_place_of_the_lock_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "known_nodes"
    elsewhere = tmp_path / "precious"
    elsewhere.write_text("")
    (tmp_path / ".known_nodes.lock").symlink_to(elsewhere)
    known = KnownNodes(path)
    assert known.learn(NODE, KEY)
    assert "symbolic links" in caplog.text
    assert not path.exists()


def test_all_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        KnownNodes(tmp_path / "new" / "known_nodes").learn(NODE, KEY)
    finally:
        os.umask(old)
    made = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert made == {"known_nodes": 0o600, ".known_nodes.lock": 0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
