"""examples/behind_nat: the compose file, and its services in network namespaces."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.nat.composed import Composed
from tests.nat.namespaces import NotHere
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "behind_nat"
FILE = FOLDER / "docker-compose.yml"


@pytest.mark.io
def test_compose_accepts_the_file() -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose here: sudo apt-get install docker-compose")
    done = subprocess.run(
        ["docker-compose", "-f", str(FILE), "--profile", "ask", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Composed]:
    try:
        composed = Composed(FILE, tmp_path, {"/example": str(FOLDER)})
    except NotHere as why:
        pytest.skip(f"no NATs on this machine: {why}")
    try:
        yield composed
    finally:
        composed.close()


@pytest.mark.erlang
@pytest.mark.slow
def test_the_services_call_each_other(homes: Composed) -> None:
    if shutil.which("elixir") is None:
        pytest.skip("no Elixir: sudo apt-get install elixir")
    homes.start("relay", until="is up")
    for router in ("router_one", "router_two"):
        homes.start(router)
    homes.start("python", until="20001@203.0.113.10 is up")
    homes.start("gateway", until="gateway for 20002@203.0.113.10 is up")
    homes.start("elixir", until="the shop is open")
    assert {*homes.services} == {
        *("relay", "router_one", "router_two", "python", "gateway", "elixir"),
        *("python_calls_elixir", "elixir_calls_python"),
    }
    for asking, answer in (("python_calls_elixir", "300"), ("elixir_calls_python", "42")):
        assert wait_until(partial(answered, homes, asking)) == f"{answer}\n"


def answered(homes: Composed, service: str) -> str:
    """Returns what a service prints; nothing if it fails."""
    done = homes.run(service)
    return done.stdout if done.returncode == 0 else ""
