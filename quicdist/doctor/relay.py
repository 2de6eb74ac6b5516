"""Whether a relay answers, and what it sees of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quicdist.carriers.base import CloseReason, Connection
from quicdist.carriers.relay.frames import (
    Address,
    FrameError,
    KeepAlive,
    Message,
    Observed,
    decode,
    encode,
)
from quicdist.protocol.packet import Packet


class RelayConnection:
    """The owner of a connection to a relay (carriers.base.ConnectionHandler)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._observed: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
        connection.handler = self

    async def observed(self, timeout: float) -> Address:
        """Asks the relay for the address of this machine.

        Raises TimeoutError if it does not tell, and ConnectionError if it closes the connection.
        """
        self._connection.send_handshake(encode(KeepAlive()))
        return await asyncio.wait_for(self._observed, timeout)

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Takes the messages of the relay; invalid ones are ignored."""
        for packet in packets:
            try:
                self._take(decode(packet.data))
            except FrameError:
                continue
        return sum(len(packet.data) for packet in packets)

    def _take(self, message: Message) -> None:
        if isinstance(message, Observed) and not self._observed.done():
            self._observed.set_result(message.address)

    def writable_again(self) -> None:
        """Does nothing: one message is sent."""

    def connection_lost(self, reason: CloseReason) -> None:
        """Ends the wait for an answer."""
        if not self._observed.done():
            self._observed.set_exception(ConnectionError(reason.text))
