"""The distribution header alone: atom caches and fragments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicdist.etf import Atom, Pid
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.header import (
    _REMEMBERED,
    CACHE_SIZE,
    FRAGMENT_HEAD,
    FRAME_OVERHEAD,
    IncomingAtomCache,
    IncomingFragments,
    OutgoingAtomCache,
)
from quicdist.protocol.signals import NO_PAYLOAD, Link
from tests.support.examples import examples

# The example of the manual: five atoms, the first two known, the other three new.
MANUAL = (
    bytes([5, 4, 137, 9, 10, 5, 236, 3, 114, 101, 103, 9, 4, 99, 97, 108, 108, 238, 13])
    + b"set_get_state"
)


def atoms(*names: str) -> tuple[Atom, ...]:
    return tuple(Atom(name) for name in names)


def filled(**slots: int) -> IncomingAtomCache:
    """Returns a cache after headers of the peer with these atoms in these slots."""
    cache = IncomingAtomCache()
    for name, slot in slots.items():
        half = 8 | slot >> 8
        cache.read(bytes([1, half, slot & 255, len(name)]) + name.encode(), 0)
    return cache


# -- the atom cache -----------------------------------------------------------------------------


def test_the_manual_s_example() -> None:
    # Flags 4, 0: segment 4, entry 10; segment 0, entry 5.
    cache = filled(receiver=4 << 8 | 10, sender=5)
    assert cache.read(MANUAL, 0) == (
        atoms("receiver", "sender", "reg", "call", "set_get_state"),
        len(MANUAL),
    )
    cached = bytes([3, 0x01, 0x01, 236, 9, 238])
    assert cache.read(cached, 0) == (atoms("reg", "call", "set_get_state"), len(cached))


def test_no_atoms_is_one_zero() -> None:
    assert OutgoingAtomCache().header(()) == b"\0"
    assert IncomingAtomCache().read(b"xx\0y", 2) == ((), 3)


@pytest.mark.parametrize(("count", "flags"), [(1, 1), (2, 2), (3, 2), (4, 3), (255, 128)])
def test_flags_take_half_a_byte_an_atom_and_one_more(count: int, flags: int) -> None:
    names = tuple(Atom(f"a{index}") for index in range(count))
    out = OutgoingAtomCache()
    out.header(names)
    assert len(out.header(names)) == 1 + flags + count


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_one_long_atom_makes_all_lengths_two_bytes(count: int) -> None:
    names = (*(Atom(f"b{index}") for index in range(count - 1)), Atom("ž" * 255))
    header = OutgoingAtomCache().header(names)
    assert IncomingAtomCache().read(header, 0) == (names, len(header))
    assert header[1 + count // 2] >> (4 * (count % 2)) & 15 == 1


def test_an_atom_goes_out_once() -> None:
    out, cache = OutgoingAtomCache(), IncomingAtomCache()
    first, second = out.header(atoms("x", "y")), out.header(atoms("y", "x"))
    assert cache.read(first, 0)[0] == atoms("x", "y")
    assert len(second) == 5
    assert cache.read(second, 0)[0] == atoms("y", "x")


@settings(max_examples=examples(30))
@given(st.lists(st.lists(st.integers(0, 5000), unique=True, max_size=255), min_size=1, max_size=60))
def test_two_caches_agree_whatever_is_evicted(messages: list[list[int]]) -> None:
    out, cache = OutgoingAtomCache(), IncomingAtomCache()
    # Repeatedly, because both sides cache headers without new atoms.
    for numbers in [one for each in messages for one in (each, messages[0], each)]:
        names = tuple(Atom(f"atom{number}") for number in numbers)
        header = out.header(names)
        assert cache.read(header + b"rest", 0) == (names, len(header))


@pytest.mark.parametrize("count", [1, 10, 255])
def test_remembered_headers_are_bounded_by_their_atoms(count: int) -> None:
    incoming, outgoing = IncomingAtomCache(), OutgoingAtomCache()
    atoms = [Atom(f"atom{number}") for number in range(255)]
    incoming.read(outgoing.header(tuple(atoms)), 0)
    most_of_both = []
    for start in range(255):
        for step in range(1, 20):
            chosen = tuple(atoms[(start + step * index) % 255] for index in range(count))
            assert incoming.read(outgoing.header(chosen), 0)[0] == chosen
        kept = incoming._known.values(), outgoing._known
        most_of_both.append([sum(len(one) + 1 for one in each) for each in kept])
    assert max(map(min, most_of_both)) > 1024 or count == 1
    assert max(map(max, most_of_both)) <= _REMEMBERED


def test_no_atom_of_a_message_evicts_another_of_it() -> None:
    out, cache = OutgoingAtomCache(), IncomingAtomCache()
    names = tuple(Atom(f"n{index}") for index in range(CACHE_SIZE))
    for start in range(0, CACHE_SIZE, 128):
        cache.read(out.header(names[start : start + 128]), 0)
    # The cache is full. Use the oldest atoms, which would be replaced next, and add 200.
    message = (*names[:50], *(Atom(f"new{index}") for index in range(200)))
    header = out.header(message)
    assert cache.read(header, 0) == (message, len(header))
    # The used atoms were not sent again.
    assert b"n49" not in header


@given(st.data())
def test_every_cut_of_a_header_is_refused(data: st.DataObject) -> None:
    names = [Atom(name) for name in data.draw(st.lists(st.text("xyž", max_size=90), unique=True))]
    header = OutgoingAtomCache().header(tuple(names[:255]))
    for cut in range(len(header)):
        with pytest.raises(ProtocolError, match="ends within its header"):
            IncomingAtomCache().read(header[:cut], 0)


def test_a_cache_entry_never_filled_is_refused() -> None:
    with pytest.raises(ProtocolError, match="empty atom cache entry 1800"):
        IncomingAtomCache().read(bytes([1, 7, 8]), 0)


@pytest.mark.parametrize("text", [b"\xff", b"x" * 256, b"\xed\xa0\x80"])
def test_texts_that_are_no_atom_are_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="atom"):
        IncomingAtomCache().read(bytes([1, 0x18, 0]) + len(text).to_bytes(2, "big") + text, 0)


# -- fragments ----------------------------------------------------------------------------------

PARSED = (Link(Pid(Atom("a@b"), 1, 0, 1), Pid(Atom("a@b"), 2, 0, 1)), NO_PAYLOAD)


def first(fragments: IncomingFragments, sequence: int, fragment: int, payload: bytes) -> object:
    frame = FRAGMENT_HEAD.pack(131, 69, sequence, fragment) + payload
    return fragments.begin(fragments.check_first(frame), PARSED, (), payload, len(frame))


def further(fragments: IncomingFragments, sequence: int, fragment: int, payload: bytes) -> bytes:
    frame = FRAGMENT_HEAD.pack(131, 70, sequence, fragment) + payload
    whole = fragments.proceed(frame)
    return b"" if whole is None else bytes(whole.payload())


def holding(max_sequences: int = 10, max_bytes: int = 10**6) -> IncomingFragments:
    return IncomingFragments(max_sequences, max_bytes, max_bytes)


def test_fragments_of_several_messages_mingle() -> None:
    fragments = holding()
    assert first(fragments, 7, 3, b"a") is None
    assert first(fragments, 2**64 - 1, 2, b"A") is None
    assert further(fragments, 7, 2, b"b") == b""
    assert further(fragments, 2**64 - 1, 1, b"B") == b"AB"
    assert further(fragments, 7, 1, b"c") == b"abc"
    assert first(fragments, 7, 2, b"d") is None


def test_a_first_fragment_may_be_the_only_one() -> None:
    assert first(holding(), 1, 1, b"all") is not None


@pytest.mark.parametrize(
    ("sequence", "fragment"), [(7, 3), (7, 1), (8, 2), (0, 2), (7, 0), (7, 2**64 - 1)]
)
def test_a_fragment_out_of_place_is_refused(sequence: int, fragment: int) -> None:
    fragments = holding()
    first(fragments, 7, 3, b"a")
    with pytest.raises(ProtocolError):
        further(fragments, sequence, fragment, b"b")


def test_a_fragment_after_the_last_is_refused() -> None:
    fragments = holding()
    first(fragments, 7, 2, b"a")
    further(fragments, 7, 1, b"b")
    with pytest.raises(ProtocolError, match="of unknown sequence"):
        further(fragments, 7, 1, b"b")


@pytest.mark.parametrize(("sequence", "fragment"), [(7, 3), (7, 1), (0, 3), (8, 0)])
def test_a_first_fragment_out_of_place_is_refused(sequence: int, fragment: int) -> None:
    fragments = holding()
    first(fragments, 7, 3, b"a")
    with pytest.raises(ProtocolError):
        first(fragments, sequence, fragment, b"a")


def test_unfinished_messages_are_bounded_in_number() -> None:
    fragments = holding(max_sequences=2)
    first(fragments, 1, 2, b"")
    first(fragments, 2, 2, b"")
    assert first(fragments, 3, 1, b"") is not None
    with pytest.raises(ProtocolError, match="more than 2"):
        first(fragments, 4, 2, b"")


def test_unfinished_messages_are_bounded_in_bytes_tiny_frames_included() -> None:
    frames = 100
    one = FRAGMENT_HEAD.size + 1 + FRAME_OVERHEAD
    fragments = holding(max_bytes=frames * one)
    first(fragments, 1, 10**9, b"x")
    for index in range(1, frames):
        further(fragments, 1, 10**9 - index, b"x")
    assert fragments._charged == frames * one
    further(fragments, 1, 10**9 - frames, b"x")
    assert fragments._charged == 0


def test_a_message_beyond_a_bound_is_thrown_away_to_its_end_and_alone() -> None:
    fragments = holding(max_bytes=1100)
    first(fragments, 1, 3, b"x" * 900)
    first(fragments, 3, 2, b"y" * 10)
    further(fragments, 1, 2, b"z" * 10)
    refused = fragments.proceed(FRAGMENT_HEAD.pack(131, 70, 1, 1) + b"x")
    assert refused is not None
    assert refused.refused is not None
    assert "SessionLimits.max_sequence_bytes" in refused.refused
    assert (refused.stored, refused.size) == (bytearray(), 900 + 10 + 1 + 3 * FRAGMENT_HEAD.size)
    assert further(fragments, 3, 1, b"z") == b"y" * 10 + b"z"
    assert fragments._charged == 0
    assert not fragments._sequences


def test_finished_messages_are_no_longer_charged() -> None:
    fragments = holding(max_bytes=1000)
    for sequence in range(1, 50):
        first(fragments, sequence, 2, b"x" * 100)
        assert further(fragments, sequence, 1, b"y" * 100) == b"x" * 100 + b"y" * 100


@given(st.binary(max_size=17))
def test_a_frame_too_short_for_fragment_numbers_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="ends within"):
        holding().proceed(frame)
