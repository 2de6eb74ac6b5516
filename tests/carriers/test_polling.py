"""Waiting for what nothing reports."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.polling import poll_until
from tests.carriers.stranger import run_virtually


@pytest.mark.virtual_clock
async def test_a_condition_that_is_true_costs_no_pause() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await poll_until(lambda: True, 0.0)
    assert loop.time() == start


@pytest.mark.virtual_clock
async def test_the_last_answer_counts_at_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert not await poll_until(lambda: False, 0.5)
    assert loop.time() - start == pytest.approx(0.5)
    assert await poll_until(lambda: loop.time() - start >= 1.5, 1.0)


@given(st.floats(0.0, 100.0))
def test_it_is_late_by_a_bound_and_asks_a_bounded_number_of_times(seconds: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start, asked = loop.time(), 0

        def condition() -> bool:
            nonlocal asked
            asked += 1
            return loop.time() - start >= seconds

        assert await poll_until(condition, 200.0)
        late = loop.time() - start - seconds
        assert late <= min(seconds + 0.001, 0.05) + 1e-6
        assert asked <= 10 + seconds / 0.05

    run_virtually(main())
