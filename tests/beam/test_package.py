"""The application for Erlang and Elixir: its own tests, and no process that outlives the BEAM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.erlang import ERL, Erlang
from tests.support.ports import free_port, is_free
from tests.support.waiting import wait_until

pytestmark = pytest.mark.erlang

SOURCES = Path(__file__).parents[2] / "beam"
VENV = Path(sys.prefix)

needs_elixir = pytest.mark.skipif(
    shutil.which("mix") is None, reason="no Elixir: sudo apt-get install elixir"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the application."""
    copy = tmp_path_factory.mktemp("beam") / "quicdist"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("_build"))
    return copy


@pytest.fixture(scope="module")
def ebin(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Erlang modules and their tests."""
    out = tmp_path_factory.mktemp("ebin")
    sources = [*(project / "src").glob("*.erl"), *(project / "test").glob("*.erl")]
    subprocess.run(["erlc", "-Wall", "-Werror", "-o", out, *sources], check=True)
    shutil.copy(project / "src" / "quicdist.app.src", out / "quicdist.app")
    return out


def test_eunit(ebin: Path) -> None:
    run = "case eunit:test(quicdist_stream_tests) of ok -> halt(0); error -> halt(1) end."
    ran = subprocess.run(
        [ERL, "-noshell", "-pa", ebin, "-eval", run], capture_output=True, text=True, check=False
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
    assert " 0 failures" in ran.stdout


class Supervised:
    """A BEAM that has started a Python node."""

    def __init__(self, ebin: Path, served: Path, port: int) -> None:
        self.erlang = Erlang("-pa", str(ebin))
        name = f"{port}@127.0.0.1"
        answer = self.erlang.eval(
            f"""
            Options = #{{name => "{name}", modules => ["{served}"], venv => "{VENV}",
                        cookie => orphans}},
            Self = self(),
            spawn(fun() -> process_flag(trap_exit, true),
                           Self ! element(1, quicdist_python:start_link(Options)),
                           receive never -> ok end end),
            receive Started -> atom_to_binary(Started) after 60000 -> <<"timeout">> end.
            """
        )
        assert answer == b"ok"
        (self.python,) = _processes_with(name)


def _processes_with(text: str) -> list[int]:
    """The Python processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if text.encode() in line and b"python" in line[0]:
                found.append(int(entry.name))
    return found


@pytest.fixture
def supervised(ebin: Path, project: Path) -> Iterator[tuple[Supervised, int]]:
    port = free_port()
    started = Supervised(ebin, project / "test" / "served.py", port)
    yield started, port
    started.erlang.close()


def test_no_process_and_no_port_outlives_a_killed_beam(supervised: tuple[Supervised, int]) -> None:
    started, port = supervised
    started.erlang.kill()
    wait_until(lambda: not _is_alive(started.python) and is_free(port))


def test_a_python_that_does_not_react_is_killed_with_the_beam(
    supervised: tuple[Supervised, int],
) -> None:
    started, port = supervised
    os.kill(started.python, signal.SIGSTOP)
    started.erlang.kill()
    wait_until(lambda: not _is_alive(started.python) and is_free(port))


def test_nothing_is_left_when_both_are_killed(supervised: tuple[Supervised, int]) -> None:
    started, port = supervised
    os.kill(started.python, signal.SIGKILL)
    started.erlang.kill()
    wait_until(lambda: not _processes_with(f"{port}@127.0.0.1") and is_free(port))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
