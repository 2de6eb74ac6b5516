"""What --help says is what was written."""

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


def _help_texts(command: object) -> Iterator[str]:
    yield getattr(command, "help", None) or ""
    for parameter in getattr(command, "params", ()):
        yield getattr(parameter, "help", None) or ""
    for below in getattr(command, "commands", {}).values():
        yield from _help_texts(below)
