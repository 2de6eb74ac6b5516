"""ECN marks on simulated paths: reported, obeyed, and given up where they do not pass."""

from __future__ import annotations

import random

import pytest

from quicdist.carriers.quic.ecn import CE, ECT0, ECT1, NOT_ECT
from tests.carriers.quic.engine.network import Network, Treatment, settings
from tests.carriers.quic.engine.test_conformance import PAIRS

MIB = 1024 * 1024

each_pair = pytest.mark.parametrize(("dialer", "listener"), PAIRS)


def opened(dialer: str, listener: str, treat: Treatment, congestion: str = "bbr") -> Network:
    network = Network(
        settings(dialer, congestion=congestion),
        settings(listener, congestion=congestion),
        treat=treat,
    )
    network.establish()
    network.open()
    return network


def marks(network: Network) -> list[bool]:
    return [end.connection.progress().marks for end in network.ends]


@each_pair
def test_a_path_that_carries_marks_is_marked(dialer: str, listener: str) -> None:
    network = opened(dialer, listener, lambda ecn: ecn)
    network.dialer.write(0, bytes(MIB))
    network.listener.write(1, bytes(MIB))
    network.run(lambda: len(network.listener.data[0]) == len(network.dialer.data[1]) == MIB)
    network.wait(0.1)
    assert marks(network) == [True, True]


@each_pair
@pytest.mark.parametrize(
    "treat",
    [lambda ecn: NOT_ECT, lambda ecn: ECT1 if ecn == ECT0 else ecn],
    ids=["bleached", "mangled"],
)
def test_a_path_that_changes_marks_is_left_unmarked(
    dialer: str, listener: str, treat: Treatment
) -> None:
    network = opened(dialer, listener, treat)
    network.dialer.write(0, bytes(MIB))
    network.listener.write(1, bytes(MIB))
    network.run(lambda: len(network.listener.data[0]) == len(network.dialer.data[1]) == MIB)
    assert marks(network) == [False, False]
    assert all(end.connection.datagrams_lost() == 0 for end in network.ends)


@each_pair
def test_a_path_that_begins_to_clear_marks_is_left_unmarked(dialer: str, listener: str) -> None:
    network = opened(dialer, listener, lambda ecn: ecn)
    network.dialer.write(0, bytes(MIB))
    network.run(lambda: len(network.listener.data[0]) == MIB)
    assert marks(network)[0]
    network.treat = lambda ecn: NOT_ECT
    network.dialer.write(0, bytes(MIB))
    network.run(lambda: len(network.listener.data[0]) == 2 * MIB)
    network.dialer.write(0, b"more")
    network.run(lambda: len(network.listener.data[0]) > 2 * MIB)
    assert not marks(network)[0]


@each_pair
@pytest.mark.parametrize("congestion", ["cubic", "reno"])
def test_marks_slow_a_sender_down_without_loss(dialer: str, listener: str, congestion: str) -> None:
    def rate(share: float) -> float:
        dice = random.Random(1)

        def treat(ecn: int) -> int:
            return CE if ecn == ECT0 and is_busy and dice.random() < share else ecn

        is_busy = False
        network = opened(dialer, listener, treat, congestion)
        network.dialer.write(0, bytes(8 * MIB))
        network.run(lambda: len(network.listener.data[0]) >= MIB)
        network.listener.connection.grant(16 * MIB)
        is_busy = True
        began, before = network.now, len(network.listener.data[0])
        network.wait(0.1)
        assert marks(network)[0]
        assert network.dialer.connection.datagrams_lost() == 0
        return (len(network.listener.data[0]) - before) / (network.now - began)

    assert rate(0.5) < 0.7 * rate(0.0)
