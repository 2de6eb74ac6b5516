"""The order of frames on several streams, for any interleaving of the streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf.terms import Atom, Pid, Reference
from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import DialectError
from quicdist.protocol.dialects.native_streams import NativeStreamsDialect
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.signals import Down, Exit, Link, Message, SpawnReply
from quicdist.protocol.streams import (
    DATA_STREAMS,
    UNKNOWN_SENDER,
    IncomingStreams,
    OutgoingStreams,
    stream_for,
    stream_of,
)
from tests.carriers.owners import ACK, CHALLENGE, NAME, REPLY, STATUS

NODE = Atom("a@h")
LIMITS = CarrierLimits(max_frame=1000, max_handshake=500)

streams = st.integers(0, DATA_STREAMS)
"""Any stream; 0 is that of unknown senders."""

choices = st.lists(st.integers(0, 1 << 16), max_size=300)
"""Which stream advances next, and by how much."""


def pid(number: int) -> Pid:
    return Pid(NODE, number, 0, 1)


def frame(number: int) -> bytes:
    return b"\x83" + number.to_bytes(4, "big")


@dataclass
class Sent:
    """Frames in the order in which they were sent, and what each stream carries."""

    order: list[tuple[int, bytes]]
    bodies: dict[int, list[bytes]]


def send(on: Sequence[int]) -> Sent:
    """Sends one frame on each of these streams."""
    outgoing = OutgoingStreams()
    sent = Sent([], {})
    for number, stream in enumerate(on):
        fence = outgoing.next_frame(stream)
        sent.bodies.setdefault(stream, []).extend(filter(None, (fence, frame(number))))
        sent.order.append((stream, frame(number)))
    return sent


def deliver(sent: Sent, choices: Sequence[int]) -> list[FramePacket]:
    """Delivers the streams interleaved in the given way, and what remains after that."""
    incoming = IncomingStreams()
    rest = {stream: list(bodies) for stream, bodies in sent.bodies.items()}
    packets: list[FramePacket] = []
    for choice in choices:
        waiting = [stream for stream in rest if rest[stream]]
        if not waiting:
            break
        stream = waiting[choice % len(waiting)]
        count = 1 + choice % 3
        packets += incoming.deliver(stream, rest[stream][:count])
        del rest[stream][:count]
    for stream, bodies in rest.items():
        packets += incoming.deliver(stream, bodies)
    assert incoming.held_bytes == 0
    return packets


@given(st.lists(streams, max_size=60), choices)
def test_all_frames_arrive_once_and_in_the_order_of_each_stream(
    on: list[int], choices: list[int]
) -> None:
    sent = send(on)
    got = deliver(sent, choices)
    assert sorted((packet.stream, packet.data) for packet in got) == sorted(sent.order)
    for stream in sent.bodies:
        wanted = [data for each, data in sent.order if each == stream]
        assert [packet.data for packet in got if packet.stream == stream] == wanted


@given(st.lists(streams, max_size=60), choices)
def test_a_frame_without_a_sender_is_in_order_with_all_others(
    on: list[int], choices: list[int]
) -> None:
    sent = send(on)
    places = {packet.data: place for place, packet in enumerate(deliver(sent, choices))}
    for number, stream in enumerate(on):
        if stream == UNKNOWN_SENDER:
            for earlier in range(number):
                assert places[frame(earlier)] < places[frame(number)]
            for later in range(number + 1, len(on)):
                assert places[frame(number)] < places[frame(later)]


@given(st.lists(st.integers(1, DATA_STREAMS), max_size=60))
def test_streams_of_known_senders_need_no_fences(on: list[int]) -> None:
    sent = send(on)
    assert sum(map(len, sent.bodies.values())) == len(on)


def test_frames_without_a_sender_alone_need_no_fences() -> None:
    assert send([UNKNOWN_SENDER] * 5).bodies == {UNKNOWN_SENDER: [frame(n) for n in range(5)]}


def test_a_frame_is_held_only_behind_its_fence() -> None:
    sent = send([1, 0, 1, 2])
    incoming = IncomingStreams()
    first, *behind = sent.bodies[1]
    assert incoming.deliver(2, sent.bodies[2]) == []
    assert incoming.deliver(0, sent.bodies[0]) == []
    assert incoming.held_bytes > 0
    assert incoming.deliver(1, [first]) == [
        FramePacket(frame(0), 1),
        FramePacket(frame(1), 0),
        FramePacket(frame(3), 2),
    ]
    assert incoming.deliver(1, behind) == [FramePacket(frame(2), 1)]


def test_ticks_pass_and_are_not_counted() -> None:
    sent = send([0, 1])
    incoming = IncomingStreams()
    assert incoming.deliver(1, sent.bodies[1]) == []
    assert incoming.deliver(0, [b""]) == [FramePacket(b"", 0)]
    assert incoming.deliver(0, sent.bodies[0])[0] == FramePacket(frame(0), 0)


@pytest.mark.parametrize(
    "fence",
    [b"\x01", b"\x01\x02", b"\x01\0\0", b"\x01\0" + bytes(9 * 20), b"\x01\0\x11" + bytes(8)],
)
def test_an_invalid_fence_is_an_error(fence: bytes) -> None:
    with pytest.raises(DialectError, match="fence"):
        IncomingStreams().deliver(1, [fence])


@given(st.integers(0, (1 << 32) - 1))
def test_a_process_always_uses_the_same_data_stream(number: int) -> None:
    assert 1 <= stream_of(pid(number)) <= DATA_STREAMS
    assert stream_of(pid(number)) == stream_of(pid(number))
    assert len({stream_of(pid(number + more)) for more in range(DATA_STREAMS)}) == DATA_STREAMS


def test_the_stream_of_a_signal_is_that_of_the_process_it_is_from() -> None:
    a, b, reference = pid(1), pid(2), Reference(NODE, (1, 2, 3), 1)
    for to in (b, Atom("name"), reference):
        assert stream_for(Message(a, to)) == stream_of(a)
    for signal in (Link(a, b), Exit(a, b), Down(a, b, reference), SpawnReply(reference, b, 0, a)):
        assert stream_for(signal) == stream_of(a)


def test_what_names_no_process_uses_the_stream_of_unknown_senders() -> None:
    reference = Reference(NODE, (1, 2, 3), 1)
    assert stream_for(Message(None, pid(2))) == UNKNOWN_SENDER
    assert stream_for(Down(Atom("name"), pid(2), reference)) == UNKNOWN_SENDER
    assert stream_for(SpawnReply(reference, pid(2), 0, Atom("notsup"))) == UNKNOWN_SENDER


# -- the dialect --------------------------------------------------------------------------------


def connected(limits: CarrierLimits = LIMITS) -> tuple[NativeStreamsDialect, NativeStreamsDialect]:
    """Returns a dialer and a listener after the handshake."""
    dialer = NativeStreamsDialect(Role.DIALER, limits)
    listener = NativeStreamsDialect(Role.LISTENER, limits)
    for sender, receiver, messages in (
        (dialer, listener, (NAME, REPLY)),
        (listener, dialer, (STATUS, CHALLENGE, ACK)),
    ):
        for message in messages:
            for step in sender.handshake_bytes(message):
                receiver.receive(step.stream, b"".join(step.parts))  # type: ignore[union-attr]
    for end in (dialer, listener):
        end.connected()
    return dialer, listener


@given(st.lists(streams, max_size=30), choices, st.booleans())
def test_any_arrival_of_the_bytes_gives_the_same_frames(
    on: list[int], choices: list[int], to_dialer: bool
) -> None:
    dialer, listener = connected(CarrierLimits())
    sender, receiver = (listener, dialer) if to_dialer else (dialer, listener)
    flows: dict[int, bytes] = {}
    for number, stream in enumerate(on):
        write = sender.frame_bytes((frame(number)[:2], frame(number)[2:]), stream)
        flows[write.stream] = flows.get(write.stream, b"") + b"".join(write.parts)
    got: list[object] = []
    for choice in [*choices, *range(len(flows))]:
        waiting = [stream for stream in flows if flows[stream]]
        if not waiting:
            break
        stream = waiting[choice % len(waiting)]
        count = 1 + choice % 40 if choice >= len(flows) else len(flows[stream])
        piece, flows[stream] = flows[stream][:count], flows[stream][count:]
        got += receiver.receive(stream, piece).packets
    for stream, rest in flows.items():
        got += receiver.receive(stream, rest).packets
    for stream in set(on):
        wanted = [FramePacket(frame(n), each) for n, each in enumerate(on) if each == stream]
        assert [one for one in got if getattr(one, "stream", None) == stream] == wanted


def test_a_tick_uses_the_first_stream_and_no_fence() -> None:
    dialer, _ = connected()
    dialer.frame_bytes((frame(1),), 1)
    assert dialer.frame_bytes(()) == (0, (bytes(4),))


def test_frames_that_overtake_the_last_handshake_message_wait_for_it() -> None:
    dialer = NativeStreamsDialect(Role.DIALER, LIMITS)
    _, listener = connected()
    write = listener.frame_bytes((frame(1),), 3)
    early = b"".join(write.parts)
    assert dialer.receive(write.stream, early).packets == ()
    assert dialer.withheld == len(early)
    (ack,) = listener.handshake_bytes(ACK)
    got = dialer.receive(0, b"".join(ack.parts))  # type: ignore[union-attr]
    assert got.packets == [HandshakePacket(ACK)]
    dialer.connected()
    assert dialer.receive(0, b"").packets == [FramePacket(frame(1), 3)]
    assert dialer.withheld == 0


def test_a_dialer_sends_no_frames_before_the_end_of_the_handshake() -> None:
    listener = NativeStreamsDialect(Role.LISTENER, LIMITS)
    with pytest.raises(DialectError, match="before the end of the handshake"):
        listener.receive(4, b"x")


def test_other_streams_are_refused() -> None:
    dialer, listener = connected()
    for end, peer_first in ((dialer, 1), (listener, 0)):
        last = peer_first + 4 * DATA_STREAMS
        assert end.carries(last)
        for stream in (last + 4, 2, 3):
            assert end.receive(stream, b"x").steps
            assert not end.carries(stream)


@pytest.mark.parametrize("arrived", [1, LIMITS.max_frame // 2 - 1])
def test_incomplete_frames_of_all_streams_together_are_limited_like_one_frame(arrived: int) -> None:
    _, listener = connected()
    half = (LIMITS.max_frame // 2).to_bytes(4, "big") + bytes(arrived)
    listener.receive(4, half)
    listener.receive(8, half)
    with pytest.raises(DialectError, match="incomplete frames of all streams"):
        listener.receive(12, half)


def test_frames_that_are_held_count_as_incomplete() -> None:
    dialer, listener = connected()
    dialer.frame_bytes((frame(1),), 1)
    fenced = b"".join(dialer.frame_bytes((b"\x83" + bytes(500),), 0).parts)
    assert listener.receive(0, fenced).packets == []
    with pytest.raises(DialectError, match="incomplete frames of all streams"):
        listener.receive(0, b"".join(dialer.frame_bytes((b"\x83" + bytes(500),), 0).parts))


@given(st.binary(max_size=3), st.binary(max_size=3), streams)
def test_a_frame_may_begin_with_any_byte(first: bytes, rest: bytes, stream: int) -> None:
    dialer, listener = connected()
    write = dialer.frame_bytes((first, rest), stream)
    frames = listener.receive(write.stream, b"".join(write.parts)).packets
    assert frames == [FramePacket(first + rest, stream if first + rest else 0)]
