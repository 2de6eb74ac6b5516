"""Messages that a channel encodes as frames in one step, and the order in which they are sent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import etf
from quicdist.cluster.outbox import Outbox
from quicdist.etf import Atom, EtfEncodeError, Pid, Term
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import Channel, MessageReceived, OutgoingMessage
from quicdist.protocol.dialects.base import Buffer
from quicdist.protocol.errors import UsageError
from quicdist.protocol.flags import Flag
from quicdist.protocol.signals import Message
from quicdist.protocol.streams import DATA_STREAMS

BASE = Flag.SEND_SENDER
FORMS = {
    "pass-through": BASE,
    "fragments": BASE | Flag.FRAGMENTS,
    "atom cache": BASE | Flag.DIST_HDR_ATOM_CACHE,
    "both": BASE | Flag.DIST_HDR_ATOM_CACHE | Flag.FRAGMENTS,
}
HERE, THERE = Atom("a@h"), Atom("b@h")
SINK = Atom("sink")
ONE = Pid(HERE, 1, 0, 1)
SAME_STREAM = Pid(HERE, 1 + DATA_STREAMS, 0, 1)
OTHER_STREAM = Pid(HERE, 2, 0, 1)
SENDERS = ONE, SAME_STREAM, OTHER_STREAM


def channel(form: str = "both", limits: SessionLimits | None = None) -> Channel:
    return Channel(FORMS[form], limits or SessionLimits(), etf.DEFAULT)


def whole(frame: bytes) -> bytes:
    """The body of a frame with a length."""
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return frame[4:]


payloads: st.SearchStrategy[Term] = st.lists(
    st.one_of(
        st.integers(0, 300).map(lambda number: Atom(f"atom {number}")),
        st.sampled_from([Atom("ok"), Atom("error"), SINK]),
        st.binary(max_size=3),
    ),
    max_size=3,
).map(tuple)


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.tuples(st.sampled_from([SINK, Atom("other")]), payloads), max_size=20))
def test_a_frame_is_the_one_of_the_message(form: str, sent: list[tuple[Atom, Term]]) -> None:
    fast, plain, receiver = channel(form), channel(form), channel(form)
    heads = {to: fast.address(Message(ONE, to), 1) for to, _ in sent}
    for to, payload in sent:
        signal = Message(ONE, to)
        made = fast.framed(heads[to], payload)
        frame = whole(made) if isinstance(made, bytes) else fast.frame(made, 1)
        assert frame is not None
        assert frame == plain.frame(plain.encode(signal, payload), 1)
        assert receiver.receive(frame, 1) == MessageReceived(signal, payload, len(frame))


def test_atoms_that_the_peer_knows_are_framed_in_one_step() -> None:
    sender = channel()
    head = sender.address(Message(ONE, SINK), 1)
    first = sender.framed(head, (Atom("new"), 1))
    assert isinstance(first, OutgoingMessage)
    sender.frame(first, 1)
    assert isinstance(sender.framed(head, (Atom("new"), 2)), bytes)
    assert isinstance(sender.framed(head, 3), bytes)
    assert isinstance(sender.framed(head, Atom("newer")), OutgoingMessage)


def test_an_error_leaves_the_head_as_it_was() -> None:
    sender = channel()
    head = sender.address(Message(ONE, SINK), 1)
    with pytest.raises(EtfEncodeError):
        sender.framed(head, (Atom("new"), object()))
    made = sender.framed(head, 1)
    assert isinstance(made, OutgoingMessage)
    assert made.atoms == head.atoms


def test_the_limit_of_a_message_is_named() -> None:
    sender = channel(limits=SessionLimits(max_message=1000))
    head = sender.address(Message(ONE, SINK), 1)
    with pytest.raises(EtfEncodeError, match=r"SessionLimits\.max_message"):
        sender.framed(head, bytes(1001))
    assert isinstance(sender.framed(head, bytes(100)), OutgoingMessage)


def test_a_head_is_of_one_channel() -> None:
    with pytest.raises(UsageError, match="another channel"):
        channel().framed(channel().address(Message(ONE, SINK)), b"")


class Wire:
    """Delivers frames to a channel while it is writable."""

    def __init__(self) -> None:
        self.is_writable = True
        self.receiver = channel()
        self.received: list[MessageReceived] = []

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        event = self.receiver.receive(b"".join(parts), stream)
        if isinstance(event, MessageReceived):
            self.received.append(event)

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        for frame in frames:
            self.send_frame((whole(frame),), stream)

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        return False


steps = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(SENDERS), payloads),
    st.tuples(st.just("send"), st.sampled_from(SENDERS), st.just(bytes(40_000))),
    st.tuples(st.just("post"), st.sampled_from(SENDERS), payloads),
    st.tuples(st.just("open"), st.just(ONE), st.booleans()),
    st.tuples(st.just("feed"), st.just(ONE), st.none()),
)


@given(st.lists(steps, max_size=40))
def test_the_messages_of_a_sender_arrive_in_order(done: list[tuple[str, Pid, Term]]) -> None:
    """Frames that were made before a change of the atom cache are made again."""
    wire, sender = Wire(), channel()
    box = Outbox(wire, sender, high=1000, low=500)
    box.has_data_streams = True
    box._is_feed_planned = True  # there is no event loop; the step "feed" is what it would do
    heads = {each: sender.address(Message(each, SINK), box.stream_of(each)) for each in SENDERS}
    sent: dict[Pid, list[Term]] = {each: [] for each in SENDERS}
    for what, by, value in done:
        if what == "open":
            wire.is_writable = bool(value)
        elif what == "feed":
            box.feed()
        else:
            sent[by].append(value)
            made = sender.framed(heads[by], value) if what == "send" else None
            if isinstance(made, bytes):
                box.put_frame(by, heads[by], made)
            else:
                box.put(by, made or sender.encode(Message(by, SINK), value))
    wire.is_writable = True
    box.feed()
    assert (box.queued, box.is_empty) == (0, True)
    assert box.messages_accepted == sum(map(len, sent.values()))
    for each in SENDERS:
        got = [event.payload for event in wire.received if event.signal == Message(each, SINK)]
        assert got == sent[each]
