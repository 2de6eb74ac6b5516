"""Test doubles of third-party carriers: bare aioquic peers that tests control.

Data that arrives within MOMENT is one event, as in the QUIC libraries of those carriers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from tests.carriers.owners import IDENTITY
from tests.support.waiting import PATIENCE

MOMENT = 0.015
"""Seconds within which chunks reach the application as one event."""


class Double(QuicConnectionProtocol):
    """A connection of a third-party carrier."""

    moment = MOMENT

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        self.chunks: list[tuple[int, bytes]] = []
        """STREAM chunks in order of arrival."""
        self.resets: list[tuple[int, int]] = []
        self.terminated: events.ConnectionTerminated | None = None
        self.is_up = asyncio.Event()
        self.opened_after: float | None = None
        """Seconds from the end of the TLS handshake to the first stream byte."""
        self._up_at = 0.0
        self._merging: dict[int, bytes] = {}
        self._events: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.HandshakeCompleted):
            self._up_at = self._loop.time()
            self.is_up.set()
        elif isinstance(event, events.StreamDataReceived):
            if self.opened_after is None:
                self.opened_after = self._loop.time() - self._up_at
            self.chunks.append((event.stream_id, event.data))
            if event.stream_id not in self._merging:
                self._merging[event.stream_id] = b""
                self._loop.call_later(self.moment, self._event_over, event.stream_id)
            self._merging[event.stream_id] += event.data
        elif isinstance(event, events.StreamReset):
            self.resets.append((event.stream_id, event.error_code))
        elif isinstance(event, events.ConnectionTerminated):
            self.terminated = event

    def _event_over(self, stream: int) -> None:
        self._events.put_nowait((stream, self._merging.pop(stream)))

    async def event(self, stream: int = 0) -> bytes:
        """Returns the next merged data of this stream; data of other streams is dropped."""
        while True:
            at, data = await asyncio.wait_for(self._events.get(), PATIENCE)
            if at == stream:
                return data

    async def events_until(self, enough: Callable[[bytes], bool], stream: int = 0) -> bytes:
        """Reads this stream until it has at least that many bytes."""
        data = b""
        while not enough(data):
            data += await self.event(stream)
        return data

    def say(self, data: bytes, stream: int = 0) -> None:
        """Sends one chunk. Also opens lower streams, because aioquic requires that order."""
        if stream % 2 == 1 - self._quic._is_client:
            for lower in range(self._quic.get_next_available_stream_id(), stream, 4):
                self._quic.send_stream_data(lower, b"")
        self._quic.send_stream_data(stream, data)
        self.transmit()

    def hang_up_softly(self) -> None:
        """Sends RESET_STREAM and STOP_SENDING only."""
        self._quic.reset_stream(0, 0)
        self._quic.stop_stream(0, 0)
        self.transmit()

    def vanish(self) -> None:
        """Stops all datagrams in both directions, as after SIGKILL."""
        if self._timer is not None:
            self._timer.cancel()
        self.datagram_received = lambda data, addr: None  # type: ignore[method-assign]  # receives nothing
        self.transmit = lambda: None  # type: ignore[method-assign]  # sends nothing
        self._closed.set()


def framed(message: bytes) -> bytes:
    """Prefixes a u16 length."""
    return len(message).to_bytes(2, "big") + message


def frame(body: bytes) -> bytes:
    """Prefixes a u32 length."""
    return len(body).to_bytes(4, "big") + body


@asynccontextmanager
async def dialing_double(
    port: int, alpn: str, *, idle_timeout: float = 30.0, **changes: int
) -> AsyncIterator[Double]:
    """Dials a node as a third-party carrier."""
    configuration = QuicConfiguration(
        alpn_protocols=[alpn],
        verify_mode=ssl.CERT_NONE,
        idle_timeout=idle_timeout,
        **changes,  # type: ignore[arg-type]  # passed through
    )
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Double
    ) as made:
        assert isinstance(made, Double)
        yield made


@asynccontextmanager
async def listening_double(
    alpn: str, serve_one: Callable[[Double, int], object], **changes: int
) -> AsyncIterator[int]:
    """Listens as a third-party carrier and yields the port.

    Calls `serve_one(connection, number)` for each connection. A coroutine that it returns runs as a
    task, and an error of that task fails the test.
    """
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=[alpn],
        **changes,  # type: ignore[arg-type]  # passed through
    )
    configuration.certificate = IDENTITY.certificate
    configuration.private_key = IDENTITY.key
    tasks: list[asyncio.Task[object]] = []
    count = 0

    def make(*args: object, **kwargs: object) -> Double:
        nonlocal count
        made = Double(*args, **kwargs)
        count += 1
        result = serve_one(made, count)
        if asyncio.iscoroutine(result):
            tasks.append(asyncio.ensure_future(result))
        return made

    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=make)
    assert server._transport is not None
    try:
        yield server._transport.get_extra_info("sockname")[1]
        for task in tasks:
            await asyncio.wait_for(task, PATIENCE)
    finally:
        for task in tasks:
            task.cancel()
        server.close()
        await asyncio.sleep(0)
