"""Output for programs: --json, --quiet, --log-json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from hypothesis import given

from quicdist.cli import app
from quicdist.cli.json_output import json_value
from quicdist.etf import Atom, Pid, Term
from tests.cli.conftest import CALC, Command, end
from tests.etf.strategies import terms
from tests.support.ports import free_port


@given(terms)
def test_every_term_has_a_json_value(term: Term) -> None:
    json.dumps(json_value(term), allow_nan=False)


def test_values() -> None:
    term = {
        Atom("ok"): (1, b"text", b"\xff", 1.5, True, Atom("undefined")),
        b"pid": Pid(Atom("a@b"), 1, 0, 2),
        (1,): [],
    }
    assert json_value(term, "a@b") == {
        "ok": [1, "text", '<<"\u00ff">>', 1.5, True, None],
        "pid": "<0.1.0>",
        "{1}": [],
    }


@pytest.mark.io
def test_exports(quicdist: Command, calc: str) -> None:
    done = quicdist("exports", calc)
    assert done.out.splitlines() == ["calc:add/2", "calc:all_of/0..", "calc:divide/2"]
    told = json.loads(quicdist("exports", calc, "--json").out)
    assert told["node"] == calc
    assert told["exports"][1] == {
        "module": "calc",
        "function": "all_of",
        "min_arity": 0,
        "max_arity": None,
        "doc": "",
    }


@pytest.mark.io
def test_exports_are_those_that_the_caller_may_call(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    calls = ("--calls", "*=calc:add", "--calls", "*=quicdist:exports")
    with quicdist.node("run", "0@127.0.0.1", "calc", *calls) as (name, _):
        assert quicdist("exports", name).out == "calc:add/2\n"


@pytest.mark.io
def test_ping_and_call(quicdist: Command, calc: str) -> None:
    told = json.loads(quicdist("ping", calc, "--json").out)
    assert (told["node"], told["answer"], told["reason"]) == (calc, "pong", None)
    assert told["round_trip_ms"] > 0
    assert quicdist("ping", calc, "--quiet").out == ""
    told = json.loads(quicdist("call", calc, "calc:add(1, 2)", "--json").out)
    assert told == {"node": calc, "result": "3", "value": 3}
    nobody = f"{free_port()}@127.0.0.1"
    done = quicdist("ping", nobody, "--json", "--timeout", "0.5")
    assert done.code == 3
    assert json.loads(done.out)["answer"] == "pang"


@pytest.mark.io
def test_all_lines_are_json(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--log-json") as (_, process):
        done = end(process)
        assert all(json.loads(line) for line in (done.out + done.err).splitlines())
    wrong = quicdist("run", "0@127.0.0.1", "nothing_here", "--log-json")
    assert (wrong.code, wrong.out) == (2, "")
    assert json.loads(wrong.err)["level"] == "error"


NOISY = """
import gc, threading, warnings
from quicdist import export

class Noisy:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail():
    raise ValueError("in a thread")

@export
def noise():
    warnings.warn("deprecated")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Noisy()
    gc.collect()
"""


@pytest.mark.io
def test_warnings_and_uncaught_exceptions_are_json(quicdist: Command) -> None:
    (quicdist.home / "noisy.py").write_text(NOISY)
    with quicdist.node("run", "0@127.0.0.1", "noisy", "--log-json") as (name, process):
        assert quicdist("call", name, "noisy:noise()").code == 0
        records = [json.loads(line) for line in end(process).err.splitlines()]
    texts = [one["text"] for one in records if one.get("event") == "uncaught"]
    assert texts == ["uncaught ValueError: in a thread", "uncaught ValueError: in a finalizer"]
    (warning,) = [one["text"] for one in records if one["logger"] == "py.warnings"]
    assert "UserWarning: deprecated" in warning


@pytest.mark.io
def test_listen(quicdist: Command) -> None:
    with quicdist.node("listen", "0@127.0.0.1", "--json", "-n", "1") as (name, process):
        assert quicdist("send", name, "quicdist", "{hello, 1}").code == 0
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told == {"status": "message", "message": "{hello,1}", "value": ["hello", 1]}


@pytest.mark.io
def test_quiet(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.started("run", "0@127.0.0.1", "calc", "--quiet", "--exit-with-stdin") as process:
        out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.io
def test_a_confirmation_is_quiet(quicdist: Command) -> None:
    fingerprint = "sha256:" + "0" * 64
    accepted = quicdist("cert", "accept", "5@127.0.0.1", fingerprint, "--quiet")
    forgotten = quicdist("cert", "forget", "5@127.0.0.1", "--quiet")
    assert (accepted.code, accepted.out) == (forgotten.code, forgotten.out) == (0, "")


def test_only_commands_without_data_have_no_json() -> None:
    def without(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        for name, one in getattr(command, "commands", {}).items():
            yield from without(one, (*path, name))
        options = {option for parameter in command.params for option in parameter.opts}
        if not hasattr(command, "commands") and "--json" not in options:
            yield " ".join(path)

    found = set(without(typer.main.get_command(app)))
    assert found == {"demo", "disconnect", "run", "send", "shell"}


@pytest.mark.io
def test_what_the_certificate_commands_write(quicdist: Command) -> None:
    def told(*words: str) -> dict[str, Any]:
        done = quicdist("cert", *words, "--json")
        assert (done.code, done.out.count("\n")) == (0, 1), done
        found: dict[str, Any] = json.loads(done.out)
        return found

    node, certificate = "5@127.0.0.1", ["certificate", "subject", "issuer", "good_for", "from"]
    certificate += ["until", "fingerprint"]
    made = told("make", "127.0.0.1")
    assert list(made) == ["certificates", "key"]
    assert list(made["certificates"][0]) == certificate
    assert list(told("ca")) == [*certificate, "key", "list", "revoked"]
    issued = told("issue", node)
    assert list(issued) == certificate
    assert issued["good_for"] == [node, "127.0.0.1"]
    assert told("revoke", issued["certificate"])["revoked"] == 1
    fingerprint = told("rotate")["fingerprint"]
    assert told("accept", node, fingerprint)["accepted"] == node
    assert told("forget", node)["forgotten"] == node
