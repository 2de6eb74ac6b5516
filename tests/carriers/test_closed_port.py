"""When a peer's port is considered closed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.closed_port import ClosedPort, Verdict

ROUND_TRIPS = st.floats(0.0001, 0.5)


def run(
    port: ClosedPort,
    now: float,
    round_trip: float,
    *,
    refuses: bool,
    loss: float = 0.0,
    chance: random.Random | None = None,
    stands_still: tuple[float, float] = (0.0, 0.0),
) -> tuple[Verdict, float]:
    """Runs due checks with a peer that refuses or answers each probe.

    The second value is the time of the verdict; NOTHING means that the check has ended.
    """
    dice = chance or random.Random(0)
    arrivals: list[float] = []
    end = now + 60
    while port.due is not None and now < end:
        now = max(now, port.due)
        if stands_still[0] <= now < stands_still[1]:
            now = stands_still[1]
        for arrival in [one for one in arrivals if one <= now]:
            arrivals.remove(arrival)
            if refuses:
                port.refused(arrival)
            else:
                port.heard(now)
        verdict = port.look(now, round_trip)
        if verdict is Verdict.CLOSED:
            return verdict, now
        if verdict is Verdict.PROBE and dice.random() >= loss and dice.random() >= loss:
            arrivals.append(now + round_trip)
    return Verdict.NOTHING, now


@given(ROUND_TRIPS)
def test_a_port_that_refuses_every_probe_is_closed(round_trip: float) -> None:
    port = ClosedPort()
    port.refused(5.0)
    verdict, at = run(port, 5.0, round_trip, refuses=True)
    assert verdict is Verdict.CLOSED
    assert at - 5.0 < max(1.0, 8 * round_trip)


@given(ROUND_TRIPS)
def test_a_peer_that_answers_is_there_whatever_was_said(round_trip: float) -> None:
    port = ClosedPort()
    port.refused(5.0)
    assert run(port, 5.0, round_trip, refuses=False)[0] is Verdict.NOTHING
    assert port.due is None


@given(st.randoms(use_true_random=False), ROUND_TRIPS)
def test_a_path_that_loses_a_fifth_both_ways_is_no_closed_port(
    chance: random.Random, round_trip: float
) -> None:
    port = ClosedPort()
    port.refused(5.0)
    verdict, _ = run(port, 5.0, round_trip, refuses=False, loss=0.2, chance=chance)
    assert verdict is Verdict.NOTHING


def test_one_refusal_and_silence_is_no_closed_port() -> None:
    """The peer's loop is blocked, its socket is open, and an attacker has forged a refusal."""
    port = ClosedPort()
    port.refused(5.0)
    verdict, _ = run(port, 5.0, 0.001, refuses=False, loss=1.0)
    assert verdict is Verdict.NOTHING
    assert port.due is None


@given(st.floats(0.0, 1.0), st.floats(0.5, 10.0))
def test_our_own_standstill_is_no_silence_of_the_peer(start: float, length: float) -> None:
    port = ClosedPort()
    port.refused(5.0)
    still = (5.0 + start, 5.0 + start + length)
    assert run(port, 5.0, 0.001, refuses=False, stands_still=still)[0] is Verdict.NOTHING


def test_after_an_answer_refusals_start_nothing_for_a_while() -> None:
    port = ClosedPort()
    port.refused(5.0)
    port.heard(5.1)
    port.refused(5.2)
    assert port.due is None
    port.refused(6.2)
    assert port.due == 6.2


def test_nothing_is_looked_at_that_is_not_suspected() -> None:
    assert ClosedPort().look(5.0, 0.001) is Verdict.NOTHING
