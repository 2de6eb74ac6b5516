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

from quicdist.arrow_sizes import decompressed_size
from quicdist.errors import QuicdistError
from quicdist.etf import Atom, Term
from quicdist.etf.notation import format_bounded
from quicdist.limits import MIB

if TYPE_CHECKING:
    import numpy
    import pyarrow

_TENSOR = Atom("tensor")
_FORMS = {"i": "s", "u": "u", "f": "f", "c": "c"}
"""The type letters of Nx, by the kinds of numpy."""
_KINDS = {form: kind for kind, form in _FORMS.items()}
_BITS = {"s": (8, 16, 32, 64), "u": (8, 16, 32, 64), "f": (16, 32, 64), "c": (64, 128), "bf": (16,)}
_BFLOAT16 = "bfloat16"
"""The name of the type `{bf, 16}` in ml_dtypes, which JAX and TensorFlow use too."""
_IN_PROCESSOR_MEMORY = (1, 3, 11)
"""kDLCPU, kDLCUDAHost and kDLROCMHost of DLPack."""


MAX_DECOMPRESSED = 256 * MIB
"""Maximum size of the compressed buffers of an Arrow stream after decompression, in bytes."""


class MissingLibrary(QuicdistError):
    """numpy, pyarrow or ml_dtypes is not installed."""


def to_tensor(array: Any, *, copy: bool = True) -> Term:
    """Returns an array as a tensor.

    `array` is a numpy array, or an object with the buffer protocol or DLPack: a tensor of PyTorch
    or JAX in the memory of the processor, an `array.array`, a memoryview. Booleans become `{u, 8}`,
    and elements of the type bfloat16 of ml_dtypes `{bf, 16}`.

    A writable array is copied once, so that later changes are not sent. So is an object with
    DLPack, which does not always tell whether it is writable. A read-only array is not copied. With
    `copy=False` no array is copied if its elements are in the right order already. Its memory is
    read until the peer has received the message, and must not be changed until then.

    Raises TypeError if the elements have no type of Nx, are masked or not in the memory of the
    processor, and MissingLibrary.
    """
    np = _library("numpy", "'quicdist[numpy]'")
    try:
        found = _array_of(np, array)
    except (ValueError, RuntimeError, BufferError) as error:  # of numpy, or of the other library
        raise TypeError(f"{type(array).__name__} cannot be a tensor: {error}") from error
    may_change = found.flags.writeable or (found is not array and hasattr(array, "__dlpack__"))
    if found.dtype.kind == "b":
        found = found.view(np.uint8)
    form, bits = _FORMS.get(found.dtype.kind), found.dtype.itemsize * 8
    if found.dtype.name == _BFLOAT16:
        form = "bf"
    if form is None or bits not in _BITS[form]:
        raise TypeError(f"an array of {found.dtype} has no tensor type")
    little = found.astype(found.dtype.newbyteorder("<"), copy=False)
    if copy and may_change and np.may_share_memory(little, found):
        binary = little.tobytes()
    else:
        binary = memoryview(np.ascontiguousarray(little).reshape(-1).view(np.uint8)).toreadonly()
    return _TENSOR, (Atom(form), bits), found.shape, binary


def _array_of(np: Any, array: Any) -> Any:
    """Returns the numpy array of an object, which shares its memory if possible."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ValueError("it has masked elements (`filled` gives them values)")
    if isinstance(array, bytes):
        return np.frombuffer(array, dtype=np.uint8)
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return np.asarray(array)
    device, _ = array.__dlpack_device__()
    if device not in _IN_PROCESSOR_MEMORY:
        raise ValueError(f"it is in the memory of another device (DLPack type {int(device)})")
    return np.from_dlpack(array)


def from_tensor(term: Term) -> numpy.ndarray[Any, Any]:
    """Returns the numpy array of a tensor.

    It is read-only; `.copy()` makes a writable one. It shares the memory of the binary, which is
    bytes or a memoryview (`Options(binaries="memoryview")`), unless the elements are not aligned
    there. `{bf, 16}` requires ml_dtypes.

    Raises ValueError if the term is not a tensor or numpy has no such type, and MissingLibrary.
    """
    match term:
        case ("tensor", (str(form), int(bits)), tuple(shape), binary) if (
            type(bits) is int
            and all(type(each) is int and each >= 0 for each in shape)
            and (isinstance(binary, (bytes, memoryview)) or type(binary) is str)
        ):
            pass
        case _:
            raise ValueError(f"not a tensor: {format_bounded(term, 100)}")
    if bits not in _BITS.get(form, ()):
        shown = format_bounded((Atom(form), bits), 40)
        raise ValueError(f"a tensor of type {shown} has no array type")
    if isinstance(binary, str):  # Options(binaries="str")
        binary = binary.encode()
    np = _library("numpy", "'quicdist[numpy]'")
    size = bits // 8
    if math.prod(shape) * size != len(binary):
        raise ValueError(
            f"a tensor of shape {shape} and type {form}{bits} has {math.prod(shape) * size} bytes, "
            f"not {len(binary)}"
        )
    if form == "bf":
        dtype = np.dtype(getattr(_library("ml_dtypes", "ml_dtypes"), _BFLOAT16))
    else:
        dtype = np.dtype(f"<{_KINDS[form]}{size}")
    flat = np.frombuffer(binary, dtype=dtype)
    if not flat.flags.aligned:
        flat = flat.copy()
    flat.flags.writeable = False
    array: numpy.ndarray[Any, Any] = flat.reshape(shape)
    return array


def to_arrow(table: Any) -> memoryview:
    """Returns a table as an Arrow IPC stream, in memory that is sent without another copy.

    `table` is a table or record batches of pyarrow, a data frame of Polars or pandas (2.2 or
    later), or any object with `__arrow_c_stream__`.

    Raises TypeError for another object or a column that Arrow has no type for, and MissingLibrary.
    """
    pa = _library("pyarrow", "'quicdist[arrow]'")
    name = type(table).__name__
    if not hasattr(table, "__arrow_c_stream__"):
        raise TypeError(f"{name} is not a table: it has no __arrow_c_stream__")
    if type(table).__module__.startswith("polars.dataframe") and "Object" in map(str, table.dtypes):
        raise TypeError("a column of Polars objects has no Arrow type")  # it exports addresses
    try:
        reader = pa.RecordBatchReader.from_stream(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TypeError(f"{name} is not a table that Arrow can carry: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return memoryview(sink.getvalue()).cast("B").toreadonly()


def from_arrow(
    binary: bytes | memoryview, *, max_decompressed: int = MAX_DECOMPRESSED
) -> pyarrow.Table:
    """Returns the table of an Arrow IPC stream.

    It shares the memory of the binary. `polars.from_arrow` and `Table.to_pandas` convert it. Its
    offsets, texts and indexes are checked, so that a wrong stream cannot crash the process later.

    Raises ValueError if the binary is not such a stream, or if its compressed buffers (LZ4, ZSTD)
    have more than `max_decompressed` bytes; and MissingLibrary.
    """
    pa = _library("pyarrow", "'quicdist[arrow]'")
    try:
        size = decompressed_size(pa, binary)
        if size > max_decompressed:
            raise ValueError(
                f"the buffers of an Arrow stream decompress to {size} bytes, more than "
                f"max_decompressed={max_decompressed}"
            )
        table = pa.ipc.open_stream(pa.py_buffer(binary)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ValueError(f"not an Arrow IPC stream: {error}") from error
    return table


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingLibrary(f"{name} is not installed: pip install {package}") from None
