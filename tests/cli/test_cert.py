"""`quicdist cert` and the trust options."""

from __future__ import annotations

import re
import shlex
import signal
import stat
import time

import pytest

from tests.cli.conftest import Command
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

# -- keys and their owners -------------------------------------------------------------------


def made_authority(quicdist: Command) -> None:
    assert quicdist("cert", "ca").code == 0
    quicdist("cert", "ca").refused(5, "exists already")


def fingerprint(shown: str) -> str:
    found = re.search(r"^fingerprint  (sha256:[0-9a-f]{64})$", shown, re.MULTILINE)
    assert found, shown
    return found[1]


def test_an_authority_issues_certificates_that_nodes_run_with(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    made_authority(quicdist)
    issued = quicdist("cert", "issue", name)
    assert f"good for     {name}, 127.0.0.1\n" in issued.out
    assert quicdist("cert", "issue", "127.0.0.1", "--out", "client.pem").code == 0
    for file in ("ca-key.pem", f"{name}.pem", "client.pem"):
        assert stat.S_IMODE((quicdist.home / file).stat().st_mode) == 0o600
    with quicdist.node("listen", name, "--cert", f"{name}.pem", "--ca", "ca.pem"):
        assert quicdist("ping", name, "--ca", "ca.pem", "--cert", "client.pem").out == "pong\n"
        quicdist("ping", name, "--ca", "ca.pem").refused(4, "certificate", "unknown ca")
        done = quicdist("ping", name, "--ca", "ca.pem", "--cert", f"{name}.pem")
        assert f"the certificate of this node is for {name}, not for " in done.err, (
            "a free port is another node"
        )
        assert (done.code, done.out) == (4, "pang\n")
        shown = quicdist("cert", "peer", name)
        assert fingerprint(shown.out) == fingerprint(issued.out)
        assert shown.out.endswith("known        no, there was no connection yet\n")
    quicdist("cert", "issue", name, "--dir", "nowhere").refused(5, "No such file")
    quicdist("cert", "issue", "x@y@z").refused(2, "invalid node name")


def test_a_key_that_has_changed_is_accepted_with_the_line_that_says_so(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    for place in ("one", "two"):
        assert quicdist("cert", "make", "127.0.0.1", "--dir", place).code == 0
    here = {"QUICDIST_STATE_DIR": "here"}
    ping = ("ping", name)
    with quicdist.node("listen", name, *pair_of("one")):
        assert quicdist(*ping, env=here).out == "pong\n"
        assert quicdist("cert", "peer", name, env=here).out.endswith("known        yes\n")
    with quicdist.node("listen", name, *pair_of("two")):
        refused = quicdist(*ping, env=here)
        refused.refused(4, "has changed", "quicdist cert accept")
        quicdist("cert", "peer", name, env=here).refused(1, "quicdist cert accept")
        line = re.search(r"quicdist (cert accept .+)", refused.err)
        assert line
        assert quicdist(*shlex.split(line[1])).code == 0  # in a shell without the variable `here`
        assert quicdist(*ping, env=here).out == "pong\n"
        assert quicdist("cert", "forget", name, env=here).code == 0
        quicdist("cert", "forget", name, env=here).refused(1, "no key of")
        assert quicdist(*ping, env=here).out == "pong\n"


def pair_of(place: str) -> tuple[str, str, str, str]:
    return ("--cert", f"{place}/cert-127.0.0.1.pem", "--key", f"{place}/key.pem")


def test_a_key_is_rotated_under_a_node_that_runs(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    there, here = (
        Command(quicdist.home / "there"),
        {"QUICDIST_STATE_DIR": str(quicdist.home / "here")},
    )
    there.home.mkdir()
    with there.node("listen", name):
        assert quicdist("ping", name, env=here).out == "pong\n"
        before = fingerprint(quicdist("cert", "peer", name).out)
        rotated = there("cert", "rotate")
        assert rotated.code == 0, rotated
        assert fingerprint(quicdist("cert", "peer", name).out) == fingerprint(rotated.out) != before
        assert quicdist("ping", name, env=here).out == "pong\n"
        known = (quicdist.home / "here" / "known_nodes").read_text()
        assert f"{before} until=" in known
        assert fingerprint(rotated.out) in known


def test_what_is_no_fingerprint_is_a_mistake_in_the_command_line(quicdist: Command) -> None:
    quicdist("cert", "accept", "4433@127.0.0.1", "sha256:zz").refused(2, "sha256:zz")


def test_known_nodes_that_cannot_be_read_are_this_machine_s_fault(
    quicdist: Command, calc: str
) -> None:
    state = quicdist.home / "state"
    state.mkdir(exist_ok=True)
    (state / "known_nodes").write_text("rubbish\n")
    quicdist("ping", calc).refused(5, "known_nodes, line 1", "a fingerprint")


def test_a_key_that_is_not_there_yet_is_not_replaced(quicdist: Command) -> None:
    quicdist("cert", "rotate", "--dir", ".").refused(5, "no key in")


def test_ways_to_trust_on_the_command_line(quicdist: Command, calc: str) -> None:
    key = fingerprint(quicdist("cert", "peer", calc).out)
    (quicdist.home / "pins").write_text(f"{calc} {key}\n")
    (quicdist.home / "others").write_text(f"{calc} sha256:{'1' * 64}\n")
    assert quicdist("ping", calc, "--trust", "pins:pins").out == "pong\n"
    quicdist("ping", calc, "--trust", "pins:others").refused(4, "pinned")
    quicdist("ping", calc, "--trust", "pins:nowhere").refused(5, "No such file")
    assert quicdist("ping", calc, "--trust", "none").out == "pong\n"
    assert not (quicdist.home / "state" / "known_nodes").exists()
    quicdist("cert", "peer", f"{free_port()}@127.0.0.1", "--timeout", "1").refused(3)


def test_who_may_connect_on_the_command_line(quicdist: Command) -> None:
    with quicdist.node("listen", "0@127.0.0.1", "--accept", "*@10.0.0.7") as (name, _):
        quicdist("ping", name).refused(4, "does not allow")


def test_a_certificate_is_revoked_under_a_node_that_runs(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    made_authority(quicdist)
    for host in ("good", "bad"):
        assert quicdist("cert", "issue", "127.0.0.1", "--out", f"{host}.pem").code == 0
    assert quicdist("cert", "issue", "10.0.0.1", "--out", "other.pem").code == 0
    ping = ("ping", name, "--ca", "ca.pem", "--cert")
    believing = ("--cert", "good.pem", "--ca", "ca.pem", "--crl", "crl.pem")
    with quicdist.node("listen", name, *believing):  # nothing is revoked yet
        assert quicdist(*ping, "bad.pem").out == "pong\n"
        assert "revoked      1\n" in quicdist("cert", "revoke", "other.pem").out
        assert "revoked      2\n" in quicdist("cert", "revoke", "bad.pem").out
        assert "revoked      2\n" in quicdist("cert", "revoke", "bad.pem").out
        quicdist(*ping, "bad.pem").refused(4, "certificate")
        assert quicdist(*ping, "good.pem").out == "pong\n"
    quicdist("listen", name, "--crl", "crl.pem").refused(2, "--crl requires authorities")


def test_cookies_of_a_file_are_read_again_at_sighup(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    file = quicdist.home / "cookies"
    file.write_text("old\nnew\n")
    file.chmod(0o600)
    with quicdist.node("listen", name, "--cookie-file", "cookies") as (_, process):
        for cookie in ("old", "new"):
            assert quicdist("ping", name, "--cookie", cookie).out == "pong\n"
        file.write_text("new\n")
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while quicdist("ping", name, "--cookie", "old").code == 0:
            assert time.monotonic() < deadline
        assert quicdist("ping", name, "--cookie", "new").out == "pong\n"
        assert process.poll() is None
    file.write_text("")
    quicdist("listen", name, "--cookie-file", "cookies").refused(5, "is empty")
    missing = quicdist("ping", name, "--cookie-file", "none")
    missing.refused(5, "none cannot be read: No such file or directory")
    assert "Errno" not in missing.err
