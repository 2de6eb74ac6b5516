"""A session: the handshake of both roles, and messages in every negotiated form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    EtfDecodeError,
    EtfEncodeError,
    Limits,
    NativeRecord,
    Options,
    Pid,
    Reference,
    encode,
)
from quicdist.limits import SessionLimits
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.channel import (
    FragmentStored,
    MessageReceived,
    PayloadRefused,
    TickReceived,
    UnknownReceived,
)
from quicdist.protocol.errors import DistError, HandshakeRefused, ProtocolError, UsageError
from quicdist.protocol.flags import DEFAULT_FLAGS, MANDATORY, MANDATORY_25, Flag
from quicdist.protocol.handshake import (
    AliveAsked,
    Connected,
    LocalNode,
    PeerNamed,
    PeerNode,
    SendHandshake,
)
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Exit, Link, Message, SpawnRequest, UnknownSignal
from tests.protocol import strategies
from tests.protocol.forms import SendSenderTT, meaning, signal
from tests.protocol.talk import (
    FORMS,
    FRAGMENTS_ONLY,
    PASS_THROUGH,
    acceptor,
    connected_pair,
    feed,
    frames,
    initiator,
    node,
    outcome,
    pass_on,
    shake,
)

ME = Pid(Atom("a@x"), 1, 0, 77)
YOU = Pid(Atom("b@x"), 2, 0, 77)


def sent(events: Iterable[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, SendHandshake)]


def heard(session: Session, *messages: bytes) -> list[Event]:
    return [event for data in messages for event in session.receive(HandshakePacket(data))]


# -- the handshake ------------------------------------------------------------------------------


def test_both_sides_know_each_other_afterwards() -> None:
    dialer = initiator(node("a@x", creation=5), expected_peer="b@x")
    listener = acceptor(node("b@x", creation=6, flags=DEFAULT_FLAGS | Flag.PUBLISHED))
    ours, theirs = shake(dialer, listener)
    assert theirs[0] == PeerNamed(PeerNode("a@x", 5, MANDATORY))
    assert outcome(theirs) == Connected(PeerNode("a@x", 5, DEFAULT_FLAGS), DEFAULT_FLAGS, "b@x", 6)
    assert outcome(ours) == Connected(
        PeerNode("b@x", 6, DEFAULT_FLAGS | Flag.PUBLISHED), DEFAULT_FLAGS, "a@x", 5
    )
    for session in (dialer, listener):
        assert session.connected
        assert session.flags == DEFAULT_FLAGS
    assert (dialer.peer.name, listener.peer.name) == ("b@x", "a@x")


def test_the_messages_are_those_of_the_manual() -> None:
    dialer, listener = initiator(), acceptor()
    (name,) = sent(dialer.start())
    assert hs.parse_name(name) == hs.Name(int(DEFAULT_FLAGS), 77, "a@x")
    assert listener.start() == []
    assert len(heard(listener, name)) == 1
    status, challenge = sent(listener.decide(Status.OK))
    assert status == b"sok"
    assert hs.parse_challenge(challenge) == hs.Challenge(int(DEFAULT_FLAGS), 0xBBBB0002, 77, "b@x")
    (reply,) = sent(heard(dialer, status, challenge))
    assert reply[:5] == b"r\xaa\xaa\x00\x01"
    (ack,) = sent(heard(listener, reply))
    assert ack == b"a" + hs.digest(b"secret", 0xAAAA0001)
    assert isinstance(heard(dialer, ack)[0], Connected)


def test_ok_simultaneous_goes_on_like_ok() -> None:
    ours, theirs = shake(initiator(), acceptor(), decision=Status.OK_SIMULTANEOUS)
    assert outcome(ours)
    assert outcome(theirs)


@pytest.mark.parametrize("status", [Status.NOK, Status.NOT_ALLOWED])
def test_a_refusal_is_told_and_raised(status: Status) -> None:
    dialer, listener = initiator(), acceptor()
    heard(listener, *sent(dialer.start()))
    (answer,) = sent(listener.decide(status))
    with pytest.raises(HandshakeRefused) as refused:
        heard(dialer, answer)
    assert refused.value.status == status.value
    for session in (dialer, listener):
        with pytest.raises(ProtocolError, match="expected nothing"):
            heard(session, b"sok")


def test_alive_and_true_go_on() -> None:
    dialer, listener = initiator(), acceptor()
    ours, theirs = shake(dialer, listener, decision=Status.ALIVE, alive=Status.TRUE)
    assert ours[0] == AliveAsked()
    assert outcome(ours)
    assert outcome(theirs)


def test_alive_and_false_end_it() -> None:
    dialer, listener = initiator(), acceptor()
    with pytest.raises(HandshakeRefused, match="withdrew its connection attempt"):
        shake(dialer, listener, decision=Status.ALIVE, alive=Status.FALSE)
    with pytest.raises(ProtocolError):
        heard(dialer, b"sok")


@pytest.mark.parametrize("answer", [b"sok", b"salive", b"snok", b"sperhaps"])
def test_alive_has_two_answers(answer: bytes) -> None:
    listener = acceptor()
    heard(listener, *sent(initiator().start()))
    listener.decide(Status.ALIVE)
    with pytest.raises(ProtocolError):
        heard(listener, answer)


def test_a_wrong_cookie_is_found_by_the_acceptor_first() -> None:
    with pytest.raises(HandshakeRefused, match="a@x has another cookie"):
        shake(initiator(), acceptor(node("b@x", cookie="public")))


def test_a_wrong_cookie_is_found_by_the_initiator_too() -> None:
    dialer, listener = initiator(), acceptor()
    heard(listener, *sent(dialer.start()))
    heard(dialer, *sent(listener.decide(Status.OK)))
    with pytest.raises(HandshakeRefused, match="b@x has another cookie"):
        heard(dialer, b"a" + hs.digest(b"public", 0xAAAA0001))


def test_missing_capabilities_are_named_and_the_peer_is_told() -> None:
    lacking = int(DEFAULT_FLAGS & ~Flag.MANDATORY_25_DIGEST & ~Flag.MAP_TAG & ~Flag.UNLINK_ID)
    with pytest.raises(HandshakeRefused, match=r"a@x lacks .*: MAP_TAG, UNLINK_ID$") as refused:
        heard(acceptor(), hs.build_name(hs.Name(lacking, 1, "a@x")))
    assert refused.value.answer == b"snot_allowed"
    dialer = initiator()
    dialer.start()
    challenge = hs.Challenge(lacking, 1, 1, "b@x")
    with pytest.raises(HandshakeRefused, match=r"b@x lacks .*: MAP_TAG, UNLINK_ID$") as refused:
        heard(dialer, b"sok", hs.build_challenge(challenge))
    assert refused.value.answer is None


def test_a_digest_flag_stands_for_what_otp_25_made_mandatory() -> None:
    few = int(DEFAULT_FLAGS & ~MANDATORY_25)
    (event,) = heard(acceptor(), hs.build_name(hs.Name(few, 1, "a@x")))
    assert isinstance(event, PeerNamed)


def test_bits_of_tomorrow_are_ignored() -> None:
    listener = acceptor()
    heard(listener, hs.build_name(hs.Name(int(DEFAULT_FLAGS) | 1 << 63, 1, "a@x")))
    listener.decide(Status.OK)
    reply = hs.ChallengeReply(1, hs.digest(b"secret", 0xBBBB0002))
    assert outcome(heard(listener, hs.build_challenge_reply(reply))).flags == DEFAULT_FLAGS


def test_our_own_name_from_the_other_side_is_refused() -> None:
    with pytest.raises(HandshakeRefused, match="the name of this node"):
        shake(initiator(node("b@x")), acceptor())
    dialer = initiator()
    dialer.start()
    challenge = hs.Challenge(int(DEFAULT_FLAGS), 1, 1, "a@x")
    with pytest.raises(HandshakeRefused, match="the name of this node"):
        heard(dialer, b"sok", hs.build_challenge(challenge))


@pytest.mark.parametrize(("dialed", "listened_for"), [("c@x", None), (None, "c@x")])
def test_another_peer_than_expected_is_refused(
    dialed: str | None, listened_for: str | None
) -> None:
    with pytest.raises(HandshakeRefused, match="expected c@x"):
        shake(initiator(expected_peer=dialed), acceptor(expected_peer=listened_for))


# -- names given by the peer --------------------------------------------------------------------


@pytest.mark.parametrize("host", ["x", ""])
def test_a_node_without_a_name_gets_one(host: str) -> None:
    at = host or "localhost"
    local = node(host, flags=DEFAULT_FLAGS | Flag.NAME_ME | Flag.PUBLISHED)
    dialer, listener = initiator(local), acceptor()
    ours, theirs = shake(dialer, listener, decision=Named(f"ZZ@{at}", 9))
    assert theirs[0] == PeerNamed(PeerNode(at, 0, MANDATORY | Flag.NAME_ME))
    ours_connected, theirs_connected = outcome(ours), outcome(theirs)
    assert (ours_connected.local_name, ours_connected.local_creation) == (f"ZZ@{at}", 9)
    assert (theirs_connected.peer.name, theirs_connected.peer.creation) == (f"ZZ@{at}", 9)
    assert ours_connected.flags == DEFAULT_FLAGS | Flag.NAME_ME


def test_ok_is_no_answer_to_a_node_without_a_name() -> None:
    dialer, listener = initiator(node("x", flags=DEFAULT_FLAGS | Flag.NAME_ME)), acceptor()
    heard(listener, *sent(dialer.start()))
    with pytest.raises(UsageError, match="asks for a name"):
        listener.decide(Status.OK)
    with pytest.raises(ProtocolError, match="expected an assigned name"):
        heard(dialer, b"sok")


def test_a_name_is_no_answer_to_a_node_that_has_one() -> None:
    dialer, listener = initiator(), acceptor()
    heard(listener, *sent(dialer.start()))
    with pytest.raises(UsageError, match="asks for a name"):
        listener.decide(Named("z@x", 1))
    with pytest.raises(ProtocolError, match="did not ask for"):
        heard(dialer, hs.build_status(Named("z@x", 1)))


def test_a_given_name_is_at_our_host() -> None:
    dialer = initiator(node("x", flags=DEFAULT_FLAGS | Flag.NAME_ME))
    dialer.start()
    with pytest.raises(ProtocolError, match="not on host"):
        heard(dialer, hs.build_status(Named("z@y", 1)))


def test_a_node_without_a_name_sends_a_bare_host() -> None:
    flags = int(DEFAULT_FLAGS | Flag.NAME_ME)
    with pytest.raises(ProtocolError, match="expected a bare host name"):
        heard(acceptor(), hs.build_name(hs.Name(flags, 0, "a@x")))
    with pytest.raises(ProtocolError, match="invalid node name"):
        heard(acceptor(), hs.build_name(hs.Name(int(DEFAULT_FLAGS), 0, "x")))


# -- nodes of OTP 23 and 24 that do not know the peer's version ------------------------------------


def test_an_old_name_is_completed_later() -> None:
    listener = acceptor()
    (event,) = heard(listener, hs.build_name_v5(hs.NameV5(5, int(DEFAULT_FLAGS), "a@x")))
    assert isinstance(event, PeerNamed)
    assert event.peer.creation == 0
    listener.decide(Status.OK)
    reply = hs.ChallengeReply(1, hs.digest(b"secret", 0xBBBB0002))
    events = heard(
        listener,
        hs.build_complement(hs.Complement(int(DEFAULT_FLAGS), 8)),
        hs.build_challenge_reply(reply),
    )
    assert outcome(events).peer == PeerNode("a@x", 8, DEFAULT_FLAGS)


def test_an_old_name_without_version_6_is_refused() -> None:
    flags = int(DEFAULT_FLAGS & ~Flag.HANDSHAKE_23 & ~Flag.MANDATORY_25_DIGEST)
    with pytest.raises(HandshakeRefused, match="HANDSHAKE_23") as refused:
        heard(acceptor(), hs.build_name_v5(hs.NameV5(5, flags, "a@x")))
    assert refused.value.answer == b"snot_allowed"


def test_a_complement_that_lacks_capabilities_is_refused() -> None:
    listener = acceptor()
    heard(listener, hs.build_name_v5(hs.NameV5(5, int(DEFAULT_FLAGS), "a@x")))
    listener.decide(Status.OK)
    with pytest.raises(HandshakeRefused, match="V4_NC"):
        heard(listener, hs.build_complement(hs.Complement(0, 8)))


# -- messages in the wrong state ----------------------------------------------------------------


@given(st.binary(max_size=40))
def test_hostile_handshake_bytes_in_every_state(data: bytes) -> None:
    for messages in range(5):
        dialer, listener = initiator(), acceptor()
        queue = [(listener, message) for message in sent(dialer.start())]
        for _ in range(messages):
            if queue:
                target, message = queue.pop(0)
                events = heard(target, message)
                if any(isinstance(event, PeerNamed) for event in events):
                    events = target.decide(Status.OK)
                other = dialer if target is listener else listener
                queue += [(other, one) for one in sent(events)]
        for session in (dialer, listener):
            try:
                heard(session, data)
            except (ProtocolError, HandshakeRefused):
                with pytest.raises(ProtocolError):
                    heard(session, data)


def test_every_cut_and_changed_byte_of_a_handshake() -> None:
    dialer, listener = initiator(), acceptor()
    (name,) = sent(dialer.start())
    heard(listener, name)
    status, challenge = sent(listener.decide(Status.OK))
    (reply,) = sent(heard(dialer, status, challenge))
    (ack,) = sent(heard(listener, reply))
    recorded = [
        (Role.LISTENER, name),
        (Role.DIALER, status),
        (Role.DIALER, challenge),
        (Role.LISTENER, reply),
        (Role.DIALER, ack),
    ]
    for spoiled, (role, message) in enumerate(recorded):
        variants = [message[:cut] for cut in range(len(message))]
        variants += [
            message[:at] + bytes([message[at] ^ bit]) + message[at + 1 :]
            for at in range(len(message))
            for bit in (1, 0x80, 0xFF)
        ]
        for variant in variants:
            session = initiator() if role is Role.DIALER else acceptor()
            session.start()
            try:
                for at, (to, good) in enumerate(recorded):
                    if to is role:
                        events = heard(session, variant if at == spoiled else good)
                        if any(isinstance(event, PeerNamed) for event in events):
                            session.decide(Status.OK)
            except (ProtocolError, HandshakeRefused, UsageError):
                continue


def test_frames_before_and_handshake_after_are_refused() -> None:
    for session in (initiator(), acceptor()):
        session.start()
        with pytest.raises(ProtocolError, match="frame received"):
            session.receive(FramePacket(b""))
    dialer, _ = connected_pair()
    with pytest.raises(ProtocolError, match="expected frames"):
        dialer.receive(HandshakePacket(b"sok"))


def test_calls_out_of_order_are_our_own_mistake() -> None:
    dialer, listener = initiator(), acceptor()
    for session in (dialer, listener):
        with pytest.raises(UsageError):
            session.decide(Status.OK)
        with pytest.raises(UsageError):
            session.encode(Link(ME, YOU))
        with pytest.raises(UsageError):
            _ = session.peer
        with pytest.raises(UsageError):
            _ = session.flags
    heard(listener, *sent(dialer.start()))
    with pytest.raises(UsageError):
        dialer.start()
    with pytest.raises(UsageError):
        listener.decide(Status.TRUE)
    heard(dialer, b"salive")
    with pytest.raises(UsageError):
        dialer.decide(Status.OK)
    # None of these has changed the state.
    assert sent(listener.decide(Status.OK))[0] == b"sok"
    assert sent(dialer.decide(Status.TRUE)) == [b"strue"]


@pytest.mark.parametrize(
    ("local", "challenge"),
    [
        (LocalNode("nohost", 1, DEFAULT_FLAGS, "c"), 1),
        (LocalNode("a@x", 1, DEFAULT_FLAGS & ~Flag.MAP_TAG, "c"), 1),
        (LocalNode("a@x", 1, DEFAULT_FLAGS | Flag.NAME_ME, "c"), 1),
        (LocalNode("a@x", 1, DEFAULT_FLAGS, "ž"), 1),
        (LocalNode("a@x", 1 << 32, DEFAULT_FLAGS, "c"), 1),
        (LocalNode("a@x", 1, DEFAULT_FLAGS, "c"), 1 << 32),
    ],
)
def test_a_local_node_that_cannot_be(local: LocalNode, challenge: int) -> None:
    with pytest.raises(UsageError):
        Session(local, Role.DIALER, challenge=challenge)


def test_the_cookie_is_not_printed() -> None:
    assert "secret" not in repr(node("a@x"))


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@given(control=strategies.controls, payload=strategies.terms)
def test_any_message_in_any_form(form: str, control: Any, payload: Any) -> None:
    dialer, listener = connected_pair(FORMS[form])
    if not control.HAS_PAYLOAD:
        payload = NO_PAYLOAD
    for source, target in ((dialer, listener), (listener, dialer)):
        for _ in range(2):
            data = frames(source, control, payload)
            assert feed(target, data) == [
                MessageReceived(*meaning(control, payload), sum(map(len, data)))
            ]


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("pass-through", b"p\x83h"),
        ("fragments", b"\x83D\0h"),
        ("cache", b"\x83D\1"),
        ("both", b"\x83D\1"),
    ],
)
def test_the_negotiated_flags_choose_the_form(form: str, start: bytes) -> None:
    dialer, listener = connected_pair(FORMS[form])
    (frame,) = frames(dialer, Message(ME, Atom("a@x")), 1)
    if form in ("cache", "both"):
        start = b"\x83D\2"
    assert frame.startswith(start)
    assert feed(listener, [frame]) == [MessageReceived(Message(ME, Atom("a@x")), 1, len(frame))]


@pytest.mark.parametrize("form", ["fragments", "both"])
def test_large_messages_go_in_fragments_of_64_kib(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    payload = bytes(200_000)
    data = frames(dialer, Message(ME, YOU), payload)
    assert [frame[:2] for frame in data] == [b"\x83E", b"\x83F", b"\x83F", b"\x83F"]
    assert [int.from_bytes(frame[10:18], "big") for frame in data] == [4, 3, 2, 1]
    assert all(len(frame) < 66_000 for frame in data)
    events = feed(listener, data)
    assert events[:3] == [FragmentStored(len(frame)) for frame in data[:3]]
    assert events[3] == MessageReceived(Message(ME, YOU), payload, sum(map(len, data)))


@pytest.mark.parametrize("form", ["pass-through", "cache"])
def test_without_fragments_large_messages_stay_whole(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    (frame,) = frames(dialer, Message(ME, YOU), bytes(200_000))
    (event,) = feed(listener, [frame])
    assert isinstance(event, MessageReceived)


@pytest.mark.parametrize("size", range(65_520, 65_545))
def test_sizes_around_that_of_a_fragment(size: int) -> None:
    dialer, listener = connected_pair()
    *_, event = pass_on(dialer, listener, Message(ME, YOU), bytes(size))
    assert isinstance(event, MessageReceived)
    assert event.payload == bytes(size)


def test_headers_are_made_when_frames_leave() -> None:
    dialer, listener = connected_pair()
    late = dialer.encode(Message(ME, Atom("first")), Atom("x"))
    early = dialer.encode(Message(ME, Atom("second")), Atom("x"))
    for message, name in ((early, "second"), (late, "first")):
        (event,) = feed(listener, [b"".join(parts) for parts in dialer.frames(message)])
        assert isinstance(event, MessageReceived)
        assert event.signal == Message(ME, Atom(name))


def test_the_size_of_a_message_is_known_before_it_leaves() -> None:
    dialer, _ = connected_pair(FRAGMENTS_ONLY)
    message = dialer.encode(Message(ME, YOU), bytes(10))
    (parts,) = dialer.frames(message)
    assert message.size == len(b"".join(parts)) - 3


def test_a_tick_is_an_empty_frame() -> None:
    dialer, _ = connected_pair()
    assert dialer.receive(FramePacket(b"")) == [TickReceived()]


@pytest.mark.parametrize("form", FORMS)
def test_unknown_operations_are_reported_and_survived(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    unknown = UnknownSignal(99, (1, Atom("two")))
    (frame,) = frames(dialer, unknown)
    assert feed(listener, [frame, frame + b"whatever"]) == [
        UnknownReceived(unknown, len(frame)),
        UnknownReceived(unknown, len(frame) + 8),
    ]
    assert feed(listener, [b""]) == [TickReceived()]


def test_payloads_follow_their_control_messages_and_no_others() -> None:
    dialer, _ = connected_pair()
    with pytest.raises(UsageError, match="Message takes a payload"):
        dialer.encode(Message(ME, YOU))
    with pytest.raises(UsageError, match="Link takes no payload"):
        dialer.encode(Link(ME, YOU), None)


def test_what_is_no_term_is_told_to_the_caller() -> None:
    dialer, listener = connected_pair()
    with pytest.raises(EtfEncodeError):
        dialer.encode(Message(ME, YOU), object())
    assert pass_on(dialer, listener, Message(ME, YOU), 1)


def test_options_are_for_payloads_not_for_control_messages() -> None:
    options = Options(binaries="str", strings="bytes")
    dialer, listener = connected_pair(options=options)
    mfa = (Atom("m"), Atom("f"), 2)
    # The options are sent as a STRING_EXT, and remain a list.
    spawn = SpawnRequest(Reference(Atom("a@x"), (1,), 1), ME, ME, mfa, [1, 2])
    (event,) = pass_on(dialer, listener, spawn, [b"one", [1, 2]])
    assert isinstance(event, MessageReceived)
    assert event.signal == spawn
    assert event.payload == ["one", b"\1\2"]


# -- hostile frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_cut_of_a_frame_is_refused(form: str) -> None:
    payload = {Atom("key"): [1, 2.5, b"bin"], Atom("ž" * 200): (ME, YOU)}
    dialer, _ = connected_pair(FORMS[form])
    control = Message(ME, Atom("name"))
    message = dialer.encode(control, payload)
    (whole,) = (b"".join(frame) for frame in dialer.frames(message))
    payload_at = len(whole) - message.size + len(message.control)
    payload_at -= form == "pass-through"  # its version byte
    for cut in range(1, len(whole)):
        _, listener = connected_pair(FORMS[form])
        if cut >= payload_at:
            (event,) = feed(listener, [whole[:cut]])
            assert isinstance(event, PayloadRefused)
            assert (event.signal, event.size) == (control, cut)
            continue
        with pytest.raises(ProtocolError):
            feed(listener, [whole[:cut]])
        assert not listener.connected
    _, listener = connected_pair(FORMS[form])
    with pytest.raises(ProtocolError, match="1 extra bytes"):
        feed(listener, [whole + b"\0"])


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_changed_frames_are_read_or_refused(form: str, data: st.DataObject) -> None:
    limits = SessionLimits(fragment_size=16)
    dialer, listener = connected_pair(FORMS[form], limits=limits)
    payload = data.draw(strategies.terms)
    for frame in frames(dialer, Message(ME, Atom("name")), payload):
        at = data.draw(st.integers(0, len(frame) - 1))
        changed = frame[:at] + bytes([data.draw(st.integers(0, 255))]) + frame[at + 1 :]
        try:
            feed(listener, [changed])
        except ProtocolError:
            return


@pytest.mark.parametrize("form", FORMS)
@given(
    frame=st.binary(max_size=80),
    start=st.sampled_from(
        [
            b"",
            b"\x83D",
            b"\x83D\0h",
            b"\x83E" + bytes(7) + b"\1" + bytes(7) + b"\2\0",
            b"\x83F",
            b"p\x83h\2a",
            b"p\x83h\3a\2",
        ]
    ),
)
def test_any_bytes_are_read_or_refused(form: str, frame: bytes, start: bytes) -> None:
    _, listener = connected_pair(FORMS[form])
    try:
        feed(listener, [start + frame])
    except ProtocolError:
        assert not listener.connected


def test_a_term_that_does_not_decode_is_the_cause() -> None:
    _, listener = connected_pair()
    with pytest.raises(ProtocolError, match="does not decode") as refused:
        feed(listener, [b"\x83D\0\xff"])
    assert isinstance(refused.value.__cause__, EtfDecodeError)


@pytest.mark.parametrize(
    ("form", "frame"),
    [
        ("pass-through", b"\x83D\0h\1a\5"),
        ("fragments", b"p\x83h\1a\5"),
        ("cache", b"p\x83h\1a\5"),
        ("cache", b"\x83E" + bytes(15) + b"\1\0h\1a\5"),
        ("cache", b"\x83F" + bytes(7) + b"\1" + bytes(7) + b"\1"),
        ("both", b"\x83C\0h\1a\5"),
        ("both", b"\x83"),
    ],
)
def test_a_form_that_was_not_negotiated_is_refused(form: str, frame: bytes) -> None:
    _, listener = connected_pair(FORMS[form])
    with pytest.raises(ProtocolError, match="a frame begins with"):
        feed(listener, [frame])


@pytest.mark.parametrize("form", FORMS)
def test_large_messages_are_bounded(form: str) -> None:
    dialer, _ = connected_pair(FORMS[form], limits=SessionLimits(fragment_size=100))
    _, listener = connected_pair(FORMS[form], limits=SessionLimits(max_message=1000))
    *_, event = pass_on(dialer, listener, Message(ME, YOU), bytes(1000))
    assert isinstance(event, PayloadRefused)
    assert event.signal == Message(ME, YOU)
    assert "1000" in event.reason
    assert "SessionLimits.max_message" in event.reason
    *_, event = pass_on(dialer, listener, Message(ME, YOU), bytes(100))
    assert isinstance(event, MessageReceived)


UNREADABLE = {
    "an unknown tag": (b"\0", Limits(), "unknown tag 0"),
    "too deep": (b"l\0\0\0\1" * 5 + b"j" * 6, Limits(max_depth=4), "Limits.max_depth"),
    "too many terms": (b"l\0\0\0\5jjjjjj", Limits(max_terms=4), "Limits.max_terms"),
    "a large integer": (b"n\5\0abcde", Limits(max_integer=4), "Limits.max_integer"),
    "a long atom": (b"v\1\0" + b"a" * 256, Limits(), "an atom of 256 characters"),
    "no UTF-8": (b"w\1\xff", Limits(), "not UTF-8"),
    "cut short": (b"m\0\0\0\5abc", Limits(), "truncated"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_payload_that_cannot_be_read_costs_its_message_alone(form: str, name: str) -> None:
    payload, limits, reason = UNREADABLE[name]
    dialer, listener = connected_pair(FORMS[form])
    listener.channel._options = Options(limits=limits)
    control = Message(ME, Atom("never heard of before"))
    message = dialer.encode(control, b"")
    message.payload = [payload]
    message.size = len(message.control) + len(payload)
    (event,) = feed(listener, [b"".join(frame) for frame in dialer.frames(message)])
    assert isinstance(event, PayloadRefused)
    assert event.signal == control
    assert reason in event.reason
    # From the peer's view, the atoms of its header are in the cache.
    (event,) = pass_on(dialer, listener, control, Atom("never heard of before"))
    assert isinstance(event, MessageReceived)
    assert (event.signal, event.payload) == (control, Atom("never heard of before"))


def test_a_native_record_is_for_peers_that_read_it() -> None:
    record = NativeRecord(Atom("m"), Atom("r"), (Atom("f"),), (1,))
    dialer, listener = connected_pair()
    (event,) = pass_on(dialer, listener, Message(ME, YOU), record)
    assert isinstance(event, MessageReceived)
    assert event.payload == record
    dialer, _ = connected_pair(DEFAULT_FLAGS & ~Flag.NATIVE_RECORDS)
    with pytest.raises(EtfEncodeError, match="OTP 29"):
        dialer.encode(Message(ME, YOU), record)


def test_no_more_is_written_than_a_message_may_have() -> None:
    dialer, _ = connected_pair(limits=SessionLimits(max_message=1000))
    for control, payload in (
        (Message(ME, YOU), bytes(1001)),
        (Message(ME, YOU), ["x" * 99] * 11),
        (Exit(ME, YOU), bytes(1001)),
    ):
        with pytest.raises(EtfEncodeError, match=r"SessionLimits\.max_message is 1000") as caught:
            dialer.encode(control, payload)
        assert caught.value.limit == "max_message"


def test_a_dead_session_stays_dead() -> None:
    dialer, listener = connected_pair(PASS_THROUGH)
    with pytest.raises(ProtocolError):
        feed(listener, [b"x"])
    with pytest.raises(DistError):
        feed(listener, frames(dialer, Link(ME, YOU)))
    with pytest.raises(UsageError):
        listener.encode(Link(YOU, ME))


# -- many messages to one receiver ----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_control_message_encoded_once_goes_ahead_of_many_payloads(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    control = Message(ME, Atom("sink"))
    head = dialer.channel.address(control)
    for payload in (b"plain", Atom("new"), [Atom("sink"), Atom("newer")], b"plain"):
        message = dialer.channel.enclose(head, payload)
        frame = dialer.frame(message)
        assert frame is not None
        assert feed(listener, [frame]) == [MessageReceived(control, payload, len(frame))]


def test_a_head_is_of_one_session() -> None:
    dialer, _ = connected_pair(FORMS["both"])
    other, _ = connected_pair(FORMS["pass-through"])
    with pytest.raises(UsageError, match="another channel"):
        other.channel.enclose(dialer.channel.address(Message(ME, Atom("sink"))), b"")


def test_what_is_not_small_has_no_frame_of_its_own() -> None:
    dialer, listener = connected_pair(FORMS["fragments"], limits=SessionLimits(fragment_size=100))
    message = dialer.encode(Message(ME, Atom("sink")), bytes(101))
    assert dialer.frame(message) is None
    (*_, event) = feed(listener, [b"".join(parts) for parts in dialer.frames(message)])
    assert isinstance(event, MessageReceived)
    assert event.payload == bytes(101)


# -- frames with a known start --------------------------------------------------------------------

SINKS = [Atom(f"sink{number}") for number in range(6)]


@pytest.mark.parametrize("form", FORMS)
@given(
    messages=st.lists(
        st.tuples(
            st.sampled_from(SINKS),
            st.booleans(),
            st.one_of(st.binary(max_size=90), st.integers(0, 3000).map(lambda n: Atom(f"x{n}"))),
        ),
        max_size=30,
    )
)
def test_what_is_read_by_its_beginning_is_what_all_of_it_says(
    form: str, messages: list[tuple[Atom, bool, Any]]
) -> None:
    dialer, listener = connected_pair(FORMS[form], limits=SessionLimits(fragment_size=60))
    for name, is_named, payload in messages:
        control = Message(ME, name) if is_named else Message(Pid(name, 1, 2, 3), YOU)
        got: list[Any] = []
        for parts in dialer.frames(dialer.encode(control, payload)):
            frame = b"".join(parts)
            found = listener.channel.message(frame)
            got += [found] if found is not None else feed(listener, [frame])
        last = got[-1]
        assert last == (control, payload) or (last.signal, last.payload) == (control, payload)


@pytest.mark.parametrize("form", FORMS)
def test_the_second_message_to_the_same_is_read_by_its_beginning(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    frames = [
        b"".join(parts)
        for payload in (b"1", b"2", b"3", [Atom("new")], b"4")
        for parts in dialer.frames(dialer.encode(Message(ME, SINKS[0]), payload))
    ]
    found = []
    for frame in frames:
        found.append(listener.channel.message(frame))
        if found[-1] is None:
            feed(listener, [frame])
    if Flag.DIST_HDR_ATOM_CACHE in FORMS[form]:
        # A header with new atoms is not cached, and invalidates the cache.
        assert found == [None, None, (Message(ME, SINKS[0]), b"3"), None, None]
    else:
        rest = [(Message(ME, SINKS[0]), payload) for payload in (b"2", b"3", [Atom("new")], b"4")]
        assert found == [None, *rest]


def test_a_fragment_may_change_what_the_same_beginning_means() -> None:
    limits = SessionLimits(fragment_size=60)
    dialer, listener = connected_pair(FORMS["both"], limits=limits)
    control = Message(ME, SINKS[0])

    def frames(payload: Any) -> list[bytes]:
        return [b"".join(parts) for parts in dialer.frames(dialer.encode(control, payload))]

    for _ in range(2):
        (again,) = frames(b"")
        feed(listener, [again])
    assert listener.channel.message(again) == (control, b"")
    # First fragments replace the atoms in all slots of the cache.
    for start in range(0, 2400, 200):
        feed(listener, frames([Atom(f"y{number}") for number in range(start, start + 200)]))
    assert listener.channel.message(again) is None


@pytest.mark.parametrize("form", FORMS)
def test_what_is_wrong_behind_a_known_beginning_is_told_as_ever(form: str) -> None:
    dialer, listener = connected_pair(FORMS[form])
    for _ in range(3):
        message = dialer.encode(Message(ME, SINKS[0]), b"12345")
        frame = b"".join(next(dialer.frames(message)))
        feed(listener, [frame])
    for broken in (frame[:-1], frame + b"\0", frame[:-10] + b"\xff" * 10):
        assert listener.channel.message(broken) is None
    (event,) = feed(listener, [frame[:-1]])
    assert isinstance(event, PayloadRefused)
    with pytest.raises(ProtocolError):
        feed(listener, [frame + b"\0"])


def test_no_more_beginnings_are_kept_than_a_bound() -> None:
    dialer, listener = connected_pair(FORMS["pass-through"])
    for number in range(2000):
        control = Message(ME, Atom("n" * (number % 50) + str(number)))
        feed(listener, [b"".join(next(dialer.frames(dialer.encode(control, b"x"))))])
        assert len(listener.channel._incoming[0].openings._known) <= 256
        assert len(listener.channel._incoming[0].openings._lengths) <= 4
    huge = Message(ME, Atom("sink"), bytes(1000))
    feed(listener, [b"".join(next(dialer.frames(dialer.encode(huge, b"x"))))])
    assert all(len(beginning) <= 256 for beginning in listener.channel._incoming[0].openings._known)


def test_no_beginning_is_kept_that_is_small_only_while_it_is_compressed() -> None:
    _, listener = connected_pair(FORMS["pass-through"])
    control = SendSenderTT(ME, YOU, [[]] * 10_000)
    packed = encode(control.to_tuple(), Options(compression=9))
    assert len(packed) < 256
    frame = b"p" + packed + encode(b"x")
    for _ in range(2):
        assert feed(listener, [frame]) == [MessageReceived(signal(control), b"x", len(frame))]
    assert not listener.channel._incoming[0].openings._known
