"""The framing of inet_tcp_dist: whole packets out of bytes however cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.base import DialectError, Step, Write
from quicdist.carriers.dialects.tcp import TcpDialect
from quicdist.dist.packet import FramePacket, HandshakePacket, Packet


def wire(steps: Sequence[Step]) -> bytes:
    """What the steps put on the stream."""
    return b"".join(bytes(p) for step in steps if isinstance(step, Write) for p in step.parts)


handshakes = st.lists(st.binary(max_size=40).filter(lambda m: m[:1] != b"a"), max_size=4)
frames = st.lists(st.binary(max_size=300), max_size=6)


@given(handshakes, frames, st.data())
def test_what_one_writes_the_other_reads_however_cut(
    messages: list[bytes], payloads: list[bytes], data: st.DataObject
) -> None:
    sender, receiver = TcpDialect(), TcpDialect()
    stream = b"".join(wire(sender.handshake_bytes(m)) for m in [*messages, b"a-digest"])
    sender.connected()
    stream += b"".join(wire(sender.frame_bytes((p,) if p else ())) for p in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    got: list[Packet] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += receiver.receive(0, stream[start:end]).packets
    expected: list[Packet] = [HandshakePacket(m) for m in [*messages, b"a-digest"]]
    assert got == expected + [FramePacket(p) for p in payloads]
    assert receiver.missing(0) == 0


def test_frames_behind_the_last_handshake_message_in_one_chunk() -> None:
    dialect = TcpDialect()
    chunk = b"\x00\x03sok" + b"\x00\x02aX" + bytes(4) + b"\x00\x00\x00\x01p"
    assert dialect.receive(0, chunk).packets == [
        HandshakePacket(b"sok"),
        HandshakePacket(b"aX"),
        FramePacket(b""),
        FramePacket(b"p"),
    ]


def test_the_one_that_writes_the_last_message_reads_frames_after_it() -> None:
    dialect = TcpDialect()
    assert wire(dialect.handshake_bytes(b"aX")) == b"\x00\x02aX"
    assert dialect.receive(0, b"\x00\x00\x00\x01p").packets == [FramePacket(b"p")]


def test_a_frame_in_parts_and_a_tick() -> None:
    dialect = TcpDialect()
    assert wire(dialect.frame_bytes((b"ab", memoryview(b"cd")))) == b"\x00\x00\x00\x04abcd"
    assert wire(dialect.frame_bytes(())) == bytes(4)


def test_missing_tells_how_much_the_packet_wants() -> None:
    dialect = TcpDialect()
    assert dialect.missing(0) == 0
    dialect.receive(0, b"\x00")
    assert dialect.missing(0) == 1
    dialect.receive(0, b"\x05ab")
    assert dialect.missing(0) == 3


@pytest.mark.parametrize(
    ("before", "data"),
    [(b"", b"\x10\x01"), (b"\x00\x01a", b"\x7f\xff\xff\xff"), (b"\x00\x01a", b"\x08\x00\x00\x01")],
)
def test_a_packet_above_its_limit_is_refused_before_it_comes(before: bytes, data: bytes) -> None:
    dialect = TcpDialect()
    dialect.receive(0, before)
    with pytest.raises(DialectError, match="at most"):
        dialect.receive(0, data)
