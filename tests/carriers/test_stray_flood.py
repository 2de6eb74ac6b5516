"""A flood of first datagrams: established connections come first, and the work is bounded."""

from __future__ import annotations

import asyncio
import functools
import os
import socket

import pytest

from quicdist.carriers.quic.ecn import CE, ECT0, NOT_ECT
from quicdist.carriers.quic.strays import (
    MAX_STRAY_BYTES,
    MAX_STRAYS,
    STRAYS_PER_SECOND,
    STRAYS_PER_TURN,
    Strays,
)
from quicdist.carriers.reject_reason import RejectReason
from tests.carriers.owners import Owner, node, settings
from tests.carriers.stranger import INITIAL_SIZE, THERE, Server, Stranger, run_virtually
from tests.support.engines import ENGINES

PATH = (THERE, None)


def forged_initial() -> bytes:
    """Returns a datagram that looks like a first one, with ids of its own; it does not decrypt."""
    head = b"\xc3\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\x00"
    return head + (0x4000 | INITIAL_SIZE - len(head) - 2).to_bytes(2, "big") + bytes(1172)


def has_frames(owner: Owner, count: int) -> bool:
    return len(owner.frames) >= count


def bring_flood(server: Server, count: int) -> None:
    for number in range(count):
        server.udp.bring(forged_initial(), (f"203.0.113.{number % 250}", 1024 + number))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_established_connection_comes_before_queued_strays(engine: str) -> None:
    async def main() -> None:
        server = Server(settings(engine=engine), Owner)
        try:
            peer = Stranger(server)
            await peer.exchange()
            assert peer.quic._handshake_confirmed
            assert len(server.endpoint.connections) == 1
            bring_flood(server, server.endpoint._engine.batch - 1)  # all are read at once
            peer.quic.close()
            peer.say()
            server.endpoint._on_ready()
            assert not server.endpoint.connections, "the close was not read first"
            assert server.endpoint.rejected.total() <= STRAYS_PER_TURN
        finally:
            await server.endpoint.close(0)

    run_virtually(main())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_rate_of_handled_strays_is_bounded(engine: str) -> None:
    seconds, step = 2.0, 0.01

    async def main() -> None:
        server = Server(settings(engine=engine), Owner)
        try:
            brought = 0
            for _ in range(int(seconds / step)):
                bring_flood(server, 200)
                brought += 200
                while server.udp.arriving:
                    server.endpoint._on_ready()
                await asyncio.sleep(step)
            dropped = server.endpoint.rejected[RejectReason.OVERLOAD]
            handled = server.endpoint.rejected.total() - dropped
            assert handled <= STRAYS_PER_SECOND * seconds + STRAYS_PER_TURN
            assert handled + dropped + MAX_STRAYS >= brought
        finally:
            await server.endpoint.close(0)

    run_virtually(main())


def test_a_dialer_connects_through_a_flood() -> None:
    """A dialer repeats what was dropped, as QUIC does."""

    async def main() -> None:
        server = Server(settings(), Owner)
        try:
            peer = Stranger(server)
            for _ in range(200):
                bring_flood(server, 50)  # 5,000 a second
                peer.say()
                while server.udp.arriving:
                    server.endpoint._on_ready()
                await asyncio.sleep(0.01)
                peer.hear()
                timer = peer.quic.get_timer()
                if timer is not None and timer <= peer.now:
                    peer.quic.handle_timer(peer.now)
                if peer.quic._handshake_confirmed:
                    break
            assert peer.quic._handshake_confirmed
        finally:
            await server.endpoint.close(0)

    run_virtually(main())


def test_the_queue_is_bounded_by_number_and_by_bytes() -> None:
    small, large = Strays(), Strays()
    assert [small.add(b"x" * 20, PATH, NOT_ECT) for _ in range(MAX_STRAYS + 1)].count(
        True
    ) == MAX_STRAYS
    size = 60_000
    room = MAX_STRAY_BYTES // size
    assert [large.add(bytes(size), PATH, NOT_ECT) for _ in range(room + 1)].count(True) == room
    assert len(large.take_turn()) == STRAYS_PER_TURN
    assert large.add(bytes(size), PATH, NOT_ECT)
    large.clear()
    assert not len(large)
    assert [large.add(bytes(size), PATH, NOT_ECT) for _ in range(room + 1)].count(True) == room


def test_the_datagrams_of_one_connection_stay_in_order() -> None:
    queue = Strays()
    sent = [(bytes((number,)), PATH, (NOT_ECT, ECT0, CE)[number % 3]) for number in range(40)]
    for each in sent:
        queue.add(*each)
    taken = []
    while queue:
        taken += queue.take_turn()
    assert taken == sent


@pytest.mark.io
@pytest.mark.parametrize("engine", ENGINES)
async def test_every_frame_arrives_during_a_flood(engine: str) -> None:
    async with node(engine=engine) as a, node(engine=engine) as b:
        here, there = await a.connect(b)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(("127.0.0.1", b.port))
            for number in range(200):
                for _ in range(25):
                    stranger.send(forged_initial())
                await here.send(b"p%d" % number)
                await there.until(functools.partial(has_frames, there, number + 1))
        assert [bytes(each) for each in there.frames] == [b"p%d" % n for n in range(200)]
        assert b.endpoint.rejected.total()
