"""Reordering on simulated paths: late datagrams are no losses that slow a sender down."""

from __future__ import annotations

import pytest

from tests.carriers.quic.engine.network import Network, settings
from tests.carriers.quic.engine.test_conformance import PAIRS

MIB = 1024 * 1024
FLIGHT = MIB
"""Maximum bytes in flight, which give the path a rate."""


def duration(dialer: str, listener: str, congestion: str, late: float) -> float:
    """Returns how long 24 MiB take, in seconds of the simulation."""
    network = Network(
        settings(dialer, congestion=congestion, max_in_flight=FLIGHT),
        settings(listener, congestion=congestion, max_in_flight=FLIGHT),
    )
    network.establish()
    network.listener.connection.grant(32 * MIB)
    network.delay_share(late)
    network.dialer.write(0, bytes(24 * MIB))
    began = network.now
    network.run(lambda: len(network.listener.data[0]) == 24 * MIB)
    return network.now - began


@pytest.mark.parametrize(("dialer", "listener"), PAIRS)
@pytest.mark.parametrize(("congestion", "most"), [("bbr", 1.25), ("cubic", 5.0), ("reno", 5.0)])
def test_a_path_that_reorders_keeps_most_of_its_rate(
    dialer: str, listener: str, congestion: str, most: float
) -> None:
    """Without the reversal, CUBIC and Reno take ten times as long on the native engine.

    That engine detects losses by packet numbers, so it still repeats what is late. It also skips
    random packet numbers, so that its times vary: by 1.6 to 2.4 in 500 runs.
    """
    in_order = duration(dialer, listener, congestion, 0.0)
    assert duration(dialer, listener, congestion, 0.02) < most * in_order
