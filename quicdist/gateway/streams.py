"""Moves frames between the one byte stream of a BEAM node and the streams of its peer.

The stream of a frame follows from the sender in its control message; payloads are not read. Each
stream has its own atom cache, so the headers are written anew. Frames refer to the atoms by their
place in the header, so nothing behind it changes.

ERTS manual, External Term Format, "Distribution Header".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quicdist import etf
from quicdist.protocol.dialects.base import Buffer
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.header import (
    CACHE_SIZE,
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    HEADER,
    NEXT_FRAGMENT,
    PASS_THROUGH,
    STREAM_CACHE_SIZE,
    VERSION,
    IncomingAtomCache,
    OutgoingAtomCache,
    fragment_ids,
)
from quicdist.protocol.openings import Openings
from quicdist.protocol.streams import MAX_DATA_FRAME, UNKNOWN_SENDER, stream_for
from quicdist.protocol.wire import parse

_MAX_SEQUENCES = 4096
"""Maximum number of fragmented messages of the node at a time."""

_MAX_HEADS = 256
"""Maximum number of headers that are remembered for each stream."""

_OPTIONS = etf.Options(limits=etf.Limits(max_terms=1 << 16))
"""For control messages. A larger one counts as one without a known sender."""

_FIRST = bytes((VERSION, FIRST_FRAGMENT))
_NEXT = bytes((VERSION, NEXT_FRAGMENT))
_HEADER = bytes((VERSION, HEADER))
_PLAIN = bytes((PASS_THROUGH, VERSION))


@dataclass(slots=True, eq=False)
class _Opening:
    """What replaces a known frame beginning."""

    stream: int
    start: int
    """Where the header ends."""
    head: bytes
    """The bytes before that on the stream; empty if they are the same."""
    cache: OutgoingAtomCache
    changes: int
    """The changes of the cache for which this holds."""


class FrameSplitter:
    """Chooses the streams of the node's frames."""

    def __init__(self) -> None:
        self._atoms_in = IncomingAtomCache()
        self._atoms_out: dict[int, OutgoingAtomCache] = {}
        self._openings: Openings[_Opening] = Openings()
        self._plain_openings: Openings[int] = Openings()
        """The stream by frame beginning."""
        self._sequences: dict[int, int] = {}
        """The stream of each incomplete message."""

    def split(self, frame: bytes) -> tuple[int, Sequence[Buffer]]:
        """Returns the stream of a frame and its parts. Raises ProtocolError if it is invalid."""
        kind = frame[:2]
        if kind == _HEADER:
            return self._with_header(frame)
        if kind == _NEXT:
            return self._next_fragment(frame), (frame,)
        if kind == _FIRST:
            return self._first_fragment(frame)
        if kind == _PLAIN:
            return self._plain(frame), (frame,)
        return UNKNOWN_SENDER, (frame,)

    def _with_header(self, frame: bytes) -> tuple[int, Sequence[Buffer]]:
        atoms_in = self._atoms_in
        known = self._openings.find(frame, atoms_in.changes)
        if (
            known is not None
            and known.cache.changes == known.changes
            and len(frame) <= MAX_DATA_FRAME
        ):
            return known.stream, (known.head + frame[known.start :] if known.head else frame,)
        atoms, start = atoms_in.read(frame, 2)
        stream, end = _stream(frame, start, atoms)
        stream = _fitting(stream, frame)
        cache = self._cache(stream)
        before = cache.changes
        head = frame[:2] + cache.header(atoms)
        is_same = frame.startswith(head) and len(head) == start
        if end and cache.changes == before:
            opening = _Opening(stream, start, b"" if is_same else head, cache, before)
            self._openings.keep(frame, end, opening, atoms_in.changes)
        return stream, (frame if is_same else head + frame[start:],)

    def _first_fragment(self, frame: bytes) -> tuple[int, Sequence[Buffer]]:
        sequence, left = fragment_ids(frame)
        atoms, start = self._atoms_in.read(frame, FRAGMENT_HEAD.size)
        stream, _ = _stream(frame, start, atoms)
        stream = _fitting(stream, frame)
        if left > 1:
            if len(self._sequences) >= _MAX_SEQUENCES:
                raise ProtocolError(f"more than {_MAX_SEQUENCES} incomplete fragmented messages")
            self._sequences[sequence] = stream
        head = frame[: FRAGMENT_HEAD.size] + self._cache(stream).header(atoms)
        return stream, (head, frame[start:])

    def _next_fragment(self, frame: bytes) -> int:
        sequence, left = fragment_ids(frame)
        if left == 1:
            return self._sequences.pop(sequence, UNKNOWN_SENDER)
        return self._sequences.get(sequence, UNKNOWN_SENDER)

    def _plain(self, frame: bytes) -> int:
        known = self._plain_openings.find(frame, 0)
        if known is not None:
            return _fitting(known, frame)
        try:
            values, end = etf.decode_prefix(frame, 1, _OPTIONS)
            stream = stream_for(parse(values)[0])
        except (etf.EtfDecodeError, ProtocolError):
            return UNKNOWN_SENDER
        self._plain_openings.keep(frame, end, stream, 0)
        return _fitting(stream, frame)

    def _cache(self, stream: int) -> OutgoingAtomCache:
        cache = self._atoms_out.get(stream)
        if cache is None:
            cache = self._atoms_out[stream] = OutgoingAtomCache(_cache_size(stream))
        return cache


class _Heads:
    """Known headers of one stream without new atoms, and what replaces them."""

    __slots__ = ("atoms", "changes", "changes_out", "known")

    def __init__(self, stream: int) -> None:
        self.atoms = IncomingAtomCache(_cache_size(stream))
        self.known: dict[bytes, bytes] = {}
        self.changes = self.changes_out = 0
        """The changes of this atom cache and of that of the node for which they hold."""


class FrameMerger:
    """Rewrites the headers of the peer's frames for the one atom cache of the node."""

    def __init__(self) -> None:
        self._streams: dict[int, _Heads] = {}
        self._atoms_out = OutgoingAtomCache()

    def merge(self, frame: bytes, stream: int) -> bytes:
        """Returns the frame for the node. Raises ProtocolError if the frame is invalid."""
        kind = frame[:2]
        if kind == _HEADER:
            at = 2
        elif kind == _FIRST:
            at = FRAGMENT_HEAD.size
        else:
            return frame
        heads = self._streams.get(stream)
        if heads is None:
            heads = self._streams[stream] = _Heads(stream)
        atoms_in, atoms_out = heads.atoms, self._atoms_out
        if heads.changes != atoms_in.changes or heads.changes_out != atoms_out.changes:
            heads.known.clear()
            heads.changes, heads.changes_out = atoms_in.changes, atoms_out.changes
        count = frame[at] if len(frame) > at else 0
        if count:
            end = at + 2 + count // 2 + count  # of a header without new atoms
            head = heads.known.get(frame[at:end])
            if head is not None:
                return frame[:at] + head + frame[end:]
        atoms, end = atoms_in.read(frame, at)
        head = atoms_out.header(atoms)
        is_same = heads.changes == atoms_in.changes and heads.changes_out == atoms_out.changes
        if is_same and len(heads.known) < _MAX_HEADS:
            heads.known[frame[at:end]] = head
        return b"".join((frame[:at], head, frame[end:])) if atoms else frame


def _cache_size(stream: int) -> int:
    return CACHE_SIZE if stream == UNKNOWN_SENDER else STREAM_CACHE_SIZE


def _fitting(stream: int, frame: bytes) -> int:
    """Returns the stream for a frame. Data streams have no large ones (see MAX_DATA_FRAME)."""
    return stream if len(frame) <= MAX_DATA_FRAME else UNKNOWN_SENDER


def _stream(frame: bytes, start: int, atoms: tuple[etf.Atom, ...]) -> tuple[int, int]:
    """Returns the stream for the control message at `start`, and its end, or 0 if unknown."""
    try:
        values, end = etf.decode_bare(frame, start, _OPTIONS, atoms)
        return stream_for(parse(values)[0]), end
    except (etf.EtfDecodeError, ProtocolError):
        return UNKNOWN_SENDER, 0
