"""Terms of peers are formatted with a bound, except where the whole term is requested."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import quicdist

ROOT = Path(quicdist.__file__).parent
OUTPUT = {
    "cli/call.py": "the result of `quicdist call`",
    "cli/json_output.py": "the values of `--json`",
    "cli/serving.py": "the messages of `quicdist listen`",
    "cli/shell/session.py": "the values of `quicdist shell`",
}
"""Modules that print whole terms on purpose."""

FOREIGN = frozenset(("message", "payload", "reason", "request", "term", "cast", "answer", "reply"))
"""Names of variables that contain terms of peers."""

MODULES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.py")
    if "etf" not in path.relative_to(ROOT).parts[:1]
)


def unbounded(tree: ast.AST) -> Iterator[str]:
    """Yields the places that format a whole term: `format_term`, `repr(term)`, `f"{term!r}"`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and name(node) == "format_term":
            yield f"line {node.lineno}: format_term"
        elif isinstance(node, ast.Call) and name(node.func) == "repr":
            yield from (
                f"line {node.lineno}: repr of a term"
                for argument in node.args
                if name(argument) in FOREIGN
            )
        elif isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            yield from [f"line {node.lineno}: !r of a term"] * (name(node.value) in FOREIGN)


def name(node: ast.AST) -> str:
    """Returns the name of a variable or an attribute, or "" for any other expression."""
    return str(getattr(node, "id", getattr(node, "attr", "")))


@pytest.mark.parametrize("module", MODULES)
def test_no_term_of_others_is_formatted_whole(module: str) -> None:
    found = list(unbounded(ast.parse((ROOT / module).read_text(encoding="utf-8"))))
    assert found == [] or module in OUTPUT


def test_what_is_let_through_still_needs_it() -> None:
    for module in OUTPUT:
        assert list(unbounded(ast.parse((ROOT / module).read_text(encoding="utf-8"))))


def test_the_search_finds_what_it_is_for() -> None:
    source = "log(format_term(x)[:200]); f'{message!r}'; repr(self.reason)"
    assert len(list(unbounded(ast.parse(source)))) == 3
