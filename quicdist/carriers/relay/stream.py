"""Frames on a TLS connection, each with a length of two bytes before it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.relay.frames import MAX_CONTROL, MAX_FRAME, FrameError

_U16 = 2

_CONTROL_BACKLOG = 65_536
"""Bytes beyond the backlog of data frames at which a peer counts as one that reads nothing."""

Frames = Callable[[Sequence[bytes]], None]


def _nothing() -> None:
    """Nothing is done at that time."""


class FrameSplitter:
    """Splits a byte stream into frames. What is incomplete is kept: less than 64 KiB."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        """Maximum size of a frame in bytes."""
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the frames that `data` completes. Raises FrameError if one is too large."""
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= _U16:
            length = int.from_bytes(data[at : at + _U16], "big")
            if length > self.limit:
                raise FrameError(f"frame of {length} bytes exceeds the limit of {self.limit}")
            stop = at + _U16 + length
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
        """`backlog` is the number of bytes that may wait.

        data frames above it are dropped, as a full link would.
        """
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._on_made = on_made
        self._backlog = backlog
        self._splitter = FrameSplitter(MAX_CONTROL)
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
        """Called by asyncio when the TLS handshake is complete."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._on_made()

    def expect_data(self) -> None:
        """Accepts data frames from now on, which may be larger than control messages."""
        self._splitter.limit = MAX_FRAME

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with bytes of the stream."""
        try:
            frames = self._splitter.feed(data)
        except FrameError:
            self.abort()
            return
        if frames:
            self._on_frames(frames)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio at the end of the connection."""
        self._transport = None
        self._on_lost()

    def send(self, message: bytes) -> None:
        """Sends a control message. A peer that reads nothing is disconnected."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > self._backlog + _CONTROL_BACKLOG:
            self.abort()
        else:
            transport.write(with_length(message))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Sends data frames, or drops them while too much waits."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > self._backlog:
            self.dropped += len(frames)
            return
        transport.write(b"".join([with_length(frame) for frame in frames]))

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection after what was sent."""
        if self._transport is not None:
            self._transport.close()
