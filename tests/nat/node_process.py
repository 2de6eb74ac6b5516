"""A node in a namespace of the lab, controlled by lines of JSON.

    python -m tests.nat.node_process SETTINGS

Settings: `name`, `via`, `listen`, `engine`, `path`, `map_port`, `close_time` (seconds). Each line
of standard input is an order with an `id`; the line of standard output with the same `id` is its
answer. Other lines are events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import quicdist.node.node
from faults.peer import sink, transfer
from quicdist import Node, Quic, Tcp, Trust
from quicdist.errors import NodeError
from quicdist.node.events import NodeDown

COOKIE = "lab"
Order = dict[str, Any]
Answer = dict[str, Any]


def tell(**event: object) -> None:
    """Prints a line of JSON."""
    print(json.dumps({**event, "at": time.monotonic()}), flush=True)


async def ping(node: Node, order: Order) -> Answer:
    """Pings a node; tells how long that took, connecting included."""
    began = time.monotonic()
    is_up = await node.ping(order["node"], timeout=order.get("timeout", 60))
    return {"ok": is_up, "seconds": time.monotonic() - began}


async def send(node: Node, order: Order) -> Answer:
    """Transfers bytes to the sink of a node, and verifies that all arrived in order."""
    began = time.monotonic()
    is_exact, text = await transfer(node, order["node"], order["size"], order.get("name", "x"))
    return {"ok": is_exact, "text": text, "seconds": time.monotonic() - began}


async def beat(node: Node, order: Order) -> Answer:
    """Sends a message every 50 ms for a time; tells the longest pause between two answers."""
    longest, last = 0.0, time.monotonic()
    end = last + order["seconds"]
    sent = answered = 0
    async with node.mailbox() as me:
        while (now := time.monotonic()) < end:
            await me.send(("echo", order["node"]), (me.pid, sent))
            sent += 1
            while time.monotonic() < now + 0.05:
                try:
                    await me.receive(timeout=now + 0.05 - time.monotonic())
                except TimeoutError:
                    break
                answered += 1
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
        longest = max(longest, time.monotonic() - last)
    return {"ok": answered > 0, "longest": longest, "sent": sent, "answered": answered}


async def status(node: Node, order: Order) -> Answer:
    """Tells the paths of all connections and the state at the relay."""
    peers = {
        peer.name: {
            "path": peer.path,
            "switches": peer.path_switches,
            "lost": peer.traffic.datagrams_lost,
            "migrations": peer.traffic.migrations,
            "round_trip": peer.round_trip,
        }
        for peer in node.stats().connections
    }
    relay = node.relay
    return {
        "ok": True,
        "peers": peers,
        "way": None if relay is None else relay.way,
        "observed": None if relay is None else relay.observed,
        "refused": dict(node.stats().refused),
        "forged": 0 if relay is None else relay.forged,
        "cpu": time.process_time(),
    }


async def echo(node: Node) -> None:
    """Answers every message."""
    async with node.mailbox("echo") as me:
        while True:
            message = await me.receive()
            assert isinstance(message, tuple)
            await node.send(message[0], message[1])


ORDERS: dict[str, Callable[[Node, Order], Awaitable[Answer]]] = {
    "ping": ping,
    "send": send,
    "beat": beat,
    "status": status,
}


class Events(logging.Handler):
    """Tells the events of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", "")
        tell(event=event, level=record.levelname, text=record.getMessage())


async def obey(node: Node, order: Order) -> None:
    """Carries an order out and answers."""
    try:
        answer = await ORDERS[order["do"]](node, order)
    except (NodeError, TimeoutError) as error:
        answer = {"ok": False, "error": str(error), "cause": str(getattr(error, "cause", ""))}
    tell(id=order["id"], **answer)


async def watch(node: Node) -> None:
    """Tells of nodes that go down."""
    with node.events() as events:
        async for event in events:
            if isinstance(event, NodeDown):
                tell(event="nodedown", node=event.node, reason=event.reason)


async def main(settings: dict[str, Any]) -> None:
    """Runs the node until standard input ends."""
    handler = Events()
    logging.getLogger("quicdist").addHandler(handler)
    logging.getLogger("quicdist").setLevel(logging.INFO)
    engine = settings.get("engine", "aioquic")
    quic = Quic(
        engine=engine,
        path=settings.get("path", "auto"),
        map_port=settings.get("map_port", False),
    )
    trust = Trust.first_use()
    if "close_time" in settings:
        quicdist.node.node._CLOSE_TIME = settings["close_time"]
    node = Node(
        settings.get("name"),
        via=settings.get("via"),
        listen=settings.get("listen"),
        cookie=COOKIE,
        trust=trust,
        carriers=[quic, Tcp()],
    )
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    try:
        async with node:
            tell(event="ready", name=node.name)
            for service in (sink, echo, watch):
                tasks.add(asyncio.create_task(service(node)))
            while line := await reader.readline():
                tasks.add(asyncio.create_task(obey(node, json.loads(line))))
    except (NodeError, OSError) as error:
        tell(event="failed", error=str(error))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
