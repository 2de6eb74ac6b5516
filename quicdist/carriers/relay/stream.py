"""Frames on a TLS connection, each with a length of two bytes before it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from quicdist.carriers.quic.engine import SocketAddress

_U16 = 2

Frames = Callable[[Sequence[bytes]], None]


def _nothing() -> None:
    """Nothing is done at that time."""


class FrameSplitter:
    """Splits a byte stream into frames. What is incomplete is kept: less than 64 KiB."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the frames that `data` completes."""
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= _U16:
            stop = at + _U16 + int.from_bytes(data[at : at + _U16], "big")
            if stop > end:
                break
            frames.append(data[at + _U16 : stop])
            at = stop
        self._rest = data[at:]
        return frames


def with_length(frame: bytes) -> bytes:
    """The frame with its length before it."""
    return len(frame).to_bytes(_U16, "big") + frame


class FrameConnection(asyncio.Protocol):
    """One end of the connection. `on_frames` gets what arrives, `on_lost` is called at the end."""

    def __init__(
        self,
        on_frames: Frames,
        on_lost: Callable[[], None],
        *,
        backlog: int,
        on_made: Callable[[], None] = _nothing,
    ) -> None:
        """`backlog` is the number of bytes that may wait; data frames above it are dropped, as a
        full link would."""
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._on_made = on_made
        self._backlog = backlog
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self.dropped = 0
        """Data frames that were not sent."""

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS session."""
        assert self._transport is not None
        tls: ssl.SSLObject = self._transport.get_extra_info("ssl_object")
        return tls

    @property
    def peer_address(self) -> SocketAddress:
        """The address of the other end."""
        assert self._transport is not None
        address: SocketAddress = self._transport.get_extra_info("peername")
        return address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._on_made()

    def data_received(self, data: bytes) -> None:
        frames = self._splitter.feed(data)
        if frames:
            self._on_frames(frames)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def send(self, message: bytes) -> None:
        """Sends a control message."""
        if self._transport is not None:
            self._transport.write(with_length(message))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Sends data frames, or drops them while too much waits."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > self._backlog:
            self.dropped += len(frames)
            return
        transport.write(b"".join([with_length(frame) for frame in frames]))

    def close(self) -> None:
        """Closes the connection after what was sent."""
        if self._transport is not None:
            self._transport.close()
