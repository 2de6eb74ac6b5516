"""Checks whether a UDP port speaks QUIC, with an unknown version (RFC 9000, section 6)."""

from __future__ import annotations

import asyncio
import enum
import secrets

_NO_VERSION = 0x1A2A3A4A
"""A version reserved to force version negotiation (RFC 9000, section 15)."""

_PAUSES = (0.2, 0.4, 0.8)
"""Seconds between questions. Any datagram may be lost."""


class Answer(enum.Enum):
    """The answer of a port."""

    QUIC = "QUIC"
    OTHER = "the answer of the port is not QUIC"
    NOBODY = "the port is closed"
    NOTHING = "no answer"


class _Asking(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        is_quic = len(data) >= 7 and data[0] & 0x80 and data[1:5] == bytes(4)
        self._tell(Answer.QUIC if is_quic else Answer.OTHER)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, ConnectionRefusedError):
            self._tell(Answer.NOBODY)
        elif not self.answer.done():
            self.answer.set_exception(exc)

    def _tell(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


async def ask(host: str, port: int) -> Answer:
    """Sends several questions within about a second.

    Raises OSError for an unknown host, and for an ICMP error other than that of a closed port.
    """
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_datagram_endpoint(_Asking, remote_addr=(host, port))
    try:
        for pause in _PAUSES:
            transport.sendto(_question())
            done, _ = await asyncio.wait([asking.answer], timeout=pause)
            if done:
                return asking.answer.result()
        return Answer.NOTHING
    finally:
        transport.close()


def _question() -> bytes:
    header = b"\xc0" + _NO_VERSION.to_bytes(4, "big")
    ids = b"\x08" + secrets.token_bytes(8) + b"\x08" + secrets.token_bytes(8)
    return (header + ids).ljust(1200, b"\0")
