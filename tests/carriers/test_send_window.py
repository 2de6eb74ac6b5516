"""The amount of data that a connection passes to QUIC before it is acknowledged."""

from __future__ import annotations

import pytest

from quicdist.carriers.quic.send_window import SendWindow

MOST = 512 * 1024


def after(*rounds: tuple[float, float], datagram: int = 1200) -> SendWindow:
    """Returns a window after rounds with the given start times and durations."""
    window = SendWindow(MOST)
    for number, (began, took) in enumerate(rounds, start=1):
        window.sent(number, began)
        window.acknowledged(number, datagram, began + took)
    return window


def test_a_short_path_holds_little() -> None:
    assert after((0.0, 0.0005)).size == 112 * 1200
    assert after((0.0, 0.0005), datagram=1452).size == 112 * 1452


def test_a_long_path_holds_as_much_as_is_allowed() -> None:
    assert after((0.0, 0.05)).size == MOST


def test_between_it_holds_what_its_length_wants() -> None:
    sizes = [after((0.0, took)).size for took in (0.003, 0.005, 0.008)]
    assert sizes == pytest.approx([took * 42_000 * 1200 for took in (0.003, 0.005, 0.008)], abs=1)


def test_large_datagrams_cost_no_more_time_than_small_ones() -> None:
    assert after((0.0, 0.0005), datagram=16_000).size == MOST


def test_a_full_window_does_not_make_the_path_longer() -> None:
    assert after((0.0, 0.0005), (1.0, 0.05), (2.0, 0.05)).size == 112 * 1200


def test_a_path_that_became_longer_is_seen_to_be() -> None:
    assert after((0.0, 0.0005), (40.0, 0.05)).size == 112 * 1200
    assert after((0.0, 0.0005), (40.0, 0.05), (80.0, 0.05)).size == MOST


def test_what_is_acknowledged_in_part_says_nothing_yet() -> None:
    window = SendWindow(MOST)
    window.acknowledged(0, 1200, 0.0)
    window.sent(1000, 0.0)
    window.sent(2000, 0.001)
    window.acknowledged(999, 1200, 0.002)
    assert window.size == MOST
    window.acknowledged(1000, 1200, 0.0005)
    assert window.size == 112 * 1200


def test_never_more_than_is_allowed() -> None:
    window = SendWindow(1000)
    window.sent(1, 0.0)
    window.acknowledged(1, 1200, 0.5)
    assert window.size == 1000
