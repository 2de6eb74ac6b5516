"""The window of a stream: what is sent and not acknowledged stays within its size."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.kernel.streams.window import StreamWindow, Window

SIZES = st.lists(st.integers(1, 2000), max_size=40)
STEPS = st.lists(st.one_of(st.just("take"), st.integers(1, 10)), max_size=60)


@given(st.integers(1, 8), st.integers(1, 4000), SIZES, STEPS)
def test_the_window_is_kept_in_any_order_of_sending_and_acknowledging(
    max_items: int, max_bytes: int, sizes: list[int], steps: list[str | int]
) -> None:
    window = Window(StreamWindow(max_items, max_bytes))
    queue = deque((index, size) for index, size in enumerate(sizes))
    unacknowledged: list[int] = []
    sent: list[object] = []
    for step in steps:
        if isinstance(step, int):
            count = min(step, len(unacknowledged))
            window.acknowledged(count)
            del unacknowledged[:count]
        else:
            taken = window.take(queue)
            sent += taken
            unacknowledged += [sizes[index] for index in taken]
            assert len(unacknowledged) <= max_items
            assert sum(unacknowledged) <= max_bytes or len(unacknowledged) == 1
            is_blocked = bool(unacknowledged) and (
                not queue
                or len(unacknowledged) == max_items
                or sum(unacknowledged) + queue[0][1] > max_bytes
            )
            assert is_blocked or not queue
    assert sent == list(range(len(sent)))


def test_acknowledging_more_than_was_sent_is_an_error() -> None:
    window = Window(StreamWindow())
    window.take(deque([("item", 1)]))
    with pytest.raises(ValueError, match="2 items acknowledged, 1 sent"):
        window.acknowledged(2)


@pytest.mark.parametrize(("items", "size"), [(0, 1), (1, 0), (-1, 1)])
def test_a_window_is_positive(items: int, size: int) -> None:
    with pytest.raises(ValueError, match="StreamWindow"):
        StreamWindow(items, size)
