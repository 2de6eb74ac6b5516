"""quicdist's range set compared with aioquic's, and the number of steps that it takes."""

from __future__ import annotations

from unittest import mock

import pytest
from aioquic.quic.rangeset import RangeSet
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.engine import aioquic_ranges
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges

operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "subtract"]),
        st.integers(0, 60),
        st.integers(1, 12),
    )
)


@pytest.mark.parametrize("few", [1, aioquic_ranges._FEW])
@given(steps=operations)
def test_it_holds_what_aioquics_holds(few: int, steps: list[tuple[str, int, int]]) -> None:
    with mock.patch.object(aioquic_ranges, "_FEW", few):
        compare(steps)


def compare(steps: list[tuple[str, int, int]]) -> None:
    ours, theirs = Ranges(), RangeSet()
    for name, start, length in steps:
        for each in (ours, theirs):
            getattr(each, name)(start, start + length)
        assert list(ours) == list(theirs)


@given(steps=operations, start=st.integers(0, 60), length=st.integers(1, 30))
def test_what_is_missing_is_what_would_be_added(
    steps: list[tuple[str, int, int]], start: int, length: int
) -> None:
    ranges = Ranges()
    for name, first, size in steps:
        getattr(ranges, name)(first, first + size)
    held = {number for each in ranges for number in each}
    parts = ranges.missing(start, start + length)
    found = [number for first, stop in parts for number in range(first, stop)]
    assert found == [number for number in range(start, start + length) if number not in held]


def test_a_gap_at_every_second_byte_is_found_by_halving() -> None:
    ranges = Ranges(range(2 * n, 2 * n + 1) for n in range(4096))
    looked_at = mock.Mock(side_effect=lambda each: each.start)
    with mock.patch.object(aioquic_ranges, "_start", looked_at):
        ranges.add(4001)
    assert len(ranges) == 4095
    assert looked_at.call_count <= 13
