"""Two hosts with a cable between them, as network namespaces. Needs Linux and root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from faults.stage import PATIENCE, PeerProcess

HERE, THERE = "10.77.0.1", "10.77.0.2"


class NotHere(Exception):
    """This machine cannot run the scenario; the text says why."""


async def run(*command: str) -> None:
    """Runs a command. Raises NotHere if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise NotHere(f"{' '.join(command)}: {errors.decode().strip()}")


@dataclass
class Host:
    """A namespace, the node in it, and its end of the cable."""

    space: str
    device: str
    peer: PeerProcess

    async def run(self, *command: str) -> None:
        """Runs a command in the namespace."""
        await run("ip", "netns", "exec", self.space, *command)

    async def weather(self, *words: str) -> None:
        """Sets the `tc netem` rules for outgoing packets."""
        command = ("tc", "qdisc", "replace", "dev", self.device, "root", "netem")
        await self.run(*command, *words)

    async def address(self, old: str, new: str) -> None:
        """Replaces the address of the interface."""
        await self.run("ip", "address", "delete", f"{old}/24", "dev", self.device)
        await self.run("ip", "address", "add", f"{new}/24", "dev", self.device)

    def downs(self) -> list[str]:
        """Returns the reasons of the nodedown events on this host."""
        return [event["reason"] for event in self.peer.events if event["event"] == "nodedown"]

    async def send(self, to: Host, size: int) -> str:
        """Transfers `size` bytes. Raises AssertionError on loss, duplication or reordering."""
        name = f"{time.monotonic()}"
        self.peer.order("send", to.peer.name, size, name)
        sent = await self.peer.until(lambda event: event["event"] == "sent")
        assert sent["good"], sent
        return f"{size / 1e6:.3g} MB exact"


@contextlib.asynccontextmanager
async def two_hosts(engine: str, ticktime: float) -> AsyncIterator[tuple[Host, Host]]:
    """Starts a node on each host, named after the host's address. Raises NotHere."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        raise NotHere("network namespaces need root, and the commands ip and tc (iproute2)")
    mark = f"qd{os.getpid()}"
    hosts: list[Host] = []
    with tempfile.TemporaryDirectory(prefix="quicdist-faults-") as directory:
        try:
            for end, address in (("a", HERE), ("b", THERE)):
                name = f"4433@{address}"
                state = Path(directory) / end
                state.mkdir()
                peer = PeerProcess(name, f"{address}:4433", ticktime, state, engine)
                hosts.append(Host(mark + end, mark + end, peer))
                await run("ip", "netns", "add", mark + end)
            a, b = hosts
            await a.run(
                *("ip", "link", "add", a.device, "type", "veth"),
                *("peer", "name", b.device, "netns", b.space),
            )
            for host, address in ((a, HERE), (b, THERE)):
                await host.run("ip", "address", "add", f"{address}/24", "dev", host.device)
                await host.run("ip", "link", "set", host.device, "up")
                await host.run("ip", "link", "set", "lo", "up")
                await asyncio.wait_for(
                    host.peer.start(wrapper=("ip", "netns", "exec", host.space)), PATIENCE
                )
                assert host.peer.events[0]["event"] == "ready", host.peer.events
            yield a, b
        finally:
            for host in hosts:
                with contextlib.suppress(AttributeError):
                    await host.peer.kill()
                with contextlib.suppress(NotHere):
                    await run("ip", "netns", "delete", host.space)
