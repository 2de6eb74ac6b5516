"""Client commands behind NATs, and in a network that lets out TCP 443 only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicdist.cli.exit_codes import ExitCode
from tests.nat.conftest import Sites
from tests.nat.kinds import BLOCKED, SYMMETRIC, Kind
from tests.nat.lab import Lab
from tests.nat.namespaces import Namespace
from tests.nat.processes import COOKIE, VIA, NodeProcess, Process, relay

pytestmark = [pytest.mark.io, pytest.mark.slow]


PATIENTLY = ("--timeout", "60")


@pytest.fixture
def at_core(lab: Lab, tmp_path: Path) -> Iterator[Process]:
    with relay(lab.core, tmp_path / "relay") as process:
        yield process


def quicdist(space: Namespace, state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a namespace."""
    return subprocess.run(
        space.command([sys.executable, "-m", "quicdist", *words, "--cookie", COOKIE]),
        env={**os.environ, "QUICDIST_STATE_DIR": str(state), "HOME": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", [BLOCKED, SYMMETRIC], ids=str)
def test_a_command_reaches_a_relayed_node_through_the_relay(
    sites: Sites, at_core: Process, tmp_path: Path, kind: Kind
) -> None:
    space, state = sites(BLOCKED, 1).node, tmp_path / "laptop"
    with (
        NodeProcess(sites(SYMMETRIC, 0).node, tmp_path / "far") as far,
        NodeProcess(sites(BLOCKED, 0).node, tmp_path / "blocked") as blocked,
    ):
        node = (blocked if kind is BLOCKED else far).name
        done = quicdist(space, state, "ping", node, "--via", VIA, *PATIENTLY)
        assert (done.stdout, done.returncode) == ("pong\n", 0), done.stderr
        told = quicdist(space, state, "doctor", node, "--via", VIA, *PATIENTLY)
        assert told.returncode == 0, told.stderr
        assert "over TCP: this network lets out no UDP" in told.stdout
        assert "a direct path to it was found" not in told.stdout


def test_a_command_takes_nothing_of_the_node_with_the_same_key(
    sites: Sites, at_core: Process, tmp_path: Path
) -> None:
    space, state = sites(BLOCKED, 1).node, tmp_path / "laptop"
    with NodeProcess(space, state) as own:
        name = own.name
        # The command is a node of its own beside it, and reaches it through the relay.
        done = quicdist(space, state, "ping", name, "--via", VIA, *PATIENTLY)
        assert (done.stdout, done.returncode) == ("pong\n", 0), done.stderr
        assert own.ask("relay")[0] == "tcp"
    with NodeProcess(space, state) as again:
        assert again.name == name


def test_a_command_without_a_relay_is_told_what_helps_where_udp_is_blocked(
    sites: Sites, at_core: Process, tmp_path: Path
) -> None:
    space, state = sites(BLOCKED, 1).node, tmp_path / "laptop"
    with NodeProcess(sites(SYMMETRIC, 0).node, tmp_path / "far") as far:
        for words in (["ping"], ["doctor"]):
            done = quicdist(space, state, *words, far.name)
            assert done.returncode == ExitCode.UNREACHABLE
            assert "--via" in done.stderr
            assert "UDP" in done.stderr
