from collections.abc import Sequence

from aioquic.quic.stream import QuicStreamSender

from quicdist.carriers.quic.engine.aioquic_packets import (
    OpenKeys,
    Piece,
    Protected,
    SealKeys,
    Taken,
)
from quicdist.protocol.dialects.base import Buffer

def frames(
    room: tuple[int, int, int, float, float, int],
    ack: bytes,
    kind: bytes,
    sender: QuicStreamSender,
    buffer: Buffer,
    base: int,
    at: int,
    end: int,
    /,
) -> tuple[list[bytes], list[Sequence[Piece]], int, int, float, float, int]: ...
def samples(data: bytes, size: int, at: int, /) -> bytes: ...
def seal(
    keys: SealKeys,
    first: int,
    cid: bytes,
    number: int,
    payloads: list[bytes],
    segments: int,
    most: int,
    /,
) -> list[tuple[bytes, int]]: ...
def take(
    keys: OpenKeys,
    packets: Protected,
    at: int,
    expected: int,
    stream: int,
    offset: int,
    limit: int,
    /,
) -> Taken: ...
