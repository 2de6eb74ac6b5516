"""The little that an endpoint reads of a first datagram before any state is made for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

_LONG_TYPE = 0x30
_INITIAL_TYPE = {0x00000001: 0x00, 0x6B3343CF: 0x10}
"""Bits of an Initial packet's first byte, by version: RFC 9000, 17.2.2; RFC 9369, 3.2."""

_RETRY = 0x30
"""What a Retry packet's bits have more than an Initial packet's: RFC 9000, 17.2.5."""

_LONGEST_ID = 20


@dataclass(frozen=True, slots=True)
class Initial:
    """The part of an Initial packet that anybody can read (RFC 9000, 17.2.2)."""

    version: int
    destination_id: bytes
    source_id: bytes
    token: bytes


def read_initial(data: bytes) -> Initial | None:
    """Of a datagram of 1200 bytes at least for which `is_initial` holds; None where it lies."""
    at = 6 + data[5]
    destination_id = data[6:at]
    end = at + 1 + data[at]
    source_id = data[at + 1 : end]
    length, start = _variable(data, end)
    token = data[start : start + length]
    if len(source_id) > _LONGEST_ID or len(token) != length:
        return None
    version = int.from_bytes(data[1:5], "big")
    return Initial(version, destination_id, source_id, token)


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000, 16) and where it ends."""
    size = 1 << (data[at] >> 6)
    whole = int.from_bytes(data[at : at + size], "big")
    return whole & ((1 << (8 * size - 2)) - 1), at + size


def is_initial(data: bytes, version: int) -> bool:
    """Whether a long-header datagram of a version we speak begins with an Initial packet.

    Its destination id must have 8 bytes at least (RFC 9000, 7.2) and 20 at most.
    """
    has_fixed_bit = data[0] & 0x40
    return bool(
        has_fixed_bit
        and data[0] & _LONG_TYPE == _INITIAL_TYPE.get(version)
        and 8 <= data[5] <= _LONGEST_ID
    )


def packets_in(data: bytes, most: int) -> int:
    """How many packets with long headers are coalesced in a datagram, as far as their lengths can
    be followed; no more than `most` are counted (RFC 9000, 12.2)."""
    count, at, size = 0, 0, len(data)
    try:
        while at < size and count < most and data[at] & 0x80:
            version = int.from_bytes(data[at + 1 : at + 5], "big")
            initial = _INITIAL_TYPE.get(version)
            count += 1
            if initial is None or data[at] & _LONG_TYPE == (initial + _RETRY) & _LONG_TYPE:
                break  # it has no length, and takes all that is left
            end = at + 6 + data[at + 5]
            end += 1 + data[end]
            if data[at] & _LONG_TYPE == initial:
                length, end = _variable(data, end)
                end += length
            length, end = _variable(data, end)
            at = end + length
    except IndexError:
        pass
    return count


def version_negotiation(data: bytes, versions: Sequence[int]) -> bytes | None:
    """The answer to a version that we do not speak; None where there must be none.

    RFC 9000, 17.2.1. A version negotiation packet itself (version 0) is never answered: two
    endpoints would keep each other busy for ever.
    """
    if data[1:5] == bytes(4):
        return None
    at = 6 + data[5]
    if at >= len(data) or at + 1 + data[at] > len(data):
        return None
    destination, source = data[6:at], data[at + 1 : at + 1 + data[at]]
    first = 0x80 | 0x40 | os.urandom(1)[0] & 0x3F
    return b"".join(
        (
            bytes((first,)),
            bytes(4),
            bytes((len(source),)),
            source,
            bytes((len(destination),)),
            destination,
            *(version.to_bytes(4, "big") for version in versions),
        )
    )
