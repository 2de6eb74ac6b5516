"""Runs the real command in a separate process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.erlang import Erlang, erlang_available
from tests.support.gatewayed import GatewayThread, gatewayed_erl
from tests.support.named import RealEpmd, named_erl
from tests.support.waiting import PATIENCE

COOKIE = "cli-cookie"

CALC = """
import quicdist

@quicdist.export
def add(a, b):
    return a + b

@quicdist.export
def all_of(*items):
    return set(items)

@quicdist.export
async def divide(a, b):
    return a / b
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """Checks the exit code, and that stderr is one line with these words, not a traceback."""
        assert self.code == code, self
        assert self.err.startswith("quicdist: "), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, self


class Command:
    """The `quicdist` command with a separate home directory."""

    def __init__(self, home: Path, cookie: str | None = COOKIE) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if "QUICDIST" not in name}
        self.environment = {
            **kept,
            "HOME": str(home),
            "QUICDIST_STATE_DIR": str(home / "state"),
            "PYTHONIOENCODING": "utf-8",
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "TERM": "dumb",
        }
        self.environment.pop("ERL_EPMD_PORT", None)
        if cookie is not None:
            self.environment["QUICDIST_COOKIE"] = cookie

    def __call__(self, *args: str, env: Mapping[str, str] | None = None) -> Result:
        """Runs the command until it exits."""
        done = subprocess.run(
            [sys.executable, "-m", "quicdist", *args],
            capture_output=True,
            encoding="utf-8",
            env={**self.environment, **(env or {})},
            cwd=self.home,
            timeout=PATIENCE,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """Runs the command in the background; kills it at the end of the test if it is running."""
        with subprocess.Popen(
            [sys.executable, "-m", "quicdist", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=self.environment,
            cwd=self.home,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def node(self, *args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        """Starts `run` or `listen` and yields its node name and process."""
        with self.started(*args) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            name = json.loads(line)["node"] if line.startswith("{") else line.split(" ")[0]
            if not line.endswith(" is up\n") and '"status": "up"' not in line:
                process.kill()
                raise AssertionError(f"{line!r} {process.stderr and process.stderr.read()}")
            yield name, process


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> Result:
    """Stops the command and returns its remaining output."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return Result(process.returncode, out, err)


@pytest.fixture
def quicdist(tmp_path: Path) -> Command:
    """The command, with a cookie in its environment."""
    return Command(tmp_path)


@pytest.fixture(scope="module")
def calc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a node that serves the module calc."""
    home = tmp_path_factory.mktemp("calc")
    (home / "calc.py").write_text(CALC)
    with Command(home).node("run", "0@127.0.0.1", "calc.py") as (name, _):
        yield name


@pytest.fixture(scope="module")
def beam() -> Iterator[tuple[str, Erlang]]:
    """A stock Erlang node behind a gateway: its name and the process."""
    if not erlang_available():
        pytest.skip("no Erlang on the PATH: sudo apt-get install erlang-base")
    with GatewayThread() as gateway, gatewayed_erl(gateway, cookie=COOKIE) as erlang:
        yield gateway.name, erlang


@pytest.fixture(scope="session")
def named_beam() -> Iterator[tuple[str, int]]:
    """A stock node on TCP, and the port of its EPMD."""
    if not erlang_available():
        pytest.skip("no Erlang on the PATH: sudo apt-get install erlang-base")
    name = "stock@localhost"
    with RealEpmd() as epmd, named_erl(name, epmd, cookie=COOKIE, form="-sname"):
        yield name, epmd.port
