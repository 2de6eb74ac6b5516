"""Introspection of a node."""

from __future__ import annotations

import functools

from quicdist.etf import Atom, Term
from quicdist.kernel.exports import Exports, export
from quicdist.kernel.introspection import Introspection


class Service:
    @export(module="calc")
    def add(self, one: Term, other: Term = 0) -> Term:
        """Adds.

        Never printed.
        """
        return one

    @export(module="calc")
    def all_of(self, *items: Term) -> Term:
        return list(items)


def asked(allowed: tuple[str, ...], *given: object) -> Term:
    def may_call(caller: Atom | None, module: str, name: str) -> bool:
        return caller is None or f"{module}:{name}" in allowed

    exports = Exports(given, 1)
    told = Introspection(None, exports, may_call, lambda: 0, lambda: iter(()))  # type: ignore[arg-type]
    return told.exports(Atom("peer@host"))


def test_exports_have_arities_and_the_first_line_of_the_docstring() -> None:
    assert asked(("calc:add", "calc:all_of"), Service()) == [
        {"module": "calc", "function": "add", "least": 1, "most": 2, "doc": b"Adds."},
        {"module": "calc", "function": "all_of", "least": 0, "most": "infinity", "doc": b""},
    ]


def test_a_peer_is_told_what_it_may_call() -> None:
    told = asked(("calc:all_of",), Service())
    assert isinstance(told, list)
    assert [one["function"] for one in told] == ["all_of"]
    assert asked((), Service()) == []


def test_a_partial_has_the_docstring_of_its_function() -> None:
    def scale(factor: Term, value: Term) -> Term:
        """Multiplies."""
        return value

    partial = export(module="calc", name="twice")(functools.partial(scale, 2))
    [told] = asked(("calc:twice",), partial)
    assert (told["least"], told["doc"]) == (1, b"Multiplies.")
