"""The gaps between the steps of a dialect."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.gaps import Gaps
from quicdist.protocol.dialects.base import Gap, Refuse, Step, Write

QUIET = Gap(0.5, ends_on_receive=False)
OR_ANSWER = Gap(0.5, ends_on_receive=True)


def write(size: int = 1) -> Write:
    return Write(0, [bytes(size)])


def test_the_time_begins_when_all_data_before_the_gap_is_acknowledged() -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    gaps.hold(write(7))
    gaps.acknowledged(8, 10.0, 0.0)
    assert gaps.due is None
    gaps.acknowledged(7, 11.0, 0.0)
    assert gaps.due == 11.5


def test_a_later_acknowledgement_does_not_move_the_end() -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    gaps.acknowledged(0, 11.0, 0.0)
    gaps.acknowledged(0, 11.4, 0.0)
    assert gaps.due == 11.5


def test_the_round_trip_counts_as_up_to_half_of_the_gap() -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    gaps.acknowledged(0, 10.0, 0.125)
    assert gaps.due == 10.375
    far = Gaps()
    far.begin(QUIET)
    far.acknowledged(0, 10.0, 3.0)
    assert far.due == 10.25


def test_it_ends_at_its_time_and_not_before() -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    assert not gaps.look(1e9), "its time has not begun"
    gaps.acknowledged(0, 10.0, 0.0)
    assert not gaps.look(10.49)
    assert gaps.is_waiting
    assert gaps.look(10.5)
    assert not gaps.is_waiting
    assert gaps.due is None
    assert not gaps.look(10.5), "once"


def test_a_packet_ends_only_a_gap_that_says_so() -> None:
    gaps = Gaps()
    assert not gaps.packet_received()
    gaps.begin(QUIET)
    assert not gaps.packet_received()
    assert gaps.is_waiting
    assert gaps.look(0.0) is False
    other = Gaps()
    other.begin(OR_ANSWER)
    assert other.packet_received()
    assert not other.is_waiting


def test_nothing_is_left_after_the_end_of_the_connection() -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    gaps.hold(write())
    gaps.acknowledged(1, 0.0, 0.0)
    gaps.clear()
    assert gaps.due is None
    assert not gaps.is_waiting
    assert list(gaps.release()) == []


steps = st.one_of(
    st.builds(write, st.integers(0, 50)),
    st.just(QUIET),
    st.just(OR_ANSWER),
    st.builds(Refuse, st.integers(0, 9), st.just(0)),
)


@given(st.lists(steps))
def test_steps_leave_in_order_and_none_leaves_during_a_gap(all_steps: list[Step]) -> None:
    gaps = Gaps()
    gaps.begin(QUIET)
    for step in all_steps:
        gaps.hold(step)
    left: list[Step] = []
    now = 0.0
    for _ in range(1 + sum(isinstance(step, Gap) for step in all_steps)):
        assert gaps.is_waiting
        held = sum(step.size for step in all_steps[len(left) :] if isinstance(step, Write))
        gaps.acknowledged(held + 1, now, 0.0)
        assert gaps.due is None, "a byte before the gap is not acknowledged"
        gaps.acknowledged(held, now, 0.0)
        assert gaps.due is not None
        now = gaps.due
        assert gaps.look(now)
        released = list(gaps.release())
        assert not any(isinstance(step, Gap) for step in released)
        left += released
        if gaps.is_waiting:
            left.append(all_steps[len(left)])
    assert left == all_steps
    assert not gaps.is_waiting
