"""A minimal node on a blocking TCP socket, for tests with a real Erlang."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from quicdist.etf import Pid
from quicdist.protocol.channel import MessageReceived, OutgoingMessage, TickReceived
from quicdist.protocol.handshake import AliveAsked, Connected, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Signal
from tests.protocol.forms import Control, encode
from tests.support.closing import Closing
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

PORT_NAME = "127.0.0.2"
"""The address of this node. Erlang on 127.0.0.1 has the same port, so no EPMD is needed."""


def listener() -> socket.socket:
    """Returns a listening socket whose port is also free on 127.0.0.1."""
    server = socket.create_server((PORT_NAME, free_port(PORT_NAME, "127.0.0.1")))
    server.settimeout(PATIENCE)
    return server


def erl_args(name: str, cookie: str, port: int) -> tuple[str, ...]:
    """Returns the options for a node at 127.0.0.1 that connects both ways without an EPMD.

    It must not log: its standard output carries answers.
    """
    return (
        *("-name", name, "-setcookie", cookie, "-start_epmd", "false"),
        *("-erl_epmd_port", str(port), "-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        *("-kernel", "logger_level", "none"),
    )


class TcpNode(Closing):
    """One session on one socket."""

    def __init__(
        self, session: Session, sock: socket.socket, decision: Status | Named = Status.OK
    ) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session = session
        self.socket = sock
        self.stream = sock.makefile("rb")
        self.decision = decision
        self.events: deque[Event] = deque()
        """All events since the handshake, except ticks and stored fragments."""

    @classmethod
    def dial(cls, session: Session, port: int) -> TcpNode:
        return cls(session, socket.create_connection(("127.0.0.1", port), PATIENCE))

    def shake(self) -> Connected:
        """Runs the handshake. Raises EOFError if the peer closes the connection."""
        pending = deque(self.session.start())
        while True:
            while pending:
                event = pending.popleft()
                if isinstance(event, SendHandshake):
                    self.socket.sendall(len(event.data).to_bytes(2, "big") + event.data)
                elif isinstance(event, PeerNamed):
                    pending.extend(self.session.decide(self.decision))
                elif isinstance(event, AliveAsked):
                    pending.extend(self.session.decide(Status.TRUE))
                elif isinstance(event, Connected):
                    return event
            length = int.from_bytes(self._exactly(2), "big")
            pending.extend(self.session.receive(HandshakePacket(self._exactly(length))))

    def send(self, control: Control | Signal, payload: Any = NO_PAYLOAD) -> None:
        self.send_message(encode(self.session, control, payload))

    def send_message(self, message: OutgoingMessage) -> None:
        for parts in self.session.frames(message):
            self.send_frame(parts)

    def send_frame(self, parts: Sequence[bytes | memoryview]) -> None:
        frame = b"".join(parts)
        self.socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def receive(self) -> MessageReceived:
        """Returns the next message. Any other event except ticks and fragments is a failure."""
        while True:
            length = int.from_bytes(self._exactly(4), "big")
            (event,) = self.session.receive(FramePacket(self._exactly(length)))
            self.events.append(event)
            if isinstance(event, MessageReceived):
                return event
            if isinstance(event, TickReceived):
                self.socket.sendall(bytes(4))

    def receive_for(self, pid: Pid) -> Any:
        """Returns the payload of the next message, which must be for `pid`."""
        event = self.receive()
        assert getattr(event.signal, "to", None) == pid, event
        return event.payload

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            raise EOFError("the peer hung up")
        return data
