"""Calls of Elixir functions in the notation of Elixir."""

from __future__ import annotations

import pytest

from quicdist import CallError, ErrorClass
from quicdist.cli.call import _wanted, unaliased
from quicdist.etf import Atom, Term

CALLS: list[tuple[list[str], tuple[str, str, list[object]]]] = [
    (["Shop.report(1)"], ("Elixir.Shop", "report", [1])),
    (["Elixir.Shop:report(1)"], ("Elixir.Shop", "report", [1])),
    (["Elixir.Shop.report(1)"], ("Elixir.Shop", "report", [1])),
    (["Shop.Cart.empty?()"], ("Elixir.Shop.Cart", "empty?", [])),
    (["Shop:report([1, {a}])"], ("Elixir.Shop", "report", [[1, (Atom("a"),)]])),
    (["Shop", "report", "[1]"], ("Elixir.Shop", "report", [1])),
    (["Shop.report", "[1]"], ("Elixir.Shop", "report", [1])),
    (["Elixir.Shop", "report", "[1]"], ("Elixir.Shop", "report", [1])),
    (["lists:seq(1, 3)"], ("lists", "seq", [1, 3])),
    (["lists", "seq", "[1, 3]"], ("lists", "seq", [1, 3])),
    (["'Shop'", "report", "[]"], ("Shop", "report", [])),
    (["'Elixir.Shop':report(1)"], ("Elixir.Shop", "report", [1])),
    (["'Elixir.Shop:report(1)'"], ("Elixir.Shop", "report", [1])),
    ([":lists.seq(1, 3)"], ("lists", "seq", [1, 3])),
    ([":lists.seq", "[1, 3]"], ("lists", "seq", [1, 3])),
    ([":lists", "seq", "[1, 3]"], ("lists", "seq", [1, 3])),
]


@pytest.mark.parametrize(("words", "meant"), CALLS)
def test_what_is_called(words: list[str], meant: tuple[str, str, list[object]]) -> None:
    function = words[1] if len(words) > 1 else None
    assert _wanted("n@h", 0, words[0], function, words[2:]) == meant


def test_what_is_no_alias_stays_as_it_is() -> None:
    for text in ("lists:seq(1, 2)", "'Shop':f()", "shop.report(1)", "Shop-x:f()", "", "1", "[A]"):
        assert unaliased(text) == text


def test_an_undefined_function_of_an_alias_says_the_whole_name() -> None:
    def text(module: str, reason: str = "undef") -> str:
        frame: Term = (Atom(module), Atom("length"), [b"x"], [])
        return str(CallError("it", ErrorClass.ERROR, Atom(reason), [frame]))

    assert "is called 'Elixir.String')" in text("String")
    assert "is called" not in text("Elixir.String") + text("lists") + text("String", "badarg")
