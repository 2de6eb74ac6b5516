"""Fuzz target for the frames between a node and its relay, on both sides and in both forms.

Control messages are decoded or raise FrameError, and are encoded again. Merged datagrams are cut
into frames. Data frames bring a node only what looks like QUIC.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fuzz.targets.pieces import join, split
from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.relay.batches import all_frames, common_head, with_heads, without_heads
from quicdist.carriers.relay.frames import (
    FIRST_QUIC_BYTE,
    MAX_CONTROL,
    Allocate,
    Allocated,
    Challenge,
    FrameError,
    KeepAlive,
    Message,
    Observed,
    Proof,
    Refusal,
    Refused,
    data_head,
    decode,
    encode,
)
from quicdist.carriers.relay.stream import FrameSplitter, with_length
from quicdist.carriers.relay.transport import Paths, local_of

_RELAY = ("203.0.113.10", 4433)


def check(data: bytes) -> None:
    """Choice byte: the size of merged datagrams. Each piece is a frame, and all are a stream."""
    choice, pieces = split(data)
    splitter = FrameSplitter(MAX_CONTROL)
    for piece in pieces:
        with contextlib.suppress(FrameError):
            assert decode(encode(decode(piece))) == decode(piece)
        with contextlib.suppress(FrameError):
            for frame in splitter.feed(piece):
                assert len(frame) <= MAX_CONTROL
        _check_node(piece)
        _check_merged(piece, choice + 1)


def _check_node(frame: bytes) -> None:
    paths = Paths()
    paths.relay, paths.local = _RELAY, local_of(_RELAY)
    for size in (len(frame), max(len(frame) // 2, 1)):
        for found, each, *_ in paths.sort([(frame, size, (_RELAY, None), NOT_ECT)]):
            assert min(found[::each]) >= FIRST_QUIC_BYTE
    paths.frames_arrived([frame])


def _check_merged(data: bytes, size: int) -> None:
    if not data:
        return
    head = common_head(data, size)
    if head:
        assert all_frames(data, size)
        for part in without_heads(data, size, head):
            assert part[0] >= FIRST_QUIC_BYTE
    assert b"".join(without_heads(data, size, 0)) == data
    framed = with_heads(data, size, b"head")
    assert b"".join(without_heads(framed, size + 4, 4)) == data


def seeds() -> Iterator[bytes]:
    """Yields every message, data frames, and streams of them."""
    address = ("192.0.2.1", 4433)
    messages: list[Message] = [
        Challenge(bytes(32)),
        Proof(b"certificate", b"signature"),
        Allocate(0, 0, address, bytes(8)),
        Allocated(20000, 443, ("2001:db8::1", 4433)),
        Observed(address),
        Refused(Refusal.SUPERSEDED),
        KeepAlive(),
    ]
    encoded = [encode(message) for message in messages]
    frames = [data_head((host, 4433)) + b"\x40abc" for host in ("192.0.2.1", "2001:db8::1")]
    yield join(0, encoded)
    yield join(10, [frames[0] * 3, frames[0] * 2 + frames[0][:9]])
    yield join(22, [frames[1] * 3])
    yield join(0, [b"".join(map(with_length, [*encoded, *frames]))])
