"""How much a connection hands over before some of it has left."""

from __future__ import annotations

import pytest

from quicdist.carriers.quic.send_window import SendWindow

HIGH = 512 * 1024
DATAGRAM = 1200
IN_FLIGHT = 8 * 1024 * 1024


def paced(rate: float) -> SendWindow:
    window = SendWindow(HIGH, IN_FLIGHT)
    window.set_rate(rate, 0.02, 0.02, DATAGRAM)
    return window


def test_the_high_watermark_while_no_rate_is_known() -> None:
    assert paced(0).size == HIGH


@pytest.mark.parametrize(
    ("rate", "size"),
    [(100_000, 32 * 1024), (25_000_000, 75_000), (125_000_000, 375_000), (1e9, HIGH)],
)
def test_what_leaves_in_three_milliseconds_within_bounds(rate: float, size: int) -> None:
    assert paced(rate).size == size


def test_less_on_a_shorter_path() -> None:
    window = SendWindow(HIGH, IN_FLIGHT)
    window.set_rate(100_000_000, 0.004, 0.0031, DATAGRAM)
    assert window.size == 200_000


def test_full_by_what_has_not_left() -> None:
    window = paced(25_000_000)
    assert window.full_at(sent=1_000_000, acknowledged=0) == 1_075_000


def test_full_by_what_is_not_acknowledged() -> None:
    window = paced(25_000_000)
    assert window.full_at(sent=IN_FLIGHT, acknowledged=0) == IN_FLIGHT
    assert not window.has_room(IN_FLIGHT, IN_FLIGHT, 0, HIGH)
    assert window.has_room(IN_FLIGHT, IN_FLIGHT, IN_FLIGHT // 2, HIGH)


@pytest.mark.parametrize(
    ("round_trip", "least", "datagram", "bound"),
    [
        (0.004, 0.0003, 16_000, HIGH),
        (0.004, 0.0003, 1200, 112 * 1200),
        (0.004, 0.001, 1200, 200_000),
        (0.004, 0.0031, 1200, IN_FLIGHT),
        (0.1, 0.0003, 1200, IN_FLIGHT),
    ],
)
def test_on_a_path_shorter_than_hosts_delays_what_is_not_acknowledged_is_bounded(
    round_trip: float, least: float, datagram: int, bound: int
) -> None:
    window = SendWindow(HIGH, IN_FLIGHT)
    window.set_rate(100_000_000, round_trip, least, datagram)
    assert window.full_at(sent=bound, acknowledged=0) == bound
    assert window.has_room(IN_FLIGHT, IN_FLIGHT, IN_FLIGHT - bound // 2 + 1, HIGH)
    assert not window.has_room(IN_FLIGHT, IN_FLIGHT, IN_FLIGHT - bound, HIGH)


def test_room_once_a_quarter_has_left() -> None:
    window = paced(25_000_000)
    assert not window.has_room(queued=75_000, sent=10_000, acknowledged=0, low_water=HIGH)
    assert window.has_room(queued=75_000, sent=20_000, acknowledged=0, low_water=HIGH)
    assert not window.has_room(queued=75_000, sent=20_000, acknowledged=0, low_water=10_000)


def test_a_small_high_watermark_is_kept() -> None:
    window = SendWindow(1000, IN_FLIGHT)
    window.set_rate(1e9, 0.02, 0.02, DATAGRAM)
    assert window.size == 1000
