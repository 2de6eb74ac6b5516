"""How much a peer may send ahead of what is consumed."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.receive_window import MemoryBudget, ReceiveWindow

MIB = 1024 * 1024


def report(
    window: ReceiveWindow,
    total: int,
    unconsumed: int,
    now: float,
    round_trip: float | None,
    **options: Any,
) -> None:
    """Reports as a connection does: when a measurement is due."""
    if window.is_due(now):
        window.received(total, unconsumed, now, round_trip, **options)


def fed(
    window: ReceiveWindow,
    rate: float,
    seconds: float,
    *,
    since: float = 0.0,
    unconsumed: int = 0,
    unread: int = 0,
) -> None:
    """Data at that rate until some time in seconds, at a round trip of 0.1 s."""
    now = since
    while now < seconds:
        now += 0.02
        report(window, int(rate * now), unconsumed, now, 0.1, least=0.1, unread=unread)


def test_the_window_follows_what_arrives_in_a_round_trip() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 30 * MIB, 1.0)
    assert 11 * MIB <= window.size <= 13 * MIB


def test_it_grows_to_its_bound() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 1000 * MIB, 1.0)
    assert window.size == 24 * MIB


def test_a_short_or_slow_path_needs_no_more_than_the_first_window() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 2 * MIB, 1.0)
    assert window.size == MIB


def test_it_does_not_grow_for_who_does_not_read_and_shrinks_again() -> None:
    budget = MemoryBudget(96 * MIB)
    window = ReceiveWindow(MIB, 24 * MIB, budget)
    fed(window, 100 * MIB, 1.0, unconsumed=3 * MIB // 4)
    assert window.size == MIB
    window = ReceiveWindow(MIB, 24 * MIB, budget)
    fed(window, 100 * MIB, 1.0)
    for step in range(10):
        report(window, 0, 23 * MIB, 5.0 + step, 0.1)
    assert window.size == MIB
    assert budget.left == 96 * MIB


def test_what_arrives_and_is_not_consumed_does_not_let_it_grow() -> None:
    budget = MemoryBudget(96 * MIB)
    window = ReceiveWindow(MIB, 24 * MIB, budget)
    report(window, 0, 0, 0.1, 0.1)
    report(window, MIB // 2, MIB // 2, 0.2, 0.1)
    assert window.size == MIB
    assert budget.left == 96 * MIB


def test_while_data_waits_in_the_socket_the_peer_sends_as_far_ahead_as_is_read() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 20 * MIB, 1.0)
    size, step = window.size, window.step
    assert window.ahead is None
    fed(window, 20 * MIB, 2.0, since=1.0, unread=MIB)
    assert window.ahead is not None
    assert 2 * MIB <= window.ahead <= 3 * MIB
    assert window.size == size
    assert window.step < step
    fed(window, 20 * MIB, 5.0, since=2.0)
    assert window.ahead is None
    assert window.step == step


def test_one_burst_is_no_queue() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 20 * MIB, 1.0)
    fed(window, 20 * MIB, 1.06, since=1.0, unread=MIB)
    fed(window, 20 * MIB, 1.5, since=1.06)
    assert window.ahead is None


def test_a_bound_that_was_not_the_readers_is_gone_after_some_round_trips() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 60 * MIB, 1.0)
    assert window.size == 24 * MIB
    fed(window, 1 * MIB, 5.0, since=1.0, unread=MIB)
    assert window.ahead == MIB
    fed(window, 1 * MIB, 6.5, since=5.0)  # no more arrives than before, but nothing waits
    assert window.ahead is None


@pytest.mark.parametrize("unread", [20 * 1024, 100 * 1024])
@pytest.mark.parametrize("rate", [1 * MIB, 40 * MIB])
def test_little_data_may_wait_in_the_socket(unread: int, rate: float) -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, rate, 2.0, unread=unread)
    assert window.ahead is None


def test_a_slow_reader_lets_the_peer_send_the_first_window() -> None:
    window = ReceiveWindow(2 * MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 40 * MIB, 1.0)
    fed(window, 1000, 3.0, since=1.0, unread=4 * MIB)
    assert window.ahead == 2 * MIB


def test_a_pause_of_the_sender_says_nothing_about_the_reader() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 20 * MIB, 1.0)
    for now in (2.0, 3.0, 4.0):
        report(window, 20 * MIB, 0, now, 0.1, least=0.1)
    for now in (4.06, 4.12, 4.18):
        report(window, int(20 * MIB * (now - 3)), 0, now, 0.1, least=0.1, unread=MIB)
    assert window.ahead is not None
    assert window.ahead >= 2 * MIB


# -- the start of a connection ------------------------------------------------------------------

BDP = 16 * MIB


def round_trips(first: int | None, *, rtt: float = 0.1, interval: float = 0.001) -> float:
    """Returns after how many round trips BDP bytes are in flight.

    The sender doubles its window in each round trip, as in STARTUP and slow start, and sends
    evenly. `first` is the first receive window; None for unlimited credit.
    """
    receiver = ReceiveWindow(first or 1 << 40, 2 * BDP, MemoryBudget(2 * BDP))
    limit = receiver.size
    congestion, sent, received, acknowledged = 16 * 1024.0, 0.0, 0.0, 0.0
    data: deque[tuple[float, float]] = deque()
    answers: deque[tuple[float, float, int]] = deque()
    now = 0.0
    while sent - acknowledged < BDP:
        now += interval
        while data and data[0][0] <= now:
            received += data.popleft()[1]
        report(receiver, int(received), 0, now, rtt, least=rtt)
        answers.append((now + rtt / 2, received, int(received) + receiver.size))
        while answers and answers[0][0] <= now:
            _, count, credit = answers.popleft()
            congestion += count - acknowledged
            acknowledged = count
            if credit - limit >= receiver.step:
                limit = credit
        room = min(acknowledged + congestion, limit) - sent
        size = min(max(room, 0.0), 2 * congestion / rtt * interval)
        sent += size
        data.append((now + rtt / 2, size))
        assert now < 100 * rtt
    return now / rtt


@pytest.mark.parametrize("rtt", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("first", [256 * 1024, MIB])
def test_the_window_grows_as_fast_as_a_slow_start(first: int, rtt: float) -> None:
    assert round_trips(first, rtt=rtt) <= round_trips(None, rtt=rtt) + 0.5


def test_a_sender_that_already_knows_the_path_is_not_held_for_long() -> None:
    """Each window is used up at once. It grows fourfold in each round trip."""
    window = ReceiveWindow(256 * 1024, 24 * MIB, MemoryBudget(96 * MIB))
    report(window, 0, 0, 0.0, 0.1, least=0.1)
    total, rounds = 0, 0
    while window.size < 15 * MIB:
        total += window.size
        rounds += 1
        report(window, total, 0, rounds * 0.1, 0.1, least=0.1)
    assert rounds == 3


def test_the_first_window_can_be_a_dialects() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(0))
    window.raise_first(32 * MIB)
    assert window.size == 32 * MIB


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 40 * MIB),
            st.integers(0, 40 * MIB),
            st.integers(0, 4 * MIB),
        ),
        max_size=60,
    )
)
def test_all_windows_together_stay_within_the_budget(
    steps: list[tuple[int, int, int, int]],
) -> None:
    budget = MemoryBudget(30 * MIB)
    windows = [ReceiveWindow(MIB, 24 * MIB, budget) for _ in range(4)]
    totals = [0] * 4
    now = 0.0
    for index, more, unconsumed, unread in steps:
        now += 0.06
        totals[index] += more
        report(windows[index], totals[index], unconsumed, now, 0.1, least=0.05, unread=unread)
        assert sum(each.size - MIB for each in windows) + budget.left == 30 * MIB
        assert budget.left >= 0
        assert all(MIB <= each.size <= 24 * MIB for each in windows)
    for each in windows:
        each.close()
    assert budget.left == 30 * MIB
