"""What the channel keeps apart by stream: atom caches and fragments. Limits are shared."""

from __future__ import annotations

import pytest

from quicdist import etf
from quicdist.etf.terms import Atom, Pid
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import Channel, FragmentStored, MessageReceived
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.flags import Flag
from quicdist.protocol.signals import Message
from quicdist.protocol.streams import DATA_STREAMS, stream_of

FLAGS = Flag.DIST_HDR_ATOM_CACHE | Flag.FRAGMENTS | Flag.SEND_SENDER
LIMITS = SessionLimits(fragment_size=100, max_sequences=20)
FROM, TO = Pid(Atom("a@h"), 1, 0, 1), Pid(Atom("b@h"), 2, 0, 1)
FIRST, SECOND = 1, 2
MESSAGE = Message(FROM, TO)


@pytest.fixture
def sender() -> Channel:
    return Channel(FLAGS, LIMITS, etf.DEFAULT)


@pytest.fixture
def receiver() -> Channel:
    return Channel(FLAGS, LIMITS, etf.DEFAULT)


def frames(sender: Channel, payload: object, stream: int) -> list[bytes]:
    message = sender.encode(MESSAGE, payload)
    return [b"".join(parts) for parts in sender.frames(message, stream)]


def test_each_stream_defines_its_atoms_itself(sender: Channel, receiver: Channel) -> None:
    for stream in (FIRST, SECOND):
        for _ in range(2):
            (frame,) = frames(sender, Atom("word"), stream)
            event = receiver.receive(frame, stream)
            assert isinstance(event, MessageReceived)
            assert event.payload == Atom("word")


def test_an_atom_of_another_stream_is_not_defined(sender: Channel, receiver: Channel) -> None:
    for _ in range(2):
        (frame,) = frames(sender, Atom("word"), FIRST)
    with pytest.raises(ProtocolError, match="empty atom cache entry"):
        receiver.receive(frame, SECOND)


def test_a_known_beginning_is_known_on_its_stream_only(sender: Channel, receiver: Channel) -> None:
    for _ in range(3):
        (frame,) = frames(sender, 7, FIRST)
        receiver.receive(frame, FIRST)
    assert receiver.message(frame, FIRST) == (MESSAGE, 7)
    assert receiver.message(frame, SECOND) is None


def test_a_message_on_the_stream_of_another_process_is_accepted(
    sender: Channel, receiver: Channel
) -> None:
    """Its sender gives up the order of its own messages, and nothing else depends on it."""
    wrong = stream_of(FROM) % DATA_STREAMS + 1
    (frame,) = frames(sender, 7, wrong)
    assert receiver.receive(frame, wrong) == MessageReceived(MESSAGE, 7, len(frame))


def test_fragments_with_equal_ids_on_two_streams_are_two_messages(receiver: Channel) -> None:
    payloads = {FIRST: b"1" * 250, SECOND: b"2" * 250}
    by_stream = {
        stream: frames(Channel(FLAGS, LIMITS, etf.DEFAULT), payload, stream)
        for stream, payload in payloads.items()
    }
    got = {}
    for first, second in zip(by_stream[FIRST], by_stream[SECOND], strict=True):
        for stream, frame in ((FIRST, first), (SECOND, second)):
            event = receiver.receive(frame, stream)
            if isinstance(event, MessageReceived):
                got[stream] = event.payload
            else:
                assert isinstance(event, FragmentStored)
    assert got == payloads


def test_a_fragment_on_another_stream_continues_nothing(sender: Channel, receiver: Channel) -> None:
    first, second, *_ = frames(sender, bytes(250), FIRST)
    receiver.receive(first, FIRST)
    with pytest.raises(ProtocolError, match="unknown sequence"):
        receiver.receive(second, SECOND)


def test_all_streams_share_the_limit_of_incomplete_messages(
    sender: Channel, receiver: Channel
) -> None:
    def begin(number: int) -> None:
        stream = 1 + number % DATA_STREAMS
        receiver.receive(frames(sender, bytes(250), stream)[0], stream)

    for number in range(LIMITS.max_sequences):
        begin(number)
    with pytest.raises(ProtocolError, match="max_sequences"):
        begin(LIMITS.max_sequences)
