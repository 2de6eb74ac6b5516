"""Fuzz target for atom caches and fragments: memory stays bounded for any input."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.pieces import frames, join, split
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.header import (
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    FRAME_OVERHEAD,
    HEADER,
    MAX_ATOM_CHARACTERS,
    IncomingAtomCache,
    IncomingFragments,
)
from quicdist.protocol.signals import NO_PAYLOAD, UnknownSignal

MAX_SEQUENCES, MAX_BYTES, MAX_MESSAGE = 4, 4096, 2048


def check(data: bytes) -> None:
    """Parses a sequence of frames with distribution headers."""
    atoms = IncomingAtomCache()
    fragments = IncomingFragments(MAX_SEQUENCES, MAX_BYTES, MAX_MESSAGE)
    try:
        for frame in split(data)[1]:
            take(frame, atoms, fragments)
            held = fragments._sequences.values()
            charged = sum(len(one.stored) - one.start for one in held)
            assert len(held) <= MAX_SEQUENCES
            assert charged <= MAX_BYTES
            assert fragments._charged >= charged
            assert held or fragments._charged == 0, f"{fragments._charged} of nothing"
    except ProtocolError:
        pass


def take(frame: bytes, atoms: IncomingAtomCache, fragments: IncomingFragments) -> None:
    tag = frame[1] if len(frame) > 1 else HEADER
    if tag == HEADER:
        found, end = atoms.read(frame, 2)
    elif tag == FIRST_FRAGMENT:
        ids = fragments.check_first(frame)
        found, end = atoms.read(frame, FRAGMENT_HEAD.size)
        fragments.begin(ids, (UnknownSignal(5, ()), NO_PAYLOAD), found, frame[end:], len(frame))
    else:
        whole = fragments.proceed(frame)
        assert whole is None or len(whole.payload()) <= MAX_MESSAGE + FRAME_OVERHEAD
        return
    assert end <= len(frame)
    assert all(len(atom) <= MAX_ATOM_CHARACTERS for atom in found)


def seeds() -> Iterator[bytes]:
    """Yields recorded frames and small fragments."""
    for batch in frames():
        yield join(0, [frame for frame in batch if frame[:1] == b"\x83"])
    first, later = (b"\x83" + tag + bytes(7) + b"\x09" for tag in (b"E", b"F"))
    two, one = (bytes(7) + bytes((number,)) for number in (2, 1))
    yield join(0, [first + two + b"\0abc", later + one + b"def"])
    yield join(0, [first + two + b"\1\x18\x07\x02ok" + b"abc", later + one + b"def"])
