"""`quicdist relay` and `--via`, as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicdist.cli.exit_codes import ExitCode
from tests.support.ports import free_port

pytestmark = pytest.mark.io

CALC = """
from quicdist import export
@export
def add(a, b): return a + b
"""


class Commands:
    """Runs the command, with a state directory for each name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, state: str, *words: str) -> str:
        """Starts one that runs on, and returns its first line."""
        process = subprocess.Popen(
            [sys.executable, "-m", "quicdist", *words],
            env=self._environment(state),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        assert process.stdout is not None
        return process.stdout.readline()

    def run(self, state: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "quicdist", *words],
            env=self._environment(state),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def close(self) -> None:
        for process in reversed(self.started):
            process.terminate()
            process.communicate()

    def _environment(self, state: str) -> dict[str, str]:
        own = {"QUICDIST_STATE_DIR": str(self.folder / state), "QUICDIST_COOKIE": "c"}
        return {**os.environ, **own}


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    (tmp_path / "calc.py").write_text(CALC)
    found = Commands(tmp_path)
    yield found
    found.close()


def test_a_function_behind_a_relay_is_called_by_its_name(commands: Commands) -> None:
    port = free_port()
    up = commands.start("relay", "relay", f"127.0.0.1:{port}")
    assert up == f"relay at 127.0.0.1:{port} is up\n"
    via = f"{port}@127.0.0.1/0"
    name = commands.start("home", "run", "--via", via, "calc.py").partition(" ")[0]
    assert name.endswith("@127.0.0.1")
    called = commands.run("outside", "call", name, "calc:add(1, 2)")
    assert (called.returncode, called.stdout) == (0, "3\n")
    examined = commands.run("outside", "doctor", f"{port}@127.0.0.1")
    assert examined.returncode == 0
    assert "this is a relay" in examined.stdout
    dialed = commands.run("outside", "ping", f"{port}@127.0.0.1")
    assert dialed.returncode == ExitCode.UNREACHABLE
    assert "a relay, another program or a newer quicdist uses that port" in dialed.stderr
    gateway = json.loads(commands.start("gateway", "gateway", "--via", via, "--json"))
    assert gateway["gateway"].endswith("@127.0.0.1")
    assert gateway["gateway"] != name


def test_a_relay_without_the_key_of_a_node_gives_it_no_port(commands: Commands) -> None:
    port = free_port()
    up = commands.start("relay", "relay", f"127.0.0.1:{port}", "--allow", f"sha256:{'0' * 64}")
    assert up
    refused = commands.run("home", "run", "--via", f"{port}@127.0.0.1/0", "calc.py")
    assert refused.returncode == ExitCode.REFUSED
    assert "gives no port: its allow-list does not contain the key of this node" in refused.stderr


def test_a_relay_with_an_authority_admits_its_certificates_only(commands: Commands) -> None:
    for authority in ("ours", "theirs"):
        (commands.folder / authority).mkdir()
        assert commands.run("admin", "cert", "ca", "--dir", authority).returncode == 0
        for owner in ("relay", "node"):
            words = ["cert", "issue", "127.0.0.1", "--dir", authority]
            issued = commands.run("admin", *words, "--out", f"{authority}/{owner}.pem")
            assert issued.returncode == 0
    ours = ["--ca", "ours/ca.pem"]
    port = free_port()
    assert commands.start(
        "relay", "relay", f"127.0.0.1:{port}", *ours, "--cert", "ours/relay.pem"
    ).endswith("is up\n")
    joining = ["run", "--via", f"{port}@127.0.0.1/0", "calc.py"]
    name = commands.start("home", *joining, *ours, "--cert", "ours/node.pem").partition(" ")[0]
    called = commands.run(
        "outside", "call", name, "calc:add(1, 2)", *ours, "--cert", "ours/node.pem"
    )
    assert (called.returncode, called.stdout) == (0, "3\n")
    foreign = commands.run("foreign", *joining, *ours, "--cert", "theirs/node.pem")
    assert foreign.returncode == ExitCode.REFUSED
    assert "the peer rejected this node's certificate" in foreign.stderr
    theirs = ["--ca", "theirs/ca.pem", "--cert", "theirs/node.pem"]
    distrusting = commands.run("foreign", *joining, *theirs)
    assert distrusting.returncode == ExitCode.REFUSED
    assert "the peer's certificate: unable to get local issuer certificate" in distrusting.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["relay", "nowhere"], "invalid listen address"),
        (["relay", "127.0.0.1:0", "--ports", "9-1"], "--ports '9-1'"),
        (["relay", "127.0.0.1:0", "--allow", "sha256:12"], "invalid fingerprint"),
        (["run", "--via", "127.0.0.1", "calc.py"], "invalid relay '127.0.0.1'"),
        (["run", "4433@127.0.0.1"], "Missing argument 'MODULE...'"),
        (["listen"], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_command_line(commands: Commands, words: list[str], text: str) -> None:
    done = commands.run("home", *words)
    assert done.returncode in (ExitCode.USAGE, ExitCode.LOCAL)
    assert text in done.stderr
    assert "Traceback" not in done.stderr
