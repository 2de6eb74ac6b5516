"""Inputs that consist of several pieces, and the recorded packets for seeds.

An input is one choice byte followed by pieces, each prefixed with a u16 length. The last piece may
be truncated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quicdist.etf import Atom, Term, decode_bare
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.header import HEADER, VERSION, IncomingAtomCache
from quicdist.protocol.packet import HandshakePacket
from tests.protocol.recordings import RECORDINGS, Recorded, conversations

SMALL = 4096
"""Maximum bytes of a piece of a seed; long pieces slow the fuzzer down."""


def split(data: bytes) -> tuple[int, list[bytes]]:
    """Returns the choice byte and the pieces."""
    choice, at = (data[0] if data else 0), 1
    pieces = []
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        pieces.append(data[at + 2 : end])
        at = end
    return choice, pieces


def join(choice: int, pieces: Sequence[bytes]) -> bytes:
    """Returns the input that `split` separates into these parts."""
    framed = (len(piece).to_bytes(2, "big") + piece for piece in pieces)
    return bytes((choice,)) + b"".join(framed)


def talks() -> Iterator[list[Recorded]]:
    """Yields the recorded packets of each connection, without long ones."""
    for name in RECORDINGS:
        for talk in conversations(name):
            yield [one for one in talk if len(one.packet.data) <= SMALL]


def handshakes() -> Iterator[list[Recorded]]:
    """Yields the handshake of each connection."""
    for talk in talks():
        yield [one for one in talk if isinstance(one.packet, HandshakePacket)]


def frames(count: int = 20) -> Iterator[list[bytes]]:
    """Yields frames of one direction of each connection, `count` at a time."""
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
    """Yields recorded control messages, each with its payload, if any."""
    for talk in talks():
        caches = {True: IncomingAtomCache(), False: IncomingAtomCache()}
        for one in talk:
            frame = one.packet.data
            if frame[:2] == bytes((VERSION, HEADER)):
                try:
                    atoms, at = caches[one.dialed].read(frame, 2)
                except ProtocolError:
                    continue  # the frame that filled the atom cache was long and is omitted
                yield _terms(frame, at, atoms)


def _terms(frame: bytes, at: int, atoms: Sequence[Atom]) -> list[Term]:
    found = []
    while at < len(frame):
        term, at = decode_bare(frame, at, atoms=atoms)
        found.append(term)
    return found
