"""Relays and nodes in namespaces of the lab, as processes that obey orders (`node_process`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.nat.lab import CORE, Lab, Site
from tests.nat.namespaces import Namespace, run
from tests.support.waiting import PATIENCE

RELAY = f"4433@{CORE}"
METRICS = ("127.0.0.1", 9100)
"""Where the relay serves its metrics, in the namespace of the core."""

_orders = itertools.count(1)

Event = dict[str, Any]


class LabProcess:
    """A process whose lines of output are events as JSON."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    @property
    def memory(self) -> int:
        """The resident memory of the process in bytes. Raises OSError if it has ended."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    async def start(self, space: Namespace, words: list[str], state: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *space.command([sys.executable, "-m", *words]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "QUICDIST_STATE_DIR": state, "HOME": state},
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.events.append(json.loads(line))
                self._arrived.set()
        self.events.append({"event": "ended"})
        self._arrived.set()

    async def event(self, wanted: Callable[[Event], bool], *, since: int = 0) -> Event:
        """Returns the first event of that kind; waits if there is none yet."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.events[since:]:
                    if wanted(event):
                        return event
                since = len(self.events)
                assert {"event": "ended"} not in self.events, self.events[-3:]
                self._arrived.clear()
                await self._arrived.wait()

    def named(self, name: str) -> list[Event]:
        """Returns the events with this name so far."""
        return [event for event in self.events if event.get("event") == name]

    async def stop(self) -> None:
        """Has a node end as it does when its program ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def kill(self) -> None:
        """Ends the process with SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading


class LabNode(LabProcess):
    """A node; `name` is its name."""

    name = ""

    async def begin(self, space: Namespace, state: str, **settings: Any) -> LabNode:
        """Starts it and waits until it is up."""
        await self.start(space, ["tests.nat.node_process", json.dumps(settings)], state)
        ready = await self.event(lambda event: event.get("event") in ("ready", "failed"))
        assert ready["event"] == "ready", ready
        self.name = ready["name"]
        return self

    async def order(self, what: str, **words: Any) -> Event:
        """Has an order carried out and returns the answer."""
        number = next(_orders)
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "do": what, **words}) + "\n"
        self._process.stdin.write(line.encode())
        return await self.event(lambda event: event.get("id") == number)

    async def path_to(self, other: LabNode) -> str | None:
        """Returns the path of the connection to another node; None without a connection."""
        peers = (await self.order("status"))["peers"]
        return peers[other.name]["path"] if other.name in peers else None

    async def until_path(self, other: LabNode, path: str) -> None:
        """Waits until the connection to another node has this path."""
        async with asyncio.timeout(PATIENCE):
            while await self.path_to(other) != path:
                await asyncio.sleep(0.02)


class Stage:
    """A relay at the core and nodes of sites, which end with the stage."""

    def __init__(self, lab: Lab, directory: str) -> None:
        self.lab = lab
        self.relay = LabProcess()
        self.directory = directory
        self._nodes: list[LabNode] = []
        self._gateways: list[LabProcess] = []
        self._cuts: list[Namespace] = []

    async def start_relay(self) -> None:
        """Starts the relay, again with the ports that it has kept."""
        self.relay = LabProcess()
        state = f"{self.directory}/relay"
        os.makedirs(state, exist_ok=True)
        words = ["quicdist", "relay", f"{CORE}:4433", "--tcp", "443", "--log-json"]
        words += ["--http", "{}:{}".format(*METRICS)]
        await self.relay.start(self.lab.core, words, state)
        await self.relay.event(lambda event: event.get("status") == "up")

    async def node(self, site: Site, *, index: int = 0, **settings: Any) -> LabNode:
        """Starts a node of a site, which the relay names unless it has a name."""
        state = f"{self.directory}/n{len(self._nodes)}"
        os.makedirs(state)
        if "name" not in settings:
            settings["via"] = RELAY
        node = LabNode()
        self._nodes.append(node)
        return await node.begin(site.nodes[index], state, **settings)

    async def gateway(self, site: Site, module_dir: str) -> LabProcess:
        """Starts a gateway of a site, which the relay names."""
        state = f"{self.directory}/g{len(self._gateways)}"
        os.makedirs(state)
        gateway = LabProcess()
        self._gateways.append(gateway)
        words = ["quicdist", "gateway", "--via", RELAY, "--module-dir", module_dir, "--log-json"]
        await gateway.start(site.node, words, state)
        await gateway.event(lambda event: "gateway" in event)
        return gateway

    def cut(self, one: Site, other: Site) -> None:
        """Drops all UDP datagrams between two sites; the relay is not affected."""
        for site, peer in ((one, other), (other, one)):
            site.node.nft(
                "table inet cut { chain out { type filter hook output priority 0;\n"
                f"meta l4proto udp ip daddr {{ {peer.public}, {peer.inside} }} drop\n"
                f"meta l4proto udp ip6 daddr {peer.inside_v6} drop\n}}\n}}\n"
            )
            self._cuts.append(site.node)

    def mend(self) -> None:
        """Takes that back."""
        for space in self._cuts:
            run(space.command(["nft", "delete", "table", "inet", "cut"]))
        self._cuts.clear()

    async def close(self) -> None:
        self.mend()
        for process in (*self._nodes, *self._gateways, self.relay):
            await process.kill()


@contextlib.asynccontextmanager
async def staged(lab: Lab) -> AsyncIterator[Stage]:
    """A stage with a running relay."""
    with tempfile.TemporaryDirectory(prefix="quicdist-nat-") as directory:
        stage = Stage(lab, directory)
        try:
            await stage.start_relay()
            yield stage
        finally:
            await stage.close()
