"""Joins small buffers before a write."""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.protocol.dialects.base import Buffer

_JOIN_BELOW = 16 * 1024
"""Size in bytes below which a part is copied to join it with others."""


def joined(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """Returns the same bytes with adjacent small parts joined.

    Fewer parts need fewer library and system calls; large parts are not copied.
    """
    if len(parts) == 1:
        return parts
    whole: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < _JOIN_BELOW:
            small.append(part)
            continue
        if small:
            whole.append(b"".join(small))
            small = []
        whole.append(part)
    if small:
        whole.append(b"".join(small))
    return whole
