"""Splits the recordings in tests/data into packets.

Each line is one STREAM chunk of a real carrier between two real Erlang nodes. The deframers
here only find the packets of each carrier.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet

DATA = Path(__file__).parent.parent / "data"

RECORDINGS = {
    "quic_dist": b"labcookie",
    "macula_dist_0.14.3": b"labcookie",
    "macula_dist_framed": b"labcookie",
    "erlang_quic": b"lab",
}
"""Recordings and the cookies of their nodes."""

LAST_DATA_STREAM = 64
"""erlang_quic: higher streams belong to applications."""

CUT_SHORT = {"macula_dist_framed": 22965}
"""Bytes of the incomplete last frame of a recording, which has 65,560 bytes."""


@dataclass(frozen=True)
class Recorded:
    """One packet; `dialed` is True if the dialer sent it."""

    dialed: bool
    packet: Packet


def conversations(name: str) -> list[list[Recorded]]:
    """Returns the packets of each connection of a recording, in the order of their ends."""
    connections: dict[int, list[dict[str, Any]]] = {}
    with (DATA / f"{name}.jsonl").open() as lines:
        for line in lines:
            chunk = json.loads(line)
            connections.setdefault(chunk["conn"], []).append(chunk)
    deframe = _erlang_quic if name == "erlang_quic" else _one_stream
    talks = []
    for _, chunks in sorted(connections.items()):
        streams: dict[tuple[str, int], _Stream] = {}
        talks.append(list(deframe(chunks, streams)))
        left = sum(map(len, streams.values()))
        assert left == CUT_SHORT.get(name, 0), f"{name} ends within a packet"
    return talks


class _Stream:
    """Extracts length-prefixed packets from chunks."""

    def __init__(self) -> None:
        self._buffer = b""

    def add(self, data: bytes) -> None:
        self._buffer += data

    def take(self, width: int) -> bytes | None:
        """Returns the next packet, which has a length field of `width` bytes."""
        length = int.from_bytes(self._buffer[:width], "big")
        if len(self._buffer) < width + length:
            return None
        packet, self._buffer = (
            self._buffer[width : width + length],
            self._buffer[width + length :],
        )
        return packet

    def drop(self, prefix: bytes) -> None:
        self._buffer = self._buffer.removeprefix(prefix)

    def __len__(self) -> int:
        return len(self._buffer)


_Streams: TypeAlias = dict[tuple[str, int], _Stream]


def _one_stream(chunks: list[dict[str, Any]], streams: _Streams) -> Iterator[Recorded]:
    """quic_dist and macula_dist: `ping` and `pong` of quic_dist, then u16 and later u32 lengths.

    The released macula_dist always uses u16, and its ticks are empty packets.
    """
    handshake = True
    wide = any(len(chunk["hex"]) > 80 for chunk in chunks)
    for chunk in chunks:
        stream = streams.setdefault((chunk["from"], 0), _Stream())
        stream.add(bytes.fromhex(chunk["hex"]))
        stream.drop(b"ping" if chunk["from"] == "dialer" else b"pong")
        while (packet := stream.take(4 if wide and not handshake else 2)) is not None:
            kind = HandshakePacket if handshake else FramePacket
            yield Recorded(chunk["from"] == "dialer", kind(packet))
            if packet[:1] == b"a":
                handshake = False


def _erlang_quic(chunks: list[dict[str, Any]], streams: _Streams) -> Iterator[Recorded]:
    """A chunk of stream 0 is a handshake message, later a tick. Data streams use u32 lengths."""
    for chunk in chunks:
        data, dialed = bytes.fromhex(chunk["hex"]), chunk["from"] == "dialer"
        if chunk["stream"] == 0:
            is_tick = data == bytes(4)
            yield Recorded(dialed, FramePacket(b"") if is_tick else HandshakePacket(data))
        elif chunk["stream"] <= LAST_DATA_STREAM:
            stream = streams.setdefault((chunk["from"], chunk["stream"]), _Stream())
            stream.add(data)
            while (packet := stream.take(4)) is not None:
                yield Recorded(dialed, FramePacket(packet))
