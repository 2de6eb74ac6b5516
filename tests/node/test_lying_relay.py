"""A relay that lies, replays or delays costs the paths through it, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quicdist import Node, Trust
from quicdist.carriers.relay import server
from quicdist.carriers.relay.allocation import Client
from quicdist.carriers.relay.frames import Allocated, data_head
from quicdist.carriers.relay.port import Port
from quicdist.carriers.relay.punching import DURATION, LENGTH, PING_INTERVAL
from tests.support.relayed import HOST, relay, via
from tests.support.waiting import until

pytestmark = pytest.mark.io

Forward = Callable[[Port, Client, bytes, int, float], bool]
forward: Forward = Port._forward

STRANGER = (HOST, 9)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "state"))


def replays(port: Port, client: Client, data: bytes, size: int, now: float) -> bool:
    return forward(port, client, data, size, now) and forward(port, client, data, size, now)


def delays(port: Port, client: Client, data: bytes, size: int, now: float) -> bool:
    loop = asyncio.get_running_loop()
    loop.call_later(0.03 * (len(data) % 3), forward, port, client, data, size, now)
    return True


def tampers(port: Port, client: Client, data: bytes, size: int, now: float) -> bool:
    bad = bytes(data[:-1]) + bytes([data[-1] ^ 1])
    return forward(port, client, bad, size, now) and forward(port, client, data, size, now)


def names_another_sender(port: Port, client: Client, data: bytes, size: int, now: float) -> bool:
    stranger = replace(client, head=data_head(STRANGER))
    return forward(port, client, data, size, now) and forward(port, stranger, data, size, now)


@pytest.mark.parametrize("lie", [replays, delays, tampers, names_another_sender])
async def test_what_arrives_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Forward
) -> None:
    monkeypatch.setattr(Port, "_forward", lie)
    monkeypatch.setattr(Port, "_budget", lambda *given: 0)  # nothing passes beside the lie
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c", path="relay-only") as home,
        Node(f"0@{HOST}", cookie="c") as outside,
        home.mailbox("box") as box,
    ):
        assert await outside.ping(home.name)
        since = outside.peer(home.name).since
        for number in range(20):
            await outside.send(("box", home.name), (number, bytes([number]) * 20_000))
        for number in range(20):
            assert await box.receive() == (number, bytes([number]) * 20_000)
        assert await home.ping(outside.name)
        assert outside.peer(home.name).since == since


async def test_a_node_with_the_port_of_another_one_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "quicdist")
    known = Trust.first_use(tmp_path / "known_nodes")
    async with (
        relay(tmp_path) as at,
        Node(via=via(at), cookie="c") as home,
        Node(f"0@{HOST}", cookie="c", trust=known) as outside,
    ):
        assert await outside.ping(home.name)
        number = int(home.name.partition("@")[0])

        def lied(port: int, tcp_port: int, observed: Any) -> Allocated:
            return Allocated(number, tcp_port, observed)

        monkeypatch.setattr(server, "Allocated", lied)
        monkeypatch.setenv("QUICDIST_STATE_DIR", str(tmp_path / "other"))
        async with Node(via=via(at), cookie="c") as other:
            assert other.name == home.name
            assert not await other.ping(outside.name)
            assert outside.nodes() == [home.name]
            assert await outside.ping(home.name)
            assert "not_believed" in [getattr(one, "event", "") for one in caplog.records]


async def test_a_false_observed_address_gets_a_few_small_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim:
        victim.bind((HOST, 0))
        victim.setblocking(False)
        where = victim.getsockname()
        monkeypatch.setattr(
            server, "Allocated", lambda port, tcp_port, _: Allocated(port, tcp_port, where)
        )
        async with (
            relay(tmp_path) as at,
            Node(via=via(at), cookie="c") as home,
            Node(f"0@{HOST}", cookie="c") as outside,
        ):
            assert home.relay is not None
            assert home.relay.observed == where
            assert await outside.ping(home.name)
            # Pings stop with the first pong, which may come before the victim's turn.
            await until(lambda: outside.peer(home.name).path == "direct")
            assert await outside.ping(home.name)
            got = read(victim)
    assert {len(one) for one in got} <= {LENGTH}
    assert len(got) <= 3 * (DURATION / PING_INTERVAL + 1)  # attempts on a slow machine


def read(sock: socket.socket) -> list[bytes]:
    """Returns the datagrams that have arrived."""
    found = []
    try:
        while True:
            found.append(sock.recv(65_536))
    except BlockingIOError:
        return found
