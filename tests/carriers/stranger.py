"""An untrusted peer of an endpoint without sockets. It builds any QUIC packet and counts bytes.

The endpoint reads from `MemoryUdp`, which keeps datagrams in two lists. `Stranger` uses the keys of
an aioquic client to encrypt arbitrary payloads.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicPacketType,
    QuicProtocolVersion,
    encode_long_header_first_byte,
)
from aioquic.tls import Epoch

from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.endpoint import Accept, Endpoint
from quicdist.carriers.quic.engine import Batch, Received, SocketAddress, SocketOf
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.strays import STRAYS_PER_SECOND, STRAYS_PER_TURN
from quicdist.carriers.quic.udp import UdpSocket
from tests.support.virtual_clock import VirtualClockLoop

HERE: SocketAddress = ("192.0.2.1", 4433)
"""The endpoint's address."""

THERE: SocketAddress = ("198.51.100.1", 50_000)
"""The address of an untrusted peer."""

INITIAL_SIZE = 1200
T = TypeVar("T")
_TYPES = {Epoch.INITIAL: QuicPacketType.INITIAL, Epoch.HANDSHAKE: QuicPacketType.HANDSHAKE}


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on a new loop with a virtual clock."""
    loop = VirtualClockLoop()
    loop.advance(1000.0)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


class MemoryUdp(UdpSocket):
    """A substitute for the UDP socket of an endpoint."""

    def __init__(self) -> None:
        super().__init__(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.address = HERE
        self.arriving: deque[Received] = deque()
        self.sent: list[Batch] = []
        self.bytes_in: Counter[SocketAddress] = Counter()
        self.bytes_out: Counter[SocketAddress] = Counter()

    def compile(self, socket_of: SocketOf | None) -> None:
        """Does nothing: no datagram may go around the lists."""

    def receive(self, limit: int) -> list[Received]:
        count = min(limit, len(self.arriving))
        return [self.arriving.popleft() for _ in range(count)]

    def send_all(self, batches: Sequence[Batch]) -> None:
        self.sent += batches
        for data, _, (address, _) in batches:
            self.bytes_out[address] += len(data)

    def bring(self, data: bytes, address: SocketAddress = THERE) -> None:
        """Queues a datagram from `address`, which is read at the next wake-up."""
        self.bytes_in[address] += len(data)
        self.arriving.append((data, len(data), (address, None), NOT_ECT))


class Server:
    """An endpoint on a MemoryUdp. Make it inside a running loop."""

    def __init__(self, settings: QuicSettings, accept: Accept) -> None:
        self.udp = MemoryUdp()
        self.endpoint = Endpoint(self.udp, settings, accept)
        self.measured: Callable[[], AbstractContextManager[object]] = nullcontext
        """Context manager for all work of the endpoint."""

    async def settle(self) -> None:
        """Reads all queued datagrams and runs the loop's pending callbacks."""
        with self.measured():
            while self.udp.arriving or self.endpoint._strays:
                self.endpoint._on_ready()
                await turns()
                if self.endpoint._strays:
                    await asyncio.sleep(STRAYS_PER_TURN / STRAYS_PER_SECOND)
            await turns()

    def taken(self, address: SocketAddress) -> list[bytes]:
        """Returns the datagrams sent to that address since the last call."""
        mine = [data for data, _, (to, _) in self.udp.sent if to == address]
        self.udp.sent = [each for each in self.udp.sent if each[2][0] != address]
        return mine


async def turns() -> None:
    """Runs three iterations of the loop, enough for a chain of three callbacks."""
    for _ in range(3):
        await asyncio.sleep(0)


class Stranger:
    """A dialer that sends arbitrary packets."""

    def __init__(
        self,
        server: Server,
        address: SocketAddress = THERE,
        *,
        alpn: str = "quicdist/1",
        configure: Callable[[QuicConnection], None] = lambda quic: None,
    ) -> None:
        self.server = server
        self.address = address
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], verify_mode=ssl.CERT_NONE, connection_id_length=8
        )
        configuration.max_data = configuration.max_stream_data = 1 << 30
        self.quic = QuicConnection(configuration=configuration)
        configure(self.quic)
        self.quic.connect(HERE, self.now)
        self._number = 10_000

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def say(self) -> None:
        """Returns the datagrams that a valid dialer would send now."""
        for data, _ in self.quic.datagrams_to_send(self.now):
            self.server.udp.bring(data, self.address)

    def hear(self) -> int:
        """Receives the datagrams sent to it and returns their number."""
        heard = self.server.taken(self.address)
        for data in heard:
            self.quic.receive_datagram(data, HERE, self.now)
        return len(heard)

    async def exchange(self, rounds: int = 6) -> None:
        """Exchanges datagrams as a valid peer."""
        for _ in range(rounds):
            self.say()
            await self.server.settle()
            self.hear()

    def packet(self, epoch: Epoch, payload: bytes, number: int | None = None) -> bytes:
        """Returns an encrypted packet with these frames, by default with the next packet number."""
        if number is None:
            number = self._number
            self._number += 1
        quic = self.quic
        crypto = quic._cryptos[epoch]
        payload += bytes(max(0, 4 - len(payload)))
        destination = quic._peer_cid.cid
        truncated = (number & 0xFFFF).to_bytes(2, "big")
        if epoch is Epoch.ONE_RTT:
            first = 0x41 | crypto.key_phase << 2
            header = bytes((first,)) + destination + truncated
            return crypto.encrypt_packet(header, payload, number)
        version = int(quic._version or QuicProtocolVersion.VERSION_1)
        buf = Buffer(capacity=64)
        buf.push_uint8(encode_long_header_first_byte(version, _TYPES[epoch], 1))
        buf.push_uint32(version)
        for each in (destination, quic.host_cid):
            buf.push_uint8(len(each))
            buf.push_bytes(each)
        if epoch is Epoch.INITIAL:
            buf.push_uint_var(0)
        buf.push_uint16(0x4000 | len(payload) + 2 + 16)
        return crypto.encrypt_packet(buf.data + truncated, payload, number)

    def initial(self, payload: bytes, number: int | None = None) -> bytes:
        """Returns a datagram of 1200 bytes with one Initial packet with PADDING frames."""
        room = INITIAL_SIZE - len(self.packet(Epoch.INITIAL, bytes(8), 0)) + 8
        return self.packet(Epoch.INITIAL, payload + bytes(room - len(payload)), number)

    @property
    def room(self) -> int:
        """Bytes of frames in a datagram of 1200 bytes with one 1-RTT packet."""
        return INITIAL_SIZE - 1 - len(self.quic._peer_cid.cid) - 2 - 16

    @property
    def initial_room(self) -> int:
        """Bytes of frames in a datagram of 1200 bytes with one Initial packet."""
        return INITIAL_SIZE - len(self.packet(Epoch.INITIAL, bytes(8), 0)) + 8


def var(value: int) -> bytes:
    """Encodes a variable-length integer (RFC 9000, 16)."""
    return encode_uint_var(value)


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame (RFC 9000, 19.6)."""
    return b"\x06" + var(offset) + var(len(data)) + data


def stream(stream_id: int, offset: int, data: bytes) -> bytes:
    """A STREAM frame (RFC 9000, 19.8)."""
    return b"\x0e" + var(stream_id) + var(offset) + var(len(data)) + data


def ack(largest: int, ranges: Sequence[tuple[int, int]] = (), first: int = 0) -> bytes:
    """An ACK frame (RFC 9000, 19.3); `ranges` are pairs of gap and length as on the wire."""
    frame = b"\x02" + var(largest) + var(0) + var(len(ranges)) + var(first)
    return frame + b"".join(var(gap) + var(length) for gap, length in ranges)


def packed(frames: Iterable[bytes], room: int, most: int = 1 << 30) -> list[bytes]:
    """Packs frames in order into payloads of at most `room` bytes and `most` frames."""
    payloads: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        if size + len(frame) > room or len(parts) == most:
            payloads.append(b"".join(parts))
            parts, size = [], 0
        parts.append(frame)
        size += len(frame)
    if parts:
        payloads.append(b"".join(parts))
    return payloads


def junk(size: int) -> bytes:
    """Returns bytes that cannot be decrypted."""
    return os.urandom(size)
