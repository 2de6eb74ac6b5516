"""The output of --help contains the docstrings of the commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer

from quicdist.cli import app

rich_text = pytest.importorskip("rich.text", reason="without rich, help is shown as it is written")


def test_no_help_text_has_brackets_that_are_taken_for_markup() -> None:
    texts = list(_help_texts(typer.main.get_command(app)))
    assert len(texts) > 50
    for text in texts:
        assert rich_text.Text.from_markup(text).plain == text


def test_every_command_that_connects_takes_the_options_of_security() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {
        name: {spelled for parameter in command.params for spelled in parameter.opts}
        for name, command in commands.items()
    }
    connecting = {name for name, own in options.items() if {"--cookie", "--lookup"} <= own}
    assert {"call", "exports", "ping", "send", "top"} <= connecting
    needed = {"--ca", "--cert", "--key", "--key-passphrase-file", "--cookie-file", "--crl"}
    assert {
        name: needed - options[name] for name in connecting if not needed <= options[name]
    } == {}


def _help_texts(command: object) -> Iterator[str]:
    yield getattr(command, "help", None) or ""
    for parameter in getattr(command, "params", ()):
        yield getattr(parameter, "help", None) or ""
    for below in getattr(command, "commands", {}).values():
        yield from _help_texts(below)
