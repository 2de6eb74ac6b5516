"""Fuzz target for datagrams from unknown senders, as parsed before the handshake."""

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
"""Minimum size of a datagram with an Initial packet (RFC 9000, 14.1); shorter ones are ignored."""


def check(data: bytes) -> None:
    """Checks a datagram with a long header, padded with zeros."""
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
    """Yields Initial packets of both versions and of an unknown one, with and without a token."""
    for first, version in ((0xC0, VERSIONS[0]), (0xD0, VERSIONS[1]), (0xC0, 0x0A0A0A0A)):
        head = bytes((first,)) + version.to_bytes(4, "big")
        yield head + b"\x08" + bytes(8) + b"\x04abcd" + b"\x00"
        yield head + b"\x14" + bytes(20) + b"\x00" + b"\x40\x40" + bytes(64)
