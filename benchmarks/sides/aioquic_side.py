"""aioquic's asyncio API, which moves the same bytes without terms.

    python -m benchmarks.sides.aioquic_side MESSAGES_PER_WRITE [HOST:PORT]

Each purpose has one stream. aioquic's writer applies no back-pressure, so the reader reports what
it has read, and the writer stays at most a few MiB ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from benchmarks.sides.measuring import LARGE, SMALL, drive, hear, log_errors_only, say
from quicdist import Identity

ALPN = ["bench"]
REPORT = 256 * 1024
AHEAD = 4 * 1024 * 1024


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes each message."""
    while True:
        writer.write(await reader.readexactly(len(SMALL)))


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Writes one byte for each REPORT bytes read."""
    unreported = 0
    while data := await reader.read(REPORT):
        unreported += len(data)
        if unreported >= REPORT:
            writer.write(bytes(unreported // REPORT))
            unreported %= REPORT


async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handles a stream; its first byte names its purpose."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        purpose = await reader.readexactly(1)
        await (echo if purpose == b"e" else sink)(reader, writer)


_tasks: set[asyncio.Task[None]] = set()


def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handles a stream that the other side opened."""
    task = asyncio.ensure_future(treat(reader, writer))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def serving() -> None:
    """Serves until standard input ends."""
    identity = Identity.ephemeral(["127.0.0.1"])
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.certificate = identity.certificate
    configuration.private_key = identity.key
    server: Any = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=on_stream)
    host, port = server._transport.get_extra_info("sockname")[:2]
    say({"name": f"{host}:{port}"})
    await hear()


class RawLink:
    """A link over one aioquic connection."""

    def __init__(self, host: str, port: int, per_write: int) -> None:
        self._host = host
        self._port = port
        self._per_write = per_write
        self._held = contextlib.AsyncExitStack()
        self._living = contextlib.AsyncExitStack()

    async def disconnect(self) -> None:
        await self._living.aclose()

    async def connect(self) -> None:
        self._living = contextlib.AsyncExitStack()
        protocol = await self._open(self._living)
        self._echo_in, self._echo_out = await protocol.create_stream()
        self._echo_out.write(b"e")
        self._sink_in, self._sink_out = await protocol.create_stream()
        self._sink_out.write(b"s")
        self._put = 0
        self._read = 0
        self._joined: list[bytes] = []

    async def _open(self, keeper: contextlib.AsyncExitStack) -> QuicConnectionProtocol:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN)
        configuration.verify_mode = ssl.CERT_NONE
        opening = connect(self._host, self._port, configuration=configuration)
        return await keeper.enter_async_context(opening)

    async def echo(self) -> None:
        self._echo_out.write(SMALL)
        await self._echo_in.readexactly(len(SMALL))

    async def put(self, message: bytes) -> None:
        self._put += len(message)
        if len(message) == len(LARGE):
            self._sink_out.write(message)
        else:
            self._joined.append(message)
            if len(self._joined) < self._per_write:
                return
            self._sink_out.write(b"".join(self._joined))
            self._joined.clear()
        await asyncio.sleep(0)
        if self._put - self._read > AHEAD:
            await self._until(self._put - AHEAD // 2)

    async def settle(self) -> None:
        self._sink_out.write(b"".join(self._joined))
        self._joined.clear()
        # Pads to the next multiple of REPORT, so that the reader reports the rest.
        rest = -self._put % REPORT
        self._sink_out.write(bytes(rest))
        self._put += rest
        await self._until(self._put)

    async def _until(self, read: int) -> None:
        while self._read < read:
            self._read += REPORT * len(await self._sink_in.read(1024))

    async def hold(self, count: int) -> None:
        for _ in range(count):
            await self._open(self._held)


async def main() -> None:
    """Runs a server or a driver."""
    log_errors_only()
    if len(sys.argv) < 3:
        await serving()
        return
    host, port = sys.argv[2].split(":")
    link = RawLink(host, int(port), int(sys.argv[1]))
    await link.connect()
    await drive(link)


asyncio.run(main())
