"""The examples run as their README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ports import free_port

pytestmark = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        shutil.which("mix") is None, reason="no Elixir: sudo apt-get install elixir"
    ),
]

ROOT = Path(__file__).parents[2]

RECORD = re.compile(r"\n\d\d:\d\d:\d\d\.\d{3} \[\w+\] .*\n")
"""A record of Logger. It may come between two words that a script writes."""

RunExample = Callable[[str, str], str]


@pytest.fixture(scope="module")
def run_example(tmp_path_factory: pytest.TempPathFactory) -> RunExample:
    """Runs an example script and returns its output."""
    beam = tmp_path_factory.mktemp("beam") / "quicdist"
    shutil.copytree(ROOT / "beam", beam, ignore=shutil.ignore_patterns("_build"))
    subprocess.run(["mix", "compile"], cwd=beam, check=True, capture_output=True)
    ebin = beam / "_build" / "dev" / "lib" / "quicdist" / "ebin"

    def run(folder: str, script: str) -> str:
        flags = "-start_epmd false -epmd_module quicdist_epmd"
        state = tmp_path_factory.mktemp("state")
        ran = subprocess.run(
            ["elixir", "-pa", ebin, "--erl", flags, script],
            cwd=ROOT / "examples" / folder,
            env={
                **os.environ,
                "QUICDIST_VENV": sys.prefix,
                "QUICDIST_STATE_DIR": str(state),
                "PORT": str(free_port()),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    return run


@pytest.mark.parametrize("script", ["stream.exs", "page.exs"])
def test_token_stream(run_example: RunExample, script: str) -> None:
    output = run_example("token_stream", script)
    written = RECORD.sub("", output)
    assert "once upon a time over the hills and far away over the" in written
    assert re.search(r"stopped after \d+ words for \d+@127\.0\.0\.1", output)


def test_etl(run_example: RunExample) -> None:
    assert re.search(r"an Arrow table of \d+ bytes", run_example("etl", "etl.exs"))


def test_pool(run_example: RunExample) -> None:
    output = run_example("pool", "pool.exs")
    assert f"the sum of the squares is {sum(n * n for n in range(1, 10_001))}" in output
    assert "a worker crashed" in output
    assert "[4, 9]" in output
