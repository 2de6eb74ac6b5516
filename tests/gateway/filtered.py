"""A peer and a node as two sessions without carriers, and a policy filter between them."""

from __future__ import annotations

from typing import Any

from quicdist.cluster.policy import PeerRules, Policy
from quicdist.etf import Atom, Pid, Reference
from quicdist.gateway.policy_filter import PolicyFilter
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Status
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Signal
from tests.protocol.forms import Control
from tests.protocol.talk import frames, node

PEER, OWN = "peer@x", "node@x"


def pid(name: str, number: int = 1) -> Pid:
    return Pid(Atom(name), number, 0, 77)


def reference(name: str, number: int = 1) -> Reference:
    return Reference(Atom(name), (number, 2, 3), 77)


class Filtered:
    """Two connected sessions whose frames pass through the policy filter."""

    def __init__(
        self,
        policy: Policy | PeerRules,
        *,
        flags: Flag = DEFAULT_FLAGS,
        peer_dials: bool = True,
        fragment_size: int = 64 * 1024,
        is_audited: bool = False,
    ) -> None:
        policy = Policy((policy,)) if isinstance(policy, PeerRules) else policy
        limits = SessionLimits(fragment_size=fragment_size)
        roles = (Role.DIALER, Role.LISTENER) if peer_dials else (Role.LISTENER, Role.DIALER)
        self.peer = Session(node(PEER, flags=flags), roles[0], challenge=1, limits=limits)
        self.node = Session(node(OWN), roles[1], challenge=2, limits=limits)
        dialed = None if peer_dials else PEER
        self.policy_filter = PolicyFilter(policy, OWN, dialed_peer=dialed, is_audited=is_audited)
        self.notes: list[str] = []
        dialer = self.peer if peer_dials else self.node
        self._shake(dialer, dialer.start())
        assert self.peer.connected
        assert self.node.connected

    def peer_says(self, control: Control | Signal, payload: Any = NO_PAYLOAD) -> list[Event]:
        """Returns the events of the node for a message of the peer."""
        return [event for one in frames(self.peer, control, payload) for event in self.bring(one)]

    def bring(self, frame: bytes) -> list[Event]:
        """Returns the events of the node for one frame."""
        return self._across(self.peer, FramePacket(frame))

    def node_says(self, control: Control | Signal, payload: Any = NO_PAYLOAD) -> None:
        """Checks that the peer receives the message of the node."""
        for frame in frames(self.node, control, payload):
            assert self.policy_filter.from_node(FramePacket(frame)) == FramePacket(frame)

    def answer(
        self, control: Control | Signal, payload: Any = NO_PAYLOAD
    ) -> MessageReceived | None:
        """Checks that the node receives nothing and returns the answer to the peer."""
        answers: list[Event] = []
        for frame in frames(self.peer, control, payload):
            passage = self.policy_filter.from_peer(FramePacket(frame))
            assert passage.forward is None
            if passage.answer is not None:
                answers += self.peer.receive(passage.answer)
        assert len(answers) <= 1
        for event in answers:
            assert isinstance(event, MessageReceived)
            return event
        return None

    def _shake(self, session: Session, events: list[Event]) -> None:
        other = self.node if session is self.peer else self.peer
        for event in events:
            if isinstance(event, SendHandshake):
                self._shake(other, self._across(session, HandshakePacket(event.data)))
            elif isinstance(event, PeerNamed):
                self._shake(session, session.decide(Status.OK))

    def _across(self, session: Session, packet: Packet) -> list[Event]:
        if session is self.node:
            return self.peer.receive(self.policy_filter.from_node(packet))
        passage = self.policy_filter.from_peer(packet)
        if passage.note is not None:
            self.notes.append(passage.note)
        return [] if passage.forward is None else self.node.receive(passage.forward)
