"""Reordering on simulated paths: late datagrams are no losses that slow a sender down."""

from __future__ import annotations

import pytest

from tests.carriers.quic.engine.network import DELAY, LATE, Network, settings
from tests.carriers.quic.engine.test_conformance import PAIRS

DATAGRAM = 1200
FEW = 128 * 1024
"""Maximum bytes in flight, which give the path a rate: a late datagram is overtaken by about 20."""
MANY = 1024 * 1024
"""Here it is overtaken by 170."""
FLIGHTS = 24
"""Amount of data, in flights."""


def duration(dialer: str, listener: str, congestion: str, late: float, flight: int) -> float:
    """Returns how long the data takes, in seconds of the simulation."""
    limits = {"max_in_flight": flight, "max_datagram_size": DATAGRAM}
    network = Network(
        settings(dialer, congestion=congestion, **limits),
        settings(listener, congestion=congestion, **limits),
    )
    network.establish()
    network.listener.connection.grant(2 * FLIGHTS * flight)
    network.delay_share(late)
    network.dialer.write(0, bytes(FLIGHTS * flight))
    began = network.now
    network.run(lambda: len(network.listener.data[0]) == FLIGHTS * flight)
    return network.now - began


def slowdown(dialer: str, listener: str, congestion: str, flight: int) -> float:
    """Returns the ratio of the durations with and without late datagrams."""
    in_order, late = (
        duration(dialer, listener, congestion, share, flight) for share in (0.0, 0.02)
    )
    return late / in_order


each_congestion = pytest.mark.parametrize("congestion", ["bbr", "cubic", "reno"])


@pytest.mark.parametrize(("dialer", "listener"), PAIRS)
@each_congestion
def test_a_path_that_reorders_keeps_its_rate(dialer: str, listener: str, congestion: str) -> None:
    """Without the reversal of spurious losses, CUBIC and Reno are slower on the native engine."""
    assert slowdown(dialer, listener, congestion, FEW) < 1.25


@pytest.mark.parametrize("listener", ["aioquic", "aioquic-plain"])
@each_congestion
def test_packets_later_than_aioquics_window_are_received(listener: str, congestion: str) -> None:
    """Without `ReceivedPackets`, CUBIC and Reno take three times as long."""
    assert MANY / DATAGRAM * LATE / (2 * DELAY) > 128
    assert slowdown("aioquic", listener, congestion, MANY) < 1.25
