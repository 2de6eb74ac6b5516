"""Other numbers than int and float are encoded by `__index__` and `__float__`, in any position."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from quicdist.etf import Atom, EtfEncodeError, decode, encode

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")


SCALARS: list[tuple[Any, Any]] = [
    (np.int8(-5), -5),
    (np.uint8(200), 200),
    (np.int64(2**40), 2**40),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float16(0.5), 0.5),
    (np.float32(0.25), 0.25),
    (np.float64(0.1), 0.1),
    (np.longdouble(1.5), 1.5),
    (np.bool_(True), True),
    (np.bool_(False), False),
    (np.array(7), 7),
    (np.str_("text"), b"text"),
    (np.bytes_(b"bytes"), b"bytes"),
]


@pytest.mark.parametrize(("scalar", "value"), SCALARS, ids=[repr(s[0]) for s in SCALARS])
def test_a_scalar_of_numpy_is_the_value_it_stands_for(scalar: Any, value: Any) -> None:
    for made, plain in (
        (scalar, value),
        ([scalar], [value]),
        ([scalar, 2], [value, 2]),
        ([1, scalar], [1, value]),
        ([1, 2, scalar, 4] * 5, [1, 2, value, 4] * 5),
        ((scalar, Atom("x")), (value, Atom("x"))),
        ({"k": scalar}, {"k": value}),
        ({"k": [scalar, scalar], b"b": scalar, 3: 1}, {"k": [value, value], b"b": value, 3: 1}),
        ([[scalar] * 20], [[value] * 20]),
    ):
        assert encode(made) == encode(plain)
        assert decode(encode(made)) == decode(encode(plain))


def test_scalars_are_keys() -> None:
    assert decode(encode({np.int64(1): 2, np.float32(0.5): 3})) == {1: 2, 0.5: 3}
    assert decode(encode({np.int64(1): 2})) == {1: 2}


NO_SCALARS: list[Any] = [
    np.array([1]),
    np.array([1, 2]),
    np.array([1.5]),
    np.complex64(1 + 2j),
    np.datetime64("2026-01-01"),
    np.float32("nan"),
    np.float32("inf"),
]


@pytest.mark.parametrize("value", NO_SCALARS, ids=repr)
def test_what_has_dimensions_or_would_lose_something_has_no_form(value: Any) -> None:
    for term, path in ((value, ""), ([1, value], "[1]"), ([value, 1], "[0]")):
        with pytest.raises(EtfEncodeError, match="has no Erlang form") as caught:
            encode(term)
        assert caught.value.path == path


def test_what_has_float_is_a_float() -> None:
    assert encode(Decimal("0.5")) == encode(0.5)
