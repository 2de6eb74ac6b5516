"""Large binaries of a message: sent without a copy, received as views of the received message."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, Options, Pid, Term, encode_bare
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import MessageReceived, PayloadRefused
from quicdist.protocol.header import padding
from quicdist.protocol.signals import Message
from tests.protocol.talk import FORMS, connected_pair, feed

ME = Pid(Atom("a@x"), 1, 0, 77)
TO = Atom("name")
VIEWS = Options(binaries="memoryview")
BIG = bytes(range(256)) * 1024
FRAGMENT = SessionLimits().fragment_size


def tensor(binary: object) -> Term:
    return (Atom("tensor"), (Atom("f"), 64), (len(BIG) // 8,), binary)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [BIG, memoryview(BIG)], ids=["bytes", "view"])
def test_no_copy_is_made_of_what_is_sent(form: str, value: object) -> None:
    dialer, _ = connected_pair(FORMS[form])
    frames = list(dialer.frames(dialer.encode(Message(ME, TO), tensor(value))))
    parts = [part for frame in frames for part in frame]
    shared = [part for part in parts if (part.obj if type(part) is memoryview else part) is BIG]
    assert sum(map(len, shared)) == len(BIG)


@pytest.mark.parametrize("form", FORMS)
def test_later_changes_of_writable_memory_are_not_sent(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    memory = bytearray(BIG)
    message = dialer.encode(Message(ME, TO), tensor(memory))
    memory[:] = bytes(len(BIG))
    (event,) = received(feed(listener, [b"".join(frame) for frame in dialer.frames(message)]))
    assert event.payload == tensor(BIG)


def received(events: Sequence[object]) -> list[MessageReceived]:
    return [event for event in events if isinstance(event, MessageReceived)]


@pytest.mark.parametrize("form", FORMS)
def test_a_received_binary_is_a_view(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form], options=VIEWS)
    for _ in range(2):  # the second time, the beginning of a whole frame is known
        message = dialer.encode(Message(ME, TO), tensor(BIG))
        frames = [b"".join(frame) for frame in dialer.frames(message)]
        known = listener.channel.message(frames[0])
        payload: Term = known[1] if known else received(feed(listener, frames))[0].payload
        assert type(payload[3]) is memoryview
        assert payload == tensor(BIG)


@given(st.text("am\0\1\x7f", max_size=40), st.sampled_from([1, 8, 100_000]))
def test_the_elements_of_a_fragmented_message_are_aligned(text: str, times: int) -> None:
    value = (Atom(text), text, [0] * len(text), BIG * 1 + bytes(times))
    bare = encode_bare(value)
    at = bare.index(struct.pack(">BI", 109, len(value[3]))) + 5
    before = padding(memoryview(bare)[:FRAGMENT], len(bare))
    assert 0 <= before < 16
    if "m" not in text:
        assert (before + at) % 16 == 0


@pytest.mark.parametrize("payload", [b"", b"m", b"m\xff\xff\xff\xff", b"m\0\0\xff\xff" * 9, b"hij"])
def test_a_payload_without_a_large_binary_needs_no_padding(payload: bytes) -> None:
    assert padding(payload, 1 << 20) == 0


def test_offsets_in_errors_do_not_count_the_padding() -> None:
    dialer, listener = connected_pair(FORMS["both"])
    message = dialer.encode(Message(ME, TO), tensor(BIG))
    broken = b"".join(message.payload)
    message.payload = [broken[:-1]]
    message.size -= 1
    *_, event = feed(listener, [b"".join(frame) for frame in dialer.frames(message)])
    assert isinstance(event, PayloadRefused)
    assert f"{len(broken) - 1}" in event.reason


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=6),
    st.integers(1, 20),
    st.sampled_from(sorted(FORMS)),
)
def test_parts_of_any_size_are_cut_like_their_whole(
    parts: list[bytes], size: int, form: str
) -> None:
    limits = SessionLimits(fragment_size=size)
    dialer, _ = connected_pair(FORMS[form], limits=limits)
    other, _ = connected_pair(FORMS[form], limits=limits)
    whole = b"".join(parts)
    frames = []
    for session, payload in ((dialer, parts), (other, [whole])):
        message = session.encode(Message(ME, TO), b"")
        message.payload = payload
        message.size = len(message.control) + len(whole)
        frames.append([b"".join(frame) for frame in session.frames(message)])
    if whole:
        assert frames[0] == frames[1]
