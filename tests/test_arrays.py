"""Arrays and tables survive the way to a term and back, and have the form that Elixir takes."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.arrays import MissingLibrary, from_arrow, from_tensor, to_arrow, to_tensor
from quicdist.etf import Atom, Options, Term, decode, decode_prefix, encode

DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from("<>"),
    st.booleans(),
)
def test_arrays_survive(dtype: str, shape: list[int], order: str, is_transposed: bool) -> None:
    values = np.arange(int(np.prod(shape))).astype(f"{order}{dtype}").reshape(shape)
    given_array = values.T if is_transposed else values
    back = from_tensor(decode(encode(to_tensor(given_array))))
    assert back.dtype == np.dtype(f"<{dtype}")
    np.testing.assert_array_equal(back, given_array)


def test_a_tensor_has_the_form_of_nx() -> None:
    term = to_tensor(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32))
    assert term == (
        Atom("tensor"),
        (Atom("f"), 32),
        (2, 3),
        np.arange(1, 7, dtype="<f4").tobytes(),
    )


def test_other_arrays_become_tensors() -> None:
    assert to_tensor(array.array("h", [1, 2])) == (
        Atom("tensor"),
        (Atom("s"), 16),
        (2,),
        b"\1\0\2\0",
    )
    assert to_tensor(memoryview(b"\1\2")) == (Atom("tensor"), (Atom("u"), 8), (2,), b"\1\2")
    assert to_tensor(np.array([True, False])) == (Atom("tensor"), (Atom("u"), 8), (2,), b"\1\0")
    assert to_tensor(np.float64(1.5))[2] == ()


class OnlyDlpack:
    """An array of another library."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __dlpack__(self, **settings: Any) -> Any:
        return self._values.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self._values.__dlpack_device__()


def test_dlpack() -> None:
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    np.testing.assert_array_equal(from_tensor(to_tensor(OnlyDlpack(values))), values)


@pytest.mark.parametrize("bad", [np.array(["text"]), np.array([None]), np.array(["2024"], "M8[D]")])
def test_elements_without_a_tensor_type_are_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="has no tensor type"):
        to_tensor(bad)


@pytest.mark.parametrize(
    "term",
    [
        b"binary",
        (Atom("tensor"), (Atom("f"), 31), (1,), bytes(4)),
        (Atom("tensor"), (Atom("x"), 32), (1,), bytes(4)),
        (Atom("tensor"), (Atom("f"), 32), (2,), bytes(4)),
        (Atom("tensor"), (Atom("f"), 32), (-1, -1), bytes(4)),
        (Atom("tensor"), (Atom("f"), 32), (2**62, 2**62), bytes(4)),
        (Atom("tensor"), (Atom("f"), 32), (True,), bytes(4)),
        (Atom("tensor"), (Atom("f"), 32), [1], bytes(4)),
    ],
)
def test_what_is_not_a_tensor_is_refused(term: Term) -> None:
    with pytest.raises(ValueError, match="tensor"):
        from_tensor(term)


def test_a_decoded_array_shares_the_memory_of_the_binary() -> None:
    term = to_tensor(np.arange(4))
    assert isinstance(term, tuple)
    back = from_tensor(term)
    assert not back.flags.writeable
    assert not back.flags.owndata


def test_a_writable_array_is_copied_and_others_are_not() -> None:
    values = np.arange(4.0)
    copied = to_tensor(values)
    values[0] = 7
    assert from_tensor(copied)[0] == 0
    shared = to_tensor(values, copy=False)
    values[1] = 8
    np.testing.assert_array_equal(from_tensor(shared), [7, 8, 2, 3])
    values.flags.writeable = False
    assert np.shares_memory(from_tensor(to_tensor(values)), values)


def test_an_array_in_another_order_is_copied_once() -> None:
    values = np.arange(6.0).reshape(2, 3).T
    for copy in (True, False):
        shared = from_tensor(to_tensor(values, copy=copy))
        np.testing.assert_array_equal(shared, values)
        assert not np.shares_memory(shared, values)


@pytest.mark.parametrize("offset", range(8))
def test_an_array_is_aligned(offset: int) -> None:
    memory = memoryview(bytes(offset) + np.arange(3.0).tobytes())[offset:]
    back = from_tensor((Atom("tensor"), (Atom("f"), 64), (3,), memory))
    assert back.flags.aligned
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, [0, 1, 2])


def test_the_array_of_a_view_shares_its_memory() -> None:
    values = np.arange(20_000.0)
    data = bytearray(8) + encode(to_tensor(values))
    start = -data.index(values[:2].tobytes()) % 8
    term, _ = decode_prefix(data[8 - start :], start, Options(binaries="memoryview"))
    back = from_tensor(term)
    assert not back.flags.owndata
    np.testing.assert_array_equal(back, values)


FRAME = {"name": ["ann", "bob", None], "count": [1, 2, 3]}


@pytest.mark.parametrize("table", [pa.table(FRAME), pd.DataFrame(FRAME)], ids=["pyarrow", "pandas"])
def test_tables_survive(table: Any) -> None:
    assert from_arrow(to_arrow(table)).to_pydict() == FRAME
    assert from_arrow(decode(encode(to_arrow(table)))).to_pydict() == FRAME


def test_what_is_not_a_table_is_refused() -> None:
    with pytest.raises(TypeError, match="no __arrow_c_stream__"):
        to_arrow([1, 2])
    for binary in (b"", b"text" * 10, to_arrow(pa.table(FRAME))[:100]):
        with pytest.raises(ValueError, match="not an Arrow IPC stream"):
            from_arrow(binary)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:

    def without(name: str, *rest: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(MissingLibrary, match=r"pip install 'quicdist\[numpy\]'"):
        to_tensor([1])
    with pytest.raises(MissingLibrary, match=r"pip install 'quicdist\[arrow\]'"):
        from_arrow(b"")
