"""Delivery-rate samples and the filters that they feed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.congestion.filters import MaxFilter, MinFilter
from quicdist.carriers.quic.congestion.rate_sample import DeliveryRate

RATE = 1_000_000.0
SIZE = 1000


def test_a_steady_flow_is_measured_at_its_rate() -> None:
    delivery = DeliveryRate()
    step, flight = SIZE / RATE, 50
    states = [delivery.on_sent(0.0, 0, SIZE)]
    sample = None
    for index in range(1, 200):
        now = index * step
        if index >= flight:
            sample = delivery.on_acknowledged(now, SIZE, states[index - flight], 0.01)
        states.append(delivery.on_sent(now, min(index, flight - 1) * SIZE, SIZE))
    assert sample is not None
    assert sample.rate == pytest.approx(RATE, rel=0.05)


def test_acknowledgements_in_a_bunch_make_the_rate_no_higher() -> None:
    delivery = DeliveryRate()
    step = SIZE / RATE
    delivery.on_sent(0.0, 0, SIZE)
    states = [delivery.on_sent(index * step, index * SIZE, SIZE) for index in range(1, 100)]
    delivery.on_acknowledged(0.05, SIZE, states[0], 0.0)
    sample = delivery.on_acknowledged(0.1, 98 * SIZE, states[-1], 0.0)
    assert sample is not None
    assert sample.rate <= 1.05 * RATE


def test_a_burst_makes_the_rate_no_higher() -> None:
    delivery = DeliveryRate()
    states = [delivery.on_sent(0.0, index * SIZE, SIZE) for index in range(10)]
    rates = []
    for index, state in enumerate(states):
        sample = delivery.on_acknowledged(0.05 + index * SIZE / RATE, SIZE, state, 0.05)
        assert sample is not None
        rates.append(sample.rate)
    assert max(rates) <= RATE


def test_too_short_an_interval_tells_no_rate() -> None:
    delivery = DeliveryRate()
    state = delivery.on_sent(0.0, 0, SIZE)
    sample = delivery.on_acknowledged(0.001, SIZE, state, 0.02)
    assert sample is not None
    assert sample.rate == 0.0


def test_what_left_while_there_was_little_to_send_is_marked() -> None:
    delivery = DeliveryRate()
    delivery.on_app_limited(SIZE)
    limited = delivery.on_sent(0.0, SIZE, SIZE)
    assert limited.is_app_limited
    delivery.on_acknowledged(0.02, 2 * SIZE, limited, 0.0)
    assert not delivery.on_sent(0.03, 0, SIZE).is_app_limited


def test_lost_bytes_are_counted_and_uncounted() -> None:
    delivery = DeliveryRate()
    state = delivery.on_sent(0.0, 0, SIZE)
    delivery.on_lost(3 * SIZE)
    delivery.on_spurious_loss(SIZE)
    sample = delivery.on_acknowledged(0.02, SIZE, state, 0.0)
    assert sample is not None
    assert sample.lost == 2 * SIZE


@given(values=st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=50))
def test_the_maximum_is_that_of_the_last_two_windows(values: list[float | None]) -> None:
    """None begins a window."""
    kept = MaxFilter(2)
    windows: list[list[float]] = [[]]
    for value in values:
        if value is not None:
            kept.update(value)
            windows[-1].append(value)
        elif any(windows[-1]):
            kept.advance()
            windows.append([])
        assert kept.value == max([0.0, *(each for window in windows[-2:] for each in window)])


@given(steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 10)), min_size=1, max_size=50))
def test_the_minimum_is_no_older_than_its_window(steps: list[tuple[float, float]]) -> None:
    kept = MinFilter(10.0)
    now = 0.0
    for after, value in steps:
        now += after
        kept.update(value, now)
        assert kept.value <= value
        assert now - kept.at <= kept.window
