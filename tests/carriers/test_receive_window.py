"""How much a peer may send ahead of what is consumed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.receive_window import MemoryBudget, ReceiveWindow

MIB = 1024 * 1024


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
        window.received(int(rate * now), unconsumed, now, 0.1, least=0.1, unread=unread)


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
    for _ in range(10):
        window.received(0, 23 * MIB, 5.0, 0.1)
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


def test_little_data_may_wait_in_the_socket() -> None:
    window = ReceiveWindow(MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 40 * MIB, 2.0, unread=100 * 1024)
    assert window.ahead is None


def test_a_slow_reader_lets_the_peer_send_the_first_window() -> None:
    window = ReceiveWindow(2 * MIB, 24 * MIB, MemoryBudget(96 * MIB))
    fed(window, 40 * MIB, 1.0)
    fed(window, 1000, 2.0, since=1.0, unread=4 * MIB)
    assert window.ahead == 2 * MIB


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
        windows[index].received(totals[index], unconsumed, now, 0.1, least=0.05, unread=unread)
        assert sum(each.size - MIB for each in windows) + budget.left == 30 * MIB
        assert budget.left >= 0
        assert all(MIB <= each.size <= 24 * MIB for each in windows)
    for each in windows:
        each.close()
    assert budget.left == 30 * MIB
