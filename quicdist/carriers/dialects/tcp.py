"""The framing of OTP's own carriers: u16 lengths in the handshake, u32 lengths after it.

ERTS manual, Distribution Protocol, "Distribution Handshake" and "Protocol between Connected
Nodes". One stream, number 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.carriers.base import Buffer, DialectError, DialectTraits, Received, Write
from quicdist.dist.packet import FramePacket, HandshakePacket, Packet

_CHALLENGE_ACK = ord("a")
"""The acceptor's digest: the last message of every handshake that succeeds."""

_TICK = (bytes(4),)


class TcpDialect:
    """Packets on one byte stream, as `inet_tcp_dist` has them."""

    traits = DialectTraits(name="tcp", alpn="")

    def __init__(self, *, max_handshake: int = 4096, max_frame: int = 128 * 1024 * 1024) -> None:
        """Limits are in bytes, on one packet."""
        self._max_handshake = max_handshake
        self._max_frame = max_frame
        self._length_size = 2
        self._header = bytearray()
        self._pieces: list[bytes] = []
        self._missing = 0

    def opened(self) -> Sequence[Write]:
        """Nothing goes before the handshake."""
        return ()

    def handshake_bytes(self, message: bytes) -> Sequence[Write]:
        """The message behind its u16 length."""
        if message[:1] == b"a":
            self._length_size = 4
        return (Write(0, (len(message).to_bytes(2, "big"), message)),)

    def connected(self) -> Sequence[Write]:
        """Lengths have four bytes from here on."""
        self._length_size = 4
        return ()

    def frame_bytes(self, parts: Sequence[Buffer]) -> Sequence[Write]:
        """The frame behind its u32 length; no parts is a length of zero."""
        if not parts:
            return (Write(0, _TICK),)
        length = sum(map(_size, parts))
        return (Write(0, (length.to_bytes(4, "big"), *parts)),)

    def receive(self, stream: int, data: Buffer) -> Received:
        """Whole packets out of bytes however cut. Raises DialectError for one above its limit.

        The handshake's last message may have frames right behind it: this side switches when
        it has passed, in either direction, and waits for nobody to say so.
        """
        packets: list[Packet] = []
        view = memoryview(data).cast("B")
        at, end = 0, len(view)
        while at < end:
            if self._missing:
                at = self._more_body(view, at, packets)
                continue
            size = self._length_size
            if not self._header and end - at >= size:
                length = int.from_bytes(view[at : at + size], "big")
                at += size
            else:
                taken = view[at : at + size - len(self._header)]
                self._header += taken
                at += len(taken)
                if len(self._header) < size:
                    break
                length = int.from_bytes(self._header, "big")
                self._header.clear()
            self._check(length)
            if length <= end - at:
                packets.append(self._packet(bytes(view[at : at + length])))
                at += length
            else:
                self._missing = length
        return Received(packets)

    def missing(self, stream: int) -> int:
        """What the packet under assembly still wants, in bytes."""
        if self._header:
            return self._length_size - len(self._header)
        return self._missing

    def _more_body(self, view: memoryview, at: int, packets: list[Packet]) -> int:
        piece = bytes(view[at : at + self._missing])
        self._missing -= len(piece)
        self._pieces.append(piece)
        if not self._missing:
            body = b"".join(self._pieces)
            self._pieces.clear()
            packets.append(self._packet(body))
        return at + len(piece)

    def _packet(self, body: bytes) -> Packet:
        if self._length_size == 4:
            return FramePacket(body)
        if body and body[0] == _CHALLENGE_ACK:
            self._length_size = 4
        return HandshakePacket(body)

    def _check(self, length: int) -> None:
        if self._length_size == 4:
            if length > self._max_frame:
                raise DialectError(
                    f"a frame of {length} bytes; at most {self._max_frame} are taken"
                )
        elif length > self._max_handshake:
            raise DialectError(
                f"a handshake message of {length} bytes; at most {self._max_handshake} are taken"
            )


def _size(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
