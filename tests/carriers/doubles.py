"""Doubles of foreign carriers: bare aioquic peers that behave as tests tell them to.

What arrives within a moment is one event, as in the libraries that those carriers stand on.
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
    """One connection of a foreign carrier."""

    moment = MOMENT

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        self.chunks: list[tuple[int, bytes]] = []
        """STREAM chunks as they came."""
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
        """What comes next on this stream, merged as a library would; others are dropped."""
        while True:
            at, data = await asyncio.wait_for(self._events.get(), PATIENCE)
            if at == stream:
                return data

    async def events_until(self, enough: Callable[[bytes], bool], stream: int = 0) -> bytes:
        """All that comes on this stream until there is enough."""
        data = b""
        while not enough(data):
            data += await self.event(stream)
        return data

    def say(self, data: bytes, stream: int = 0) -> None:
        """One chunk. Streams below are opened too: aioquic wants them in order."""
        if stream % 2 == 1 - self._quic._is_client:
            for lower in range(self._quic.get_next_available_stream_id(), stream, 4):
                self._quic.send_stream_data(lower, b"")
        self._quic.send_stream_data(stream, data)
        self.transmit()

    def hang_up_softly(self) -> None:
        """RESET_STREAM and STOP_SENDING, and nothing else."""
        self._quic.reset_stream(0, 0)
        self._quic.stop_stream(0, 0)
        self.transmit()

    def vanish(self) -> None:
        """As by kill -9: not one datagram more, in or out."""
        if self._timer is not None:
            self._timer.cancel()
        self.datagram_received = lambda data, addr: None  # type: ignore[method-assign]  # deaf
        self.transmit = lambda: None  # type: ignore[method-assign]  # dumb
        self._closed.set()


def framed(message: bytes) -> bytes:
    """Behind a u16 length."""
    return len(message).to_bytes(2, "big") + message


def frame(body: bytes) -> bytes:
    """Behind a u32 length."""
    return len(body).to_bytes(4, "big") + body


@asynccontextmanager
async def dialing_double(
    port: int, alpn: str, *, idle_timeout: float = 30.0, **changes: int
) -> AsyncIterator[Double]:
    """A foreign node that dials us."""
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
    """A foreign node that we dial: `serve_one(connection, number)` for each that comes; its port.

    Where `serve_one` gives back a coroutine, it runs as a task whose failure is the test's.
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
