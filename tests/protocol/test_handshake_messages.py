"""Encoding and decoding of handshake messages, and the cookie digest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.errors import ProtocolError, UsageError
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake_messages import Named, Status

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
LATIN1 = st.characters(max_codepoint=255, exclude_characters="@").filter(
    lambda one: one.isprintable() and one not in " *?"
)
HOST = st.text(LATIN1, min_size=1, max_size=100)
NODE = st.builds("{}@{}".format, HOST, HOST)
DIGEST = st.binary(min_size=16, max_size=16)

PARSERS = (
    hs.parse_name,
    hs.parse_complement,
    hs.parse_challenge,
    hs.parse_challenge_reply,
    hs.parse_challenge_ack,
    hs.parse_proof,
    hs.parse_status,
)


@given(st.builds(hs.Name, U64, U32, NODE), st.binary(max_size=20))
def test_name_and_bytes_behind_it(name: hs.Name, extra: bytes) -> None:
    assert hs.parse_name(hs.build_name(name) + extra) == name


@given(st.builds(hs.NameV5, st.just(5), U32, NODE))
def test_old_name(name: hs.NameV5) -> None:
    assert hs.parse_name(hs.build_name_v5(name)) == name


@given(U32, U32)
def test_complement(high: int, creation: int) -> None:
    complement = hs.Complement(high << 32, creation)
    assert hs.parse_complement(hs.build_complement(complement)) == complement


@given(st.builds(hs.Challenge, U64, U32, U32, NODE), st.binary(max_size=20))
def test_challenge_and_bytes_behind_it(challenge: hs.Challenge, extra: bytes) -> None:
    assert hs.parse_challenge(hs.build_challenge(challenge) + extra) == challenge


@given(st.builds(hs.ChallengeReply, U32, DIGEST))
def test_challenge_reply(reply: hs.ChallengeReply) -> None:
    assert hs.parse_challenge_reply(hs.build_challenge_reply(reply)) == reply


@given(st.builds(hs.Name, U64, U32, NODE, st.binary(min_size=32, max_size=32)))
def test_a_name_with_a_proof(name: hs.Name) -> None:
    has_proof = name.flags & Flag.CHANNEL_BINDING.value
    assert hs.parse_name(hs.build_name(name)) == (name if has_proof else replace(name, proof=b""))


@given(st.builds(hs.Proof, U64, U32, NODE, st.binary(min_size=32, max_size=32)))
def test_proof(proof: hs.Proof) -> None:
    assert hs.parse_proof(hs.build_proof(proof)) == proof
    with pytest.raises(ProtocolError, match="a proof of 33 bytes, expected 32"):
        hs.parse_proof(hs.build_proof(proof) + b"x")


@given(st.builds(hs.ChallengeAck, DIGEST))
def test_challenge_ack(ack: hs.ChallengeAck) -> None:
    assert hs.parse_challenge_ack(hs.build_challenge_ack(ack)) == ack


@pytest.mark.parametrize("status", list(Status))
def test_every_status(status: Status) -> None:
    assert hs.build_status(status) == b"s" + status.value.encode()
    assert hs.parse_status(hs.build_status(status)) is status


@given(st.builds(Named, NODE, U32), st.binary(max_size=20))
def test_given_name_and_bytes_behind_it(named: Named, extra: bytes) -> None:
    assert hs.parse_status(hs.build_status(named) + extra) == named


def test_a_status_of_tomorrow_is_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown status b'perhaps'"):
        hs.parse_status(b"sperhaps")


@given(
    st.binary(max_size=60)
    | st.builds(bytes.__add__, st.sampled_from([b"N", b"n", b"snamed:"]), st.binary(max_size=60))
)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(ProtocolError):
            parse(data)


@pytest.mark.parametrize(
    ("message", "parse"),
    [
        (hs.build_name(hs.Name(1, 2, "a@b")), hs.parse_name),
        (hs.build_challenge(hs.Challenge(1, 2, 3, "a@b")), hs.parse_challenge),
        (hs.build_challenge_reply(hs.ChallengeReply(1, bytes(16))), hs.parse_challenge_reply),
        (hs.build_challenge_ack(hs.ChallengeAck(bytes(16))), hs.parse_challenge_ack),
        (hs.build_complement(hs.Complement(1 << 32, 1)), hs.parse_complement),
        (hs.build_proof(hs.Proof(1, 2, "a@b", bytes(32))), hs.parse_proof),
        (hs.build_status(Named("a@b", 1)), hs.parse_status),
    ],
)
def test_cut_messages_are_refused(message: bytes, parse: Callable[[bytes], object]) -> None:
    parse(message)
    for cut in range(len(message)):
        with pytest.raises(ProtocolError):
            parse(message[:cut])


def test_names_longer_than_an_atom_are_refused_both_ways() -> None:
    name = "n@" + "h" * 253
    assert hs.parse_name(hs.build_name(hs.Name(0, 0, name))).name == name
    with pytest.raises(UsageError):
        hs.build_name(hs.Name(0, 0, name + "h"))
    with pytest.raises(ProtocolError, match="256 bytes"):
        hs.parse_name(b"N" + bytes(12) + b"\1\0" + b"x" * 256)


def test_names_beyond_latin_1_do_not_fit() -> None:
    with pytest.raises(UsageError, match="latin-1"):
        hs.build_name(hs.Name(0, 0, "ž@host"))
    with pytest.raises(UsageError, match="latin-1"):
        hs.cookie_bytes("ž")


@pytest.mark.parametrize(
    ("name", "ok"),
    [("a@b", True), ("a@", False), ("@b", False), ("a", False), ("a@b@c", False), ("", False)],
)
def test_what_a_node_name_is(name: str, ok: bool) -> None:
    assert hs.is_node_name(name) is ok


def test_digest_is_that_of_a_recorded_handshake() -> None:
    # quic_dist.jsonl: the listener's challenge, and the dialer's digest of it.
    recorded = bytes.fromhex("5db67af47cc9cbd506aac0d50650f7")
    proof = hs.digest(b"labcookie", 0x79C97F3A)
    assert proof.endswith(recorded)
    assert hs.digest_matches(b"labcookie", 0x79C97F3A, proof)
    assert not hs.digest_matches(b"labcooki", 0x79C97F3A, proof)
    assert not hs.digest_matches(b"labcookie", 0x79C97F3A, b"")


def test_of_two_crossing_attempts_the_greater_name_s_survives() -> None:
    assert hs.settle_simultaneous("b@h", "a@h") is Status.NOK
    assert hs.settle_simultaneous("a@h", "b@h") is Status.OK_SIMULTANEOUS
