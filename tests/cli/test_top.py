"""`quicdist top`, on a stock Erlang, in a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.cli.top import screen
from quicdist.cli.top.sampling import Figures, NoBeam, Process, Sample, Sort, _read
from quicdist.cli.top.watching import View
from quicdist.etf import Atom, Pid
from quicdist.gateway import PeerRules, Policy
from tests.cli.conftest import CALC, COOKIE, Command
from tests.cli.terminal import Terminal
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl, loopback_settings
from tests.support.waiting import PATIENCE

PEER = "5555@127.0.0.1"


@pytest.fixture
def busy(beam: tuple[str, Erlang]) -> Iterator[tuple[str, Erlang]]:
    """A node with a process of many messages, and one with control characters in its name."""
    name, erlang = beam
    erlang.eval(r"""
        Full = spawn(fun() -> receive stop -> ok end end),
        [Full ! N || N <- lists:seq(1, 3000)],
        register(top_full, Full),
        register('\e[31mtop_evil\n', spawn(fun F() -> receive stop -> ok after 1 -> F() end end)),
        [].
    """)
    yield name, erlang
    # The names must be free for the next test, and a process ends later than it is told to.
    erlang.eval(r"""
        [begin Process = whereis(Name), unregister(Name), Process ! stop end
         || Name <- [top_full, '\e[31mtop_evil\n']],
        [].
    """)


@contextlib.contextmanager
def top(quicdist: Command, *args: str, **env: str) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "quicdist", "top", *args]
    environment = {**quicdist.environment, **env}
    with Terminal(command, env=environment, cwd=quicdist.home) as terminal:
        yield terminal


# -- in a pipe ----------------------------------------------------------------------------------


@pytest.mark.erlang
def test_once(quicdist: Command, busy: tuple[str, Erlang]) -> None:
    name, _ = busy
    done = quicdist(
        "top",
        name,
        "--once",
        "--sort",
        "mailbox",
        "--rows",
        "3",
        "-i",
        "0.2",
        env={"COLUMNS": "160"},
    )
    assert (done.code, done.err) == (0, "")
    head, processes = done.out.split("PID")
    assert head.startswith(f"{name}  OTP ")
    for word in ("run queue", "memory", "connected to", "round trip", "lost"):
        assert word in head
    _, first, *others = processes.strip().splitlines()
    assert "top_full" in first
    assert " 3000 " in first
    assert len(others) == 2


@pytest.mark.erlang
def test_by_reductions_with_a_name_that_steers_terminals(
    quicdist: Command, busy: tuple[str, Erlang]
) -> None:
    name, _ = busy
    done = quicdist("top", name, "--once", "--rows", "100", "-i", "1")
    assert r"\e[31mtop_evil\n" in done.out
    assert "\x1b" not in done.out
    assert "erpc:execute_call" not in done.out, "the process that looks is not looked at"


@pytest.mark.erlang
def test_again_and_again(quicdist: Command, busy: tuple[str, Erlang]) -> None:
    name, _ = busy
    with quicdist.started("top", name, "-i", "0.1", "-n", "1") as process:
        assert process.stdout is not None
        heads = (line for line in process.stdout if line.startswith(name))
        assert next(heads)
        assert next(heads)


@pytest.mark.io
def test_a_python_node(quicdist: Command, calc: str) -> None:
    done = quicdist("top", calc, "--once", "-i", "0.1", env={"COLUMNS": "160"})
    assert (done.code, done.err) == (0, "")
    head, processes = done.out.split("PID")
    assert head.startswith(f"{calc}  Python 3.")
    for word in ("CPU", "running calls 1", "connected to 1 node", "connection: "):
        assert word in head
    assert "net_kernel" in processes
    assert "calc" in processes


@pytest.mark.io
def test_a_python_node_as_json(quicdist: Command, calc: str) -> None:
    done = quicdist("top", calc, "--once", "-i", "0.1", "--json")
    told = json.loads(done.out)
    assert told["kind"] == "python"
    assert told["calls"] == 1
    assert told["processes_count"] == len(told["processes"])
    assert "rex" in [one["name"] for one in told["processes"]]
    assert all(re.fullmatch(r"<0\.\d+\.\d+>", one["pid"]) for one in told["processes"])
    assert len(told["connections"]) == 1
    assert told["connection"]["carrier"] == told["connections"][0]["carrier"] == "quicdist/2"


@pytest.mark.erlang
def test_through_a_policy_it_needs_a_rule_that_the_error_names(quicdist: Command) -> None:
    needed = ("erl_scan:string", "erl_parse:parse_exprs", "erl_eval:exprs")
    for calls in (("lists:*",), needed):
        policy = Policy((PeerRules(nodes=("*",), calls=calls),))
        settings = replace(loopback_settings(), policy=policy)
        with GatewayThread(settings) as gateway, gatewayed_erl(gateway, cookie=COOKIE):
            done = quicdist("top", gateway.name, "--once")
            if calls == needed:
                assert done.code == 0
                assert "OTP" in done.out
            else:
                done.refused(1, str(list(needed)).replace("'", '"'))


@pytest.mark.io
def test_a_python_node_that_does_not_permit_it(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--calls", "*=calc:add") as (name, _):
        quicdist("top", name, "--once").refused(1, "does not permit quicdist:status")
        quicdist("exports", name).refused(1, "does not permit quicdist:exports")


@pytest.mark.erlang
def test_once_as_json(quicdist: Command, busy: tuple[str, Erlang]) -> None:
    name, _ = busy
    told = json.loads(quicdist("top", name, "--once", "-n", "3", "-i", "0.1", "--json").out)
    assert told["kind"] == "beam"
    assert told["memory"]["total"] > 0
    assert len(told["processes"]) == 3
    assert told["processes"][0]["pid"].startswith("<0.")


# -- on a terminal ------------------------------------------------------------------------------


@pytest.mark.erlang
def test_keys(quicdist: Command, busy: tuple[str, Erlang]) -> None:
    name, _ = busy
    with top(quicdist, name, "-i", "0.2") as terminal:
        shown = terminal.wait_for("NAME OR FIRST FUNCTION")
        assert "q quit" in shown
        terminal.press("b")
        terminal.wait_for(lambda text: "top_full" in text.split("FUNCTION")[1].split("\n")[1])
        terminal.press(" ")
        terminal.wait_for("paused")
        terminal.press(" ")
        terminal.wait_for(lambda text: "paused" not in text)
        assert terminal.end("q") == 0


@pytest.mark.erlang
def test_a_node_that_goes_and_comes_back(quicdist: Command) -> None:
    with GatewayThread() as gateway, contextlib.ExitStack() as stack:
        first = stack.enter_context(gatewayed_erl(gateway, cookie=COOKIE))
        with top(quicdist, gateway.name, "-i", "0.2", "--timeout", "20") as terminal:
            terminal.wait_for("net_kernel", 3 * PATIENCE)
            first.kill()
            terminal.wait_for("trying again", 3 * PATIENCE)
            stack.enter_context(gatewayed_erl(gateway, cookie=COOKIE))
            terminal.wait_for(
                lambda text: "connection: " in text and "trying again" not in text, 3 * PATIENCE
            )
            assert terminal.end("\x03") == 0


@pytest.mark.io
def test_without_the_library(quicdist: Command, calc: str, tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text(
        "raise ModuleNotFoundError('gone', name='prompt_toolkit')"
    )
    with top(quicdist, calc, PYTHONPATH=str(tmp_path)) as terminal:
        assert terminal.end() == 5
    assert "needs prompt_toolkit" in terminal.text


# -- output -------------------------------------------------------------------------------------


def sample(**changes: Any) -> Sample:
    figures: dict[str, Any] = {
        "release": "25",
        "schedulers": 2,
        "uptime": 1000,
        "processes": 1,
        "process_limit": 9,
        "ports": 1,
        "atoms": 1,
        "run_queue": 0,
        "bytes_in": 1,
        "bytes_out": 1,
        "memory": [(Atom("total"), 1)],
        "nodes": [],
    }
    rows = changes.pop("rows", [])
    return Sample(Figures(**{**figures, **changes}), 1, 1.0, 0.0, rows)


@given(
    st.text(max_size=60), st.text(max_size=20), st.integers(min_value=1, max_value=200), st.data()
)
def test_whatever_a_node_says_stays_within_its_lines(
    text: str, node: str, width: int, data: st.DataObject
) -> None:
    numbers = st.integers(min_value=0, max_value=1 << 80)
    told = [(Atom("registered_name"), Atom(text)), (Atom("current_function"), text)]
    reductions, memory, mailbox = (data.draw(numbers) for _ in range(3))
    pid = Pid(Atom(node), 1, 2, 3)
    row = Process(pid, reductions, memory, mailbox, Atom(text), told)
    seen = sample(rows=[row], release=text, nodes=[Atom(node)], memory=[(Atom(text), 5)])
    view = View(PEER, Sort.MEMORY, 2.0, sample=seen, problem=text)
    for line in screen.lines(view, width):
        shown = "".join(part for _, part in line)
        assert shown.isprintable()
        assert sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown) <= (
            width + sum(map(bool, map(unicodedata.combining, shown)))
        )


@pytest.mark.parametrize(
    "answer", [None, 5, (), (Atom("value"), (), []), (Atom("value"), ([], 1, 2, 3, []), [])]
)
def test_what_no_beam_answers(answer: Any) -> None:
    with pytest.raises(NoBeam, match="unexpected term"):
        _read(PEER, answer)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (999.6, "1.0k"), (12_345, "12.3k"), (4.5e6, "4.5M"), (2e15, "2.0P")],
)
def test_amounts(number: float, shown: str) -> None:
    assert screen.amount(number) == shown
