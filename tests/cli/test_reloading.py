"""`quicdist run --reload` and `--exit-with-stdin`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quicdist.cli import reloading
from tests.cli.conftest import CALC, Command
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io


async def test_a_changed_file_is_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("")
    other.write_text("")
    waiting = asyncio.ensure_future(reloading.changed(reloading.times([one, other]), 0.001))
    os.utime(other, ns=(1, 1))  # before the first check
    assert await asyncio.wait_for(waiting, PATIENCE) == other


def test_what_is_watched(tmp_path: Path) -> None:
    assert not any("quicdist/cli" in str(path) for path in reloading.loaded_sources())
    error = SyntaxError("bad", (str(tmp_path / "broken.py"), 1, 1, ""))
    assert tmp_path / "broken.py" in reloading.failed_sources(error)


def test_run_restarts_with_the_changed_source(quicdist: Command) -> None:
    source = quicdist.home / "calc.py"
    source.write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--reload") as (name, process):
        assert process.stdout is not None
        assert quicdist("call", name, "calc:add(1, 2)").out == "3\n"
        source.write_text("def broken(:")
        assert process.stderr is not None
        assert any("waiting for a change" in line for line in process.stderr)
        source.write_text(CALC.replace("a + b", "a * b"))
        name = process.stdout.readline().split()[0]
        assert quicdist("call", name, "calc:add(3, 4)").out == "12\n"


def test_run_ends_with_its_standard_input(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    command = [sys.executable, "-m", "quicdist", "run", "0@127.0.0.1", "calc", "--exit-with-stdin"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=quicdist.environment,
        cwd=quicdist.home,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().split()[0]
        assert quicdist("ping", name).out == "pong\n"
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "is draining" in err
    assert "has stopped" in err
