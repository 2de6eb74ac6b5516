"""When a connection sends a PING."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import NodeError, Quic
from quicdist.carriers import tcp
from quicdist.carriers.quic.keep_alive import PROBE_PAUSE, KeepAlive, longest_silence
from quicdist.limits import CarrierLimits

NAT_TIMEOUT = 30.0
"""Seconds after which common NATs forget an idle UDP flow."""


def pings(
    end: float, *, longest: float, awaits_from: float = math.inf, trip: float = 0.01
) -> list[float]:
    """Returns the times of the PINGs to a peer that was last heard at 0 and never again."""
    keep_alive = KeepAlive(0.0)
    sent: list[float] = []
    now, has_told = 0.0, False
    for _ in range(10_000):
        if now >= end:
            break
        if now >= awaits_from and not has_told:
            has_told = True
            keep_alive.sent(now, trip)
        awaits = now >= awaits_from
        if now >= keep_alive.due and keep_alive.look(
            now, 0.0, longest=longest, awaits=awaits, round_trip=trip
        ):
            sent.append(now)
        now = min(keep_alive.due, awaits_from if now < awaits_from else math.inf)
    return sent


@given(st.floats(0.1, 60.0))
def test_an_idle_connection_is_never_silent_for_longer(longest: float) -> None:
    times = [0.0, *pings(300.0, longest=longest)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps
    assert max(gaps) <= longest + 1e-6
    assert min(gaps) >= longest - 1e-6


@given(st.floats(0.0, 100.0), st.floats(0.0, 1.0))
def test_unacknowledged_data_is_probed_at_a_steady_pace(awaits_from: float, trip: float) -> None:
    times = pings(awaits_from + 60.0, longest=1000.0, awaits_from=awaits_from, trip=trip)
    pause = max(PROBE_PAUSE, 4 * trip)
    assert times[0] == pytest.approx(awaits_from + pause, abs=1e-6)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= pause + 1e-6


@given(st.lists(st.floats(0.001, 0.7), min_size=1, max_size=50))
def test_a_connection_that_hears_its_peer_sends_none(pauses: list[float]) -> None:
    keep_alive = KeepAlive(0.0)
    heard = 0.0
    for pause in pauses:
        now = heard + pause
        assert not keep_alive.look(now, heard, longest=20.0, awaits=True, round_trip=0.01)
        assert keep_alive.due > now
        heard = now


def test_a_look_is_only_made_earlier() -> None:
    keep_alive = KeepAlive(0.0)
    keep_alive.look(0.0, 0.0, longest=20.0, awaits=False, round_trip=0.01)
    assert keep_alive.due == 20.0
    assert keep_alive.sent(1.0, 0.01)
    assert keep_alive.due == 1.0 + PROBE_PAUSE
    assert not keep_alive.sent(1.5, 0.01)


def test_a_dialer_keeps_the_mapping_of_a_nat() -> None:
    limits = CarrierLimits()
    silence = longest_silence(
        idle_timeout=600.0, probe_silence=0.0, keep_alive=limits.keep_alive, is_dialer=True
    )
    assert silence == limits.keep_alive < NAT_TIMEOUT


@pytest.mark.parametrize(
    ("probe_silence", "keep_alive", "is_dialer", "expected"),
    [
        (0.75, 20.0, True, 0.75),
        (40.0, 20.0, True, 20.0),  # many connections
        (40.0, 20.0, False, 40.0),
        (0.0, 0.0, True, 200.0),
        (0.0, 20.0, False, 200.0),
    ],
)
def test_the_longest_silence(
    probe_silence: float, keep_alive: float, is_dialer: bool, expected: float
) -> None:
    silence = longest_silence(
        idle_timeout=600.0,
        probe_silence=probe_silence,
        keep_alive=keep_alive,
        is_dialer=is_dialer,
    )
    assert silence == expected


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_the_setting_is_checked(value: float) -> None:
    with pytest.raises(NodeError, match="probe_silence"):
        Quic(probe_silence=value)


@pytest.mark.io
@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="no TCP_KEEPIDLE here")
async def test_a_dialed_tcp_connection_sends_keepalive_probes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await tcp.dial("127.0.0.1", server.getsockname()[1], timeout=5.0)
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 20
        connection.close("done")
        await asyncio.sleep(0)
