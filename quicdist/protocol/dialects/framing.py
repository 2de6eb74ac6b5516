"""Length-prefixed packets on a byte stream: what every dialect's framing is made of.

Bodies are collected as they come and joined once, so that a frame of any size costs one copy;
lengths are checked before anything is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Buffer, DialectError

_U32 = Struct(">I")

TICK = bytes(4)
"""A frame without a body, length field and all."""

_COPIED = 32 * 1024
"""Bytes of a frame that is copied behind its length; a larger one stays where it is."""


class LengthFramer:
    """Cuts one stream's bytes into bodies behind `width`-byte big-endian lengths."""

    __slots__ = ("_body", "_header", "_limit", "_missing", "_name", "width")

    def __init__(self, width: int, limit: int, name: str) -> None:
        """`limit` is the longest body in bytes, `name` what a body is called in errors."""
        self.width = width
        self._limit = limit
        self._name = name
        self._header = b""
        self._body: list[bytes] = []
        self._missing = 0

    @property
    def missing(self) -> int:
        """Bytes that the packet under assembly still wants."""
        if self._missing:
            return self._missing
        return self.width - len(self._header) if self._header else 0

    def feed_one(self, data: bytes) -> tuple[bytes | None, bytes]:
        """The first body that `data` completes, or None, and what of `data` lies behind it.

        Raises DialectError for a length above the limit.
        """
        if not self._missing:
            if self._header:
                data = self._header + data
                self._header = b""
            if len(data) < self.width:
                self._header = data
                return None, b""
            length = int.from_bytes(data[: self.width], "big")
            end = self.width + length
            if len(data) >= end:
                self._check(length)
                return data[self.width : end], data[end:]
            self._begin(length)
            data = data[self.width :]
        return self._continue(data)

    def feed_frames(self, data: bytes) -> list[bytes]:
        """All u32-framed bodies that `data` completes: the hot path.

        Raises DialectError for a length above the limit.
        """
        bodies: list[bytes] = []
        if self._missing:
            body, data = self._continue(data)
            if body is None:
                return bodies
            bodies.append(body)
        elif self._header:
            data = self._header + data
            self._header = b""
        at, end, limit = 0, len(data), self._limit
        unpack = _U32.unpack_from
        while end - at >= 4:
            (length,) = unpack(data, at)
            at += 4
            stop = at + length
            if stop <= end and length <= limit:
                bodies.append(data[at:stop])
                at = stop
            else:
                self._begin(length)
                self._continue(data[at:])
                return bodies
        if at < end:
            self._header = data[at:]
        return bodies

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise DialectError(f"{self._name} of {length} bytes; at most {self._limit} are taken")

    def _begin(self, length: int) -> None:
        self._check(length)
        self._missing = length

    def _continue(self, data: bytes) -> tuple[bytes | None, bytes]:
        if len(data) < self._missing:
            if data:
                self._body.append(data)
                self._missing -= len(data)
            return None, b""
        self._body.append(data[: self._missing])
        rest = data[self._missing :]
        self._missing = 0
        body = b"".join(self._body)
        self._body.clear()
        return body, rest


def handshake_framer(limits: CarrierLimits, width: int = 2) -> LengthFramer:
    """Messages behind u16 lengths, as in the handshake of the ERTS manual, or wider ones."""
    return LengthFramer(width, limits.max_handshake, "a handshake message")


def frame_framer(limits: CarrierLimits) -> LengthFramer:
    """Frames behind u32 lengths, as between connected nodes."""
    return LengthFramer(4, limits.max_frame, "a frame")


def length_prefixed(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """A frame's parts behind their u32 length; no parts is a tick."""
    if not parts:
        return (TICK,)
    whole = parts[0]
    if len(parts) == 1 and type(whole) is bytes and len(whole) < _COPIED:
        return (_U32.pack(len(whole)) + whole,)
    length = 0
    for part in parts:
        length += part.nbytes if isinstance(part, memoryview) else len(part)
    return (_U32.pack(length), *parts)
