"""Whether our own event loop ran."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.cluster.liveness import BEAT, LoopWatch


@given(st.lists(st.floats(0.0, 1.9), max_size=50))
def test_a_loop_that_runs_never_stood_still(lates: list[float]) -> None:
    now, watch = 100.0, LoopWatch(100.0)
    for late in lates:
        now += BEAT + min(late, 0.99)
        assert watch.beat(now) == 0.0
        assert watch.stood_still(now) == 0.0
        assert watch.silence(99.0, now) == now - 100.0


@given(st.floats(2.5, 1e6), st.booleans())
def test_a_standstill_is_told_once_whoever_looks_first(length: float, beat_is_first: bool) -> None:
    watch = LoopWatch(0.0)
    now = BEAT + length
    if not beat_is_first:
        assert watch.stood_still(now) == pytest.approx(length)
    assert watch.beat(now) == pytest.approx(length)
    assert watch.beat(now + BEAT) == 0.0
    assert watch.stood_still(now + BEAT) == pytest.approx(length)


@given(st.floats(2.5, 1e6), st.floats(0.0, 0.9))
def test_silence_counts_while_we_listen(length: float, later: float) -> None:
    watch = LoopWatch(0.0)
    resumed = BEAT + length
    assert watch.silence(0.0, resumed) == 0.0
    watch.beat(resumed)
    assert watch.silence(0.0, resumed + later) == pytest.approx(later, abs=1e-6)
    assert watch.silence(resumed + later, resumed + later) == pytest.approx(0.0, abs=1e-6)


def test_an_old_standstill_explains_nothing() -> None:
    watch = LoopWatch(0.0)
    now = 61.0
    watch.beat(now)
    for _ in range(11):
        now += BEAT
        watch.beat(now)
    assert watch.stood_still(now) == 0.0
