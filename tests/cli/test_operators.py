"""Commands for operators: policies, the audit log, disconnect, keys with a passphrase."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from quicdist import Identity
from quicdist.carriers.trust.identity import pem
from tests.cli.conftest import CALC, Command, end
from tests.support.erlang import Erlang

pytestmark = pytest.mark.io

ONLY_ADD = '[[peers]]\nnodes = ["*"]\ncalls = ["calc:add"]\n'
OPERATOR = '[[peers]]\nnodes = ["*"]\ncalls = ["*", "erlang:disconnect_node"]\n'


def test_run_takes_a_policy_and_reads_it_again_at_sighup(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    policy = quicdist.home / "policy.toml"
    policy.write_text(ONLY_ADD.replace("add", "nothing"))
    with quicdist.node("run", "0@127.0.0.1", "calc", "--policy", "policy.toml") as (name, process):
        assert quicdist("ping", name).out == "pong\n"
        quicdist("call", name, "calc", "add", "[1, 2]").refused(1, "undef")
        policy.write_text(ONLY_ADD)
        hang_up(process, "has changed its access rules")
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
        policy.write_text("nonsense")
        hang_up(process, "the policy was not replaced")
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
        assert end(process).code == 0
    run = ("run", "0@127.0.0.1", "calc", "--policy", "policy.toml")
    quicdist(*run).refused(5, "--policy policy.toml")
    quicdist(*run, "--calls", "*=*").refused(2, "exclude each other")


def hang_up(process: subprocess.Popen[str], said: str) -> None:
    """Sends SIGHUP and waits for the log line with the result."""
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    assert any(said in line for line in process.stderr)


def test_run_keeps_an_audit_log_where_it_is_told_to(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--audit", "--log-json") as (name, process):
        assert quicdist("call", name, "calc", "add", "[1, 2]").out == "3\n"
        lines = [json.loads(line) for line in end(process).err.splitlines()]
    (entry,) = [line for line in lines if line["event"] == "audit_call"]
    assert (entry["called"], entry["outcome"]) == ("calc:add/2", "returned")
    assert entry["fingerprint"].startswith("sha256:")


def test_disconnect_ends_a_connection_of_a_node_that_allows_it(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    (quicdist.home / "policy.toml").write_text(OPERATOR)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--policy", "policy.toml") as (name, _):
        quicdist("disconnect", name, "4433@127.0.0.9").refused(1, "is not connected to")
    with quicdist.node("run", "0@127.0.0.1", "calc") as (name, _):
        quicdist("disconnect", name, "4433@127.0.0.9").refused(1, "does not permit")


@pytest.mark.erlang
def test_disconnect_ends_a_connection_of_an_erlang_node(
    quicdist: Command, beam: tuple[str, Erlang]
) -> None:
    name, erlang = beam
    with quicdist.node("listen", "0@127.0.0.1", "-v") as (peer, process):
        assert erlang.eval(f"atom_to_list(net_adm:ping('{peer}')).") == b"pong"
        done = quicdist("disconnect", name, peer)
        assert (done.code, done.out) == (0, f"{name} has closed its connection to {peer}\n")
        quicdist("disconnect", name, peer).refused(1, "is not connected to")
        assert "is down" in end(process).err


def test_a_key_with_a_passphrase(quicdist: Command) -> None:
    identity = Identity.ephemeral(["127.0.0.1"])
    encryption = BestAvailableEncryption(b"correct horse")
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    written(quicdist.home / "node.pem", pem([identity.certificate]) + key)
    written(quicdist.home / "word", b"correct horse\n")
    secret = ("--cert", "node.pem", "--key-passphrase-file", "word")
    with quicdist.node("listen", "0@127.0.0.1", *secret) as (name, _):
        assert quicdist("ping", name, *secret).out == "pong\n"
        quicdist("ping", name, "--cert", "node.pem").refused(5, "a passphrase is needed")
    written(quicdist.home / "word", b"wrong\n")
    quicdist("listen", "0@127.0.0.1", *secret).refused(5, "the passphrase is wrong")


def test_client_commands_take_a_file_of_cookies_and_requirements(quicdist: Command) -> None:
    written(quicdist.home / "cookies", quicdist.environment["QUICDIST_COOKIE"].encode() + b"\n")
    with quicdist.node("listen", "0@127.0.0.1") as (name, _):
        wanted = ("--cookie-file", "cookies", "--require-tls", "--require-binding")
        del quicdist.environment["QUICDIST_COOKIE"]
        for command in (("ping", name), ("call", name, "m", "f"), ("send", name, "quicdist", "1")):
            assert "undef" in (done := quicdist(*command, *wanted)).err or done.code == 0, done
        quicdist("ping", name, "--crl", "crl.pem").refused(2, "--crl requires authorities")


def written(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
