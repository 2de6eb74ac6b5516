"""The framing of inet_tcp_dist: whole packets from arbitrarily split bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import DialectError, Step, Write
from quicdist.protocol.dialects.tcp import TcpDialect
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role


def dialect(role: Role) -> TcpDialect:
    return TcpDialect(role, CarrierLimits())


def wire(steps: Sequence[Step]) -> bytes:
    """Returns the stream bytes of the steps."""
    return b"".join(bytes(p) for step in steps if isinstance(step, Write) for p in step.parts)


handshakes = st.lists(st.binary(max_size=40).filter(lambda m: m[:1] not in (b"", b"a")), max_size=4)
frames = st.lists(st.binary(max_size=300), max_size=6)


@given(handshakes, frames, st.data())
def test_what_one_writes_the_other_reads_however_cut(
    messages: list[bytes], payloads: list[bytes], data: st.DataObject
) -> None:
    sender, receiver = dialect(Role.LISTENER), dialect(Role.DIALER)
    stream = b"".join(wire(sender.handshake_bytes(m)) for m in [*messages, b"a-digest"])
    sender.connected()
    stream += b"".join(wire([sender.frame_bytes((p,) if p else ())]) for p in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    got: list[Packet] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += receiver.receive(0, stream[start:end]).packets
    expected: list[Packet] = [HandshakePacket(m) for m in [*messages, b"a-digest"]]
    assert got == expected + [FramePacket(p) for p in payloads]


def test_frames_behind_the_last_handshake_message_in_one_chunk() -> None:
    mine = dialect(Role.DIALER)
    chunk = b"\x00\x03sok" + b"\x00\x02aX" + bytes(4) + b"\x00\x00\x00\x01p"
    assert mine.receive(0, chunk).packets == [
        HandshakePacket(b"sok"),
        HandshakePacket(b"aX"),
        FramePacket(b""),
        FramePacket(b"p"),
    ]


def test_the_listener_reads_frames_behind_the_dialers_last_message() -> None:
    chunk = b"\x00\x02rX" + b"\x00\x00\x00\x01p"
    assert dialect(Role.LISTENER).receive(0, chunk).packets == [
        HandshakePacket(b"rX"),
        FramePacket(b"p"),
    ]


def test_a_frame_in_parts_and_a_tick() -> None:
    mine = dialect(Role.DIALER)
    assert wire([mine.frame_bytes((b"ab", memoryview(b"cd")))]) == b"\x00\x00\x00\x04abcd"
    assert wire([mine.frame_bytes(())]) == bytes(4)


@pytest.mark.parametrize(
    ("before", "data"),
    [(b"", b"\x10\x01"), (b"\x00\x01a", b"\x7f\xff\xff\xff"), (b"\x00\x01a", b"\x08\x00\x00\x01")],
)
def test_a_packet_above_its_limit_is_refused_before_it_comes(before: bytes, data: bytes) -> None:
    mine = dialect(Role.DIALER)
    mine.receive(0, before)
    with pytest.raises(DialectError, match="exceeds the limit"):
        mine.receive(0, data)
