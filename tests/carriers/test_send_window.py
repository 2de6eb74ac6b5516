"""How much a connection hands over before some of it has left."""

from __future__ import annotations

import pytest

from quicdist.carriers.quic.send_window import SendWindow

HIGH = 512 * 1024
IN_FLIGHT = 8 * 1024 * 1024


def paced(rate: float) -> SendWindow:
    window = SendWindow(HIGH, IN_FLIGHT)
    window.set_rate(rate, 0.02)
    return window


def test_the_high_watermark_while_no_rate_is_known() -> None:
    assert paced(0).size == HIGH


@pytest.mark.parametrize(
    ("rate", "size"),
    [(100_000, 32 * 1024), (25_000_000, 75_000), (125_000_000, 375_000), (1e9, HIGH)],
)
def test_what_leaves_in_three_milliseconds_within_bounds(rate: float, size: int) -> None:
    assert paced(rate).size == size


def test_less_on_a_short_path() -> None:
    window = SendWindow(HIGH, IN_FLIGHT)
    window.set_rate(100_000_000, 0.002)
    assert window.size == 100_000
    window.set_rate(100_000_000, 0.0002)
    assert window.size == 50_000


def test_full_by_what_has_not_left() -> None:
    window = paced(25_000_000)
    assert not window.is_full(queued=1_074_999, sent=1_000_000, acknowledged=0)
    assert window.is_full(queued=1_075_000, sent=1_000_000, acknowledged=0)


def test_full_by_what_is_not_acknowledged() -> None:
    window = paced(25_000_000)
    assert window.is_full(queued=IN_FLIGHT, sent=IN_FLIGHT, acknowledged=0)
    assert not window.has_room(IN_FLIGHT, IN_FLIGHT, 0, HIGH)
    assert window.has_room(IN_FLIGHT, IN_FLIGHT, IN_FLIGHT // 2, HIGH)


def test_room_once_a_quarter_has_left() -> None:
    window = paced(25_000_000)
    assert not window.has_room(queued=75_000, sent=10_000, acknowledged=0, low_water=HIGH)
    assert window.has_room(queued=75_000, sent=20_000, acknowledged=0, low_water=HIGH)
    assert not window.has_room(queued=75_000, sent=20_000, acknowledged=0, low_water=10_000)


def test_a_small_high_watermark_is_kept() -> None:
    window = SendWindow(1000, IN_FLIGHT)
    window.set_rate(1e9, 0.02)
    assert window.size == 1000
