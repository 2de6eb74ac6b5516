"""Native records of OTP 29 as dataclasses; numbers of array libraries as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from quicdist.etf import Atom, NativeRecord, decode, encode
from quicdist.etf.notation import format_term
from quicdist.typed import Native, TermError, from_term, to_term


@Native("shop", "order")
@dataclass
class Order:
    id: int
    note: str | None = None


@Native("shop", "order", extra="ignore")
@dataclass
class Loose:
    id: int


TERM = NativeRecord(Atom("shop"), Atom("order"), (Atom("id"), Atom("note")), (7, b"x"))


def test_a_class_is_a_native_record_both_ways() -> None:
    term = to_term(Order(7, "x"), Order)
    assert format_term(term) == '#shop:order{id = 7,note = <<"x">>}'
    assert from_term(decode(encode(term)), Order) == Order(7, "x")
    assert from_term(TERM, Order) == Order(7, "x")
    swapped = NativeRecord(TERM.module, TERM.name, TERM.names[::-1], TERM.values[::-1])
    assert from_term(swapped, Order) == Order(7, "x")
    assert from_term(TERM, Loose) == Loose(7)
    assert from_term(TERM, NativeRecord) is TERM
    assert to_term(TERM) is TERM


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({Atom("id"): 7}, "expected a #shop:order{}, got a map"),
        (NativeRecord(Atom("x"), Atom("order"), (), ()), "got a #x:order{}"),
        (NativeRecord(Atom("shop"), Atom("order"), (), ()), "id is missing from a #shop:order{}"),
        (
            NativeRecord(Atom("shop"), Atom("order"), (Atom("z"),), (1,)),
            "the atom 'z' is not one of",
        ),
        (
            NativeRecord(Atom("shop"), Atom("order"), (Atom("id"),), (b"",)),
            "id: expected an integer",
        ),
    ],
)
def test_what_does_not_fit_is_told(term: Any, said: str) -> None:
    with pytest.raises(TermError) as caught:
        from_term(term, Order)
    assert said in str(caught.value)


def test_a_field_is_found_by_its_name() -> None:
    assert TERM["id"] == 7
    assert TERM.is_exported
    with pytest.raises(KeyError):
        TERM["z"]
    with pytest.raises(ValueError, match="1 field names, 0 values"):
        NativeRecord(Atom("m"), Atom("n"), (Atom("f"),), ())


def test_scalars_of_numpy_are_written_where_a_number_is_due() -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    for value, kind, expected in (
        (np.int64(5), int, 5),
        (np.float32(0.5), float, 0.5),
        (np.int8(5), float, 5.0),
        (np.bool_(True), bool, True),
        ([np.int64(1), 2], list[int], [1, 2]),
        (np.int64(5), Any, 5),
        ([np.bool_(False)], Any, [False]),
    ):
        term = to_term(value, kind)
        assert term == expected
        assert type(term) is type(expected)
    for value, kind in ((np.float32(0.5), int), (np.bool_(True), int), (np.array([1]), int)):
        with pytest.raises(TermError):
            to_term(value, kind)
