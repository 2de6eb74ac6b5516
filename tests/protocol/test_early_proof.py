"""The handshake of `quicdist/2`, in which the dialer proves the cookie with its name."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.errors import Cause
from quicdist.limits import CarrierLimits
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.dialects.base import DialectError, Write
from quicdist.protocol.dialects.native_streams import NativeStreamsDialect
from quicdist.protocol.errors import DistError, HandshakeRefused, ProtocolError, WrongCookie
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import AliveAsked, LocalNode, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from tests.protocol.talk import acceptor, initiator, node, outcome, shake

ONE, OTHER = b"1" * 32, b"2" * 32
BIT = Flag.CHANNEL_BINDING.value
COOKIES = st.text(st.characters(max_codepoint=255), min_size=1, max_size=80)
ASKING = LocalNode("x", 0, DEFAULT_FLAGS | Flag.NAME_ME, "secret")


def dialing(local: LocalNode | None = None, binding: bytes = ONE, **more: object) -> Session:
    return initiator(local, binding=binding, early_proofs=True, **more)


def listening(local: LocalNode | None = None, binding: bytes = ONE) -> Session:
    return acceptor(local, binding=binding, early_proofs=True)


def started(dialer: Session) -> bytes:
    (name,) = dialer.start()
    assert isinstance(name, SendHandshake)
    return name.data


def heard(session: Session, message: bytes, status: Status | Named = Status.OK) -> list[bytes]:
    """Returns the answers of a session to a message. A listener decides with `status`."""
    events = session.receive(HandshakePacket(message))
    if events and isinstance(events[-1], PeerNamed):
        events = session.decide(status)
    elif events and isinstance(events[-1], AliveAsked):
        events = session.decide(Status.TRUE)
    return said(events)


def said(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, SendHandshake)]


def flights(dialer: Session, listener: Session, status: Status | Named = Status.OK) -> list[str]:
    """Returns the tags of the messages in each flight, from the name to the end."""
    flight, ends, seen = [started(dialer)], [listener, dialer], []
    while flight:
        seen.append("".join(chr(message[0]) for message in flight))
        flight = [answer for message in flight for answer in heard(ends[0], message, status)]
        ends.reverse()
    assert dialer.connected
    assert listener.connected
    return seen


# -- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.OK, Status.OK_SIMULTANEOUS])
def test_the_handshake_has_two_flights(status: Status) -> None:
    """The first one leaves with the end of the TLS handshake: two round trips with TLS."""
    assert flights(dialing(), listening(), status) == ["N", "sp"]


def test_a_name_is_given_in_the_same_flights() -> None:
    assert flights(dialing(ASKING), listening(), Named("dyn@x", 5)) == ["N", "sp"]


def test_the_question_for_an_old_connection_costs_a_round_trip() -> None:
    assert flights(dialing(), listening(), Status.ALIVE) == ["N", "s", "s", "p"]


@pytest.mark.parametrize(
    ("dials", "listens"),
    [
        (dialing, acceptor),
        (initiator, listening),
        (dialing, partial(listening, binding=b"")),
        (partial(dialing, binding=b""), listening),
    ],
)
def test_a_peer_that_does_not_bind_is_challenged_as_before(
    dials: Callable[[], Session], listens: Callable[[], Session]
) -> None:
    """For example a gateway, whose BEAM node ignores what follows the name."""
    dialer = dials()
    assert flights(dialer, listens()) == ["N", "sN", "r", "a"]
    assert not dialer.is_bound


def test_who_binds_proves_early() -> None:
    """Otherwise the older proof, which covers the challenge only, would still be accepted."""
    with pytest.raises(ProtocolError, match="expected a proof after the name"):
        heard(listening(), started(initiator(binding=ONE)))
    with pytest.raises(ProtocolError, match="got a challenge of a peer that binds"):
        flights(dialing(), acceptor(binding=ONE))


# -- what both know afterwards -------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.OK, Status.OK_SIMULTANEOUS, Status.ALIVE])
def test_both_know_what_they_know_after_a_challenge(status: Status) -> None:
    both = DEFAULT_FLAGS & ~Flag.ALIAS
    locals_ = node("a@x", creation=5), node("b@x", creation=6, flags=both)
    early = [dialing(locals_[0], expected_peer="b@x"), listening(locals_[1])]
    late = [initiator(locals_[0], binding=ONE), acceptor(locals_[1], binding=ONE)]
    for got, wanted in zip(
        shake(*early, decision=status), shake(*late, decision=status), strict=True
    ):
        assert got == wanted
        assert Flag.CHANNEL_BINDING in outcome(got).flags
    assert all(session.is_bound for session in early)


def test_an_assigned_name_is_proved() -> None:
    ours, theirs = shake(dialing(ASKING), listening(), decision=Named("dyn@x", 5))
    assert (outcome(ours).local_name, outcome(ours).local_creation) == ("dyn@x", 5)
    assert outcome(theirs).peer.name == "dyn@x"


@given(COOKIES, st.binary(min_size=32, max_size=32))
def test_the_proofs_are_those_of_the_description(cookie: str, binding: bytes) -> None:
    dialer = dialing(replace(node("a@x"), cookie=cookie), binding)
    listener = listening(replace(node("b@x"), cookie=cookie), binding)
    name = started(dialer)
    status, answer = heard(listener, name)
    covered = binding
    parts = [name[:-32], name[-32:], status, answer[:-32]]
    for side, count, message in ((b"initiator", 1, name), (b"acceptor", 4, answer)):
        covered = binding + b"".join(len(one).to_bytes(2, "big") + one for one in parts[:count])
        text = b"quicdist early cookie proof\0" + side + b"\0" + covered
        assert message[-32:] == hmac.digest(cookie.encode("latin-1"), text, hashlib.sha256)


def test_no_md5_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hs, "digest", lambda *_: pytest.fail("an MD5 digest"))
    monkeypatch.setattr(hs, "bound_digest", lambda *_: pytest.fail("a truncated digest"))
    shake(dialing(), listening())


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.NOK, Status.NOT_ALLOWED])
def test_a_refusal_comes_before_the_proof_is_checked(status: Status) -> None:
    dialer, listener = dialing(node("a@x", cookie="other")), listening()
    (answer,) = heard(listener, started(dialer), status)
    with pytest.raises(HandshakeRefused) as refused:
        heard(dialer, answer)
    assert refused.value.status == status.value


@pytest.mark.parametrize("status", [Status.OK, Status.OK_SIMULTANEOUS, Status.ALIVE])
def test_a_wrong_cookie_is_refused_after_the_decision(status: Status) -> None:
    """The owner may delay its decision, so that a guess costs time."""
    dialer, listener = dialing(node("a@x", cookie="other")), listening()
    assert isinstance(listener.receive(HandshakePacket(started(dialer)))[0], PeerNamed)
    with pytest.raises(WrongCookie, match="a@x has another cookie than this node") as caught:
        listener.decide(status)
    assert caught.value.answer == b"swrong_cookie"
    with pytest.raises(HandshakeRefused, match="another cookie than this node") as refused:
        heard(dialer, caught.value.answer)
    assert refused.value.cause is Cause.COOKIE
    assert refused.value.status == Status.WRONG_COOKIE.value
    for session in (dialer, listener):
        with pytest.raises(ProtocolError, match="expected nothing"):
            heard(session, b"sok")


def test_only_a_dialer_that_has_sent_a_proof_is_told_of_a_wrong_cookie() -> None:
    dialer = initiator(binding=ONE)
    started(dialer)
    with pytest.raises(ProtocolError, match="no proof was sent"):
        heard(dialer, b"swrong_cookie")


def test_alive_and_false_end_it() -> None:
    with pytest.raises(HandshakeRefused, match="withdrew its connection attempt"):
        shake(dialing(), listening(), decision=Status.ALIVE, alive=Status.FALSE)


def test_an_acceptor_takes_any_of_its_cookies_and_answers_with_the_same() -> None:
    local = replace(node("b@x", cookie="new"), more_cookies=("old", "older"))
    for cookie in ("new", "old", "older"):
        shake(dialing(node("a@x", cookie=cookie)), listening(local))
    with pytest.raises(WrongCookie):
        shake(dialing(node("a@x", cookie="oldest")), listening(local))


def test_a_dialer_takes_no_other_cookie_than_the_one_it_proves() -> None:
    local = replace(node("a@x", cookie="new"), more_cookies=("old",))
    dialer = dialing(local)
    name = started(dialer)
    honest = listening(node("b@x", cookie="old"))
    resigned = hs.build_name(replace(named(name), proof=b""))
    other = dialing(node("a@x", cookie="old"))
    assert started(other)[:-32] == resigned
    status, proof = heard(honest, resigned + started(dialing(node("a@x", cookie="old")))[-32:])
    heard(dialer, status)
    with pytest.raises(WrongCookie):
        heard(dialer, proof)


def named(message: bytes) -> hs.Name:
    name = hs.parse_name(message)
    assert isinstance(name, hs.Name)
    return name


def test_who_must_bind_gives_no_digest_to_a_peer_that_does_not() -> None:
    """The proof in its name is bound, so it is worth nothing to others."""
    dialer, listener = dialing(must_bind=True), acceptor()
    status, challenge = heard(listener, started(dialer))
    heard(dialer, status)
    with pytest.raises(HandshakeRefused, match="does not bind its cookie digest"):
        heard(dialer, challenge)


# -- attacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.OK, Status.ALIVE])
def test_a_relay_between_two_tls_sessions_is_seen(status: Status) -> None:
    with pytest.raises(WrongCookie, match="the handshake is relayed between two TLS sessions"):
        shake(dialing(binding=ONE), listening(binding=OTHER), decision=status)


def test_a_dialer_accepts_no_proof_of_another_session() -> None:
    """Of a listener that a relay asks with a proof of its own."""
    dialer = dialing(binding=ONE)
    started(dialer)
    status, proof = heard(listening(binding=OTHER), started(dialing(binding=OTHER)))
    heard(dialer, status)
    with pytest.raises(WrongCookie):
        heard(dialer, proof)


def test_nobody_is_sent_its_own_proof_back() -> None:
    dialer = dialing()
    name = named(started(dialer))
    heard(dialer, b"sok")
    mirrored = hs.Proof(name.flags, name.creation, "b@x", name.proof)
    with pytest.raises(WrongCookie):
        heard(dialer, hs.build_proof(mirrored))


def test_a_proof_must_say_that_it_is_bound() -> None:
    dialer = dialing()
    name = named(started(dialer))
    heard(dialer, b"sok")
    with pytest.raises(ProtocolError, match="without the flag CHANNEL_BINDING"):
        heard(dialer, hs.build_proof(hs.Proof(name.flags & ~BIT, 1, "b@x", bytes(32))))


def test_a_proof_that_was_not_asked_for_is_no_challenge() -> None:
    dialer = initiator(binding=ONE)
    started(dialer)
    heard(dialer, b"sok")
    with pytest.raises(ProtocolError, match="expected a challenge"):
        heard(dialer, hs.build_proof(hs.Proof(int(DEFAULT_FLAGS) | BIT, 1, "b@x", bytes(32))))


STATUSES = (Status.OK, Status.OK_SIMULTANEOUS, Status.ALIVE)


@given(st.data(), st.sampled_from(STATUSES), st.integers(0, 3), st.integers(1, 255))
def test_a_message_that_was_changed_ends_the_handshake(
    data: st.DataObject, status: Status, which: int, change: int
) -> None:
    """Each proof covers everything that its sender has seen before."""
    ends = dialer, listener = dialing(must_bind=True), listening()
    flight, reader, count = [started(dialer)], 1, 0
    try:
        while flight:
            answers: list[bytes] = []
            for message in flight:
                if count == which:
                    at = data.draw(st.integers(0, len(message) - 1))
                    message = bytes((*message[:at], message[at] ^ change, *message[at + 1 :]))
                count += 1
                answers += heard(ends[reader], message, status)
            flight, reader = answers, 1 - reader
    except DistError:
        pass
    if count > which:
        assert not dialer.connected
        assert not listener.connected or which > 0


# -- bytes ---------------------------------------------------------------------------------------


def written(steps: object) -> bytes:
    """The bytes of steps that all write to stream 0."""
    data = b""
    for step in steps:  # type: ignore[attr-defined]
        assert isinstance(step, Write)
        assert step.stream == 0
        data += b"".join(step.parts)
    return data


def frame(number: int) -> bytes:
    return b"\x83" + bytes([number])


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 1000), max_size=40))
def test_any_arrival_of_the_bytes_connects_and_delivers(on: list[int], cuts: list[int]) -> None:
    """The listener sends frames behind its proof. Data streams may overtake it."""
    ends = (
        NativeStreamsDialect(Role.DIALER, CarrierLimits()),
        NativeStreamsDialect(Role.LISTENER, CarrierLimits()),
    )
    sessions = dialer, listener = dialing(), listening()
    (name,) = said(dialer.start())
    got: list[object] = []

    def receive(side: int, stream: int, data: bytes) -> bytes:
        answer = b""
        packets = deque(ends[side].receive(stream, data).packets)
        while packets:
            packet = packets.popleft()
            if isinstance(packet, FramePacket):
                assert sessions[side].connected
                got.append(packet)
                continue
            for message in heard(sessions[side], packet.data):
                answer += written(ends[side].handshake_bytes(message))
            if sessions[side].connected:
                ends[side].connected()
                packets += ends[side].receive(0, b"").packets
        return answer

    flows = {0: b""}
    first = written(ends[0].handshake_bytes(name))
    at = cuts[0] % len(first) if cuts else 0
    for piece in (first[:at], first[at:]):
        flows[0] += receive(1, 0, piece)
    assert listener.connected
    for number, stream in enumerate(on):
        write = ends[1].frame_bytes((frame(number),), stream)
        flows[write.stream] = flows.get(write.stream, b"") + b"".join(write.parts)
    for cut in cuts:
        stream = list(flows)[cut % len(flows)]
        count = 1 + cut // len(flows)
        piece, flows[stream] = flows[stream][:count], flows[stream][count:]
        receive(0, stream, piece)
    for stream, rest in flows.items():
        receive(0, stream, rest)
    assert dialer.connected
    for stream in set(on):
        wanted = [FramePacket(frame(n), each) for n, each in enumerate(on) if each == stream]
        assert [one for one in got if getattr(one, "stream", None) == stream] == wanted


@pytest.mark.parametrize("more", [b"\0", b"\0\5str"])
def test_a_dialer_sends_no_part_of_a_message_before_the_answer(more: bytes) -> None:
    listener = NativeStreamsDialect(Role.LISTENER, CarrierLimits())
    (name,) = said(dialing().start())
    assert listener.receive(0, written(listener.handshake_bytes(name)) + more).packets
    listener.connected()
    with pytest.raises(DialectError, match="before the end of the handshake"):
        listener.receive(0, b"")


def test_a_dialer_sends_no_message_before_the_answer() -> None:
    listener = listening()
    heard(listener, started(dialing()))
    assert listener.connected
    with pytest.raises(ProtocolError, match="handshake message received, expected frames"):
        heard(listener, b"strue")
