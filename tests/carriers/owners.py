"""Connection owners for tests, with an imitation of the handshake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from quicdist.carriers.base import CloseReason, Connection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import Credentials, Identity, Trust
from quicdist.limits import CarrierLimits
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from tests.support.waiting import PATIENCE

NAME = b"N" + bytes(12) + b"\x00\x06a@test"
STATUS = b"sok"
CHALLENGE = b"N" + bytes(16) + b"\x00\x06b@test"
REPLY = b"r" + bytes(20)
ACK = b"a" + bytes(16)

IDENTITY = Identity.ephemeral(["127.0.0.1", "::1", "localhost"])
CREDENTIALS = Credentials(IDENTITY, Trust.nothing())


class Owner:
    """Records all calls and runs a handshake; consumes frames unless `hoard` is set."""

    def __init__(self, connection: Connection, *, hoard: bool = False) -> None:
        self.connection = connection
        self.hoard = hoard
        self.handshake: list[bytes] = []
        self.frames: list[bytes] = []
        self.frame_bytes = 0
        self.lost: list[CloseReason] = []
        self.writable_calls = 0
        self.is_up = False
        self.on_up: Callable[[], None] = lambda: None
        self.on_frame: Callable[[bytes], None] = self.frames.append
        self._changed = asyncio.Event()

    def packets_received(self, packets: Sequence[Packet]) -> int:
        assert not self.lost
        consumed = 0
        for packet in packets:
            if isinstance(packet, HandshakePacket):
                self.handshake.append(packet.data)
                self._answer(packet.data[:1])
                consumed += len(packet.data)
            else:
                self.frame_bytes += len(packet.data)
                self.on_frame(packet.data)
                consumed += 0 if self.hoard else len(packet.data)
        self._changed.set()
        return consumed

    def writable_again(self) -> None:
        assert self.connection.is_writable
        self.writable_calls += 1
        self._changed.set()

    def connection_lost(self, reason: CloseReason) -> None:
        self.lost.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until the recorded calls satisfy a condition."""
        while not condition():
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
            self._changed.clear()

    async def send(self, frame: bytes) -> None:
        """Sends one frame when the connection is writable."""
        await self.until(lambda: self.connection.is_writable or self.lost)
        self.connection.send_frame((frame,))

    def _answer(self, tag: bytes) -> None:
        connection = self.connection
        if connection.role is Role.LISTENER:
            if tag == b"N":
                connection.send_handshake(STATUS)
                connection.send_handshake(CHALLENGE)
            elif tag == b"r":
                connection.send_handshake(ACK)
                self._up()
        elif tag == b"N":
            connection.send_handshake(REPLY)
        elif tag == b"a":
            self._up()

    def _up(self) -> None:
        self.is_up = True
        self.connection.handshake_done()
        self.on_up()


@dataclass
class Node:
    """An endpoint and the owners of its incoming connections."""

    endpoint: Endpoint
    accepted: list[Owner] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        """The UDP port."""
        return self.endpoint.local_address[1]

    async def first(self, count: int = 1) -> Owner:
        """Returns the owner of incoming connection number `count`."""
        while len(self.accepted) < count:
            await asyncio.wait_for(self.arrived.wait(), PATIENCE)
            self.arrived.clear()
        return self.accepted[count - 1]

    async def dial(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        alpn: str | None = None,
        hoard: bool = False,
        timeout: float = PATIENCE,
    ) -> Owner:
        """Returns a connection whose distribution handshake has started."""
        connection = await self.endpoint.dial(
            host, port, alpns=None if alpn is None else [alpn], timeout=timeout
        )
        owner = Owner(connection, hoard=hoard)
        connection.handler = owner
        connection.send_handshake(NAME)
        return owner

    async def connect(
        self,
        other: Node,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        alpn: str | None = None,
    ) -> tuple[Owner, Owner]:
        """Returns both ends of an established connection."""
        count = len(other.accepted) + 1
        here = await self.dial(port or other.port, host=host, alpn=alpn)
        there = await other.first(count)
        await here.until(lambda: here.is_up)
        await there.until(lambda: there.is_up)
        return here, there


def settings(limits: CarrierLimits | None = None, **changes: object) -> QuicSettings:
    """Returns settings with one shared identity, without verification of peers."""
    return QuicSettings(CREDENTIALS, limits=limits or CarrierLimits(), **changes)  # type: ignore[arg-type]  # passed through


@asynccontextmanager
async def node(
    host: str = "127.0.0.1",
    *,
    limits: CarrierLimits | None = None,
    hoard: bool = False,
    on_accept: Callable[[Owner], None] = lambda owner: None,
    **changes: object,
) -> AsyncIterator[Node]:
    """An endpoint on a free port that accepts every connection."""
    made: list[Node] = []

    def accept(connection: Connection) -> Owner:
        owner = Owner(connection, hoard=hoard)
        on_accept(owner)
        made[0].accepted.append(owner)
        made[0].arrived.set()
        return owner

    endpoint = await Endpoint.open(host, 0, settings=settings(limits, **changes), accept=accept)
    made.append(Node(endpoint))
    try:
        yield made[0]
    finally:
        await endpoint.close()


def frames_of(packets: Sequence[Packet]) -> list[bytes]:
    """Returns the bodies of the frames in packets."""
    return [packet.data for packet in packets if isinstance(packet, FramePacket)]
