"""The pacer: the rate on average, bursts within a bound, whatever timers do."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.congestion.pacer import MAX_LATE, Pacer

DATAGRAM = 1200


def paced(rate: float, late: float, seconds: float = 2.0, seed: int = 1) -> tuple[int, int]:
    """Returns the bytes sent by a sender with unlimited data, and the longest burst.

    Its timers are late by up to `late` seconds.
    """
    chance = random.Random(seed)
    pacer = Pacer(DATAGRAM)
    pacer.set_rate(rate, 0.0)
    now, sent, longest = 0.0, 0, 0
    while now < seconds:
        burst = 0
        while pacer.room(now) > 0:
            pacer.on_sent(DATAGRAM)
            burst += DATAGRAM
        sent += burst
        longest = max(longest, burst)
        now = pacer.next_time(now) + chance.uniform(0, late)
    return sent, longest


@pytest.mark.parametrize("rate", [100_000, 5_000_000, 125_000_000])
@pytest.mark.parametrize("late", [0.0, 0.001, 0.0025])
def test_late_timers_do_not_lower_the_rate(rate: int, late: float) -> None:
    sent, longest = paced(rate, late)
    assert sent == pytest.approx(2.0 * rate, rel=0.07)
    assert longest <= max(rate * MAX_LATE, 10 * DATAGRAM) + DATAGRAM


def test_what_a_very_late_timer_missed_is_made_up_for_within_a_bound() -> None:
    pacer = Pacer(DATAGRAM)
    pacer.set_rate(10_000_000, 0.0)
    pacer.on_sent(12_000)
    assert pacer.room(1.0) == 10_000_000 * MAX_LATE


def test_time_without_anything_to_send_is_not_made_up_for() -> None:
    pacer = Pacer(DATAGRAM)
    pacer.set_rate(10_000_000, 0.0)
    pacer.on_sent(12_000)
    pacer.on_idle()
    assert pacer.room(1.0) == 12_000


def test_unpaced_until_there_is_a_rate() -> None:
    pacer = Pacer(DATAGRAM)
    assert pacer.room(0.0) == float("inf")
    assert pacer.next_time(5.0) == 5.0


@pytest.mark.parametrize("rate", [-1.0, float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="invalid pacing rate"):
        Pacer(DATAGRAM).set_rate(rate, 0.0)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 0.1), st.floats(1_000, 1e9), st.integers(0, 30), st.booleans()),
        max_size=60,
    )
)
def test_more_than_the_rate_and_one_burst_never_leaves(
    steps: list[tuple[float, float, int, bool]],
) -> None:
    pacer = Pacer(DATAGRAM)
    now, allowed, sent, largest = 0.0, 0.0, 0, 0.0
    rate = 1_000.0
    pacer.set_rate(rate, now)
    for after, new_rate, wanted, is_idle in steps:
        now += after
        allowed += after * rate
        for _ in range(wanted):
            if pacer.room(now) <= 0:
                assert pacer.next_time(now) > now
                break
            pacer.on_sent(DATAGRAM)
            sent += DATAGRAM
        rate = new_rate
        largest = max(largest, rate)
        pacer.set_rate(rate, now)
        if is_idle:
            pacer.on_idle()
        assert sent <= allowed + max(largest * MAX_LATE, 10 * DATAGRAM) + DATAGRAM
