"""Peers that send arbitrary data.

Without the cookie they never connect. With it they can only end their own connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quicdist.etf import Atom, Pid
from quicdist.limits import SessionLimits
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.channel import FragmentStored, MessageReceived, PayloadRefused
from quicdist.protocol.errors import DistError, ProtocolError, UsageError, WrongCookie
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake import SendHandshake, first_message
from quicdist.protocol.header import FIRST_FRAGMENT, FRAGMENT_HEAD, NEXT_FRAGMENT, VERSION
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import Message
from tests.protocol.strategies import atoms
from tests.protocol.talk import acceptor, connected_pair, frames, initiator, node
from tests.support.examples import examples

NAME = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 5, "evil@x"))
CHALLENGE = hs.build_challenge(hs.Challenge(int(DEFAULT_FLAGS), 7, 5, "evil@x"))
STATUSES = [hs.build_status(status) for status in hs.Status]


def of_another_session() -> list[bytes]:
    """What two nodes with the cookie send in another TLS session."""
    binding = b"2" * 32
    name = first_message(node("evil@x"), binding, early_proofs=True)
    listener = acceptor(node("evil2@x"), binding=binding, early_proofs=True)
    listener.receive(HandshakePacket(name))
    answers = listener.decide(hs.Status.OK)
    return [name, *(one.data for one in answers if isinstance(one, SendHandshake))]


OTHER_SESSION = of_another_session()


class WithoutTheCookie(RuleBasedStateMachine):
    """A peer that knows the protocol and replays messages.

    The messages come from the victim, and from a node with the cookie that connects to this peer
    instead of the victim.
    """

    @initialize(dials=st.booleans(), early_proofs=st.booleans())
    def begin(self, dials: bool, early_proofs: bool) -> None:
        make = acceptor if dials else initiator
        binding = b"1" * 32 if early_proofs else b""
        self.victim = make(node("b@x"), binding=binding, early_proofs=early_proofs)
        self.over = False
        self.heard: list[bytes] = [NAME, CHALLENGE, *STATUSES, *OTHER_SESSION]
        self.listen(self.victim.start())

    def listen(self, events: list[Event]) -> None:
        self.heard += [event.data for event in events if isinstance(event, SendHandshake)]

    def say(self, packet: Packet) -> None:
        try:
            events = self.victim.receive(packet)
        except DistError:
            self.over = True
            return
        assert not self.over
        self.listen(events)

    @rule(data=st.data())
    def repeats(self, data: st.DataObject) -> None:
        self.say(HandshakePacket(data.draw(st.sampled_from(self.heard))))

    @rule(data=st.data(), at=st.integers(0, 40), byte=st.integers(0, 255))
    def repeats_with_a_change(self, data: st.DataObject, at: int, byte: int) -> None:
        message = data.draw(st.sampled_from(self.heard))
        self.say(HandshakePacket(message[:at] + bytes((byte,)) + message[at + 1 :]))

    @rule(digest=st.binary(min_size=16, max_size=16), challenge=st.integers(0, 2**32 - 1))
    def guesses(self, digest: bytes, challenge: int) -> None:
        self.say(HandshakePacket(hs.build_challenge_reply(hs.ChallengeReply(challenge, digest))))
        self.say(HandshakePacket(hs.build_challenge_ack(hs.ChallengeAck(digest))))

    @rule(data=st.binary(max_size=60), framed=st.booleans())
    def says_anything(self, data: bytes, framed: bool) -> None:
        self.say(FramePacket(data) if framed else HandshakePacket(data))

    @rule(status=st.sampled_from(list(hs.Status)))
    def is_let_in(self, status: hs.Status) -> None:
        try:
            self.listen(self.victim.decide(status))
        except UsageError:
            return
        except WrongCookie:
            self.over = True
            return
        self.over = self.over or status in (hs.Status.NOK, hs.Status.NOT_ALLOWED, hs.Status.FALSE)

    @invariant()
    def never_connected(self) -> None:
        assert not hasattr(self, "victim") or not self.victim.connected


LIMITS = SessionLimits(max_message=4000, max_sequences=4, max_sequence_bytes=6000)
FRAGMENT = 100
WHOLE = SessionLimits(fragment_size=FRAGMENT)


@dataclass
class Sequence:
    """The received part of a fragmented message."""

    name: Atom
    payload: bytes
    frames: list[bytes]
    sent: int = 0


class WithTheCookie(RuleBasedStateMachine):
    """Sends fragments in and out of order. A fragment out of order ends the connection."""

    @initialize()
    def begin(self) -> None:
        self.peer, _ = connected_pair(limits=WHOLE)
        self.victim = self.fresh()
        self.messages: list[Sequence] = []

    def fresh(self) -> Session:
        self.peer, victim = connected_pair(limits=WHOLE)
        victim.channel._limits = LIMITS
        victim.channel._fragments_in._max_sequences = LIMITS.max_sequences
        victim.channel._fragments_in._max_bytes = LIMITS.max_sequence_bytes
        victim.channel._fragments_in._max_message = LIMITS.max_message
        return victim

    @property
    def begun(self) -> list[Sequence]:
        return [one for one in self.messages if one.sent]

    @rule(name=atoms, size=st.integers(FRAGMENT + 1, 900))
    def prepares(self, name: Atom, size: int) -> None:
        if len(self.messages) < 6:
            payload = bytes(index % 251 for index in range(size))
            control = _to(name)
            self.messages.append(Sequence(name, payload, frames(self.peer, control, payload)))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def sends_what_is_due(self, data: st.DataObject) -> None:
        # Headers depend on each other through the atom cache, so first fragments are sent in order.
        waiting = [one for one in self.messages if not one.sent][:1]
        one = data.draw(st.sampled_from([*self.begun, *waiting]))
        too_many = not one.sent and len(self.begun) >= LIMITS.max_sequences
        if too_many:
            self.is_refused(one.frames[one.sent])
            return
        (event,) = self.victim.receive(FramePacket(one.frames[one.sent]))
        one.sent += 1
        if one.sent < len(one.frames):
            assert isinstance(event, FragmentStored)
            return
        self.messages.remove(one)
        assert isinstance(event, (MessageReceived, PayloadRefused))
        assert event.signal == _to(one.name)
        if isinstance(event, MessageReceived):
            assert event.payload == one.payload
        else:
            assert "SessionLimits.max_sequence_bytes" in event.reason

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def sends_out_of_turn(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.begun))
        places = [place for place in range(len(one.frames)) if place != one.sent]
        self.is_refused(one.frames[data.draw(st.sampled_from(places))])

    @rule(
        sequence=st.integers(0, 2**64 - 1),
        fragment=st.integers(0, 2**64 - 1),
        tag=st.sampled_from([NEXT_FRAGMENT, FIRST_FRAGMENT]),
    )
    def makes_one_up(self, sequence: int, fragment: int, tag: int) -> None:
        head = FRAGMENT_HEAD.pack(VERSION, tag, sequence, fragment)
        self.is_refused(head)

    @rule(data=st.binary(min_size=1, max_size=30))
    def says_anything(self, data: bytes) -> None:
        self.is_refused(b"\x84" + data)

    def is_refused(self, frame: bytes) -> None:
        try:
            self.victim.receive(FramePacket(frame))
        except ProtocolError:
            self.starts_again()
        else:
            raise AssertionError("it was taken")

    def starts_again(self) -> None:
        """The session has ended and stays ended. A new connection starts."""
        try:
            self.victim.receive(FramePacket(b""))
        except DistError:
            self.victim = self.fresh()
            self.messages.clear()
        else:
            raise AssertionError("a session goes on after an error")

    @invariant()
    def holds_no_more_than_it_may(self) -> None:
        if hasattr(self, "victim"):
            held = self.victim.channel._fragments_in
            assert held._charged <= LIMITS.max_sequence_bytes
            assert len(held._sequences) == len(self.begun) <= LIMITS.max_sequences
            assert bool(held._charged) == bool(self.begun)


def _to(name: Atom) -> Message:
    return Message(Pid(Atom("a@x"), 1, 0, 77), name)


TestWithoutTheCookie = WithoutTheCookie.TestCase
TestWithoutTheCookie.settings = settings(
    max_examples=examples(60), stateful_step_count=30, deadline=None
)
TestWithTheCookie = WithTheCookie.TestCase
TestWithTheCookie.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None
)
