"""Several pieces of bytes in one input, and the recorded packets that seeds are made of.

An input is one byte of choice and then pieces, each behind a u16 length; the last may be cut short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quicdist.etf import Atom, Term, decode_bare
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.header import HEADER, VERSION, IncomingAtomCache
from quicdist.protocol.packet import HandshakePacket
from tests.protocol.recordings import RECORDINGS, Recorded, conversations

SMALL = 4096
"""Bytes of the longest piece of a seed: a fuzzer learns little from a long one."""


def split(data: bytes) -> tuple[int, list[bytes]]:
    """The choice, and the pieces."""
    choice, at = (data[0] if data else 0), 1
    pieces = []
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        pieces.append(data[at + 2 : end])
        at = end
    return choice, pieces


def join(choice: int, pieces: Sequence[bytes]) -> bytes:
    """What `split` takes apart."""
    framed = (len(piece).to_bytes(2, "big") + piece for piece in pieces)
    return bytes((choice,)) + b"".join(framed)


def talks() -> Iterator[list[Recorded]]:
    """What real nodes have said, connection by connection, but for what is long."""
    for name in RECORDINGS:
        for talk in conversations(name):
            yield [one for one in talk if len(one.packet.data) <= SMALL]


def handshakes() -> Iterator[list[Recorded]]:
    """The handshake of each connection."""
    for talk in talks():
        yield [one for one in talk if isinstance(one.packet, HandshakePacket)]


def frames(count: int = 20) -> Iterator[list[bytes]]:
    """Frames of one direction of each connection, so many at a time."""
    for talk in talks():
        for dialed in (True, False):
            said = [
                one.packet.data
                for one in talk
                if one.dialed is dialed and not isinstance(one.packet, HandshakePacket)
            ]
            for start in range(0, min(len(said), 5 * count), count):
                yield said[start : start + count]


def messages() -> Iterator[list[Term]]:
    """Recorded control messages, each with the payload that follows it, if any."""
    for talk in talks():
        caches = {True: IncomingAtomCache(), False: IncomingAtomCache()}
        for one in talk:
            frame = one.packet.data
            if frame[:2] == bytes((VERSION, HEADER)):
                try:
                    atoms, at = caches[one.dialed].read(frame, 2)
                except ProtocolError:
                    continue  # what filled the cache was long, and is left out
                yield _terms(frame, at, atoms)


def _terms(frame: bytes, at: int, atoms: Sequence[Atom]) -> list[Term]:
    found = []
    while at < len(frame):
        term, at = decode_bare(frame, at, atoms=atoms)
        found.append(term)
    return found
