"""The cost of an ACK depends on the packets that it acknowledges, not on those in flight."""

from __future__ import annotations

import logging
from unittest import mock

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import Epoch
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.congestion.controller import Ack, Algorithm
from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges
from quicdist.carriers.quic.engine.aioquic_recovery import Recovery, _delivered

FLIGHT = 1000
RTT = 0.1


class Counted(dict[int, QuicSentPacket]):
    """The packets in flight, and how often one was looked for."""

    looked_for = 0

    def pop(self, *arguments: object) -> object:  # type: ignore[override]
        self.looked_for += 1
        return super().pop(*arguments)  # type: ignore[call-overload]

    def get(self, *arguments: object) -> object:  # type: ignore[override]
        self.looked_for += 1
        return super().get(*arguments)  # type: ignore[call-overload]


@pytest.fixture
def space() -> QuicPacketSpace:
    made = QuicPacketSpace()
    made.is_application_data = True
    made.sent_packets = Counted()
    return made


@pytest.fixture
def recovery(space: QuicPacketSpace) -> Recovery:
    made = Recovery(
        Algorithm.RENO,
        initial_rtt=RTT,
        max_datagram_size=1200,
        peer_completed_address_validation=True,
        send_probe=mock.Mock(),
        logger=logging.getLogger("test"),
        quic_logger=None,
    )
    made.spaces = [space]
    for number in range(FLIGHT):
        made.on_packet_sent(
            packet=QuicSentPacket(
                epoch=Epoch.ONE_RTT,
                in_flight=True,
                is_ack_eliciting=True,
                is_crypto_packet=False,
                packet_number=number,
                packet_type=QuicPacketType.ONE_RTT,
                sent_time=number * 1e-6,
                sent_bytes=1200,
            ),
            space=space,
        )
    return made


def cost(space: QuicPacketSpace) -> int:
    assert isinstance(space.sent_packets, Counted)
    return space.sent_packets.looked_for


def bear_reordering(recovery: Recovery) -> None:
    """After reordering, a gap counts as a loss only after some time."""
    recovery._tolerance = 1


@pytest.mark.parametrize(
    "ranges", [[(1, FLIGHT)], [(first, first + 1) for first in range(1, FLIGHT, 4)]]
)
def test_a_repeated_ack_looks_for_no_packet(
    recovery: Recovery, space: QuicPacketSpace, ranges: list[tuple[int, int]]
) -> None:
    bear_reordering(recovery)
    recovery.on_ack_ranges(ranges, 0.0, RTT, space)
    left = FLIGHT - sum(end - first for first, end in ranges)
    assert len(space.sent_packets) == left
    before = cost(space)
    for _ in range(10):
        recovery.on_ack_ranges(ranges, 0.0, RTT, space)
    assert cost(space) == before
    assert len(space.sent_packets) == left


def test_packets_acknowledged_one_by_one_above_a_gap_are_looked_for_few_times_each(
    recovery: Recovery, space: QuicPacketSpace
) -> None:
    bear_reordering(recovery)
    for end in range(2, FLIGHT + 1):
        recovery.on_ack_ranges([(1, end)], 0.0, RTT, space)
    assert list(space.sent_packets) == [0]
    assert cost(space) <= 3 * FLIGHT


def test_a_gap_that_closes_leaves_nothing_behind(
    recovery: Recovery, space: QuicPacketSpace
) -> None:
    bear_reordering(recovery)
    recovery.on_ack_ranges([(500, FLIGHT)], 0.0, RTT, space)
    recovery.on_ack_ranges([(0, FLIGHT)], 0.0, RTT, space)
    assert not space.sent_packets
    assert recovery._cc.bytes_in_flight == 0
    assert (recovery._lowest, len(recovery._acked)) == (FLIGHT, 0)


def test_packets_behind_three_later_ones_are_lost(
    recovery: Recovery, space: QuicPacketSpace
) -> None:
    recovery.on_ack_ranges([(5, 6)], 0.0, RTT, space)
    assert recovery._cc.lost == 3
    assert min(space.sent_packets) == 3
    assert space.loss_time is not None


def test_a_new_path_begins_with_the_initial_window_and_no_round_trip(
    recovery: Recovery, space: QuicPacketSpace
) -> None:
    in_flight = recovery._cc.bytes_in_flight
    recovery.restart(1200)
    assert recovery._cc.controller.window == 10 * 1200
    assert recovery._cc.bytes_in_flight == in_flight
    assert not recovery._rtt_initialized
    recovery.on_ack_ranges([(0, FLIGHT)], 0.0, 5.0, space)
    assert recovery._cc.bytes_in_flight == 0
    assert recovery._cc.controller.pacing_rate >= 0


class Reports:
    """A controller that stores what it is told."""

    window, pacing_rate = 100_000, 0.0

    def __init__(self) -> None:
        self.acks: list[Ack] = []
        self.is_app_limited = True

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        return SendState(now, 0, now, now, 0, in_flight + size, self.is_app_limited)

    def on_ack(self, ack: Ack) -> None:
        self.acks.append(ack)


def acknowledge(recovery: Recovery, space: QuicPacketSpace, number: int, now: float) -> None:
    """Sends a packet at `now` and acknowledges it 0.2 ms later."""
    sender = QuicStreamSender(0, True)
    sender._acked = Ranges()
    recovery.on_burst_sent(number, [1200], [[(sender, 0, 1)]], (), now, space)
    recovery.on_ack_ranges([(0, number + 1)], 0.0, now + 0.0002, space)


@pytest.fixture
def reports(recovery: Recovery, space: QuicPacketSpace) -> Reports:
    recovery.on_ack_ranges([(0, FLIGHT)], 0.0, RTT, space)
    made = Reports()
    recovery._cc.restart(made)  # type: ignore[arg-type]  # it has what is used here
    return made


def test_acknowledgements_of_little_data_are_reported_together(
    recovery: Recovery, space: QuicPacketSpace, reports: Reports
) -> None:
    for number in range(10):
        acknowledge(recovery, space, FLIGHT + number, 1 + number * 0.0012)
    assert [ack.acknowledged for ack in reports.acks] == [1200, 4 * 1200, 4 * 1200]
    assert all(ack.rtt == pytest.approx(0.0002) for ack in reports.acks)


def test_acknowledgements_of_bulk_are_reported_at_once(
    recovery: Recovery, space: QuicPacketSpace, reports: Reports
) -> None:
    reports.is_app_limited = False
    for number in range(10):
        acknowledge(recovery, space, FLIGHT + number, 1 + number * 0.0003)
    assert [ack.acknowledged for ack in reports.acks] == [1200] * 10


@given(order=st.permutations(range(8)), is_finished=st.booleans(), is_reset=st.booleans())
def test_acknowledged_data_leaves_the_buffer_as_in_aioquic(
    order: list[int], is_finished: bool, is_reset: bool
) -> None:
    ours, theirs = QuicStreamSender(0, True), QuicStreamSender(0, True)
    ours._acked = Ranges()
    for sender in (ours, theirs):
        sender.write(bytes(range(80)), end_stream=is_finished)
    for count, piece in enumerate(order):
        if is_reset and count == 4:
            ours.reset(0)
            theirs.reset(0)
        start, stop = 10 * piece, 10 * piece + 10
        before = ours._buffer_start
        advance = _delivered(ours, start, stop)
        theirs.on_data_delivery(QuicDeliveryState.ACKED, start, stop, False)
        assert ours._buffer == theirs._buffer
        assert ours._buffer_start == theirs._buffer_start == before + advance
        assert list(ours._acked) == list(theirs._acked)
