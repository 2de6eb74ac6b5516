"""One end of a bulk flow that shares a path with another one.

    python -m benchmarks.wan.fair_side quicdist SETTINGS HOST [NAME]
    python -m benchmarks.wan.fair_side tcp CONGESTION HOST [NAME]
    python -m benchmarks.wan.fair_side ping SECONDS HOST [NAME]

SETTINGS are the settings of `Quic` as JSON, CONGESTION is a TCP congestion control of the kernel.
Without a NAME it receives: it prints its name and answers each line of standard input with the
number of bytes received so far. With the NAME of a receiver it connects, prints a line, and after
a line of standard input it sends until it is killed. `ping` sends a datagram every SECONDS and
answers each line of standard input with the round trips since the line before, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from typing import cast

from benchmarks.sides.measuring import hear, log_errors_only, say
from benchmarks.wan.node import node_on
from quicdist import Mailbox

_PIECE = bytes(64 * 1024)
_TIME = struct.Struct("!d")


class Count:
    """The number of bytes received."""

    def __init__(self) -> None:
        self.bytes = 0

    async def tell(self) -> None:
        """Answers each line of standard input until it ends."""
        while await hear():
            say({"bytes": self.bytes})


async def quicdist_side(settings: str, host: str, receiver: str | None) -> None:
    count = Count()

    async def sink(me: Mailbox) -> None:
        while True:
            count.bytes += len(await me.receive())

    async with node_on(host, json.loads(settings)) as node:
        if receiver is None:
            node.spawn(sink, name="sink")
            say({"name": node.name})
            await count.tell()
            return
        await node.connect(receiver)
        say({})
        await hear()
        async with node.mailbox() as me:
            while True:
                await me.send(("sink", receiver), _PIECE)


async def tcp_side(congestion: str, host: str, receiver: str | None) -> None:
    count = Count()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(len(_PIECE)):
            count.bytes += len(piece)

    if receiver is None:
        server = await asyncio.start_server(sink, host)
        say({"name": address(server.sockets[0].getsockname())})
        await count.tell()
        return
    to, port = receiver.split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        await loop.sock_connect(sender, (to, int(port)))
        say({})
        await hear()
        while True:
            await loop.sock_sendall(sender, _PIECE)


class Echo(asyncio.DatagramProtocol):
    """Returns each datagram."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class Pinger(asyncio.DatagramProtocol):
    """Stores the round trip of each datagram, which contains the time at which it was sent."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        (sent,) = _TIME.unpack(data)
        self.times.append(time.perf_counter() - sent)


async def ping_side(seconds: str, host: str, receiver: str | None) -> None:
    loop = asyncio.get_running_loop()
    if receiver is None:
        echo, _ = await loop.create_datagram_endpoint(Echo, (host, 0))
        say({"name": address(echo.get_extra_info("sockname"))})
        await hear()
        return
    to, port = receiver.split(":")
    transport, pinger = await loop.create_datagram_endpoint(Pinger, remote_addr=(to, int(port)))
    say({})

    async def ping() -> None:
        while True:
            transport.sendto(_TIME.pack(time.perf_counter()))
            await asyncio.sleep(float(seconds))

    pinging = asyncio.create_task(ping())
    while await hear():
        say({"times": pinger.times})
        pinger.times = []
    pinging.cancel()


def address(name: tuple[str, int]) -> str:
    """Returns the address of a socket as the NAME of a receiver."""
    return f"{name[0]}:{name[1]}"


async def main() -> None:
    log_errors_only()
    kind, how, host = sys.argv[1:4]
    receiver = sys.argv[4] if len(sys.argv) > 4 else None
    side = {"quicdist": quicdist_side, "tcp": tcp_side, "ping": ping_side}[kind]
    await side(how, host, receiver)


asyncio.run(main())
