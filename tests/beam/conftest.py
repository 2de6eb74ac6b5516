"""The fixtures of the node tests, and a BEAM node that has the application."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.conftest import COOKIE, Beam, identity, make_node
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl

__all__ = ["identity", "make_node"]

SOURCES = Path(__file__).parents[2] / "beam"


@pytest.fixture(scope="module")
def ebin() -> Iterator[str]:
    """The directory of the compiled BEAM side, with its Elixir modules if there is an Elixir."""
    with tempfile.TemporaryDirectory(prefix="quicdist-ebin-") as out:
        erl_sources = [str(each) for each in (SOURCES / "src").glob("*.erl")]
        subprocess.run(["erlc", "-Werror", "-Wall", "-o", out, *erl_sources], check=True)
        if shutil.which("elixirc"):
            elixir = [str(each) for each in (SOURCES / "lib").rglob("*.ex")]
            subprocess.run(
                ["elixirc", "--warnings-as-errors", "-pa", out, "-o", out, *elixir], check=True
            )
        yield out


@pytest.fixture(scope="module")
def erlang(ebin: str) -> Iterator[Erlang]:
    args = ["-pa", ebin]
    if shutil.which("elixir"):
        found = subprocess.run(
            ["elixir", "-e", "IO.write(:code.lib_dir(:elixir))"],
            check=True,
            capture_output=True,
            text=True,
        )
        args += ["-pa", f"{found.stdout}/ebin"]
    with GatewayThread() as gateway, gatewayed_erl(gateway, *args, cookie=COOKIE) as started:
        started.name = gateway.name  # type: ignore[attr-defined]
        yield started


@pytest.fixture
def beam(erlang: Erlang) -> Beam:
    return Beam(erlang, erlang.name)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the application."""
    copy = tmp_path_factory.mktemp("beam") / "quicdist"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("_build"))
    return copy


@pytest.fixture(scope="module")
def erlang_ebin(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Erlang modules and their tests."""
    out = tmp_path_factory.mktemp("ebin")
    sources = [*(project / "src").glob("*.erl"), *(project / "test").glob("*.erl")]
    subprocess.run(["erlc", "-Wall", "-Werror", "-o", out, *sources], check=True)
    shutil.copy(project / "src" / "quicdist.app.src", out / "quicdist.app")
    return out
