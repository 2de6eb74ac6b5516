"""The extension for acknowledgement frequency (draft-ietf-quic-ack-frequency-13) in the engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aioquic._buffer import Buffer, BufferReadError
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import Epoch
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.engine import aioquic_ack_frequency as extension
from quicdist.carriers.quic.engine.aioquic_ack_frequency import (
    ACK_FREQUENCY,
    IMMEDIATE_ACK,
    MIN_ACK_DELAY,
    MIN_ACK_DELAY_ID,
    AckRequest,
    is_gap_reportable,
    pull_request,
    push_request,
    read_min_ack_delay,
    wanted,
)
from tests.carriers.quic.engine.network import DELAY, HERE, Network, opened
from tests.carriers.quic.engine.test_conformance import PAIRS
from tests.carriers.quic.engine.test_hostile_frames import packet
from tests.support.engines import ENGINES

MIB = 1024 * 1024
LONG = 200_000
"""A delay in microseconds that no test waits for."""
MOST = (1 << 62) - 1
PING = b"\x01"

each_pair = pytest.mark.parametrize(("dialer", "listener"), PAIRS)
each_engine = pytest.mark.parametrize("engine", [*ENGINES, "aioquic-plain"])
varints = st.integers(0, MOST)


def request(sequence: int, threshold: int, delay: int = LONG, reordering: int = 0) -> bytes:
    fields = (ACK_FREQUENCY, sequence, threshold, delay, reordering)
    return b"".join(encode_uint_var(field) for field in fields)


IMMEDIATE = encode_uint_var(IMMEDIATE_ACK)


class Receiver:
    """An engine with an established connection, and a peer that sends it any packets."""

    def __init__(self, engine: str) -> None:
        self.network = network = Network("aioquic", engine)
        network.establish()
        network.wait(1.0)
        self.end: Any = network.listener.connection
        sender: Any = network.dialer.connection
        self._quic = sender._quic
        self._number = self._quic._packet_number - 1

    def takes(self, *payloads: bytes, skipped: int = 0) -> bool:
        """Receives these packets in one batch. Returns whether it sends something at once.

        `skipped` packet numbers are left out before each of them.
        """
        datagrams = []
        for payload in payloads:
            self._number += 1 + skipped
            # All datagrams of a batch have the same size.
            datagrams.append(packet(self._quic, payload.ljust(64, b"\0"), self._number))
        data = b"".join(datagrams)
        self.end.receive(data, len(datagrams[0]), (HERE, None), self.network.now)
        self.end.drain(self.network.listener)
        return bool(self.end.transmit(self.network.now))

    def answers_after(self, seconds: float) -> bool:
        """Lets time pass at this end. Returns whether it sends something."""
        self.network.now += seconds
        self.end.handle_timer(self.network.now)
        return bool(self.end.transmit(self.network.now))

    @property
    def error(self) -> int | None:
        """The code of the error for which it has closed the connection."""
        closed = self.end.closed
        return None if closed is None else closed.error_code


# -- a receiver -----------------------------------------------------------------------------------


@each_engine
@pytest.mark.parametrize("threshold", [0, 1, 5, 40])
def test_more_packets_than_the_threshold_are_acknowledged(engine: str, threshold: int) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, threshold), IMMEDIATE)
    for _ in range(2):
        assert [receiver.takes(PING) for _ in range(threshold + 1)] == [False] * threshold + [True]


@each_engine
def test_fewer_packets_are_acknowledged_after_the_delay(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST, delay=50_000), IMMEDIATE)
    assert not receiver.takes(*[PING] * 20)
    assert not receiver.answers_after(0.045)
    assert receiver.answers_after(0.01)


@each_engine
def test_an_immediate_ack_is_answered_once_for_each_batch(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST), IMMEDIATE)
    assert not receiver.takes(PING)
    assert receiver.takes(*[IMMEDIATE] * 100)
    assert not receiver.answers_after(0.01)


@each_engine
def test_an_older_request_is_ignored(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(7, 3), IMMEDIATE)
    assert not receiver.takes(request(7, 0))
    assert not receiver.takes(request(6, 0, delay=0))
    assert receiver.error is None
    assert [receiver.takes(PING), receiver.takes(PING)] == [False, True]


@each_engine
def test_a_packet_that_the_sender_can_declare_lost_is_reported(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST, reordering=3), *[IMMEDIATE] * 8)
    assert [receiver.takes(PING, skipped=at == 0) for at in range(4)] == [False, False, True, False]


@each_engine
def test_without_reordering_threshold_a_gap_waits(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST, reordering=0), *[IMMEDIATE] * 8)
    assert not any(receiver.takes(PING, skipped=1) for _ in range(10))


@each_engine
@pytest.mark.parametrize("delay", [0, MIN_ACK_DELAY - 1])
def test_a_delay_below_the_minimum_is_an_error(engine: str, delay: int) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, 1, delay=MIN_ACK_DELAY))
    assert receiver.error is None
    receiver.takes(request(1, 1, delay=delay))
    assert receiver.error == QuicErrorCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain"])  # quinn-proto has no maximum
def test_a_delay_that_is_no_max_ack_delay_is_an_error(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, 1, delay=(1 << 14) * 1000 - 1))
    assert receiver.error is None
    receiver.takes(request(1, 1, delay=(1 << 14) * 1000))
    assert receiver.error == QuicErrorCode.PROTOCOL_VIOLATION


@each_engine
def test_a_request_without_end_is_an_error(engine: str) -> None:
    receiver = Receiver(engine)
    truncated = request(0, 1)[:-1].rjust(64, b"\0")  # PADDING before it, none behind it
    receiver.takes(truncated)
    assert receiver.error == QuicErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain"])
def test_no_packet_is_forgotten_behind_many_gaps(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST), IMMEDIATE)
    answers = [receiver.takes(PING, skipped=1) for _ in range(64)]
    assert answers.count(True) == 2


def test_the_first_mark_of_congestion_is_reported() -> None:
    receiver = Receiver("aioquic")
    receiver.takes(request(0, MOST), IMMEDIATE)
    marks = receiver.end._quic.data_marks
    answers = []
    for marked in (0, 1, 1, 0, 1):
        marks[3] += marked
        answers.append(receiver.takes(PING))
    assert answers == [False, True, False, False, True]


# -- the transport parameter ----------------------------------------------------------------------


@pytest.mark.parametrize("listener", ENGINES)
def test_a_minimum_above_the_maximum_is_an_error(
    listener: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "MIN_ACK_DELAY", 25_001)
    network = Network("aioquic", listener)
    network.run(lambda: network.dialer.connection.closed)
    closed = network.dialer.connection.closed
    assert closed is not None
    assert closed.error_code == QuicErrorCode.TRANSPORT_PARAMETER_ERROR


def parameter(kind: int, value: bytes) -> bytes:
    return encode_uint_var(kind) + encode_uint_var(len(value)) + value


others = st.builds(
    parameter,
    varints.filter(lambda kind: kind not in (MIN_ACK_DELAY_ID, 0x0B)),
    st.binary(max_size=8),
)


@given(
    least=st.integers(0, 20_000_000),
    most=st.integers(0, (1 << 14) - 1),
    before=st.lists(others),
    after=st.lists(others),
)
def test_the_minimum_is_read_among_others(
    least: int, most: int, before: list[bytes], after: list[bytes]
) -> None:
    maximum = parameter(0x0B, encode_uint_var(most))
    minimum = parameter(MIN_ACK_DELAY_ID, encode_uint_var(least))
    data = b"".join([*before, minimum, maximum, *after])
    if least <= 1000 * most:
        assert read_min_ack_delay(data) == least
    else:
        with pytest.raises(ValueError, match="greater than max_ack_delay"):
            read_min_ack_delay(data)
    assert read_min_ack_delay(b"".join([*before, maximum, *after])) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (parameter(MIN_ACK_DELAY_ID, b""), "bounds"),
        (parameter(MIN_ACK_DELAY_ID, b"\x01\x01"), "invalid length"),
        (parameter(MIN_ACK_DELAY_ID, b"\x01") * 2, "duplicate"),
        (parameter(MIN_ACK_DELAY_ID, b"\x01")[:-1], "bounds"),
    ],
    ids=["empty", "too long", "twice", "truncated"],
)
def test_a_malformed_minimum_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_min_ack_delay(data)


@given(st.binary())
def test_any_parameters_are_read_or_refused(data: bytes) -> None:
    try:
        least = read_min_ack_delay(data)
    except ValueError:
        return
    assert least is None or least >= 0


# -- the frame ------------------------------------------------------------------------------------


@given(varints, varints, varints, varints)
def test_a_request_is_decoded_as_it_was_encoded(
    sequence: int, threshold: int, delay: int, reordering: int
) -> None:
    buffer = Buffer(capacity=32)
    push_request(buffer, sequence, AckRequest(threshold, delay, reordering))
    data = buffer.data
    assert request(sequence, threshold, delay, reordering).endswith(data)
    expected = (sequence, AckRequest(threshold, delay, reordering))
    assert pull_request(Buffer(data=data)) == expected
    with pytest.raises(BufferReadError):
        pull_request(Buffer(data=data[:-1]))


# -- reordering -----------------------------------------------------------------------------------


def answers(packets: Sequence[int], threshold: int) -> list[int]:
    """Returns the packets whose arrival is acknowledged at once, as in section 6.2.1."""
    received = RangeSet()
    acknowledged = -1
    answered = []
    for number in packets:
        received.add(number)
        if is_gap_reportable(received, acknowledged, threshold):
            answered.append(number)
            acknowledged = received[-1].stop - 1
    return answered


@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain"])
def test_a_late_packet_is_acknowledged_after_a_confirmation_of_later_ones(engine: str) -> None:
    receiver = Receiver(engine)
    receiver.takes(request(0, MOST), IMMEDIATE)
    receiver.takes(IMMEDIATE, skipped=1)
    quic = receiver.end._quic
    received = quic._spaces[Epoch.ONE_RTT].ack_queue
    acknowledging, largest = quic._packet_number - 1, receiver._number
    assert largest in received
    confirmation = b"\x02" + encode_uint_var(acknowledging) + b"\x00\x00\x00"
    receiver._number = largest - 2
    assert not receiver.takes(PING)
    receiver._number = largest
    assert not receiver.takes(confirmation)
    assert largest - 1 in received
    assert receiver.takes(IMMEDIATE)
    assert list(received) == [range(largest + 1, largest + 3)]


def test_the_examples_of_the_draft() -> None:
    assert answers([0, 1, 3, 4, 5, 8, 9, 10], 3) == [5, 9, 10]
    assert answers([0, 1, 3, 5, 6, 7, 8, 9], 5) == [7, 9]


@given(
    numbers=st.sets(st.integers(0, 40), min_size=1),
    acknowledged=st.integers(-1, 40),
    threshold=st.one_of(st.integers(1, 10), varints.filter(bool)),
)
def test_a_gap_is_reported_as_the_draft_defines(
    numbers: set[int], acknowledged: int, threshold: int
) -> None:
    received = RangeSet()
    for number in numbers:
        received.add(number)
    largest = max(numbers)
    first = max(min(numbers), acknowledged - threshold + 1)  # below the first one nothing is known
    unreported = [each for each in range(first, largest) if each not in numbers]
    expected = bool(unreported) and largest - unreported[0] >= threshold
    assert is_gap_reportable(received, acknowledged, threshold) is expected


# -- a sender -------------------------------------------------------------------------------------


@given(
    packets=st.floats(0, 1e6),
    round_trip=st.floats(1e-4, 10),
    least=st.integers(0, 25_000),
    above=st.integers(0, 1 << 24),
)
def test_what_is_wanted_is_possible(
    packets: float, round_trip: float, least: int, above: int
) -> None:
    asked = wanted(packets, round_trip, least, least + above)
    assert 1 <= asked.threshold <= max(packets / 16, 1)
    assert least <= asked.delay <= least + above
    assert not asked.differs(asked)


@pytest.mark.parametrize("dialer", ["aioquic", "aioquic-plain"])
@pytest.mark.parametrize("listener", ENGINES)
def test_bulk_asks_for_fewer_acknowledgements_a_few_times(dialer: str, listener: str) -> None:
    network = opened(dialer, listener)
    quic: Any = network.dialer.connection._quic  # type: ignore[attr-defined]
    network.dialer.write(0, bytes(100_000))
    network.run(lambda: len(network.listener.data[0]) == 100_000)
    assert quic._asked is None
    network.dialer.write(0, bytes(8 * MIB))
    network.run(lambda: len(network.listener.data[0]) == network.dialer.written)
    network.wait(4 * DELAY)
    assert quic._asked is not None
    assert 1 <= quic._next_sequence <= 8
    other: Any = network.listener.connection
    if listener == "aioquic":
        assert other._quic._threshold == quic._asked.threshold
        assert other._quic._ack_delay == quic._asked.delay / 1_000_000


@pytest.mark.parametrize("listener", ENGINES)
def test_a_lost_request_is_repeated(listener: str) -> None:
    network = opened("aioquic", listener)
    network.wait(1.0)
    quic: Any = network.dialer.connection._quic  # type: ignore[attr-defined]
    quic._asked = AckRequest(9, LONG, 0)
    quic.request_pending = True
    network.loss = 1.0
    network.dialer.connection.ping()
    network.settle()
    assert not quic.request_pending
    network.loss = 0.0
    network.run(lambda: quic._next_sequence == 2)


def test_a_peer_without_the_extension_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "read_min_ack_delay", lambda data: None)
    network = opened("aioquic", "aioquic")
    network.dialer.write(0, bytes(8 * MIB))
    network.run(lambda: len(network.listener.data[0]) == network.dialer.written)
    quic: Any = network.dialer.connection._quic  # type: ignore[attr-defined]
    assert quic._next_sequence == 0
    assert quic.probe_frame == int.from_bytes(PING, "big")


@pytest.mark.parametrize("dialer", ENGINES)
def test_a_probe_asks_for_an_immediate_acknowledgement(dialer: str) -> None:
    network = Network(dialer, "aioquic")
    network.establish()
    network.wait(1.0)
    arrived: list[object] = []
    quic: Any = network.listener.connection._quic  # type: ignore[attr-defined]
    epochs = quic._frames[IMMEDIATE_ACK][1]
    quic._frames[IMMEDIATE_ACK] = (lambda *frame: arrived.append(frame), epochs)
    network.loss = 1.0
    network.dialer.write(0, b"lost")
    network.settle()
    network.loss = 0.0
    network.run(lambda: network.listener.data[0])
    assert arrived


@each_pair
def test_lossy_bulk_in_both_directions_arrives(dialer: str, listener: str) -> None:
    network = opened(dialer, listener, loss=0.02)
    for end, stream in ((network.dialer, 0), (network.listener, 1)):
        end.write(stream, bytes(4 * MIB))
    network.run(lambda: len(network.listener.data[0]) == len(network.dialer.data[1]) == 4 * MIB)
