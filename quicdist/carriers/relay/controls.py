"""The control connections of a relay: one of each node, on QUIC or on TLS."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Protocol

from quicdist.carriers.base import CloseReason
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.relay.frames import (
    NONCE_LENGTH,
    Allocate,
    Challenge,
    FrameError,
    KeepAlive,
    Message,
    Observed,
    Proof,
    Refusal,
    Refused,
    decode,
    encode,
    head_size,
    plain,
)
from quicdist.carriers.relay.stream import FrameConnection
from quicdist.protocol.packet import Packet

PROOF_TIME = 10.0
"""Seconds for a node on TLS to prove its key and to ask for its port."""


class ControlOwner(Protocol):
    """What a control connection wants of its relay."""

    def now(self) -> float:
        """The time of the event loop."""

    def begin(self, control: TcpControl, host: str) -> bool:
        """Whether a TLS connection from `host` may ask for a port."""

    def proved_key(self, proof: Proof, nonce: bytes) -> str | None:
        """The fingerprint of the key that a node on TLS has proved, or None."""

    def allocate(self, control: Control, keys: Sequence[str], request: Allocate, host: str) -> bool:
        """Gives the node its port, or refuses it. Returns whether it has one."""

    def frame_arrived(self, control: Control, frame: bytes, now: float) -> None:
        """Takes a data frame from a TLS connection."""

    def send_to_node(self, head: bytes, data: bytes, size: int, to: SocketAddress) -> None:
        """Sends merged datagrams to a node, each in a data frame."""

    def detach(self, control: Control) -> None:
        """Reports that the connection has ended."""


class Control(Protocol):
    """One control connection, on QUIC or TLS."""

    is_udp: bool
    instance: bytes

    @property
    def data_address(self) -> SocketAddress | None:
        """The validated address for data frames on UDP; None on TLS."""

    def tell(self, message: Message) -> None:
        """Sends a control message."""

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        """Sends merged datagrams of one client to the node, with this head before each."""

    def close(self, reason: str) -> None:
        """Ends the connection."""


class QuicControl:
    """A control connection on QUIC (carriers.base.ConnectionHandler)."""

    is_udp = True

    def __init__(self, relay: ControlOwner, connection: QuicConnection) -> None:
        self.instance = b""
        self._relay = relay
        self._connection = connection

    @property
    def data_address(self) -> SocketAddress | None:
        """The address of the node, which QUIC validates again after a change of its NAT."""
        return self._connection.validated_address

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Takes control messages; a malformed one ends the connection."""
        for packet in packets:
            try:
                message = decode(packet.data)
            except FrameError as error:
                self._connection.close(str(error))
                break
            self._take(message)
        return sum(len(packet.data) for packet in packets)

    def _take(self, message: Message) -> None:
        if isinstance(message, Allocate):
            connection = self._connection
            host = connection.peer_address[0]
            keys = connection.peer_keys
            if keys and self._relay.allocate(self, keys, message, host):
                connection.handshake_done()
        elif isinstance(message, KeepAlive):
            self.tell(message)
            if self.data_address is not None:
                self.tell(Observed(plain(self.data_address)))

    def writable_again(self) -> None:
        """Does nothing: a node that reads nothing is disconnected."""

    def connection_lost(self, reason: CloseReason) -> None:
        """Reports the end to the relay."""
        self._relay.detach(self)

    def tell(self, message: Message) -> None:
        """Sends a control message, unless the node reads nothing."""
        if self._connection.is_writable:
            self._connection.send_handshake(encode(message))
        else:
            self._connection.close("the node reads nothing")

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        """Sends merged datagrams of one client, with this head before each."""
        address = self.data_address
        if address is not None:
            self._relay.send_to_node(head, data, size, address)

    def close(self, reason: str) -> None:
        """Ends the connection."""
        self._connection.close(reason)


class TcpControl:
    """A control connection on TLS, which carries the data frames as well."""

    is_udp = False

    def __init__(self, relay: ControlOwner, *, backlog: int) -> None:
        """`backlog` is the number of bytes of data frames that may wait to be sent."""
        self.instance = b""
        self._relay = relay
        self._key: str | None = None
        self._nonce = os.urandom(NONCE_LENGTH)
        self._has_port = False
        self.connection = FrameConnection(
            self._arrived, self._lost, on_made=self._made, backlog=backlog
        )
        self._patience = asyncio.get_running_loop().call_later(PROOF_TIME, self._give_up)

    @property
    def data_address(self) -> SocketAddress | None:
        """None: data frames come on this connection."""
        return None

    def _made(self) -> None:
        """TLS is done: asks for a proof of the key."""
        if self._relay.begin(self, self.connection.peer_address[0]):
            self.tell(Challenge(self._nonce))
        else:
            self.connection.abort()

    def _give_up(self) -> None:
        if not self._has_port:
            self.connection.close()

    def _arrived(self, frames: Sequence[bytes]) -> None:
        now = self._relay.now()
        for frame in frames:
            if frame and head_size(frame[0]):
                self._relay.frame_arrived(self, frame, now)
                continue
            try:
                message = decode(frame)
            except FrameError:
                self.connection.close()
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        host = self.connection.peer_address[0]
        if isinstance(message, Proof):
            self._key = self._relay.proved_key(message, self._nonce)
            if self._key is None:
                self.tell(Refused(Refusal.PROOF))
                self.connection.close()
        elif isinstance(message, Allocate) and self._key is not None:
            self._has_port = self._relay.allocate(self, (self._key,), message, host)
            if self._has_port:
                self.connection.expect_data()
        elif isinstance(message, KeepAlive):
            self.tell(message)

    def _lost(self) -> None:
        self._patience.cancel()
        self._relay.detach(self)

    def tell(self, message: Message) -> None:
        """Sends a control message, unless the node reads nothing."""
        self.connection.send(encode(message))

    def forward(self, head: bytes, data: bytes, size: int) -> None:
        """Sends merged datagrams of one client, with this head before each."""
        self.connection.send_frames(
            [head + data[at : at + size] for at in range(0, len(data), size)]
        )

    def close(self, reason: str) -> None:
        """Ends the connection."""
        self.connection.close()
