"""The messages of streams as the table in docs/streams.md describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from quicdist.etf import Atom, Term
from quicdist.etf.notation import parse_term

_DOCS = Path(__file__).parents[2] / "docs" / "streams.md"
_VARIABLE = re.compile(r"\b[A-Z]\w*")


def documented() -> dict[str, str]:
    """Returns the term of each step, with variables, by the name of the step."""
    section = _DOCS.read_text("utf-8").partition("## The protocol")[2]
    return dict(re.findall(r"^\| (\w+) \|.*\| `(.+)` \|$", section, re.MULTILINE))


def start_arguments() -> str:
    """Returns the arguments of the spawn request, with variables."""
    found = re.search(r"quicdist_stream, start, (\[.*\]), \[monitor\]", documented()["start"])
    assert found is not None
    return found[1]


def with_values(pattern: str, values: Mapping[str, Term]) -> Term:
    """Returns the term of a pattern, with values for its variables."""
    return _replaced(parse_term(_VARIABLE.sub(lambda name: f"'{name[0]}'", pattern)), values)


def message(step: str, **values: Term) -> Term:
    """Returns the term of a step, with values for its variables."""
    return with_values(documented()[step], values)


def _replaced(term: Term, values: Mapping[str, Term]) -> Term:
    if isinstance(term, tuple):
        return tuple(_replaced(each, values) for each in term)
    if isinstance(term, list):
        return [_replaced(each, values) for each in term]
    return values.get(str(term), term) if isinstance(term, Atom) else term
