"""Fuzz target for the external term format: decode, encode and decode again."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.pieces import messages
from quicdist.etf import EtfDecodeError, Limits, Options, decode, encode, encode_bare
from tests.etf.exactly import exactly

LIMITS = Limits(max_terms=1 << 12, max_decompressed=1 << 16, max_integer=1 << 10)
OPTIONS = [
    Options(binaries=binaries, strings=strings, limits=LIMITS)
    for binaries in ("bytes", "str")
    for strings in ("list", "bytes", "str")
]


def check(data: bytes) -> None:
    """Checks that a decoded term survives encoding and decoding."""
    options = OPTIONS[data[0] % len(OPTIONS)] if data else OPTIONS[0]
    try:
        term = decode(b"\x83" + data[1:], options)
    except EtfDecodeError:
        return
    if options is not OPTIONS[0]:
        return  # encoding maps text and bytes to the same term
    again = decode(encode(term), OPTIONS[0])
    assert exactly(again) == exactly(term), f"{term!r} comes back as {again!r}"


def seeds() -> Iterator[bytes]:
    """Yields the terms of recorded messages."""
    for terms in messages():
        for term in terms:
            yield b"\0" + encode_bare(term)
    yield b"\0" + encode({1: [b"a", 2.5, (True, -(2**70))]})[1:]
    yield b"\1" + encode(["x" * 300] * 20, Options(compression=9))[1:]
