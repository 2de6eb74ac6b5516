"""The application for Erlang and Elixir: its own tests, on the Erlang of the run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.erlang import ERL

pytestmark = pytest.mark.erlang

SOURCES = Path(__file__).parents[2] / "beam"
VENV = Path(sys.prefix)

needs_elixir = pytest.mark.skipif(
    shutil.which("mix") is None, reason="no Elixir: sudo apt-get install elixir"
)


def test_eunit(erlang_ebin: Path) -> None:
    tests = "[quicdist_stream_tests, quicdist_log_lines_tests]"
    run = f"case eunit:test({tests}) of ok -> halt(0); error -> halt(1) end."
    ran = subprocess.run(
        [ERL, "-noshell", "-pa", erlang_ebin, "-eval", run],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "tests passed" in ran.stdout


@needs_elixir
def test_exunit(project: Path, tmp_path: Path) -> None:
    """Starts the distribution through a supervised gateway, and Python nodes under supervisors."""
    environment = {
        **os.environ,
        "ERL_AFLAGS": "-start_epmd false -epmd_module quicdist_epmd",
        "QUICDIST_VENV": str(VENV),
        "QUICDIST_STATE_DIR": str(tmp_path),
        "MIX_ENV": "test",
    }
    ran = subprocess.run(
        ["mix", "test"],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r" 0 failures|^Result: \d+ passed", ran.stdout, re.MULTILINE)


PUBLIC_DEF = re.compile(r"(?<!@doc false\n)^  def (\w+)", re.MULTILINE)


def test_the_reference_has_every_public_function() -> None:
    reference = (SOURCES.parent / "docs" / "reference" / "elixir.md").read_text("utf-8")
    for file in (SOURCES / "lib").glob("**/*.ex"):
        text = file.read_text("utf-8")
        module = re.findall(r"^defmodule (\S+) do", text, re.MULTILINE)[0]
        names = set(PUBLIC_DEF.findall(text))
        assert names
        assert {name for name in names if f"`{module}.{name}(" not in reference} == set()


def test_the_license_of_the_package_is_that_of_the_repository() -> None:
    assert (SOURCES / "LICENSE").read_bytes() == (SOURCES.parent / "LICENSE").read_bytes()
    for file in ("mix.exs", "src/quicdist.app.src"):
        assert '"Apache-2.0"' in (SOURCES / file).read_text("utf-8")
