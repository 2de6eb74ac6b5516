"""Binding of cookie proofs to a TLS session, and cookie rotation.

The tests use two sessions without a carrier.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.errors import HandshakeRefused, WrongCookie
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake import PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Prover, Status
from quicdist.protocol.packet import HandshakePacket
from quicdist.protocol.session import Session
from tests.protocol.talk import acceptor, initiator, node, outcome, shake

ONE, OTHER = b"1" * 32, b"2" * 32
COOKIES = st.text(st.characters(max_codepoint=255), min_size=1, max_size=40)


def said(session: Session, data: bytes) -> bytes:
    """Returns the answer of a session to a handshake message, or the last of several."""
    events = session.receive(HandshakePacket(data))
    if isinstance(events[-1], PeerNamed):
        events = session.decide(Status.OK)
    return [event.data for event in events if isinstance(event, SendHandshake)][-1]


@pytest.mark.parametrize(
    ("ours", "theirs", "is_bound"),
    [(ONE, ONE, True), (ONE, b"", False), (b"", ONE, False), (b"", b"", False)],
)
def test_proofs_are_bound_where_both_have_a_value(
    ours: bytes, theirs: bytes, is_bound: bool
) -> None:
    dialer, listener = initiator(binding=ours), acceptor(binding=theirs)
    seen = shake(dialer, listener)
    for session, events in zip((dialer, listener), seen, strict=True):
        assert session.is_bound is is_bound
        assert (Flag.CHANNEL_BINDING in outcome(events).flags) is is_bound


def test_two_values_are_two_sessions() -> None:
    with pytest.raises(WrongCookie, match="the handshake is relayed"):
        shake(initiator(binding=ONE), acceptor(binding=OTHER))


def test_an_initiator_that_must_bind_gives_no_proof_to_who_cannot() -> None:
    dialer, listener = initiator(binding=ONE, must_bind=True), acceptor()
    (start,) = dialer.start()
    assert isinstance(start, SendHandshake)
    challenge = said(listener, start.data)
    dialer.receive(HandshakePacket(b"sok"))
    with pytest.raises(HandshakeRefused, match="does not bind its cookie digest"):
        dialer.receive(HandshakePacket(challenge))


def test_an_acceptor_is_shown_whether_the_peer_binds() -> None:
    for binding, is_shown in ((ONE, True), (b"", False)):
        listener = acceptor(binding=ONE)
        (start,) = initiator(binding=binding).start()
        assert isinstance(start, SendHandshake)
        (named,) = listener.receive(HandshakePacket(start.data))
        assert isinstance(named, PeerNamed)
        assert (Flag.CHANNEL_BINDING in named.peer.flags) is is_shown


def test_an_unbound_proof_is_not_taken_where_both_have_offered() -> None:
    """Otherwise the flag would be useless, because the relay has the victim's unbound digest."""
    listener = acceptor(binding=ONE)
    (start,) = initiator(binding=ONE).start()
    assert isinstance(start, SendHandshake)
    challenge = hs.parse_challenge(said(listener, start.data))
    unbound = hs.digest(b"secret", challenge.challenge)
    with pytest.raises(WrongCookie):
        listener.receive(HandshakePacket(hs.build_challenge_reply(hs.ChallengeReply(1, unbound))))


def test_nobody_is_sent_his_own_proof_back() -> None:
    dialer = initiator(binding=ONE)
    dialer.start()
    dialer.receive(HandshakePacket(b"sok"))
    flags = int(node("b@x").flags) | Flag.CHANNEL_BINDING.value
    (reply,) = dialer.receive(
        # The initiator's challenge, which is the same in all of these tests.
        HandshakePacket(hs.build_challenge(hs.Challenge(flags, 0xAAAA0001, 77, "b@x")))
    )
    assert isinstance(reply, SendHandshake)
    proof = hs.parse_challenge_reply(reply.data)
    assert proof.challenge == 0xAAAA0001
    with pytest.raises(WrongCookie):
        dialer.receive(HandshakePacket(hs.build_challenge_ack(hs.ChallengeAck(proof.digest))))


@given(COOKIES, st.integers(0, hs.MAX_U32), st.binary(min_size=32, max_size=32))
def test_whatever_they_are_proofs_hold(cookie: str, challenge: int, binding: bytes) -> None:
    sessions = [
        made(replace(node(name), cookie=cookie), binding=binding)
        for made, name in ((initiator, "a@x"), (acceptor, "b@x"))
    ]
    shake(sessions[0], sessions[1])
    assert all(session.connected for session in sessions)
    key = hs.cookie_bytes(cookie)
    assert len({hs.bound_digest(key, challenge, binding, prover) for prover in Prover}) == 2
    assert hs.digest(key, challenge) not in {
        hs.bound_digest(key, challenge, binding, prover) for prover in Prover
    }


# -- several cookies -----------------------------------------------------------------------------


@pytest.mark.parametrize("binding", [b"", ONE])
def test_an_acceptor_takes_any_of_its_cookies_and_answers_with_the_same(binding: bytes) -> None:
    local = replace(node("b@x", cookie="new"), more_cookies=("old", "older"))
    for cookie in ("new", "old", "older"):
        dialer = initiator(node("a@x", cookie=cookie), binding=binding)
        listener = acceptor(local, binding=binding)
        shake(dialer, listener)
        assert dialer.connected
        assert listener.connected
    with pytest.raises(WrongCookie):
        shake(initiator(node("a@x", cookie="oldest")), acceptor(local))


def test_an_initiator_takes_no_other_cookie_for_proof_than_the_one_it_offers() -> None:
    local = replace(node("a@x", cookie="new"), more_cookies=("old",))
    dialer = initiator(local)
    dialer.start()
    dialer.receive(HandshakePacket(b"sok"))
    challenge = hs.Challenge(int(node("b@x").flags), 5, 77, "b@x")
    dialer.receive(HandshakePacket(hs.build_challenge(challenge)))
    ack = hs.ChallengeAck(hs.digest(b"old", 0xAAAA0001))
    with pytest.raises(WrongCookie):
        dialer.receive(HandshakePacket(hs.build_challenge_ack(ack)))
