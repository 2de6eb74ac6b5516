"""The log as a program reads it: events with fields, each of them documented."""

from __future__ import annotations

import ast
import json
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import quicdist
from quicdist import NoConnection
from quicdist.cli.jsonlog import JsonFormatter
from quicdist.cli.sanitize import SanitizingFormatter
from quicdist.log_escaping import LOGGERS, LogEscaping
from tests.node.memory import Hub
from tests.node.test_two_nodes import make
from tests.support.waiting import until

PAGE = (Path(__file__).parents[1] / "docs" / "watching.md").read_text()
SOURCES = [ast.parse(path.read_text()) for path in Path(quicdist.__file__).parent.rglob("*.py")]
DOCUMENTED_FIELDS = set(re.findall(r"`(\w+)`", PAGE.partition("A record also has")[2][:600]))
OF_EVERY_RECORD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def events(tree: ast.AST) -> Iterator[str]:
    """Returns the events that a module logs, from its source."""
    for node in ast.walk(tree):
        named: list[ast.expr] = []
        if isinstance(node, ast.Dict):
            named = [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "event"
            ]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = node.args[:1] if node.func.attr in ("fields", "_fields") else []
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp):
            is_event = [isinstance(t, ast.Name) and t.id == "event" for t in node.targets]
            named = [node.value.body, node.value.orelse] if all(is_event) else []
        for value in named:
            if isinstance(value, ast.Constant):
                yield str(value.value)


def loggers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
            yield ast.unparse(node.args[0]).strip("'")


def test_the_page_names_every_event() -> None:
    logged = {event for tree in SOURCES for event in events(tree)}
    table = PAGE.partition("| event |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    documented = {event for row in rows for event in re.findall(r"`(\w+)`", row)}
    assert logged == documented


def test_the_page_names_every_logger() -> None:
    ours = {name for tree in SOURCES for name in loggers(tree) if name.startswith("quicdist.")}
    assert ours == set(re.findall(r"^\| `(quicdist\.\w+)`", PAGE, re.MULTILINE))


def test_a_line_stays_one_whatever_a_peer_put_in_it(caplog: pytest.LogCaptureFixture) -> None:
    """A peer can choose data that appears in a log line, but cannot forge further lines."""
    logger = logging.getLogger("quicdist.node")
    logger.warning("%s is refused", "a@b\n12:00:00 INFO root is up\x1b[2J\u202e")
    assert caplog.messages == [r"a@b\n12:00:00 INFO root is up\x1b[2J\u202e is refused"]


FORGED = "x\n12:00:00 INFO root is up\x1b[2J"


def failed() -> BaseException:
    """An exception with foreign text in each place that a traceback shows."""
    try:
        try:
            raise KeyError(FORGED)
        except KeyError:
            error = ExceptionGroup(FORGED, [ValueError(FORGED), OSError(2, FORGED, FORGED)])
            error.add_note(FORGED)
            raise error from RuntimeError(FORGED)
    except ExceptionGroup as group:
        return group


@pytest.mark.parametrize(
    "formatter", [logging.Formatter("%(message)s"), JsonFormatter(), SanitizingFormatter()]
)
def test_a_traceback_contains_no_line_of_a_peer(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"name": "quicdist.node", "msg": "failed", "args": ()})
    error = failed()
    record.exc_info = (type(error), error, error.__traceback__)
    assert logging.getLogger("quicdist.node").filter(record)
    shown = formatter.format(record)
    text = json.loads(shown)["traceback"] if isinstance(formatter, JsonFormatter) else shown
    assert "\x1b" not in text
    lines = text.split("\n")
    assert not any(line.strip(" |").startswith("12:00:00") for line in lines)
    assert sum(r"INFO root is up\x1b[2J" in line for line in lines) == 5
    assert any(line.strip(" |").startswith("File") for line in lines)
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in shown


def test_an_ordinary_traceback_looks_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("quicdist.node")
    try:
        raise ValueError("text")
    except ValueError as error:
        logger.exception("failed")
        expected = "".join(traceback.format_exception(error)).rstrip("\n")
    assert caplog.records[0].exc_text == expected


def test_every_logger_keeps_lines_one() -> None:
    ours = {name for tree in SOURCES for name in loggers(tree) if name.startswith("quicdist.")}
    assert ours - {"quicdist.io", "quicdist.cli"} == set(LOGGERS)
    for name in LOGGERS:
        assert any(isinstance(one, LogEscaping) for one in logging.getLogger(name).filters)


async def test_a_connection_is_an_event_with_fields_at_both_its_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "quicdist")
    hub = Hub()
    async with make(hub) as one, make(hub) as two, make(hub, cookie="other") as stranger:
        await one.connect(two.name)
        one.disconnect(two.name)
        await until(lambda: not two.nodes())
        with pytest.raises(NoConnection):
            await stranger.connect(two.name)
    fields = [vars(record) for record in caplog.records if record.name == "quicdist.node"]
    assert all("event" in each for each in fields)
    up = [(f["node"], f["peer"], f["role"]) for f in fields if f["event"] == "peer_up"]
    assert sorted(up) == [(one.name, two.name, "dialer"), (two.name, one.name, "listener")]
    down = {(f["node"], f["ending"]) for f in fields if f["event"] == "peer_down"}
    assert down == {(one.name, "left"), (two.name, "lost")}
    refused = {(f["node"], f["peer"], f["ending"]) for f in fields if f["event"] == "peer_refused"}
    assert refused == {(two.name, stranger.name, "cookie")}
    assert {key for each in fields for key in each} - OF_EVERY_RECORD <= DOCUMENTED_FIELDS


def test_no_field_has_a_name_that_logging_refuses() -> None:
    assert {"event", "pid", "reason"} <= DOCUMENTED_FIELDS
    assert not DOCUMENTED_FIELDS & OF_EVERY_RECORD


def test_a_line_for_programs_is_one_object_whatever_a_peer_put_in_it() -> None:
    record = logging.makeLogRecord(
        {"name": "quicdist.node", "levelno": 30, "levelname": "WARNING", "msg": "%s is down"}
    )
    record.args = ("a\nb\x1b[2J@c",)
    record.event, record.peer, record.reason = "peer_down", "a\nb\x1b[2J@c", Hub
    line = JsonFormatter().format(record)
    assert line.isprintable()
    shown = json.loads(line)
    assert (shown["level"], shown["logger"]) == ("warning", "quicdist.node")
    assert (shown["event"], shown["peer"]) == ("peer_down", "a\nb\x1b[2J@c")
