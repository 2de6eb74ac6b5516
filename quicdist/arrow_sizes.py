"""The size of a compressed Arrow IPC stream after decompression, from its metadata.

pyarrow allocates what each compressed buffer declares. Format: Arrow columnar format,
"Serialization and Interprocess Communication"; Message.fbs; FlatBuffers internals.
"""

from __future__ import annotations

import struct
from typing import Any

_U16, _I32, _U32, _I64 = (struct.Struct(f"<{one}") for one in "HiIq")
_BUFFER = struct.Struct("<qq")

_HEADER = 2
"""Field of Message: the table of its kind."""
_DATA = 1
"""Field of DictionaryBatch: a RecordBatch."""
_BUFFERS = 2
"""Field of RecordBatch: offset and length of each buffer in the body."""
_COMPRESSION = 3
"""Field of RecordBatch: present if the buffers are compressed."""


def decompressed_size(pa: Any, binary: Any) -> int:
    """Returns the bytes that the compressed buffers of a stream declare.

    Raises ValueError if the stream is invalid, and what `pyarrow` (`pa`) raises.
    """
    size = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(binary)):
        if message.type in ("record batch", "dictionary"):
            try:
                size += _declared(message, is_dictionary=message.type == "dictionary")
            except (struct.error, IndexError):
                raise ValueError("a message of an Arrow stream is malformed") from None
    return size


def _declared(message: Any, *, is_dictionary: bool) -> int:
    """Returns the decompressed bytes of a message; 0 if it is not compressed."""
    metadata = memoryview(message.metadata)
    batch = _table(metadata, _field(metadata, _at(_U32, metadata, 0), _HEADER))
    if is_dictionary:
        batch = _table(metadata, _field(metadata, batch, _DATA))
    if not _field(metadata, batch, _COMPRESSION):
        return 0
    buffers = _field(metadata, batch, _BUFFERS)
    if not buffers:
        return 0
    body = memoryview(message.body)
    vector = _table(metadata, buffers)
    first = vector + _U32.size
    count = _at(_U32, metadata, vector)
    size = 0
    for at in range(first, first + count * _BUFFER.size, _BUFFER.size):
        offset, length = _BUFFER.unpack_from(metadata, at)
        if length >= _I64.size:
            size += max(0, _at(_I64, body, offset))  # -1: this buffer is not compressed
    return size


def _at(form: struct.Struct, data: memoryview, offset: int) -> int:
    if offset < 0:
        raise IndexError(offset)
    value: int = form.unpack_from(data, offset)[0]
    return value


def _field(data: memoryview, table: int, number: int) -> int:
    """Returns where a field of a table is; 0 if it is absent."""
    fields = table - _at(_I32, data, table)
    place = 4 + 2 * number
    if place >= _at(_U16, data, fields):
        return 0
    offset = _at(_U16, data, fields + place)
    return table + offset if offset else 0


def _table(data: memoryview, reference: int) -> int:
    """Returns where the table or vector is that is referred to."""
    if not reference:
        raise IndexError(reference)
    return reference + _at(_U32, data, reference)
