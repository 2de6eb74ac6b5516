"""Parts that are to leave together, in as few pieces as are worth it."""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.protocol.dialects.base import Buffer

_JOIN_BELOW = 16 * 1024
"""Bytes of a part that is copied to leave with others; a larger one stays as it is."""


def joined(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """The same bytes: each piece costs a call of a library or the kernel, each copy its bytes."""
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
