"""aioquic's set of ranges with a binary search: its own scans the list from the start each time.

A peer chooses how many ranges there are: stream data with a gap at every second byte, or an
acknowledgement of every second packet. There the scan costs as much as all the ranges before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from aioquic.quic.rangeset import RangeSet

_FEW = 8
"""Ranges, fewer than which are looked through faster than halved."""


def _start(each: range) -> int:
    return each.start


def _stop(each: range) -> int:
    return each.stop


class Ranges(RangeSet):
    """Does what RangeSet does; `add` and `subtract` cost the logarithm of the number of ranges,
    and the ranges that they remove."""

    _RangeSet__ranges: list[range]

    def add(self, start: int, stop: int | None = None) -> None:
        ranges = self._RangeSet__ranges
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
