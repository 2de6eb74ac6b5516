"""Terms as text of bounded length: the work is bounded too, and nothing raises."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, BitString, ErlMap, Fun, ImproperList, NativeRecord, Pid, Term
from quicdist.etf.notation import SHOWN, format_bounded, format_term
from tests.etf.strategies import terms

NODE = Atom("a@b")


@given(terms, st.integers(0, 120))
def test_it_is_the_whole_or_its_beginning(term: Term, limit: int) -> None:
    whole, bounded = format_term(term), format_bounded(term, limit)
    if len(whole) <= limit:
        assert bounded == whole
    else:
        assert len(bounded) == limit + len("...")
        assert bounded.endswith("...")


def deep(depth: int) -> Term:
    term: Term = ()
    for _ in range(depth):
        term = [term]
    return term


def cycle() -> list[Any]:
    ring: list[Any] = [1.5]
    ring.append(ring)
    return ring


LARGE: dict[str, Any] = {
    "binary": b"x" * 10_000_000,
    "binary of UTF-8": "é".encode() * 5_000_000,
    "binary of bytes": b"\0" * 10_000_000,
    "bytearray": bytearray(10_000_000),
    "view": memoryview(bytes(10_000_000))[::2],
    "str": "x" * 10_000_000,
    "bitstring": BitString(b"\xff" * 10_000_000, 3),
    "string": [65] * 3_000_000,
    "list of integers": [1] * 3_000_000,
    "list": [1.5, b"x"] * 1_000_000,
    "tuple": (1.5,) * 3_000_000,
    "improper list": ImproperList([1] * 1_000_000, 2),
    "map": {number: number for number in range(500_000)},
    "deep": deep(200_000),
    "cycle": cycle(),
    "integer": 1 << 30_000_000,
    "negative integer": -(1 << 30_000_000),
    "decimal integer": 10**4200,
    "record": NativeRecord(NODE, NODE, (NODE,) * 500_000, (1,) * 500_000),
    "fun": Fun(NODE, 0, bytes(16), 0, 0, 0, Pid(NODE, 1, 2, 3), ([1.5] * 1_000_000,)),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_more_is_looked_at_than_is_shown(name: str) -> None:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        text = format_bounded(LARGE[name])
    finally:
        sys.setprofile(None)
    assert len(text) <= SHOWN + len("...")
    assert calls < 20_000


class Broken(Mapping[Any, Any]):
    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


class Odd:
    def __repr__(self) -> str:
        raise AssertionError("nobody asks")


def test_what_is_no_term_is_shown_by_its_class() -> None:
    assert format_bounded([Odd(), {1}, float("nan")]) == "[#Python<Odd>,#Python<set>,nan]"
    assert format_bounded({1: Broken()}) == "#{1 => #{...#Python<RuntimeError>"
    assert format_bounded("\ud800") == "<<237,160,128>>"


def test_the_limit_of_the_interpreter_does_not_matter() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert format_bounded([1 << 4000], 20) == "[16#1000000000000000..."
    finally:
        sys.set_int_max_str_digits(before)


def test_an_erl_map_is_shown_as_one() -> None:
    assert format_bounded(ErlMap([(1, 2), (1.0, 3)])) == "#{1 => 2,1.0 => 3}"
