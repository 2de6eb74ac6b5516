"""Detection of dead peers, and of a local event loop that was blocked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.cluster.liveness import BEAT, Dead, Liveness, LoopWatch, Observed, Tick
from quicdist.errors import Cause


@given(st.lists(st.floats(0.0, 1.9), max_size=50))
def test_a_loop_that_runs_never_stood_still(lates: list[float]) -> None:
    now, watch = 100.0, LoopWatch(100.0)
    for late in lates:
        now += BEAT + min(late, 0.99)
        assert watch.beat(now) == 0.0
        assert watch.blocked_for(now) == 0.0
        assert watch.silence(99.0, now) == now - 100.0


@given(st.floats(2.5, 1e6), st.booleans())
def test_a_standstill_is_told_once_whoever_looks_first(length: float, beat_is_first: bool) -> None:
    watch = LoopWatch(0.0)
    now = BEAT + length
    if not beat_is_first:
        assert watch.blocked_for(now) == pytest.approx(length)
    assert watch.beat(now) == pytest.approx(length)
    assert watch.beat(now + BEAT) == 0.0
    assert watch.blocked_for(now + BEAT) == pytest.approx(length)


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
    assert watch.blocked_for(now) == 0.0


# -- the ticks of a connection --------------------------------------------------------------------

TICKTIME = 60.0

QUIET = Observed(
    last_received=0.0,
    heard_at=0.0,
    silence=0.0,
    frames_sent=0,
    is_backlog_empty=True,
    is_held_back=False,
    is_behind_answers=False,
    is_unread=False,
)


def up(*, needs_probe: bool = False, has_keepalive: bool = True) -> Liveness:
    """Returns the liveness of a connection that was established at 0 s."""
    liveness = Liveness(TICKTIME, 0.0, needs_probe=needs_probe, has_keepalive=has_keepalive)
    liveness.begin(0.0)
    assert liveness.due == 15
    return liveness


def at(now: float, **more: Any) -> Observed:
    """Returns the state of a peer that was heard just now."""
    return dataclasses.replace(QUIET, **{"last_received": now, **more})


def decision(liveness: Liveness, now: float, seen: Observed) -> tuple[bool, bool, float]:
    """Returns (sends_tick, probes, seconds until the next tick) of a connection that continues."""
    tick = liveness.tick(now, seen)
    assert isinstance(tick, Tick)
    return tick.sends_tick, tick.probes, liveness.due - now


def test_a_tick_is_sent_where_nothing_else_was() -> None:
    liveness = up()
    assert decision(liveness, 15, at(15)) == (True, False, 15)
    assert decision(liveness, 30, at(30, frames_sent=7)) == (False, False, 15)
    liveness.sent(7)
    unsent = at(45, frames_sent=7, is_backlog_empty=False)
    assert decision(liveness, 45, unsent) == (False, False, 15)
    assert decision(liveness, 60, at(60, frames_sent=7)) == (True, False, 15)


def test_a_silent_peer_is_dead_at_net_ticktime_and_not_before() -> None:
    liveness = up()
    assert decision(liveness, 15, at(1, silence=14)) == (True, False, 15)
    assert decision(liveness, 30, at(1, silence=29)) == (True, False, 15)
    assert decision(liveness, 45, at(1, silence=44)) == (True, False, 15)
    assert decision(liveness, 60, at(1, silence=59)) == (True, False, TICKTIME / 16)
    reason = "net_tick_timeout: nothing received for 60 s"
    assert liveness.tick(61, at(1, silence=60)) == Dead(reason, Cause.TICK_TIMEOUT)


def test_an_event_loop_that_was_blocked_reads_before_it_decides() -> None:
    liveness = up()
    assert isinstance(liveness.tick(90, at(1, silence=89)), Tick)
    assert isinstance(liveness.tick(94, at(1, silence=93)), Dead)


@pytest.mark.parametrize("has_keepalive", [True, False])
def test_a_peer_held_back_is_silent_unless_its_transport_speaks(has_keepalive: bool) -> None:
    liveness = up(has_keepalive=has_keepalive)
    told = liveness.tick(15, at(-60, silence=75, is_held_back=True))
    assert isinstance(told, Dead) is has_keepalive


def test_a_node_that_says_nothing_is_asked_and_ends_when_it_does_not_answer() -> None:
    liveness = up(needs_probe=True)
    for now in (15, 30, 45, 60):
        assert decision(liveness, now, at(now)) == (False, True, 15)
    reason = "net_tick_timeout: the peer's transport responds, its node does not"
    assert liveness.tick(75, at(75)) == Dead(reason, Cause.TICK_TIMEOUT)


def test_an_answer_to_the_probe_is_enough() -> None:
    liveness = up(needs_probe=True)
    assert decision(liveness, 15, at(15)) == (False, True, 15)
    assert decision(liveness, 30, at(30, heard_at=16)) == (True, False, 15)
    assert decision(liveness, 45, at(45, heard_at=16)) == (False, True, 15)


def test_an_answer_within_the_same_instant_of_the_clock_counts() -> None:
    liveness = up(needs_probe=True)
    assert decision(liveness, 15, at(15)) == (False, True, 15)
    assert decision(liveness, 30, at(30, heard_at=15)) == (False, True, 15)
    assert decision(liveness, 45, at(45, heard_at=30)) == (False, True, 15)


@pytest.mark.parametrize("reason", ["is_held_back", "is_unread"])
def test_a_peer_that_we_do_not_read_is_not_asked(reason: str) -> None:
    liveness = up(needs_probe=True)
    for now in range(15, 300, 15):
        assert decision(liveness, now, at(now, **{reason: True})) == (True, False, 15)


def test_answers_that_do_not_move_for_net_ticktime_end_the_connection() -> None:
    liveness = up()
    behind = {"is_held_back": True, "is_behind_answers": True, "is_backlog_empty": False}
    liveness.tick(15, at(15))
    for now in (30, 45, 60):
        assert isinstance(liveness.tick(now, at(now, **behind)), Tick)
    told = liveness.tick(75, at(75, **behind))
    assert told == Dead("the peer sent requests and read no answers for 60 s", Cause.ANSWERS_UNREAD)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.booleans())
def test_a_peer_that_is_heard_is_never_dead(moved: list[bool], needs_probe: bool) -> None:
    liveness, now, frames = up(needs_probe=needs_probe), 15.0, 0
    for has_moved in moved:
        frames += has_moved
        told = liveness.tick(now, at(now, heard_at=now - 1, frames_sent=frames))
        assert isinstance(told, Tick)
        assert 0 < liveness.due - now <= TICKTIME / 4
        assert told.sends_tick is not (has_moved or told.probes)
        liveness.sent(frames)
        now = liveness.due


@given(st.lists(st.floats(0, 20), min_size=40, max_size=60))
def test_a_peer_that_is_never_heard_is_dead_after_net_ticktime(delays: list[float]) -> None:
    """With any delay of ticks within the bound for a blocked event loop."""
    liveness, due = up(), 15.0
    for delay in delays:
        now = due + min(delay, TICKTIME / 8 - 0.01)
        told = liveness.tick(now, at(0, silence=now))
        if isinstance(told, Dead):
            assert TICKTIME <= now <= TICKTIME * 1.25
            return
        due = liveness.due
    raise AssertionError("it lives for ever")
