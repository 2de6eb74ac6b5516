"""Recorded traffic of real carriers is parsed completely and reproduced byte for byte."""

from __future__ import annotations

from collections import Counter

import pytest

from quicdist.etf import decode_bare, encode_bare
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.channel import FragmentStored, MessageReceived, TickReceived
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag, expand
from quicdist.protocol.handshake import AliveAsked, Connected, LocalNode, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD
from quicdist.protocol.wire import WireForms, parse
from tests.protocol.recordings import RECORDINGS, Recorded, conversations

CONNECTIONS = [
    pytest.param(name, talk, id=f"{name}-{number}")
    for name in RECORDINGS
    for number, talk in enumerate(conversations(name), 1)
]


class Double:
    """A session that replaces one of the recorded nodes."""

    def __init__(self, role: Role, talk: list[Recorded], cookie: bytes) -> None:
        said = [one.packet.data for one in talk if isinstance(one.packet, HandshakePacket)]
        (challenge,) = [hs.parse_challenge(data) for data in said[1:] if data[:1] == b"N"]
        (reply,) = [hs.parse_challenge_reply(data) for data in said if data[:1] == b"r"]
        name = hs.parse_name(said[0])
        assert isinstance(name, hs.Name)
        me: hs.Name | hs.Challenge = name if role is Role.DIALER else challenge
        number = reply.challenge if role is Role.DIALER else challenge.challenge
        local = LocalNode(me.name, me.creation, Flag(me.flags), cookie.decode())
        self.session = Session(local, role, challenge=number)
        self.said: list[bytes] = []
        self.heard: list[Event] = []
        # The answers of the recorded node.
        self.decision = Status.ALIVE if b"salive" in said else Status.OK

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, SendHandshake):
                self.said.append(event.data)
            elif isinstance(event, PeerNamed):
                self.take(self.session.decide(self.decision))
            elif isinstance(event, AliveAsked):
                self.take(self.session.decide(Status.TRUE))
            else:
                self.heard.append(event)


def replay(name: str, talk: list[Recorded], role: Role) -> Double:
    """Passes all data of the other side to a session in this role."""
    double = Double(role, talk, RECORDINGS[name])
    double.take(double.session.start())
    for one in talk:
        if one.dialed is (role is Role.LISTENER):
            double.take(double.session.receive(one.packet))
    return double


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("name", "talk"), CONNECTIONS)
def test_handshakes_are_repeated_byte_for_byte(name: str, talk: list[Recorded], role: Role) -> None:
    double = replay(name, talk, role)
    assert double.said == [
        one.packet.data
        for one in talk
        if isinstance(one.packet, HandshakePacket) and one.dialed is (role is Role.DIALER)
    ]
    assert isinstance(double.heard[0], Connected)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("name", "talk"), CONNECTIONS)
def test_every_frame_is_understood(name: str, talk: list[Recorded], role: Role) -> None:
    double = replay(name, talk, role)
    frames = [
        one.packet.data
        for one in talk
        if isinstance(one.packet, FramePacket) and one.dialed is (role is Role.LISTENER)
    ]
    events = double.heard[1:]
    assert len(events) == len(frames)
    assert {type(event) for event in events} <= {MessageReceived, FragmentStored, TickReceived}
    sizes = sum(event.size for event in events if isinstance(event, MessageReceived))
    assert sizes == sum(map(len, frames))


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("name", "talk"), CONNECTIONS)
def test_what_was_understood_can_be_said_again(name: str, talk: list[Recorded], role: Role) -> None:
    for event in replay(name, talk, role).heard:
        if not isinstance(event, MessageReceived):
            continue
        values, _ = WireForms(DEFAULT_FLAGS).of(event.signal, event.payload)
        assert parse(values)[0] == event.signal
        if event.payload is not NO_PAYLOAD:
            data = encode_bare(event.payload)
            assert decode_bare(data) == (event.payload, len(data))


def test_what_the_recordings_hold() -> None:
    """The recordings contain the expected packets, so the other tests are not vacuous."""
    counts: dict[str, Counter[str]] = {}
    for name in RECORDINGS:
        count: Counter[str] = Counter()
        counts[name] = count
        for talk in conversations(name):
            for role in Role:
                for event in replay(name, talk, role).heard:
                    kind = event.signal if isinstance(event, MessageReceived) else event
                    count[type(kind).__name__] += 1
    assert counts == EXPECTED


def test_flags_of_the_recorded_nodes_are_ours() -> None:
    for name in RECORDINGS:
        for talk in conversations(name):
            offered = hs.parse_name(talk[0].packet.data).flags
            ours = int(DEFAULT_FLAGS & ~(Flag.ALTACT_SIG | Flag.NATIVE_RECORDS))
            if name == "erlang_quic":
                ours &= ~Flag.DIST_HDR_ATOM_CACHE.value
            assert expand(offered) == ours | Flag.PUBLISHED


EXPECTED = {
    "quic_dist": Counter(
        {
            "Message": 25,
            "Connected": 2,
            "Demonitor": 4,
            "Monitor": 6,
            "Exit": 1,
            "ExitSignal": 1,
            "Down": 3,
            "SpawnReply": 5,
            "SpawnRequest": 5,
            "TickReceived": 12,
        }
    ),
    "macula_dist_0.14.3": Counter({"Connected": 2, "TickReceived": 11}),
    "macula_dist_framed": Counter(
        {
            "Message": 29,
            "Connected": 2,
            "Demonitor": 7,
            "Monitor": 9,
            "Exit": 1,
            "ExitSignal": 1,
            "Down": 3,
            "SpawnReply": 5,
            "SpawnRequest": 5,
            "TickReceived": 2,
        }
    ),
    "erlang_quic": Counter(
        {
            "Message": 79,
            "Connected": 6,
            "Demonitor": 17,
            "FragmentStored": 6,
            "GroupLeader": 1,
            "Link": 2,
            "Monitor": 19,
            "Exit": 1,
            "ExitSignal": 1,
            "Down": 4,
            "SpawnReply": 8,
            "SpawnRequest": 8,
            "TickReceived": 23,
            "Unlink": 1,
            "UnlinkAck": 1,
        }
    ),
}
