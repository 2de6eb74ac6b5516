"""The anti-amplification limit of addresses that are not validated (RFC 9000, 8.1).

An endpoint sends at most three times the received bytes to such an address.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic.tls import Epoch
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from quicdist.carriers.quic.engine.aioquic import AioquicConnection
from quicdist.carriers.reject_reason import RejectReason
from quicdist.limits import AdmissionLimits
from tests.carriers.owners import Owner, settings
from tests.carriers.stranger import (
    THERE,
    Server,
    Stranger,
    crypto,
    junk,
    run_virtually,
)
from tests.support.examples import examples

ALLOWED = 3


@asynccontextmanager
async def served(**admission: Any) -> AsyncIterator[Server]:
    server = Server(settings(admission=AdmissionLimits(**admission)), Owner)
    try:
        yield server
    finally:
        await server.endpoint.close()


Move = Callable[[Stranger], Awaitable[None] | None]


def hello(stranger: Stranger) -> None:
    """Sends the first flight, or repeats it."""
    stranger.say()


def other_version(stranger: Stranger) -> None:
    data = stranger.initial(b"\x01")
    stranger.server.udp.bring(data[:1] + b"\x0a\x0a\x0a\x0a" + data[5:], stranger.address)


def small(stranger: Stranger) -> None:
    """Sends a short datagram for its connection that cannot be decrypted."""
    stranger.server.udp.bring(stranger.packet(Epoch.INITIAL, b"\x01"), stranger.address)


def stray(stranger: Stranger) -> None:
    """Sends a datagram for an unknown connection."""
    stranger.server.udp.bring(b"\x41" + junk(60), stranger.address)


def ping(stranger: Stranger) -> None:
    stranger.server.udp.bring(stranger.initial(b"\x01"), stranger.address)


def wrong_message(stranger: Stranger) -> None:
    """Sends a wrong TLS message, which closes the connection."""
    stranger.server.udp.bring(stranger.initial(crypto(0, b"\x14\0\0\0")), stranger.address)


def wrong_frame(stranger: Stranger) -> None:
    """Sends an invalid frame, which closes the connection."""
    stranger.server.udp.bring(stranger.initial(b"\x1e"), stranger.address)


async def another(stranger: Stranger) -> None:
    """Starts a new connection from the same address."""
    Stranger(stranger.server, stranger.address).say()


async def wait(stranger: Stranger) -> None:
    """Waits long enough for retransmissions and repeated closes."""
    await asyncio.sleep(0.3)


async def look(stranger: Stranger) -> None:
    """Runs the server before the next datagram."""
    await stranger.server.settle()


MOVES: list[Move] = [
    hello,
    other_version,
    small,
    stray,
    ping,
    wrong_message,
    wrong_frame,
    another,
    wait,
    look,
]


async def play(moves: list[Move], *, prove_above: int = 64) -> None:
    async with served(prove_above=prove_above) as there:
        stranger = Stranger(there)
        for move in moves:
            done = move(stranger)
            if done is not None:
                await done
        await there.settle()
        await asyncio.sleep(20)
        came, went = there.udp.bytes_in[THERE], there.udp.bytes_out[THERE]
        assert went <= ALLOWED * came, f"{came} bytes came, {went} went"
        assert not there.endpoint._ids


@given(st.lists(st.sampled_from(MOVES), max_size=12), st.sampled_from([0, 64]))
@example([hello, look, wrong_frame, look, small, look, small, look, small], 64)
@example([hello, look, wait, wait, wait], 64)
@how(deadline=None, max_examples=examples(60))
def test_no_more_than_three_times_what_came(moves: list[Move], prove_above: int) -> None:
    run_virtually(play(moves, prove_above=prove_above))


@pytest.mark.parametrize(
    ("move", "refusal"),
    [
        (other_version, RejectReason.VERSION),
        (stray, RejectReason.RESET),
        (hello, RejectReason.UNPROVED),
    ],
)
def test_an_answer_that_begins_nothing_is_smaller_than_what_it_answers(
    move: Move, refusal: RejectReason
) -> None:
    async def main() -> None:
        async with served(prove_above=0) as there:
            move(Stranger(there))
            await there.settle()
            assert there.endpoint.rejected[refusal] == 1
            assert 0 < there.udp.bytes_out[THERE] < there.udp.bytes_in[THERE]

    run_virtually(main())


def test_a_peer_that_is_known_hears_of_the_close_as_often_as_it_asks() -> None:
    """The bound ends when the peer's address is validated."""

    async def main() -> None:
        async with served() as there:
            stranger = Stranger(there)
            await stranger.exchange()
            (connection,) = there.endpoint.connections
            connection.close("enough")
            closes = 0
            for _ in range(8):
                there.udp.bring(stranger.packet(Epoch.ONE_RTT, b"\x01"), THERE)
                await there.settle()
                closes += len(there.taken(THERE))
            assert closes == 1 + 4  # at once, and for the first, second, fourth and eighth

    run_virtually(main())


@pytest.mark.parametrize("has_cookie", [False, True])
def test_a_peer_cannot_turn_the_close_on_somebody_else(has_cookie: bool) -> None:
    """The peer migrates to a forged address and closes the connection from there."""
    victim = ("203.0.113.1", 53)

    async def main() -> None:
        async with served() as there:
            stranger = Stranger(there)
            await stranger.exchange()
            engine = there.endpoint.connections[0]._engine
            if has_cookie:
                engine.peer_proved()
            for frame in (b"\x01", b"\x07"):
                there.udp.bring(stranger.packet(Epoch.ONE_RTT, frame), victim)
                await there.settle()
            await asyncio.sleep(20)
            assert there.udp.bytes_in[victim]
            # The native engine cannot send a smaller PATH_CHALLENGE. One a second may exceed it.
            challenge = 0 if isinstance(engine, AioquicConnection) else 1200
            most = ALLOWED * there.udp.bytes_in[victim] + challenge
            assert there.udp.bytes_out[victim] <= most
            assert has_cookie or not there.udp.bytes_out[victim]

    run_virtually(main())
