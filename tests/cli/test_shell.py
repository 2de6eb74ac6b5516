"""`quicdist shell` on a terminal and with a pipe as input."""

from __future__ import annotations

import contextlib
import io
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import Atom
from quicdist.cli.exit_codes import Problem
from quicdist.cli.remote_output import RemoteOutput
from quicdist.cli.shell.names import _functions, _modules
from quicdist.cli.shell.session import Session
from quicdist.etf.notation import parse_call
from tests.cli.conftest import Command, Result
from tests.cli.terminal import Terminal
from tests.support.erlang import Erlang
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE


def given_to(quicdist: Command, name: str, typed: str, *args: str) -> Result:
    """Runs the shell with this standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "quicdist", "shell", name, *args],
        input=typed,
        capture_output=True,
        encoding="utf-8",
        env=quicdist.environment,
        cwd=quicdist.home,
        timeout=PATIENCE,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def shell(quicdist: Command, name: str, **env: str) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "quicdist", "shell", name]
    environment = {**quicdist.environment, **env}
    with Terminal(command, env=environment, cwd=quicdist.home) as terminal:
        yield terminal


# -- in a pipe ----------------------------------------------------------------------------------


@pytest.mark.io
def test_a_script(quicdist: Command, calc: str) -> None:
    script = "% add\ncalc:add(1, 2).\n\ncalc:add(\n  [a],  % a list\n  [b])\ncalc:divide(1, 2)"
    done = given_to(quicdist, calc, script)
    assert (done.code, done.out, done.err) == (0, "3\n[a,b]\n0.5\n", "")


@pytest.mark.io
def test_a_script_ends_where_it_fails(quicdist: Command, calc: str) -> None:
    done = given_to(quicdist, calc, "calc:add(1, 2)\ncalc:divide(1, 0)\ncalc:add(3, 4)\n")
    assert done.out == "3\n"
    done.refused(1, "line 2", "ZeroDivisionError")
    given_to(quicdist, calc, "calc add").refused(2, "line 1", 'expected ":"', "M:F(Arguments)")
    given_to(quicdist, calc, "calc:add(1,\n2").refused(2, "line 2", "incomplete call")


@pytest.mark.erlang
def test_a_script_on_erlang(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    script = """
        io:format("~p~n", [x])
        io:format("amid ")
        io:format("two~nlines")
        erlang:whereis(init)
        erlang:is_process_alive(<0.0.0>)
    """
    done = given_to(quicdist, name, script)
    said = "x\nok\namid \nok\ntwo\nlines\nok\n<0.0.0>\ntrue\n"
    assert (done.code, done.out, done.err) == (0, said, "")
    done = given_to(quicdist, name, "timer:sleep(60000).", "--timeout", "1")
    done.refused(6, "within 1 s")


@pytest.mark.io
def test_a_silent_pipe_holds_up_nobody(quicdist: Command, calc: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "quicdist", "shell", calc],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=quicdist.environment,
        cwd=quicdist.home,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"calc:add(1, 2)\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"3\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


# -- on a terminal ------------------------------------------------------------------------------


@pytest.mark.erlang
def test_typed(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    with shell(quicdist, name) as terminal:
        terminal.wait_for(f"{name}>")
        terminal.press("lis\t")
        terminal.wait_for("> lists:")
        terminal.press("keys\t")
        terminal.wait_for(lambda text: "keysearch/3" in text and "keysort/2" in text)
        terminal.press("o\t")
        terminal.wait_for("> lists:keysort(")
        terminal.press("1, [{b},\r")
        terminal.wait_for("\n...")
        terminal.press("{a}])\r")
        terminal.wait_for("[{a},{b}]")
        terminal.press("lists:nth(0, [a]).\r")
        terminal.wait_for("in lists:nth(0, [a]) (lists.erl, line")
        # Ctrl-C discards input that is typed before the prompt.
        terminal.wait_for(lambda text: text.rstrip().endswith(f"{name}>"))
        terminal.press("timer:sleep(infinity).\r")
        terminal.wait_for("timer:sleep(infinity).")
        terminal.press_until("\x03", "cancelled")
        terminal.press("erlang:node().\r")
        terminal.wait_for(f"'{name}'")
        assert terminal.end("\x04") == 0


@pytest.mark.erlang
def test_what_a_process_prints_that_nobody_waits_for(
    quicdist: Command, beam: tuple[str, Erlang]
) -> None:
    """Output is shown above the prompt, with and without a line break at its end."""
    name, erlang = beam
    script = quicdist.home / "later.script"
    script.write_text('register(later, self()), receive go -> io:put_chars("by the way") end.')
    with shell(quicdist, name) as terminal:
        terminal.wait_for(f"{name}>")
        terminal.press(f'erlang:spawn(file, eval, ["{script}"]).\r')
        terminal.wait_for(
            lambda text: text.count(f"{name}>") == 2 and text.rstrip().endswith(f"{name}>")
        )
        erlang.eval("""(fun F() -> case whereis(later) of
            undefined -> timer:sleep(10), F(); Pid -> Pid ! go, [] end end)().""")
        terminal.wait_for("\nby the way\n")
        terminal.press("erlang:node().\r")
        terminal.wait_for(f"> erlang:node().\n'{name}'")
        assert terminal.end("\x04") == 0


@pytest.mark.io
def test_history(quicdist: Command, calc: str) -> None:
    with shell(quicdist, calc) as terminal:
        terminal.wait_for(f"{calc}>")
        terminal.press("calc:add(20, 3).\r")
        terminal.wait_for("23")
        assert terminal.end("\x04") == 0
    kept = quicdist.home / "state" / "shell_history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with shell(quicdist, calc) as terminal:
        terminal.wait_for(f"{calc}>")
        terminal.press("\x1b[A")
        terminal.wait_for("calc:add(20, 3).")
        terminal.press("\r")
        terminal.wait_for("23\n")
        assert terminal.end("\x04") == 0


@pytest.mark.io
def test_a_node_that_goes_and_comes_back(quicdist: Command) -> None:
    name = f"{free_port()}@127.0.0.1"
    (quicdist.home / "one.py").write_text("import quicdist\n@quicdist.export\ndef it(): return 1\n")
    with contextlib.ExitStack() as stack:
        _, process = stack.enter_context(quicdist.node("run", name, "one.py"))
        with shell(quicdist, name) as terminal:
            terminal.wait_for(f"{name}>")
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
            terminal.press("one:it().\r")
            terminal.wait_for("** no connection")
            stack.enter_context(quicdist.node("run", name, "one.py"))
            terminal.press("one:it().\r")
            terminal.wait_for(lambda text: "\n1\n" in text)


@pytest.mark.io
def test_without_the_library(quicdist: Command, calc: str, tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text(
        "raise ModuleNotFoundError('gone', name='prompt_toolkit')"
    )
    with shell(quicdist, calc, PYTHONPATH=str(tmp_path)) as terminal:
        assert terminal.end() == 5
    assert "needs prompt_toolkit" in terminal.text


# -- input --------------------------------------------------------------------------------------


class Nobody:
    """A node on which no call is made."""


@pytest.fixture
def session() -> Session:
    return Session(Nobody(), "5555@127.0.0.1", None, RemoteOutput(io.StringIO))  # type: ignore[arg-type]


def test_lines_become_a_call(session: Session) -> None:
    assert session.take("  % nothing") is None
    assert not session.is_amid_a_call
    assert session.take("lists:seq(1,") is None
    assert session.is_amid_a_call
    assert session.take("3)") == "lists:seq(1,\n3)\n"
    assert not session.is_amid_a_call
    assert session.take("lists:seq(1,") is None
    session.forget()
    assert session.take("m:f().") == "m:f().\n"


@pytest.mark.parametrize("line", ["lists:seq(1,.", "lists", "f(1)", "X = 1.", "m:f(X)", "m:f() g"])
def test_what_is_no_call(session: Session, line: str) -> None:
    if line == "lists":  # a colon may follow
        assert session.take(line) is None
        return
    with pytest.raises(Problem, match=r"expected M:F\(Arguments\)"):
        session.take(line)
    assert not session.is_amid_a_call


def test_what_may_have_been_meant() -> None:
    loaded = [Atom("lists"), Atom("Elixir.List"), Atom("Elixir.Line.Break"), Atom("Lisp"), 5]
    assert [one.text for one in _modules(loaded, "lis", 3)] == ["lists:"]
    assert [one.text for one in _modules(loaded, "Lis", 3)] == ["'Elixir.List':", "'Lisp':"]
    exports = [(Atom("seq"), 3), (Atom("seq"), 2), (Atom("self"), 0), Atom("junk")]
    found = [(one.text, one.shown) for one in _functions(exports, "se", 2)]
    assert found == [("self()", "self/0"), ("seq(", "seq/2,3")]


@given(st.text(max_size=50), st.text(max_size=50))
def test_whatever_a_module_is_called(module: str, function: str) -> None:
    """The completion is shown without control characters, and inserts the exact name."""
    (found,) = _modules([Atom(module)], "", 0)
    (export,) = _functions([(Atom(function), 0)], "", 0)
    assert (found.text + export.text).isprintable()
    assert parse_call(found.text + export.text) == (module, function, [])
