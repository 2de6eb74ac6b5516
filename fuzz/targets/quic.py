"""Fuzz target for frames in QUIC packets of an untrusted peer in each phase of the handshake."""

from __future__ import annotations

from collections.abc import Iterator

from aioquic.tls import Epoch

from fuzz.targets.pieces import join, split
from quicdist.carriers.quic.engine.aioquic import AioquicConnection
from tests.carriers.attacks import Phase, approach
from tests.carriers.owners import Owner, settings
from tests.carriers.stranger import (
    THERE,
    Server,
    Stranger,
    ack,
    crypto,
    run_virtually,
    stream,
    var,
)

_PHASES = (Phase.HELLO, Phase.TLS, Phase.COOKIE)
_SETTINGS = settings()
_LARGEST = 1100
"""Maximum bytes of frames that fit any datagram."""


def check(data: bytes) -> None:
    """Choice byte: the phase that the peer completes first. Each piece is one packet's frames."""
    choice, pieces = split(data)
    phase = _PHASES[choice % len(_PHASES)]
    run_virtually(_play(phase, [piece[:_LARGEST] for piece in pieces]))


async def _play(phase: Phase, payloads: list[bytes]) -> None:
    server = Server(_SETTINGS, Owner)
    try:
        stranger = Stranger(server)
        await approach(stranger, phase)
        (carrier,) = server.endpoint.connections
        engine = carrier._engine
        assert isinstance(engine, AioquicConnection)
        for payload in payloads:
            if phase is Phase.HELLO:
                server.udp.bring(stranger.initial(payload))
            else:
                server.udp.bring(stranger.packet(Epoch.ONE_RTT, payload))
            await server.settle()
            _hold(engine)
        if not engine._quic._network_paths[0].is_validated:
            assert server.udp.bytes_out[THERE] <= 3 * server.udp.bytes_in[THERE]
    finally:
        await server.endpoint.close(0)


def _hold(engine: AioquicConnection) -> None:
    """Checks the bounds; the last frame may have exceeded one of them."""
    quic, bounds = engine._quic, _SETTINGS.bounds
    most = bounds.max_stream_ranges if quic.is_proved else bounds.max_stream_ranges_unproved
    assert len(quic._streams) <= _SETTINGS.max_streams
    for each in quic._streams.values():
        assert len(each.receiver._ranges) <= most + 1
    for each in quic._crypto_streams.values():
        assert len(each.receiver._ranges) <= bounds.max_tls_ranges + 1
    assert len(quic._host_cids) <= 8
    assert len(quic._network_paths) == 1
    assert not quic._events


def seeds() -> Iterator[bytes]:
    """Yields a frame of each kind, and several in one packet."""
    frames = [
        b"\x01",
        ack(3, [(0, 0)], 1),
        b"\x03" + ack(3)[1:] + b"\x00\x00\x00",
        b"\x04\x04\x00\x00",
        b"\x05\x04\x00",
        crypto(0, b"\x01\x00\x00\x04abcd"),
        crypto(5000, b"x"),
        stream(0, 0, b"\x00\x05hello"),
        stream(4, 9, b"x"),
        b"\x0f\x08" + var(3) + b"\x01x",
        b"\x10" + var(1 << 30),
        b"\x11\x00" + var(1 << 30),
        b"\x12\x08",
        b"\x14\x00",
        b"\x15\x04\x00",
        b"\x16\x00",
        b"\x18\x09\x02\x08" + bytes(24),
        b"\x19\x01",
        b"\x1a" + bytes(8),
        b"\x1b" + bytes(8),
        b"\x1c\x00\x00\x02no",
        b"\x1d\x00\x00",
        b"\x1e",
    ]
    for choice in range(len(_PHASES)):
        for frame in frames:
            yield join(choice, [frame])
        yield join(choice, [b"".join(frames[:3]), frames[6] * 3, frames[7], frames[8] * 3])
