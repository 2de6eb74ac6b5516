"""The dialer's side of a distribution handshake, which records each step."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence

from quicdist.carriers.base import CloseReason, Connection
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.kernel.net_kernel import (
    NET_KERNEL,
    OBSERVED_ADDRESS,
    is_auth_call,
    observed_address,
)
from quicdist.protocol import signals
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.errors import DistError
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake import AliveAsked, Connected, LocalNode, SendHandshake
from quicdist.protocol.handshake_messages import Status
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from quicdist.runtime.calls import GEN_CALL
from quicdist.runtime.identifiers import Identifiers

_MOST_ANSWERS = 16
"""Answers that are kept. Two requests are sent."""


class HandshakeRecorder:
    """Owns a connection, runs the handshake as far as possible and records what was received."""

    def __init__(self, connection: Connection, local: LocalNode, peer: str) -> None:
        self.session = Session(
            local,
            Role.DIALER,
            challenge=secrets.randbits(32),
            expected_peer=peer,
            binding=connection.binding,
            must_bind=connection.must_bind(peer),
            early_proofs=connection.traits.early_proofs,
        )
        self.has_answered = False
        """Whether any handshake message was received."""
        self.is_up = False
        self.frames = 0
        """The number of distribution frames received, including ticks."""
        self.error: DistError | None = None
        self.lost: CloseReason | None = None
        self._local = local
        self._connection = connection
        self._changed = asyncio.Event()
        self._answers: dict[Reference, Term] = {}
        connection.handler = self

    def begin(self) -> None:
        """Sends the name of this node."""
        self._deal_with(self.session.start())

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Waits for a condition or the end of the connection. Returns whether it is true."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._until(condition), timeout)
        return condition()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (condition() or self.error or self.lost):
            self._changed.clear()
            await self._changed.wait()

    def ask(self) -> None:
        """Sends a request that every node answers, and a tick."""
        ours = Identifiers(Atom(self._local.name), self._local.creation)
        pid = ours.pid(())
        self._send(pid, *is_auth_call((pid, ours.reference()), ours.node))
        self._connection.send_frame(())

    def _send(self, sender: Pid, *request: Term) -> None:
        """Sends a request to the net_kernel of the node."""
        message = self.session.encode(signals.Message(sender, NET_KERNEL), tuple(request))
        for frame in self.session.frames(message):
            self._connection.send_frame(frame)

    async def observe(self, timeout: float) -> tuple[str, int] | None:
        """Asks the node for the address at which it observes this one.

        Only quicdist nodes are asked. Returns None if the node does not tell it.
        """
        if Flag.CHANNEL_BINDING not in self.session.peer.flags:
            return None
        ours = Identifiers(Atom(self._local.name), self._local.creation)
        pid, tag = ours.pid(()), ours.reference()
        self._send(pid, GEN_CALL, (pid, tag), OBSERVED_ADDRESS)
        await self.until(lambda: tag in self._answers, timeout)
        return observed_address(self._answers.get(tag))

    # -- called by the carrier --

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Handles received packets."""
        for packet in packets:
            self.has_answered |= isinstance(packet, HandshakePacket)
            self.frames += isinstance(packet, FramePacket)
            try:
                self._deal_with(self.session.receive(packet))
            except DistError as error:
                self.error = error
                break
        self._changed.set()
        return sum(len(packet.data) for packet in packets)

    def writable_again(self) -> None:
        """Does nothing: little is ever written."""

    def connection_lost(self, reason: CloseReason) -> None:
        """Records the end of the connection."""
        self.lost = reason
        self._changed.set()

    def _deal_with(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, SendHandshake):
                self._connection.send_handshake(event.data)
            elif isinstance(event, AliveAsked):
                self._deal_with(self.session.decide(Status.TRUE))
            elif isinstance(event, Connected):
                self.is_up = True
                self._connection.handshake_done()
            elif isinstance(event, MessageReceived):
                self._take(event.payload)

    def _take(self, payload: Term) -> None:
        match payload:
            case (Reference() as tag, answer) if len(self._answers) < _MOST_ANSWERS:
                self._answers[tag] = answer
