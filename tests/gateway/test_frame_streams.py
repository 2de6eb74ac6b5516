"""Frames of a BEAM node on the streams of its peer, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import etf
from quicdist.etf.terms import Atom, Pid, Reference
from quicdist.gateway.streams import FrameMerger, FrameSplitter
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import Channel, MessageReceived
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.flags import Flag
from quicdist.protocol.signals import NO_PAYLOAD, Down, Exit, Link, Message, Payload, Signal
from quicdist.protocol.streams import (
    MAX_DATA_FRAME,
    UNKNOWN_SENDER,
    IncomingStreams,
    OutgoingStreams,
    stream_for,
)

NODE, OTHER = Atom("a@h"), Atom("b@h")
FORMS = {
    "atom cache and fragments": Flag.DIST_HDR_ATOM_CACHE | Flag.FRAGMENTS,
    "fragments": Flag.FRAGMENTS,
    "pass-through": Flag(0),
}
COMMON = Flag.EXIT_PAYLOAD | Flag.SEND_SENDER
LIMITS = SessionLimits(fragment_size=50)

Sent = tuple[Signal, Payload]


def pid(number: int, node: Atom = NODE) -> Pid:
    return Pid(node, number, 0, 7)


REFERENCE = Reference(OTHER, (1, 2, 3), 7)
words = st.sampled_from([Atom(f"word{number}") for number in range(40)])
payloads = st.one_of(words, st.lists(words, max_size=5), st.binary(max_size=200))
senders = st.builds(pid, st.integers(0, 40))
receivers = st.one_of(st.builds(pid, st.integers(0, 3), st.just(OTHER)), words, st.just(REFERENCE))


@st.composite
def signals(draw: st.DrawFn) -> Sent:
    sender = draw(senders)
    kind = draw(st.integers(0, 5))
    to = pid(1, OTHER)
    if kind == 0:
        return Link(sender, to), NO_PAYLOAD
    if kind == 1:
        return Exit(sender, to), draw(payloads)
    if kind == 2:
        return Down(draw(st.one_of(st.just(sender), words)), to, REFERENCE), draw(payloads)
    return Message(sender, draw(receivers)), draw(payloads)


def channel(form: str) -> Channel:
    return Channel(FORMS[form] | COMMON, LIMITS, etf.DEFAULT)


def frames_of(node: Channel, sent: Sequence[Sent]) -> list[list[bytes]]:
    """Returns the frames of each message."""
    return [
        [b"".join(parts) for parts in node.frames(node.encode(signal, payload))]
        for signal, payload in sent
    ]


def interleaved(messages: list[list[bytes]], choices: Sequence[int]) -> list[bytes]:
    """Mixes the fragments of messages that begin in this order, as a BEAM node does."""
    frames: list[bytes] = []
    waiting: list[list[bytes]] = []
    for message, choice in zip(messages, [*choices, *[0] * len(messages)], strict=False):
        first, *rest = message
        frames.append(first)
        if rest:
            waiting.append(rest)
        for _ in range(choice % 4):
            if waiting:
                frames.append(waiting[choice % len(waiting)].pop(0))
                waiting = [each for each in waiting if each]
    for rest in waiting:
        frames += rest
    return frames


def split(frames: Sequence[bytes]) -> dict[int, list[bytes]]:
    """Returns what the gateway sends on each stream, with the fences."""
    splitter, outgoing = FrameSplitter(), OutgoingStreams()
    flows: dict[int, list[bytes]] = {}
    for frame in frames:
        stream, parts = splitter.split(frame)
        fence = outgoing.next_frame(stream)
        flows.setdefault(stream, []).extend(filter(None, (fence, b"".join(parts))))
    return flows


def arrived(flows: dict[int, list[bytes]], choices: Sequence[int]) -> list[tuple[int, bytes]]:
    """Returns frames with their streams after the streams were delivered in any interleaving."""
    incoming = IncomingStreams()
    got: list[tuple[int, bytes]] = []
    rest = {stream: list(bodies) for stream, bodies in flows.items()}
    for choice in choices:
        waiting = [stream for stream in rest if rest[stream]]
        if waiting:
            stream = waiting[choice % len(waiting)]
            packets = incoming.deliver(stream, [rest[stream].pop(0)])
            got += [(packet.stream, packet.data) for packet in packets]
    for stream, bodies in rest.items():
        got += [(packet.stream, packet.data) for packet in incoming.deliver(stream, bodies)]
    return got


def check(sent: Sequence[Sent], got: Sequence[Sent]) -> None:
    """Checks that everything arrived, in order for each sender."""
    assert len(got) == len(sent)
    for stream in {stream_for(signal) for signal, _ in sent}:
        of_stream = [each for each in sent if stream_for(each[0]) == stream]
        assert [each for each in got if stream_for(each[0]) == stream] == of_stream
    for place, each in enumerate(sent):
        if stream_for(each[0]) == UNKNOWN_SENDER:
            assert set(map(repr, got[:place])) == set(map(repr, sent[:place]))


choices = st.lists(st.integers(0, 1000), max_size=200)


@pytest.mark.parametrize("form", FORMS)
@given(sent=st.lists(signals(), max_size=30), mixing=choices, arriving=choices)
def test_a_node_reads_what_a_gateway_has_split(
    form: str, sent: list[Sent], mixing: list[int], arriving: list[int]
) -> None:
    flows = split(interleaved(frames_of(channel(form), sent), mixing))
    reader = channel(form)
    got = []
    for stream, frame in arrived(flows, arriving):
        event = reader.receive(frame, stream)
        if isinstance(event, MessageReceived):
            got.append((event.signal, event.payload))
    assert len(got) == len(sent)
    for signal, _ in sent:
        stream = stream_for(signal)
        of_stream = [each for each in sent if stream_for(each[0]) == stream]
        # A message ends with its last fragment, so that a later one may come first.
        assert sorted(map(repr, of_stream)) == sorted(
            repr(each) for each in got if stream_for(each[0]) == stream
        )


@pytest.mark.parametrize("form", FORMS)
@given(sent=st.lists(signals(), max_size=30), arriving=choices)
def test_the_order_of_each_sender_is_kept_between_two_gateways(
    form: str, sent: list[Sent], arriving: list[int]
) -> None:
    flows = split([frame for message in frames_of(channel(form), sent) for frame in message])
    merger, reader = FrameMerger(), channel(form)
    got = []
    for stream, frame in arrived(flows, arriving):
        event = reader.receive(merger.merge(frame, stream))
        if isinstance(event, MessageReceived):
            got.append((event.signal, event.payload))
    check(sent, got)


@pytest.mark.parametrize("form", FORMS)
def test_all_frames_of_a_message_use_one_stream(form: str) -> None:
    flows = split(frames_of(channel(form), [(Message(pid(3), Atom("x")), bytes(500))])[0])
    assert list(flows) == [stream_for(Message(pid(3), Atom("x")))]


def test_a_frame_that_is_too_large_for_a_data_stream_uses_the_first_one() -> None:
    large = Message(pid(3), Atom("x")), bytes(MAX_DATA_FRAME)
    small = Message(pid(3), Atom("x")), b""
    flows = split(
        [
            frame
            for one in frames_of(channel("pass-through"), [small, large, small])
            for frame in one
        ]
    )
    assert len(flows[UNKNOWN_SENDER]) == 2, "a fence and the frame"
    assert sum(map(len, flows.values())) == 5, "and a fence before the next frame of the sender"


def test_what_no_gateway_can_read_uses_the_first_stream() -> None:
    for frame in (b"?", b"p\x83?", b"\x83D\0?"):
        assert FrameSplitter().split(frame) == (UNKNOWN_SENDER, (frame,))


def test_an_invalid_header_is_an_error() -> None:
    for frame in (b"\x83D", b"\x83D\x05\0", b"\x83E\0", b"\x83F\0"):
        with pytest.raises(ProtocolError):
            FrameSplitter().split(frame)


def test_a_data_stream_has_a_small_atom_cache() -> None:
    slot_256 = b"\x83D\x01\x09\x00\x01x"
    assert FrameMerger().merge(slot_256, UNKNOWN_SENDER)
    with pytest.raises(ProtocolError, match="entry 256 of 256"):
        FrameMerger().merge(slot_256, 1)


@given(st.sampled_from([b"", b"\x83D", b"\x83E", b"\x83F", b"p\x83"]), st.binary(max_size=60))
def test_junk_is_a_frame_or_a_protocol_error(kind: bytes, junk: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        FrameSplitter().split(kind + junk)
    with contextlib.suppress(ProtocolError):
        FrameMerger().merge(kind + junk, 1)
