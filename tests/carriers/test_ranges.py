"""quicdist's range set compared with aioquic's, and the number of steps that it takes."""

from __future__ import annotations

from unittest import mock

import pytest
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStreamSender
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.engine import aioquic_ranges
from quicdist.carriers.quic.engine.aioquic_ranges import Pieces, Ranges, ReceivedPackets

operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "subtract"]),
        st.integers(0, 60),
        st.integers(1, 12),
    )
)


@pytest.mark.parametrize("few", [1, aioquic_ranges._FEW])
@given(steps=operations)
def test_it_holds_what_aioquics_holds(few: int, steps: list[tuple[str, int, int]]) -> None:
    with mock.patch.object(aioquic_ranges, "_FEW", few):
        compare(steps)


def compare(steps: list[tuple[str, int, int]]) -> None:
    ours, theirs = Ranges(), RangeSet()
    for name, start, length in steps:
        for each in (ours, theirs):
            getattr(each, name)(start, start + length)
        assert list(ours) == list(theirs)


@given(steps=operations, start=st.integers(0, 60), length=st.integers(1, 30))
def test_what_is_missing_is_what_would_be_added(
    steps: list[tuple[str, int, int]], start: int, length: int
) -> None:
    ranges = Ranges()
    for name, first, size in steps:
        getattr(ranges, name)(first, first + size)
    held = {number for each in ranges for number in each}
    parts = ranges.missing(start, start + length)
    found = [number for first, stop in parts for number in range(first, stop)]
    assert found == [number for number in range(start, start + length) if number not in held]


def test_a_gap_at_every_second_byte_is_found_by_halving() -> None:
    ranges = Ranges(range(2 * n, 2 * n + 1) for n in range(4096))
    looked_at = mock.Mock(side_effect=lambda each: each.start)
    with mock.patch.object(aioquic_ranges, "_start", looked_at):
        ranges.add(4001)
    assert len(ranges) == 4095
    assert looked_at.call_count <= 13


def sender_of_pieces() -> QuicStreamSender:
    sender = QuicStreamSender(0, True)
    sender._pending = Pieces(sender._pending)
    return sender


def lose(sender: QuicStreamSender, start: int, stop: int) -> None:
    sender.on_data_delivery(QuicDeliveryState.LOST, start, stop, False)


def frames(sender: QuicStreamSender, size: int = 100) -> list[tuple[int, int]]:
    """The offset and end of the frames that are sent."""
    sent = []
    while (frame := sender.get_frame(size)) is not None:
        sent.append((frame.offset, frame.offset + len(frame.data)))
    return sent


def test_lost_data_is_sent_in_the_frames_in_which_it_was_sent() -> None:
    sender = sender_of_pieces()
    sender.write(bytes(34))
    assert frames(sender) == [(0, 34)]
    sender.write(bytes(17))
    assert frames(sender) == [(34, 51)]
    sender.write(bytes(5))
    sender.write(bytes(6))
    lose(sender, 34, 51)
    lose(sender, 0, 34)
    assert frames(sender) == [(0, 34), (34, 51), (51, 62)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "send", "arrive", "lose", "lose although it arrived"]),
        st.integers(1, 40),
    ),
    max_size=60,
)


@pytest.mark.parametrize("few", [1, aioquic_ranges._FEW])
@given(steps=steps)
def test_a_peer_that_ignores_overlapping_frames_gets_everything(
    few: int, steps: list[tuple[str, int]]
) -> None:
    """It takes a frame that begins where the received data ends, now or later, and no other."""
    sender = sender_of_pieces()
    written = received = 0
    arrived: dict[int, int] = {}
    in_flight: list[tuple[int, int]] = []
    with mock.patch.object(aioquic_ranges, "_FEW", few):
        # In the end everything arrives.
        for step, number in [*steps, *[("send", 40), ("arrive", 1)] * 80]:
            if step == "write":
                sender.write(bytes(number))
                written += number
            elif step == "send":
                frame = sender.get_frame(number)
                if frame is not None:
                    in_flight.append((frame.offset, frame.offset + len(frame.data)))
            elif in_flight:
                start, stop = in_flight.pop(number % len(in_flight))
                if step != "lose":
                    arrived[start] = stop
                while received in arrived:
                    received = arrived.pop(received)
                if step == "arrive":
                    sender.on_data_delivery(QuicDeliveryState.ACKED, start, stop, False)
                else:
                    lose(sender, start, stop)
    assert received == written


# -- received packets -----------------------------------------------------------------------------


@given(packets=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=60))
def test_packets_are_received_once(packets: list[tuple[int, int]]) -> None:
    received = ReceivedPackets()
    expected: set[int] = set()
    for start, count in packets:
        received.add(start, start + count)
        expected.update(range(start, start + count))
    assert {number for number in range(220) if number in received} == expected


def test_the_lowest_packets_count_as_received_when_there_are_too_many_gaps() -> None:
    received = ReceivedPackets()
    most = aioquic_ranges.MAX_RECEIVED_RANGES
    for number in range(0, 2 * most, 2):
        received.add(number)
    assert 1 not in received
    received.add(2 * most)
    assert 1 not in received  # above the first range
    assert 0 in received
    received.add(2 * most + 2)
    assert 1 in received
    assert 3 not in received
    received.add(3)
    assert [number in received for number in (2, 3, 4, 5)] == [True, True, True, False]
