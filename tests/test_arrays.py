"""Arrays and tables survive the way to a term and back, and have the form that Elixir takes."""

from __future__ import annotations

import array
import contextlib
import importlib
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicdist.arrays import MissingLibrary, from_arrow, from_tensor, to_arrow, to_tensor
from quicdist.etf import Atom, Options, Term, decode, decode_prefix, encode
from tests.support.examples import examples

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


class OfOldDlpack(OnlyDlpack):
    """An array whose capsule does not tell that it is writable, as that of older libraries."""

    def __dlpack__(self, **settings: Any) -> Any:
        return self._values.__dlpack__()


@pytest.mark.filterwarnings("ignore:Exporting an unversioned DLPack capsule")
@pytest.mark.parametrize("form", [OnlyDlpack, OfOldDlpack])
def test_dlpack_is_copied_unless_that_is_refused(form: Any) -> None:
    values = np.arange(4.0)
    copied, shared = to_tensor(form(values)), to_tensor(form(values), copy=False)
    values[0] = 7
    assert from_tensor(copied)[0] == 0
    assert from_tensor(shared)[0] == 7


class OnAnotherDevice(OnlyDlpack):
    def __dlpack_device__(self) -> Any:
        return 2, 0  # kDLCUDA


class Unwilling(OnlyDlpack):
    def __dlpack__(self, **settings: Any) -> Any:
        raise RuntimeError("it requires a gradient")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (OnAnotherDevice(np.zeros(2)), "memory of another device"),
        (Unwilling(np.zeros(2)), "requires a gradient"),
        (np.ma.array([1, 2], mask=[True, False]), "masked elements"),
        ([[1], [2, 3]], "inhomogeneous shape"),
    ],
)
def test_what_cannot_be_a_tensor_is_refused(bad: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=f"{type(bad).__name__} cannot be a tensor: .*{reason}"):
        to_tensor(bad)


def test_a_masked_array_without_masked_elements_is_an_array() -> None:
    np.testing.assert_array_equal(from_tensor(to_tensor(np.ma.array([1, 2]))), [1, 2])


def test_bfloat16() -> None:
    dtype = importlib.import_module("ml_dtypes").bfloat16
    values = np.array([[1.5, -2.0, np.nan]], dtype=dtype)
    term = to_tensor(values)
    assert term == (Atom("tensor"), (Atom("bf"), 16), (1, 3), bytes.fromhex("c03f00c0c07f"))
    back = from_tensor(decode(encode(term)))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.astype("f4"), values.astype("f4"))


def test_bytes_are_a_tensor_of_bytes() -> None:
    for values in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert to_tensor(values) == (Atom("tensor"), (Atom("u"), 8), (2,), b"ab")


def test_a_tensor_decoded_with_text() -> None:
    values = np.frombuffer("größe ab".encode(), dtype=np.uint8)
    term = decode(encode(to_tensor(values)), Options(binaries="str"))
    assert isinstance(term, tuple)
    assert type(term[3]) is str
    np.testing.assert_array_equal(from_tensor(term), values)


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
        (Atom("tensor"), (Atom("f"), 32), (1,), Atom("abcd")),
        (Atom("tensor"), (Atom("u"), 4), (8,), bytes(4)),
        (Atom("tensor"), (Atom("bf"), 32), (1,), bytes(4)),
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


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None, 3], "Int64"),
        ([1.5, None], "Float64"),
        ([True, None], "boolean"),
        (["a", None], "string"),
        (["a", None], "category"),
        ([1, None], "int64[pyarrow]"),
        (["2024-01-01", None], "datetime64[us]"),
        (["2024-01-01", None], "datetime64[us, Europe/Paris]"),
        ([1, None], "timedelta64[us]"),
    ],
)
def test_missing_values_of_pandas_survive(values: list[Any], dtype: Any) -> None:
    frame = pd.DataFrame({"column": pd.Series(values, dtype=dtype)})
    table = from_arrow(decode(encode(to_arrow(frame))))
    assert table["column"].is_valid().to_pylist() == [value is not None for value in values]
    types_mapper = pd.ArrowDtype if "pyarrow" in dtype else None
    pd.testing.assert_frame_equal(table.to_pandas(types_mapper=types_mapper), frame)


@pytest.mark.parametrize(
    "bad",
    [
        pd.DataFrame({"a": [1, "mixed"]}),
        pd.DataFrame({"a": [1j]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.Series([1, 2]),
        pa.chunked_array([[1], [2]]),
    ],
    ids=["mixed", "complex", "columns of one name", "series", "chunked array"],
)
def test_what_arrow_cannot_carry_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(bad).__name__} is not a table that Arrow can"):
        to_arrow(bad)


def test_addresses_of_polars_objects_are_not_sent() -> None:
    frame = type("DataFrame", (), {"__module__": "polars.dataframe.frame", "dtypes": ["Object"]})
    frame.__arrow_c_stream__ = None  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="Polars objects"):
        to_arrow(frame())


def test_offsets_outside_of_the_stream_are_refused() -> None:
    stream = bytearray(to_arrow(pa.table({"text": ["abcd"] * 100})))
    at = stream.index(np.arange(0, 40, 4, dtype="<i4").tobytes())
    stream[at + 4 : at + 8] = (2**30).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"not an Arrow IPC stream: .*out of bounds"):
        from_arrow(bytes(stream))


def compressed(table: Any, codec: str) -> bytes:
    """Returns a table as an Arrow stream with compressed buffers."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("form", ["plain", "dictionary"])
def test_a_compressed_table_may_not_expand_without_bound(codec: str, form: str) -> None:
    column = pa.array(["zero" * 1000 + str(number) for number in range(100)])
    table = pa.table({"text": column if form == "plain" else column.dictionary_encode()})
    stream = compressed(table, codec)
    assert from_arrow(stream).equals(table)
    assert len(stream) < 100_000
    assert from_arrow(stream, max_decompressed=500_000).equals(table)
    with pytest.raises(ValueError, match=r"decompress to 40\d{4} bytes, more than max_"):
        from_arrow(stream, max_decompressed=400_000)


def test_only_compressed_buffers_count() -> None:
    table = pa.table({"number": pa.array(range(1000))})
    assert from_arrow(to_arrow(table), max_decompressed=0).equals(table)
    schema_only = pa.table({"number": pa.array([], pa.int64())})
    assert from_arrow(compressed(schema_only, "zstd")).equals(schema_only)


@settings(max_examples=examples(200))
@given(st.data())
def test_a_damaged_compressed_stream_is_a_value_error(data: st.DataObject) -> None:
    stream = bytearray(compressed(pa.table({"text": ["abc" * 100] * 50}), "zstd"))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        from_arrow(bytes(stream[: data.draw(st.integers(0, len(stream)))]))


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


def test_a_missing_library_of_one_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingLibrary, match="pip install ml_dtypes"):
        from_tensor((Atom("tensor"), (Atom("bf"), 16), (1,), bytes(2)))
