"""quicdist: a node that reads and echoes, or a node that drives it.

    python -m benchmarks.sides.quicdist_side SETTINGS [NAME]

SETTINGS are the settings of `Quic` as JSON, or of `Tcp` if they contain `epmd_port`. With the NAME
of the other node the process is the driver. As by default, both nodes present certificates and
trust each other on first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sides.measuring import SMALL, drive, hear, log_errors_only, say
from quicdist import Identity, Mailbox, Node, Quic, Tcp, Trust
from quicdist.cluster.carrier import CarrierSettings

COOKIE = "benchmark"
_numbers = itertools.count()


def carriers(settings: dict[str, Any]) -> Sequence[CarrierSettings]:
    """Returns the carrier for SETTINGS."""
    return [Tcp(**settings) if "epmd_port" in settings else Quic(**settings)]


def new_node(settings: dict[str, Any]) -> Node:
    """Returns a node on a free port."""
    name = f"n{os.getpid()}x{next(_numbers)}" if "epmd_port" in settings else "0"
    return Node(
        f"{name}@127.0.0.1",
        cookie=COOKIE,
        carriers=carriers(settings),
        identity=Identity.ephemeral(["127.0.0.1"]),
        trust=Trust.first_use(Path(tempfile.mkdtemp()) / "known"),
    )


async def serve(settings: dict[str, Any]) -> None:
    """Runs `sink`, which discards messages, and `echo`, which answers them."""
    async with new_node(settings) as node:
        node.spawn(echo, name="echo")
        node.spawn(sink, name="sink")
        say({"name": node.name})
        await hear()


async def echo(me: Mailbox) -> None:
    """Sends Message to Pid for each {Pid, Message}."""
    while True:
        sender, message = await me.receive()
        await me.send(sender, message)


async def sink(me: Mailbox) -> None:
    """Answers {Pid, Message} and discards any other message."""
    while True:
        message = await me.receive()
        if type(message) is tuple:
            await me.send(message[0], message[1])


class NodeLink:
    """A link between two nodes; separate processes send small and large messages."""

    def __init__(
        self, node: Node, other: str, settings: dict[str, Any], pinging: Mailbox, flowing: Mailbox
    ) -> None:
        self._node = node
        self._other = other
        self._settings = settings
        self._pinging = pinging
        self._flowing = flowing
        self._echo = ("echo", other)
        self._sink = ("sink", other)
        self._held = contextlib.AsyncExitStack()

    async def echo(self) -> None:
        await self._pinging.send(self._echo, (self._pinging.pid, SMALL))
        await self._pinging.receive()

    async def put(self, message: bytes) -> None:
        await self._flowing.send(self._sink, message)

    async def settle(self) -> None:
        await self._flowing.send(self._sink, (self._flowing.pid, 1))
        await self._flowing.receive()

    async def disconnect(self) -> None:
        self._node.disconnect(self._other)

    async def connect(self) -> None:
        await self._node.connect(self._other)

    async def hold(self, count: int) -> None:
        for _ in range(count):
            node = await self._held.enter_async_context(new_node(self._settings))
            await node.connect(self._other)


async def main() -> None:
    """Runs a server node or a driver node."""
    log_errors_only()
    settings = json.loads(sys.argv[1])
    if len(sys.argv) < 3:
        await serve(settings)
        return
    async with new_node(settings) as node, node.mailbox() as pinging, node.mailbox() as flowing:
        await node.connect(sys.argv[2])
        await drive(NodeLink(node, sys.argv[2], settings, pinging, flowing))


asyncio.run(main())
