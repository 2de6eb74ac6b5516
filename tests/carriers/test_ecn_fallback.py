"""Paths that drop datagrams with ECT(0): connections begin without it (RFC 9000, 13.4.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quicdist.carriers.quic.ecn import ECT0, NOT_ECT
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import Batch, SocketAddress
from tests.carriers.owners import Node, Owner, settings
from tests.carriers.stranger import HERE, THERE, MemoryUdp, run_virtually
from tests.support.engines import ENGINES

DELAY = 0.01
"""Seconds in one direction."""


class PathUdp(MemoryUdp):
    """One end of a path in memory."""

    def __init__(self, address: SocketAddress, *, drops: bool) -> None:
        super().__init__()
        self.address = address
        self.drops = drops
        """Whether the path drops what this end sends with ECT(0)."""
        self.dropped = 0
        self.codepoint = NOT_ECT
        self.unmarked: set[SocketAddress] = set()
        self.peer: tuple[PathUdp, Endpoint] | None = None

    def use_ecn(self) -> None:
        self.codepoint = ECT0

    def leave_unmarked(self, address: SocketAddress) -> None:
        self.unmarked.add(address)

    def send_all(self, batches: list[Batch]) -> None:  # type: ignore[override]  # a list is passed
        for data, size, (address, _) in batches:
            ecn = NOT_ECT if address in self.unmarked else self.codepoint
            if self.drops and ecn == ECT0:
                self.dropped += 1
            else:
                asyncio.get_running_loop().call_later(DELAY, self._arrive, data, size, ecn)

    def _arrive(self, data: bytes, size: int, ecn: int) -> None:
        assert self.peer is not None, "no peer"
        udp, endpoint = self.peer
        udp.arriving.append((data, size, (self.address, None), ecn))
        endpoint._on_ready()


class PathEndpoint(Endpoint):
    """An endpoint that looks no host up."""

    async def _resolve(self, host: str, port: int, timeout: float) -> list[SocketAddress]:
        return [(host, port)]


@asynccontextmanager
async def connected(
    engine: str, drops: tuple[bool, bool]
) -> AsyncIterator[tuple[list[PathUdp], list[Node], list[Owner]]]:
    """Connects over a path that drops ECT(0) of the dialer, of the listener, or of both."""
    nodes: list[Node] = []

    def accept(connection: object) -> Owner:
        owner = Owner(connection)  # type: ignore[arg-type]  # a connection
        nodes[1].accepted.append(owner)
        nodes[1].arrived.set()
        return owner

    sockets = [PathUdp(at, drops=drop) for at, drop in zip((HERE, THERE), drops, strict=True)]
    for udp in sockets:
        nodes.append(Node(PathEndpoint(udp, settings(engine=engine), accept)))
    here, there = sockets
    here.peer, there.peer = (there, nodes[1].endpoint), (here, nodes[0].endpoint)
    try:
        owners = await nodes[0].connect(nodes[1], host=THERE[0], port=THERE[1])
        yield sockets, nodes, list(owners)
    finally:
        for each in nodes:
            await each.endpoint.close(0)


async def exchange(ours: Owner, theirs: Owner) -> None:
    """Sends a frame in each direction, and waits for the acknowledgements."""
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        await sender.send(b"hello")
        assert await sender.connection.flush(10.0)
        assert receiver.frames.pop() == b"hello"


async def dial(engine: str, drops: tuple[bool, bool]) -> list[PathUdp]:
    """Exchanges frames over such a path."""
    async with connected(engine, drops) as (sockets, _, (ours, theirs)):
        await exchange(ours, theirs)
    return sockets


async def rebind_listener(engine: str) -> PathUdp:
    """Replaces the socket of a listener whose path drops ECT(0). Returns the new one."""
    async with connected(engine, (False, True)) as ((here, there), (_, node), (ours, theirs)):
        await exchange(ours, theirs)
        renewed = PathUdp(THERE, drops=True)
        renewed.peer = there.peer
        node.endpoint._bind = lambda *_: renewed
        node.endpoint.rebind(*THERE[:2])
        here.peer = (renewed, node.endpoint)
        await exchange(ours, theirs)
    return renewed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("drops", [(True, False), (False, True), (True, True)])
def test_a_connection_is_established_over_a_path_that_drops_marked_datagrams(
    engine: str, drops: tuple[bool, bool]
) -> None:
    here, there = run_virtually(dial(engine, drops))
    for udp, peer in ((here, THERE), (there, HERE)):
        assert bool(udp.dropped) is udp.drops
        if udp.drops:
            assert peer in udp.unmarked


@pytest.mark.parametrize("engine", ENGINES)
def test_the_new_socket_of_a_listener_leaves_the_same_paths_unmarked(engine: str) -> None:
    renewed = run_virtually(rebind_listener(engine))
    assert not renewed.dropped
    assert renewed.unmarked == {HERE}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_path_that_passes_marked_datagrams_is_marked(engine: str) -> None:
    here, there = run_virtually(dial(engine, (False, False)))
    assert not here.unmarked
    assert not there.unmarked
