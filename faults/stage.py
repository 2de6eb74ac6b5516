"""The stage of a scenario: a local node, a node in another process, and a simulated network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.peer import make_node, transfer
from quicdist import Node, NodeDown
from tests.support.lossy import LossyProxy, Weather
from tests.support.ports import free_port

PATIENCE = 180.0
"""Seconds after which a scenario is considered to hang."""


class PeerProcess:
    """A running process of faults/peer.py."""

    def __init__(
        self, name: str, listen: str, ticktime: float, state: Path, engine: str = "aioquic"
    ) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self._arguments = (name, listen, engine, str(ticktime))
        self._state = state
        self._arrived = asyncio.Event()
        self.process: asyncio.subprocess.Process

    async def start(self, *, wrapper: tuple[str, ...] = ()) -> None:
        """Starts the process and waits until it is ready or has failed."""
        self.events = []
        self.process = await asyncio.create_subprocess_exec(
            *wrapper,
            *(sys.executable, "-m", "faults.peer"),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "QUICDIST_STATE_DIR": str(self._state)},
        )
        self._reading = asyncio.create_task(self._read())
        await self.until(lambda event: event["event"] in ("ready", "failed"))

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.events.append(json.loads(line))
            self._arrived.set()

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Returns the first event of that kind; waits if there is none yet."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    return event
            seen = len(self.events)
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), PATIENCE)

    def order(self, *words: object) -> None:
        """Writes one line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")

    async def kill(self) -> float:
        """Sends SIGKILL and returns the monotonic time."""
        if self.process.returncode is None:
            self.process.kill()
        at = time.monotonic()
        await self.process.wait()
        await self._reading
        return at


@dataclass
class Stage:
    """The nodes, the network and the records of one scenario."""

    node: Node
    peer: PeerProcess
    network: LossyProxy
    ticktime: float
    downs: list[tuple[float, NodeDown]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def transfer(self, size: int, name: str = "one") -> str:
        """Transfers `size` bytes and returns figures. Raises AssertionError if the data differs."""
        began = time.monotonic()
        good, text = await asyncio.wait_for(
            transfer(self.node, self.peer.name, size, name), PATIENCE
        )
        seconds = time.monotonic() - began
        assert good, text
        return f"{size / 1e6:.3g} MB exact in {seconds:.1f} s ({size / 1e6 / seconds:.2g} MB/s)"

    async def down(self) -> tuple[float, str]:
        """Waits for nodedown of the peer and returns its time and reason."""
        while not self.downs:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
        at, event = self.downs[-1]
        return at, event.reason

    async def watch(self) -> None:
        """Records every nodedown."""
        with self.node.events() as events:
            async for event in events:
                if isinstance(event, NodeDown):
                    self.downs.append((time.monotonic(), event))
                    self._changed.set()

    async def recovers(self) -> None:
        """Waits until both nodes are connected again and a transfer succeeds."""
        deadline = time.monotonic() + PATIENCE
        while not await self.node.ping(self.peer.name):
            assert time.monotonic() < deadline, "the nodes do not reconnect"
        await self.transfer(200_000, f"after {time.monotonic()}")


@contextlib.asynccontextmanager
async def stage(
    engine: str, weather: Weather | None = None, *, ticktime: float = 60.0, seed: int = 1
) -> AsyncIterator[Stage]:
    """Yields a stage whose local node dials a node in another process through the network."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="quicdist-faults-") as directory:
        async with (
            LossyProxy(("127.0.0.1", port), weather or Weather(), seed=seed) as network,
            make_node("0@127.0.0.1", engine, ticktime) as node,
        ):
            name = f"{network.address[1]}@127.0.0.1"
            peer = PeerProcess(name, f"127.0.0.1:{port}", ticktime, Path(directory), engine)
            await peer.start()
            scene = Stage(node, peer, network, ticktime)
            watching = asyncio.create_task(scene.watch())
            try:
                await node.connect(name)
                yield scene
            finally:
                watching.cancel()
                await peer.kill()
