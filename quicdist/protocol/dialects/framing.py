"""Length-prefixed packets on a byte stream, the basis of the framing of every dialect.

The parts of a body are collected and joined once, so that a frame of any size costs one copy.
Lengths are checked before data is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from quicdist.etf.codec import split_frames
from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Buffer, DialectError

_U32 = Struct(">I")

TICK = bytes(4)
"""A frame without a body, including its length field."""

_COPIED = 32 * 1024
"""Maximum size in bytes of a frame that is copied to follow its length. Larger frames are not
copied."""


class LengthFramer:
    """Splits the bytes of one stream into bodies with big-endian lengths of `width` bytes."""

    __slots__ = ("_body", "_header", "_limit", "_missing", "_name", "announced", "width")

    def __init__(self, width: int, limit: int, name: str) -> None:
        """`limit` is the maximum size of a body in bytes. Error texts use `name` for a body."""
        self.width = width
        self._limit = limit
        self._name = name
        self._header = b""
        self._body: list[bytes] = []
        self._missing = 0
        self.announced = 0
        """The size of the current body in bytes if it is incomplete, else 0."""

    @property
    def missing(self) -> int:
        """The number of bytes that the current packet lacks."""
        if self._missing:
            return self._missing
        return self.width - len(self._header) if self._header else 0

    def feed_one(self, data: bytes) -> tuple[bytes | None, bytes]:
        """Returns the first body that `data` completes, or None, and the rest of `data` after it.

        Raises DialectError if a length exceeds the limit.
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

    def feed_frames(self, data: bytes | memoryview) -> list[bytes]:
        """Returns all bodies with u32 lengths that `data` completes. This is the hot path.

        Memory that is reused after the call is given as a memoryview. Large bodies are then copied
        once, directly out of it. Raises DialectError if a length exceeds the limit.
        """
        bodies: list[bytes] = []
        if type(data) is memoryview:
            data = self._take_large(data, bodies)
        assert type(data) is bytes
        if self._missing:
            body, data = self._continue(data)
            if body is None:
                return bodies
            bodies.append(body)
        elif self._header:
            data = self._header + data
            self._header = b""
        whole, at = split_frames(data, 0, self._limit)
        bodies = bodies + whole if bodies else whole
        if len(data) - at < 4:
            self._header = data[at:]
        else:
            self._begin(_U32.unpack_from(data, at)[0])
            self._continue(data[at + 4 :])
        return bodies

    def _take_large(self, data: memoryview, bodies: list[bytes]) -> bytes:
        """Takes large bodies from the start of `data`. Returns the bytes after them."""
        at, end = 0, len(data)
        if self._missing:
            at = min(self._missing, end)
            body, _ = self._continue(bytes(data[:at]))
            if body is not None:
                bodies.append(body)
        while not self._header and not self._missing and end - at >= 4 + _COPIED:
            (length,) = _U32.unpack_from(data, at)
            if length < _COPIED:
                break
            self._begin(length)
            start, at = at + 4, min(at + 4 + length, end)
            body, _ = self._continue(bytes(data[start:at]))
            if body is not None:
                bodies.append(body)
        return bytes(data[at:])

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise DialectError(f"{self._name} of {length} bytes exceeds the limit of {self._limit}")

    def _begin(self, length: int) -> None:
        self._check(length)
        self._missing = self.announced = length

    def _continue(self, data: bytes) -> tuple[bytes | None, bytes]:
        if len(data) < self._missing:
            if data:
                self._body.append(data)
                self._missing -= len(data)
            return None, b""
        self._body.append(data[: self._missing])
        rest = data[self._missing :]
        self._missing = self.announced = 0
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body, rest


def handshake_framer(limits: CarrierLimits, width: int = 2) -> LengthFramer:
    """A framer for handshake messages, with u16 lengths (ERTS manual) or wider ones."""
    return LengthFramer(width, limits.max_handshake, "a handshake message")


def frame_framer(limits: CarrierLimits) -> LengthFramer:
    """A framer for frames with u32 lengths, as between connected nodes."""
    return LengthFramer(4, limits.max_frame, "a frame")


def length_prefixed(parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """The parts of a frame with the u32 length first. No parts is a tick."""
    if not parts:
        return (TICK,)
    whole = parts[0]
    if len(parts) == 1 and type(whole) is bytes and len(whole) < _COPIED:
        return (_U32.pack(len(whole)) + whole,)
    length = 0
    for part in parts:
        length += part.nbytes if isinstance(part, memoryview) else len(part)
    return (_U32.pack(length), *parts)
