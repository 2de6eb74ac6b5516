"""UDP addresses of nodes: from their names, a table, and previous connections.

A name `port@host` contains the address. Other names need a route, or the gateway of their host:
that of a peer that was connected before, or one at a common port. Such a gateway may serve several
nodes, so the dialing gateway sends the name of the node before the distribution handshake (see
`ask_for`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quicdist.carriers.base import CloseReason, Connection
from quicdist.cluster.names import Address, NodeName
from quicdist.errors import NodeNameError
from quicdist.protocol.packet import HandshakePacket, Packet

_MAX_LEARNED: Final = 1024
"""The maximum number of addresses of peers to remember. The least recently connected is removed."""

_MAX_WAYS: Final = 8
"""The maximum number of gateways of one host to ask for a node."""

_TARGET: Final = b"t"
"""The tag of the message with the name of the requested node, and of its answer. It differs from
the tags of the distribution handshake (ERTS manual, Distribution Protocol)."""

_HERE, _NOT_HERE = b"tok", b"tnone"

_MAX_NAME: Final = 1020
"""Bytes: 255 characters in UTF-8."""


@dataclass(frozen=True, slots=True)
class Way:
    """An address at which a node may be reached."""

    address: Address
    """The UDP address."""

    node: str
    """The node whose certificate is expected at the address."""

    asks: bool
    """Whether a gateway at the address may serve several nodes and needs the name."""


class Routes:
    """The routes of one gateway."""

    def __init__(
        self, static: Mapping[str, tuple[str, int]], *, default_port: int | None = None
    ) -> None:
        """`static` maps names to addresses, or `*@host` for all nodes of a host.

        `default_port` is the port of the gateways of other hosts, or None if there is no such port.
        """
        self._static = static
        self._default_port = default_port
        self._learned: dict[str, Address] = {}

    def learn(self, name: str, seen_at: tuple[str, int]) -> None:
        """Records the UDP address of a node that has connected and proved the cookie."""
        try:
            parsed = NodeName.parse(name)
        except NodeNameError:
            return
        static = self._static.get(name)
        address = parsed.address if static is None else Address(*static)
        self._learned.pop(name, None)
        self._learned[name] = address or Address(*seen_at)
        if len(self._learned) > _MAX_LEARNED:
            del self._learned[next(iter(self._learned))]

    def ways(self, name: str) -> Sequence[Way]:
        """Returns addresses, the most likely first. Raises NodeNameError if there is none."""
        static = self._static.get(name)
        if static is not None:
            return [Way(Address(*static), name, asks=False)]
        parsed = NodeName.parse(name)
        if parsed.address is not None:
            return [Way(parsed.address, name, asks=False)]
        found = self._through_gateways(name, parsed.host)
        if not found:
            Address.parse(name)  # raises NodeNameError with the reason
        return found

    def _through_gateways(self, name: str, host: str) -> Sequence[Way]:
        ways: dict[Address, Way] = {}
        if name in self._learned:
            ways[self._learned[name]] = Way(self._learned[name], name, asks=True)
        all_of_host = self._static.get(f"*@{host}")
        if all_of_host is not None:
            ways.setdefault(Address(*all_of_host), Way(Address(*all_of_host), name, asks=True))
        for peer, address in reversed(self._learned.items()):
            if peer.endswith(f"@{host}"):
                ways.setdefault(address, Way(address, peer, asks=True))
        if self._default_port is not None:
            address = Address(host, self._default_port)
            ways.setdefault(address, Way(address, name, asks=True))
        return list(ways.values())[:_MAX_WAYS]


# -- messages between two gateways before the handshake -----------------------------------------


def target_of(packet: Packet) -> str | None:
    """Returns the node that the dialer requests, or None if the handshake begins at once.

    Raises NodeNameError if the message contains no valid name.
    """
    if not isinstance(packet, HandshakePacket) or packet.data[:1] != _TARGET:
        return None
    try:
        name = bytes(packet.data[1 : 1 + _MAX_NAME]).decode()
    except UnicodeDecodeError:
        raise NodeNameError("invalid target: expected UTF-8") from None
    return str(NodeName.parse(name))


def answer_target(connection: Connection, *, is_here: bool) -> None:
    """Tells the dialing gateway whether the handshake with its target may begin."""
    connection.send_handshake(_HERE if is_here else _NOT_HERE)


async def ask_for(connection: Connection, name: str, timeout: float) -> bool:
    """Asks the gateway at the other end whether it serves this node.

    If it returns True, the handshake may begin. It returns False as well if there is no answer
    within `timeout` seconds.
    """
    waiting = _Answer(connection)
    connection.handler = waiting
    connection.send_handshake(_TARGET + name.encode())
    try:
        async with asyncio.timeout(timeout):
            return await waiting.answer
    except TimeoutError:
        return False


class _Answer:
    """Waits for one message (carriers.base.ConnectionHandler)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def packets_received(self, packets: Sequence[Packet]) -> int:
        self._tell(any(packet.data == _HERE for packet in packets))
        return sum(len(packet.data) for packet in packets)

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        self._tell(False)

    def _tell(self, is_here: bool) -> None:
        if not self.answer.done():
            self.answer.set_result(is_here)
