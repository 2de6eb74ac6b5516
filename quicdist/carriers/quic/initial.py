"""Stateless parsing of the first datagram of a connection."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

_LONG_TYPE = 0x30
_INITIAL_TYPE = {0x00000001: 0x00, 0x6B3343CF: 0x10}
"""Type bits in the first byte of an Initial packet, by version (RFC 9000, 17.2.2;
RFC 9369, 3.2)."""

_RETRY = 0x30
"""Difference of the type bits of Retry and Initial packets (RFC 9000, 17.2.5; RFC 9369, 3.2)."""

_LONGEST_ID = 20


@dataclass(frozen=True, slots=True)
class Initial:
    """The unencrypted header fields of an Initial packet (RFC 9000, 17.2.2)."""

    version: int
    destination_id: bytes
    source_id: bytes
    token: bytes


def read_initial(data: bytes) -> Initial | None:
    """Parses the header of an Initial packet; returns None if it is malformed.

    `data` must have at least 1200 bytes, and `is_initial` must be true for it.
    """
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
    """Decodes a variable-length integer (RFC 9000, 16); returns it and the offset of its end."""
    size = 1 << (data[at] >> 6)
    whole = int.from_bytes(data[at : at + size], "big")
    return whole & ((1 << (8 * size - 2)) - 1), at + size


def is_initial(data: bytes, version: int) -> bool:
    """Returns whether a long-header datagram of a supported version starts with an Initial packet.

    The destination connection ID must have 8 (RFC 9000, 7.2) to 20 bytes.
    """
    has_fixed_bit = data[0] & 0x40
    return bool(
        has_fixed_bit
        and data[0] & _LONG_TYPE == _INITIAL_TYPE.get(version)
        and 8 <= data[5] <= _LONGEST_ID
    )


def packets_in(data: bytes, most: int) -> int:
    """Counts the long-header packets coalesced in a datagram (RFC 9000, 12.2), up to `most`.

    Counting stops at the first packet without a valid length.
    """
    count, at, size = 0, 0, len(data)
    try:
        while at < size and count < most and data[at] & 0x80:
            version = int.from_bytes(data[at + 1 : at + 5], "big")
            initial = _INITIAL_TYPE.get(version)
            count += 1
            if initial is None or data[at] & _LONG_TYPE == (initial + _RETRY) & _LONG_TYPE:
                break  # it has no length field and extends to the end of the datagram
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
    """Returns a Version Negotiation packet (RFC 9000, 17.2.1) for an unsupported version.

    Returns None for a malformed datagram, and for a Version Negotiation packet (version 0): two
    endpoints that answer those would loop forever.
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
