"""What is read of a datagram before anything is known of its sender."""

from __future__ import annotations

from collections.abc import Iterator

from quicdist.carriers.quic.initial import (
    is_initial,
    packets_in,
    read_initial,
    version_negotiation,
)

VERSIONS = (0x00000001, 0x6B3343CF)
SMALLEST = 1200
"""Bytes of a datagram with an Initial packet; shorter ones are not looked at."""


def check(data: bytes) -> None:
    """A datagram with a long header; what is missing of its length is zeros."""
    datagram = bytes((data[0] | 0x80,)) + data[1:] if data else b"\x80"
    datagram += bytes(max(0, SMALLEST - len(datagram)))
    answer = version_negotiation(datagram, VERSIONS)
    assert answer is None or len(answer) <= len(datagram)
    assert 1 <= packets_in(datagram, 4) <= 4
    version = int.from_bytes(datagram[1:5], "big")
    if version not in VERSIONS or not is_initial(datagram, version):
        return
    initial = read_initial(datagram)
    if initial is not None:
        assert 8 <= len(initial.destination_id) <= 20
        assert len(initial.source_id) <= 20
        assert len(initial.token) < len(datagram)


def seeds() -> Iterator[bytes]:
    """Initial packets of both versions, with and without a token, and one of no version."""
    for first, version in ((0xC0, VERSIONS[0]), (0xD0, VERSIONS[1]), (0xC0, 0x0A0A0A0A)):
        head = bytes((first,)) + version.to_bytes(4, "big")
        yield head + b"\x08" + bytes(8) + b"\x04abcd" + b"\x00"
        yield head + b"\x14" + bytes(20) + b"\x00" + b"\x40\x40" + bytes(64)
