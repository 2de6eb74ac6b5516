"""No process and no port outlives a supervised Python node, in whatever order things end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from quicdist import Node
from quicdist.blocking import BlockingNode
from tests.support.erlang import Erlang
from tests.support.ports import free_port, is_free
from tests.support.waiting import wait_until

pytestmark = pytest.mark.erlang

VENV = Path(sys.prefix)

DRAINING = """
import asyncio
import logging
from pathlib import Path

from quicdist import export

HERE = Path(__file__).parent


class Note(logging.Handler):
    def emit(self, record):
        if getattr(record, "event", "") == "node_draining":
            (HERE / "draining").touch()


logging.getLogger("quicdist.node").addHandler(Note())


@export
async def wait():
    (HERE / "running").touch()
    await asyncio.Event().wait()
"""
"""A function that does not return, so that a drain does not end."""

STARTING = """
import time
from pathlib import Path

(Path(__file__).parent / "importing").touch()
time.sleep(3600)
"""
"""A module whose import does not end, so that the node does not start."""

MANAGING = {"erl", "beam.smp", "erl_child_setup", "inet_gethost"}
"""Programs of a BEAM. The others are those that it started."""

UV = Path(sys.prefix) / "bin" / "uv"


class Supervised:
    """A BEAM that starts a Python node under a supervisor.

    Every process that descends from it has the node's name in its environment.
    """

    def __init__(
        self, erlang_ebin: Path, tmp_path: Path, modules: Path, launcher: str, intensity: int
    ) -> None:
        self.port = free_port()
        self.name = f"{self.port}@127.0.0.1"
        environment = {"QUICDIST_STATE_DIR": str(tmp_path), "OWNED_BY": self.name}
        if launcher == "uv":
            environment |= project_of_uv(tmp_path)
            where = f'uv => "{tmp_path}"'
        else:
            where = f'venv => "{VENV}"'
        self.erlang = Erlang("-pa", str(erlang_ebin), env=environment)
        self.erlang.eval(
            f"""
            Options = #{{name => "{self.name}", modules => ["{modules}"], {where},
                        cookie => orphans, shutdown => 3000, ready_timeout => 600000}},
            Child = quicdist_python:child_spec(Options),
            register(owner, spawn(fun() ->
                Flags = #{{intensity => {intensity}, period => 600}},
                Supervisor = quicdist_test_sup:start(Flags, []),
                register(python_supervisor, Supervisor),
                supervisor:start_child(Supervisor, Child),
                receive never -> ok end
            end)),
            <<>>.
            """
        )

    def python(self) -> list[int]:
        """The processes that run Python."""
        return [pid for pid, command in self._owned() if "python" in Path(command).name]

    def others(self) -> list[int]:
        """The processes that the BEAM has started."""
        return [pid for pid, command in self._owned() if Path(command).name not in MANAGING]

    def _owned(self) -> list[tuple[int, str]]:
        """The ids and programs of all processes that descend from the BEAM."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    program = os.readlink(entry / "exe")
                except OSError:
                    continue
                if f"OWNED_BY={self.name}".encode() in variables:
                    found.append((int(entry.name), program))
        return found

    def is_up(self) -> bool:
        """Whether the child of the supervisor has started."""
        answer = self.erlang.eval(
            "try supervisor:count_children(python_supervisor) of "
            "Counts -> integer_to_binary(proplists:get_value(active, Counts)) "
            "catch exit:_ -> <<>> end."
        )
        return answer == b"1"

    def has_given_up(self) -> bool:
        """Whether the supervisor has ended."""
        source = "atom_to_binary(whereis(python_supervisor) =:= undefined)."
        return self.erlang.eval(source) == b"true"

    def drain(self) -> None:
        """Begins to end the node."""
        end = f'supervisor:terminate_child(python_supervisor, "{self.name}")'
        self.erlang.eval(f"spawn(fun() -> {end} end), <<>>.")


def project_of_uv(folder: Path) -> dict[str, str]:
    """Makes a project whose environment is that of the tests. Returns variables for uv."""
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "served"\nversion = "1"\nrequires-python = ">=3.11"\n', "utf-8"
    )
    (folder / ".venv").symlink_to(sys.prefix)
    path = f"{UV.parent}:{os.environ['PATH']}"
    return {"UV_NO_SYNC": "1", "UV_OFFLINE": "1", "UV_NO_CONFIG": "1", "PATH": path}


class Start(Protocol):
    """Starts a node that serves a file, which is given with its path or its text."""

    def __call__(self, modules: Path | str, *, intensity: int = 0) -> Supervised: ...


@pytest.fixture(params=["venv", pytest.param("uv", marks=pytest.mark.slow)])
def start(
    request: pytest.FixtureRequest, erlang_ebin: Path, project: Path, tmp_path: Path
) -> Iterator[Start]:
    if request.param == "uv" and not UV.exists():
        pytest.skip("no uv: pip install uv")
    started = []

    def supervised(modules: Path | str, *, intensity: int = 0) -> Supervised:
        if isinstance(modules, str):
            source, modules = modules, tmp_path / "served_here.py"
            modules.write_text(source, "utf-8")
        started.append(Supervised(erlang_ebin, tmp_path, modules, request.param, intensity))
        return started[-1]

    yield supervised
    for each in started:
        each.erlang.close()


def stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)


def kill(*processes: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_the_beam(it: Supervised) -> None:
    kill(it.erlang.os_pid)


def kill_the_beam_then_python(it: Supervised) -> None:
    kill(it.erlang.os_pid, *it.python())


def kill_python_then_the_beam(it: Supervised) -> None:
    kill(*it.python(), it.erlang.os_pid)


def kill_the_beam_of_a_python_that_does_not_react(it: Supervised) -> None:
    for python in it.python():
        stop(python)
    kill(it.erlang.os_pid)


def kill_python_of_a_beam_that_does_not_react(it: Supervised) -> None:
    stop(it.erlang.os_pid)
    kill(*it.python())
    kill(it.erlang.os_pid)


DEATHS = [
    kill_the_beam,
    kill_the_beam_then_python,
    kill_python_then_the_beam,
    kill_the_beam_of_a_python_that_does_not_react,
    kill_python_of_a_beam_that_does_not_react,
]
each_death = pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.__name__)
Death = Callable[[Supervised], None]


def is_nothing_left(it: Supervised) -> None:
    wait_until(lambda: not it.others())
    wait_until(lambda: is_free(it.port))


@each_death
def test_nothing_outlives_a_running_node(death: Death, start: Start, project: Path) -> None:
    it = start(project / "test" / "served.py")
    wait_until(it.is_up)
    death(it)
    is_nothing_left(it)


@each_death
def test_nothing_outlives_a_node_that_starts(death: Death, start: Start, tmp_path: Path) -> None:
    it = start(STARTING)
    wait_until((tmp_path / "importing").exists)
    death(it)
    is_nothing_left(it)


@each_death
def test_nothing_outlives_a_node_that_drains(death: Death, start: Start, tmp_path: Path) -> None:
    it = start(DRAINING)
    wait_until(it.is_up)
    with BlockingNode(Node("0@127.0.0.1", cookie="orphans")) as caller:
        caller.cast(it.name, "served_here", "wait", [])
        wait_until((tmp_path / "running").exists)
        it.drain()
        wait_until((tmp_path / "draining").exists)
        death(it)
        is_nothing_left(it)


def test_nothing_is_left_when_the_supervisor_gives_up(start: Start, project: Path) -> None:
    """Its restart intensity is reached with the first crash."""
    it = start(project / "test" / "served.py")
    wait_until(it.is_up)
    kill(*it.python())
    wait_until(it.has_given_up)
    is_nothing_left(it)


def test_a_supervisor_that_gives_up_ends_a_node_that_does_not_react(
    start: Start, project: Path
) -> None:
    it = start(project / "test" / "served.py")
    wait_until(it.is_up)
    for python in it.python():
        stop(python)
    it.erlang.eval("exit(whereis(python_supervisor), kill), <<>>.")
    wait_until(it.has_given_up)
    is_nothing_left(it)


def test_a_node_that_is_killed_is_restarted_under_its_name(start: Start, project: Path) -> None:
    it = start(project / "test" / "served.py", intensity=1)
    wait_until(it.is_up)
    first = it.python()
    kill(*first)
    wait_until(lambda: it.is_up() and it.python() and not set(first) & set(it.python()))
    kill(it.erlang.os_pid)
    is_nothing_left(it)
