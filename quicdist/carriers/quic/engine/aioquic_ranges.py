"""Replacements of aioquic's range sets, with binary search.

aioquic's `RangeSet` scans the list from the start on each operation. A peer controls the number of
ranges, for example with a gap at every second byte of a stream, or with an acknowledgement of every
second packet. The scan would then cost linear time for each frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

from aioquic.quic.rangeset import RangeSet

_FEW = 8
"""Number of ranges below which a linear scan is faster than a binary search."""

MAX_RECEIVED_RANGES = 512
"""Maximum number of ranges in ReceivedPackets. A lost packet leaves a gap for good, so they cover
51,200 packets at a loss of 1 %."""


def _start(each: range) -> int:
    return each.start


def _stop(each: range) -> int:
    return each.stop


class Ranges(RangeSet):
    """A `RangeSet` whose `add` and `subtract` search in logarithmic time."""

    _RangeSet__ranges: list[range]

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        super().__init__(ranges)
        self.parts: Sequence[range] = self._RangeSet__ranges
        """The ranges, ascending. `RangeSet` reads its list by methods, which costs more."""

    def add(self, start: int, stop: int | None = None) -> None:
        ranges = self._RangeSet__ranges
        if stop is not None and ranges and ranges[-1].stop == start < stop:
            ranges[-1] = range(ranges[-1].start, stop)
            return
        if len(ranges) < _FEW:
            super().add(start, stop)
            return
        if stop is None:
            stop = start + 1
        assert stop > start
        if start > ranges[-1].stop:
            ranges.append(range(start, stop))
            return
        first = bisect_left(ranges, start, key=_stop)
        last = bisect_right(ranges, stop, key=_start)
        if first < last:
            start = min(start, ranges[first].start)
            stop = max(stop, ranges[last - 1].stop)
        ranges[first:last] = [range(start, stop)]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of `start` to `stop` that are not in it, ascending."""
        ranges = self._RangeSet__ranges
        if not ranges:
            return [(start, stop)]
        parts = []
        first = bisect_right(ranges, start, key=_stop)
        for at in range(first, bisect_left(ranges, stop, key=_start)):
            each = ranges[at]
            if start < each.start:
                parts.append((start, each.start))
            start = each.stop
        if start < stop:
            parts.append((start, stop))
        return parts

    def subtract(self, start: int, stop: int) -> None:
        ranges = self._RangeSet__ranges
        if ranges and start <= ranges[0].start < stop <= ranges[0].stop:
            if stop == ranges[0].stop:
                del ranges[0]
            else:
                ranges[0] = range(stop, ranges[0].stop)
            return
        if len(ranges) < _FEW:
            super().subtract(start, stop)
            return
        assert stop > start
        first = bisect_right(ranges, start, key=_stop)
        last = bisect_left(ranges, stop, key=_start)
        if first >= last:
            return
        left = []
        if ranges[first].start < start:
            left.append(range(ranges[first].start, start))
        if ranges[last - 1].stop > stop:
            left.append(range(stop, ranges[last - 1].stop))
        ranges[first:last] = left


class ReceivedPackets:
    """The numbers of received packets, which detect copies (RFC 9000, 13.2.3).

    aioquic keeps the last 128 numbers and drops all packets below them. A path that reorders delays
    packets by more than that, and each dropped one would count as lost at the peer. Here the
    numbers are ranges, of which the lowest is given up.
    """

    __slots__ = ("_lower", "_ranges")

    def __init__(self) -> None:
        self._ranges = Ranges()
        self._lower = 0
        """The number below which all packets count as received."""

    def add(self, number: int, stop: int | None = None) -> None:
        """Adds a number, or those from `number` to before `stop`."""
        self._ranges.add(number, number + 1 if stop is None else stop)
        if len(self._ranges.parts) > MAX_RECEIVED_RANGES:
            self._lower = self._ranges.shift().stop

    def __contains__(self, number: int) -> bool:
        if number < self._lower:
            return True
        parts = self._ranges.parts
        at = bisect_right(parts, number, key=_start)
        return at > 0 and number < parts[at - 1].stop


class Pieces(Ranges):
    """The data that a stream must send. Lost data stays in the pieces in which it was sent.

    New data is one piece. A lost piece is not joined with another one or with new data, so a
    retransmitted STREAM frame begins where the original did.
    """

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        super().__init__(ranges)
        self._new_from = 0
        """The offset from which on nothing has been sent."""

    def add(self, start: int, stop: int | None = None) -> None:
        pieces = self._RangeSet__ranges
        end = start + 1 if stop is None else stop
        if pieces and pieces[-1].stop == start and pieces[-1].start >= self._new_from:
            pieces[-1] = range(pieces[-1].start, end)
            return
        for part in self.missing(start, end):
            insort(pieces, range(*part), key=_start)

    def subtract(self, start: int, stop: int) -> None:
        super().subtract(start, stop)
        self._new_from = max(self._new_from, stop)

    def shift(self) -> range:
        piece = super().shift()
        self._new_from = max(self._new_from, piece.stop)
        return piece
