"""Numeric arrays and tables as terms.

- A tensor is `{tensor, Type, Shape, Binary}`. `Type` and `Shape` are those of Nx, such as `{f, 32}`
  and `{2, 3}`; `Binary` has the elements in row-major order, little-endian. In Elixir:
  `Nx.from_binary(binary, type) |> Nx.reshape(shape)`.
- A table is a binary in the Arrow IPC stream format. In Elixir:
  `Explorer.DataFrame.load_ipc_stream!(binary)`.

`to_tensor` and `from_tensor` require numpy (`quicdist[numpy]`), `to_arrow` and `from_arrow` pyarrow
(`quicdist[arrow]`).
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

from quicdist.errors import QuicdistError
from quicdist.etf import Atom, Term
from quicdist.etf.notation import format_bounded

if TYPE_CHECKING:
    import numpy
    import pyarrow

_TENSOR = Atom("tensor")
_FORMS = {"i": "s", "u": "u", "f": "f", "c": "c"}
"""The type letters of Nx, by the kinds of numpy."""
_KINDS = {form: kind for kind, form in _FORMS.items()}
_BITS = {"s": (8, 16, 32, 64), "u": (8, 16, 32, 64), "f": (16, 32, 64), "c": (64, 128)}


class MissingLibrary(QuicdistError):
    """numpy or pyarrow is not installed."""


def to_tensor(array: Any, *, copy: bool = True) -> Term:
    """Returns an array as a tensor.

    `array` is a numpy array, or an object with the buffer protocol or DLPack: a tensor of PyTorch
    or JAX in the memory of the processor, an `array.array`, a memoryview. Booleans become `{u, 8}`.

    A writable array is copied once, so that later changes are not sent. A read-only array is not
    copied. With `copy=False` no array is copied if its elements are in the right order already. Its
    memory is read until the peer has received the message, and must not be changed until then.

    Raises TypeError if the elements have no type of Nx, and MissingLibrary.
    """
    np = _library("numpy", "numpy")
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        found = np.asarray(array)
    else:
        found = np.from_dlpack(array)
    if found.dtype.kind == "b":
        found = found.view(np.uint8)
    form, bits = _FORMS.get(found.dtype.kind), found.dtype.itemsize * 8
    if form is None or bits not in _BITS[form]:
        raise TypeError(f"an array of {found.dtype} has no tensor type")
    little = found.astype(found.dtype.newbyteorder("<"), copy=False)
    if copy and little.flags.writeable and np.may_share_memory(little, found):
        binary = little.tobytes()
    else:
        binary = memoryview(np.ascontiguousarray(little).reshape(-1).view(np.uint8)).toreadonly()
    return _TENSOR, (Atom(form), bits), found.shape, binary


def from_tensor(term: Term) -> numpy.ndarray[Any, Any]:
    """Returns the numpy array of a tensor.

    It is read-only; `.copy()` makes a writable one. It shares the memory of the binary, which is
    bytes or a memoryview (`Options(binaries="memoryview")`), unless the elements are not aligned
    there.

    Raises ValueError if the term is not a tensor, and MissingLibrary.
    """
    match term:
        case ("tensor", (str(form), int(bits)), tuple(shape), binary) if (
            bits in _BITS.get(form, ())
            and all(type(each) is int and each >= 0 for each in shape)
            and isinstance(binary, (bytes, memoryview))
        ):
            pass
        case _:
            raise ValueError(f"not a tensor: {format_bounded(term, 100)}")
    np = _library("numpy", "numpy")
    size = bits // 8
    if math.prod(shape) * size != len(binary):
        raise ValueError(
            f"a tensor of shape {shape} and type {form}{bits} has {math.prod(shape) * size} bytes, "
            f"not {len(binary)}"
        )
    flat = np.frombuffer(binary, dtype=f"<{_KINDS[form]}{size}")
    if not flat.flags.aligned:
        flat = flat.copy()
    flat.flags.writeable = False
    array: numpy.ndarray[Any, Any] = flat.reshape(shape)
    return array


def to_arrow(table: Any) -> memoryview:
    """Returns a table as an Arrow IPC stream, in memory that is sent without another copy.

    `table` is a table or record batches of pyarrow, a data frame of Polars or pandas (2.2 or
    later), or any object with `__arrow_c_stream__`.

    Raises TypeError for another object, and MissingLibrary.
    """
    pa = _library("pyarrow", "arrow")
    if not hasattr(table, "__arrow_c_stream__"):
        raise TypeError(f"{type(table).__name__} is not a table: it has no __arrow_c_stream__")
    reader = pa.RecordBatchReader.from_stream(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return memoryview(sink.getvalue()).cast("B").toreadonly()


def from_arrow(binary: bytes | memoryview) -> pyarrow.Table:
    """Returns the table of an Arrow IPC stream.

    It shares the memory of the binary. `polars.from_arrow` and `Table.to_pandas` convert it.

    Raises ValueError if the binary is not such a stream, and MissingLibrary.
    """
    pa = _library("pyarrow", "arrow")
    try:
        return pa.ipc.open_stream(pa.py_buffer(binary)).read_all()
    except (pa.ArrowInvalid, OSError, TypeError) as error:
        raise ValueError(f"not an Arrow IPC stream: {error}") from error


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingLibrary(f"{name} is not installed: pip install 'quicdist[{extra}]'") from None
