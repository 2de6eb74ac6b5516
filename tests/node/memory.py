"""A carrier without a network: connections between nodes of one event loop.

Windows, watermarks and closes follow the contract of carriers.base. A hub can refuse dials, freeze
a connection, or keep its transport alive while its node is silent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quicdist.carriers.base import (
    CloseKind,
    CloseReason,
    Connection,
    ConnectionHandler,
    ConnectionStatistics,
    FirstMessage,
)
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.relay.client import RelayStatus
from quicdist.carriers.trust import Credentials
from quicdist.cluster.carrier import Accept, Carrier, ListenerSettings, Transport, TransportAddress
from quicdist.errors import Cause
from quicdist.protocol.dialects.base import Buffer, DialectTraits
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role


class MemoryConnection:
    """One end of a connection."""

    def __init__(self, hub: Hub, role: Role, port: int) -> None:
        self.role = role
        self.traits = DialectTraits("memory", "memory/1", needs_probe=hub.needs_probe)
        self.handler: ConnectionHandler | None = None
        self.other: MemoryConnection
        self.is_frozen = False
        """This end receives nothing, not even keep-alives."""
        self.is_deaf = False
        """This end discards what arrives, and the other end sees a live connection."""
        self.frames_sent = 0
        self._hub = hub
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.last_received = self._loop.time()
        self._out: deque[Packet] = deque()
        self._out_bytes = 0
        self._in: list[Packet] = []
        self._unconsumed = 0
        self._is_writable = True
        self._is_planned = False
        self._closed: CloseReason | None = None

    @property
    def peer_address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.other._port)

    @property
    def local_address(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    @property
    def is_writable(self) -> bool:
        return self._is_writable

    def send_handshake(self, message: bytes) -> None:
        self._send(HandshakePacket(message))

    def handshake_done(self) -> None:
        pass

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        self.frames_sent += 1
        self._send(FramePacket(b"".join(parts)))

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        for frame in frames:
            self.send_frame((frame[4:],), stream)

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        return False

    def consumed(self, count: int) -> None:
        self._unconsumed -= count
        assert self._unconsumed >= 0
        self.other._pump()

    def ping(self) -> None:
        if not self.other.is_frozen and not self.is_frozen and not self._closed:
            self.other.last_received = self.last_received = self._loop.time()

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(0, 0, self._out_bytes)

    async def flush(self, timeout: float) -> bool:
        deadline = self._loop.time() + timeout
        while self._out_bytes and not self._closed:
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(0.001)
        return not self._closed

    binding = b""

    def check_name(self, node: str) -> None: ...

    peer_fingerprint = ""

    def check_again(self, node: str) -> None: ...

    def must_bind(self, node: str) -> bool:
        return False

    def remember(self, node: str, *, bound: bool = False) -> None: ...

    def close(self, reason: str) -> None:
        if self._closed:
            return
        self._end(CloseReason(CloseKind.LOCAL, reason))
        if not self.other.is_frozen:
            text = f"closed by the peer: {reason}"
            self.other._end(CloseReason(CloseKind.PEER, text, Cause.PEER_CLOSED, is_orderly=True))

    def cut(self, text: str = "cut") -> None:
        """Both ends lose the connection."""
        self._end(CloseReason(CloseKind.ERROR, text))
        self.other._end(CloseReason(CloseKind.ERROR, text))

    def _end(self, reason: CloseReason) -> None:
        if self._closed is None:
            self._closed = reason
            self._plan()

    def _send(self, packet: Packet) -> None:
        if self._closed:
            return
        self._out.append(packet)
        self._out_bytes += len(packet.data)
        if self._out_bytes >= self._hub.high:
            self._is_writable = False
        self._pump()

    def _pump(self) -> None:
        other = self.other
        while self._out and not other.is_frozen and other._unconsumed < self._hub.window:
            packet = self._out.popleft()
            self._out_bytes -= len(packet.data)
            other.last_received = self._loop.time()
            if other.is_deaf:
                continue
            other._unconsumed += len(packet.data)
            other._in.append(packet)
            other._plan()
        if not self._is_writable and self._out_bytes <= self._hub.high // 2 and not self._closed:
            self._is_writable = True
            if self.handler is not None:
                self._loop.call_soon(self._tell_writable)

    def _tell_writable(self) -> None:
        if self.handler is not None and not self._closed:
            self.handler.writable_again()

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_planned = False
        if self.handler is None:
            return
        packets, self._in = self._in, []
        if packets:
            self.consumed(self.handler.packets_received(packets))
        if self._closed:
            handler, self.handler = self.handler, None
            handler.connection_lost(self._closed)


@dataclass(eq=False)
class Hub:
    """The nodes that can reach each other; passed to a node as its carrier setting."""

    window: int = 256 * 1024
    high: int = 128 * 1024
    needs_probe: bool = False
    refusals: int = 0
    """Number of the next dials that fail."""
    dials: int = 0
    delay: float = 0.0
    """Duration of a dial in seconds."""
    connections: list[MemoryConnection] = field(default_factory=list)
    listeners: dict[int, Accept] = field(default_factory=dict)
    last_port: int = 0

    def make(self, credentials: Credentials) -> Carrier:
        return MemoryCarrier(self)


class MemoryCarrier:
    """The carrier of one node."""

    transport = Transport.QUIC

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._port = 0

    async def open(self, own: ListenerSettings | None, accept: Accept) -> str | None:
        hub = self._hub
        address = None if own is None else own.name.address
        if address is None:
            return None
        port = address.port
        if port in hub.listeners:
            raise OSError(98, "Address already in use")
        if not port:
            hub.last_port += 1
            port = hub.last_port
        self._port = port
        hub.listeners[port] = accept
        return f"{port}@{address.host}"

    async def dial(
        self,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None = None,
    ) -> Connection:
        hub = self._hub
        hub.dials += 1
        await asyncio.sleep(hub.delay)
        if hub.refusals:
            hub.refusals -= 1
            raise ConnectionRefusedError("refused by the hub")
        port = place.port
        accept = hub.listeners.get(port)
        if accept is None:
            raise ConnectionRefusedError(f"nobody at port {port}")
        here = MemoryConnection(hub, Role.DIALER, self._port)
        there = MemoryConnection(hub, Role.LISTENER, port)
        here.other, there.other = there, here
        hub.connections += [here, there]
        there.handler = accept(there)
        return here

    async def close(self, timeout: float) -> None:
        self._hub.listeners.pop(self._port, None)

    def rebind(self) -> None:
        pass

    def describe(self) -> str:
        return "memory"

    def relay(self) -> RelayStatus | None:
        return None

    def bound(self) -> tuple[str, int] | None:
        return None

    def rejected(self) -> Mapping[RejectReason, int]:
        return {}
