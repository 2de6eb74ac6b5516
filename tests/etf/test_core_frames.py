"""Frames of messages: the compiled core and the pure Python one do the same."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, Limits, Options, Term, encode_bare, encode_bare_parts, footprint
from quicdist.protocol.packet import FramePacket
from tests.etf.core import PURE_DECODE, PURE_ENCODE, compiled, outcome
from tests.etf.exactly import exactly
from tests.etf.strategies import terms
from tests.etf.test_core_encode import mixed, tight_options

core = compiled()
WORDS = tuple(map(Atom, ("one", "two", "three")))
known_atoms = st.lists(st.sampled_from(WORDS), unique=True).map(tuple)
prefixes = st.dictionaries(known_atoms, st.binary(max_size=20))


def framed(
    function: Any,
    term: Any,
    options: Options,
    atoms: tuple[Atom, ...] | None,
    known: dict[tuple[Atom, ...], bytes],
    most: int,
) -> tuple[Any, Any]:
    refs = None if atoms is None else {atom: index for index, atom in enumerate(atoms)}
    made = outcome(function, term, options, refs, atoms or (), known, most)
    # Unused atoms may remain after an error.
    return made, None if made[0].endswith("error") else refs


@given(
    st.one_of(mixed, terms, st.lists(st.sampled_from(WORDS))),
    tight_options,
    st.none() | known_atoms,
    prefixes,
    st.integers(-1, 200),
)
def test_both_make_the_same_frames(
    term: Any,
    options: Options,
    atoms: tuple[Atom, ...] | None,
    known: dict[tuple[Atom, ...], bytes],
    most: int,
) -> None:
    arguments = term, options, atoms, known, most
    assert framed(core.encode_frame, *arguments) == framed(PURE_ENCODE.encode_frame, *arguments)


@pytest.mark.parametrize("encode_frame", [core.encode_frame, PURE_ENCODE.encode_frame])
def test_a_frame_is_length_prefix_and_payload(encode_frame: Any) -> None:
    one, two, _ = WORDS
    refs = {one: 0}
    made = encode_frame((one, two), Options(), refs, (one,), {(one, two): b"head"}, 100)
    payload = encode_bare((one, two), refs={one: 0, two: 1})
    assert made == (4 + len(payload)).to_bytes(4, "big") + b"head" + payload
    assert refs == {one: 0}


@pytest.mark.parametrize("encode_frame", [core.encode_frame, PURE_ENCODE.encode_frame])
@pytest.mark.parametrize(
    ("term", "known", "most"),
    [
        (WORDS[1], {(WORDS[0],): b"head"}, 100),  # another atom
        (b"12345678", {(WORDS[0],): b"head"}, 10),  # too long
        (bytes(70_000), {(WORDS[0],): b"head"}, 100_000),  # a part that is not copied
    ],
)
def test_other_payloads_are_encoded_as_parts(
    encode_frame: Any, term: Any, known: dict[tuple[Atom, ...], bytes], most: int
) -> None:
    refs, expected = {WORDS[0]: 0}, {WORDS[0]: 0}
    parts = encode_bare_parts(term, refs=expected)
    assert encode_frame(term, Options(), refs, WORDS[:1], known, most) == parts
    assert refs == expected


@given(st.binary(max_size=40), st.lists(st.binary(max_size=5)), st.integers(0, 6), st.booleans())
def test_both_split_the_same_frames(
    odd: bytes, bodies: list[bytes], limit: int, is_odd: bool
) -> None:
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies) + odd * is_odd
    found, at = PURE_DECODE.split_frames(data, 0, limit)
    assert core.split_frames(data, 0, limit) == (found, at)
    assert b"".join(len(body).to_bytes(4, "big") + body for body in found) == data[:at]
    if max(map(len, bodies), default=0) <= limit:
        assert found[: len(bodies)] == bodies


odd_packets: Any = st.sampled_from(
    [
        FramePacket(b"other"),
        FramePacket(b""),
        FramePacket(b"head"),
        FramePacket(b"headj!"),
        FramePacket(b"head\x83j"),
        FramePacket(b"head\x83P\0\0\0\x01" + b"x\x9c\xcb\x02\x00\x00k\x00k"),
        FramePacket(b"headR\x05"),
        FramePacket(b"headj", 1),
        object(),
    ]
)


@given(
    st.lists(
        st.one_of(
            terms.map(encode_bare).map(lambda payload: FramePacket(b"head" + payload)), odd_packets
        )
    ),
    st.sampled_from([Options(), Options(limits=Limits(max_terms=2))]),
    st.booleans(),
    st.integers(0, 5),
    st.integers(-1, 400),
)
def test_both_decode_the_same_runs(
    packets: list[Any], options: Options, has_header: bool, most: int, room: int
) -> None:
    atoms = (WORDS[0],) if has_header else None
    ends: list[Any] = []
    for decode_run in (core.decode_run, PURE_DECODE.decode_run):
        queue = deque(packets)
        made = decode_run(queue, queue.popleft, b"head", 0, 300, options, atoms, most, room, 8)
        ends.append((exactly(made[0]), made[1:], list(queue)))
    assert ends[0] == ends[1]


@given(st.lists(terms, min_size=1, max_size=5), st.integers(0, 300))
def test_a_run_ends_with_the_message_that_exceeds_the_room(payloads: list[Term], room: int) -> None:
    queue = deque(FramePacket(b"head" + encode_bare(payload)) for payload in payloads)
    made, consumed, size = core.decode_run(
        queue, queue.popleft, b"head", 0, 10_000, Options(), (), 100, room, 8
    )
    assert size == sum(each for _, each in made)
    assert [each for _, each in made] == [footprint(payload) + 8 for payload, _ in made]
    assert not queue or size > room
    assert size - made[-1][1] <= room
    assert consumed == sum(4 + len(encode_bare(payload)) for payload in payloads[: len(made)])
