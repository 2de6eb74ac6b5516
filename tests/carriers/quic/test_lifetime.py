"""The time limit of an unused connection, and the keep-alive of a used one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.lifetime import Lifetime, Verdict

INTERVAL = 10.0


def test_a_connection_that_is_not_used_in_time_is_closed_once() -> None:
    lifetime = Lifetime(5.0)
    assert lifetime.look(4.9, 4.9, INTERVAL) is Verdict.NOTHING
    assert lifetime.look(5.0, 4.9, INTERVAL) is Verdict.UNUSED, "datagrams alone are no use"
    assert lifetime.due is None
    assert lifetime.look(6.0, 4.9, INTERVAL) is Verdict.NOTHING


def test_an_unused_dialer_has_no_limit_here() -> None:
    lifetime = Lifetime()
    assert lifetime.due is None
    assert lifetime.look(1e9, 0.0, INTERVAL) is Verdict.NOTHING


def test_a_used_connection_is_kept_alive() -> None:
    lifetime = Lifetime(5.0)
    lifetime.used(4.0)
    assert lifetime.look(4.0, 4.0, INTERVAL) is Verdict.NOTHING
    assert lifetime.due == 14.0
    assert lifetime.look(14.0, 4.0, INTERVAL) is Verdict.PING
    assert lifetime.due == 24.0


@given(
    st.lists(st.floats(0.0, 50.0), max_size=50),
    st.floats(0.01, 20.0),
)
def test_a_ping_follows_each_silent_interval_and_only_that(
    pauses: list[float], interval: float
) -> None:
    """Datagrams arrive with the given pauses.

    `due` lies in the future after each look, so that an alarm for it cannot ring forever.
    """
    lifetime = Lifetime()
    now = heard = 100.0
    lifetime.used(now)
    assert lifetime.look(now, heard, interval) is Verdict.NOTHING
    for pause in pauses:
        pinged = heard
        until = heard + pause
        while lifetime.due is not None and lifetime.due < until:
            now = lifetime.due
            if lifetime.look(now, heard, interval) is Verdict.PING:
                assert now >= pinged + interval
                pinged = now
            assert lifetime.due is not None
            assert lifetime.due > now
        assert until <= max(pinged, now) + interval
        heard = until
