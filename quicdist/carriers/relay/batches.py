"""Datagrams that the kernel merged: cut apart, and in data frames.

`data` are datagrams of one sender that follow each other. All have `size` bytes but the last one,
which may be shorter.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

from quicdist.carriers.relay.frames import FIRST_QUIC_BYTE, head_size


def with_heads(data: bytes, size: int, head: bytes) -> bytes:
    """Merged datagrams of this size, with the head before each."""
    return head + head.join(without_heads(data, size, 0))


def without_heads(data: bytes, size: int, head: int) -> Sequence[bytes]:
    """The datagrams in merged data frames of this size, without their heads."""
    if size >= len(data):
        return (data[head:],)
    count, rest = divmod(len(data), size)
    parts = _layout(size, count, head).unpack_from(data)
    return (*parts, data[head - rest :]) if rest else parts


@functools.lru_cache(maxsize=1024)
def _layout(size: int, count: int, head: int) -> struct.Struct:
    """`count` datagrams of this size, each without its first `head` bytes.

    `struct` cuts them apart several times faster than slices do.
    """
    return struct.Struct(f"{head}x{size - head}s" * count)


def all_frames(data: bytes, size: int) -> bool:
    """Whether all merged datagrams are below QUIC's first byte."""
    if size >= len(data):
        return data[0] < FIRST_QUIC_BYTE
    return max(data[::size]) < FIRST_QUIC_BYTE


def common_head(data: bytes, size: int) -> int:
    """Returns the size of the heads if all are data frames for one address with QUIC in them.

    Returns 0 otherwise.
    """
    head = head_size(data[0])
    if not 0 < head < size or 0 < len(data) % size <= head:
        return 0
    count = -(-len(data) // size)
    same = all(data[at::size].count(data[at]) == count for at in range(head))
    return head if same and min(data[head::size]) >= FIRST_QUIC_BYTE else 0
