"""Where nodes are reached over QUIC: by their names, by a table, by what connections have told.

A name `port@host` says it. Of any other name a route may, or the gateway of its host: that of
a peer which has been connected, or one at a port that all gateways have. Such a gateway may stand
for several nodes, and is told which one is wanted (see `ask_for`): a first message before the
distribution handshake, between gateways only.
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
"""Peers whose addresses are remembered; of more, the one connected longest ago is forgotten."""

_MAX_WAYS: Final = 8
"""Gateways of one host that are asked for a node."""

_TARGET: Final = b"t"
"""Tag of the message that names the node which is wanted, and of its answer. The tags of the
distribution handshake are others (ERTS manual, Distribution Protocol)."""

_HERE, _NOT_HERE = b"tok", b"tnone"

_MAX_NAME: Final = 1020
"""Bytes: 255 characters in UTF-8."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a node may be reached."""

    address: Address
    """A UDP address."""

    node: str
    """Who answers there: the node whose certificate is expected."""

    asks: bool
    """Whether a gateway there may stand for several nodes, and is told which is wanted."""


class Routes:
    """Of one gateway."""

    def __init__(
        self, static: Mapping[str, tuple[str, int]], *, default_port: int | None = None
    ) -> None:
        """`static` has names, or `*@host` for all nodes of a host. At `default_port` is the
        gateway of each host that nothing else is known of; None where there is no such port."""
        self._static = static
        self._default_port = default_port
        self._learned: dict[str, Address] = {}

    def learn(self, name: str, seen_at: tuple[str, int]) -> None:
        """A node is connected, and has proved the cookie. `seen_at` is its UDP address."""
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
        """The most likely first, at least one. Raises NodeNameError where none is known."""
        static = self._static.get(name)
        if static is not None:
            return [Way(Address(*static), name, asks=False)]
        parsed = NodeName.parse(name)
        if parsed.address is not None:
            return [Way(parsed.address, name, asks=False)]
        found = self._through_gateways(name, parsed.host)
        if not found:
            Address.parse(name)  # says what is wrong with it
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


# -- what two gateways say before the handshake -------------------------------------------------


def target_of(packet: Packet) -> str | None:
    """The node that who has dialed wants, None where the handshake begins at once.

    Raises NodeNameError for a message that names none.
    """
    if not isinstance(packet, HandshakePacket) or packet.data[:1] != _TARGET:
        return None
    try:
        name = bytes(packet.data[1 : 1 + _MAX_NAME]).decode()
    except UnicodeDecodeError:
        raise NodeNameError("invalid target: expected UTF-8") from None
    return str(NodeName.parse(name))


def answer_target(connection: Connection, *, is_here: bool) -> None:
    """Tell the gateway that has dialed whether the handshake with its target may begin."""
    connection.send_handshake(_HERE if is_here else _NOT_HERE)


async def ask_for(connection: Connection, name: str, timeout: float) -> bool:
    """Whether the gateway at the other end stands for this node; the handshake may then begin.

    False also where it does not answer within `timeout` seconds.
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
