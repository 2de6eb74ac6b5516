"""The two processes of test_flood: one sends to a mailbox that the other does not read.

Run as `python -m tests.node.flood ENGINE receive|send ...`. They exchange lines of JSON with the
test.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from quicdist import Identity, Node, Quic, Trust
from quicdist.etf import Term
from tests.support.waiting import until

CHUNK = 64 * 1024
"""Bytes of a message."""


def memory(field: str) -> int:
    """Returns `VmRSS`, the resident memory, or `VmHWM`, its maximum so far (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} here")


def grown(began: int) -> int:
    """Returns the growth of peak memory since `began`."""
    return memory("VmHWM") - began


def say(**fields: object) -> None:
    """Writes one line for the test."""
    print(json.dumps(fields), flush=True)


async def hear() -> str:
    """Reads one line from the test."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def new_node(engine: str) -> Node:
    """Returns a node on a free port."""
    return Node(
        "0@127.0.0.1",
        cookie="flood",
        carriers=[Quic(engine=engine)],
        identity=Identity.ephemeral(),
        trust=Trust.nothing(),
    )


async def receive(engine: str, count: int) -> None:
    """Owns the mailbox and drains it on request."""
    async with new_node(engine) as node:
        async with node.mailbox("basin") as me:
            began = memory("VmRSS")
            say(name=node.name)
            await until(lambda: me.level.held)
            say(held=True)
            await hear()
            say(grown=grown(began), waiting=me.message_count)
            total = 0
            for index in range(count):
                number, data = await me.receive(timeout=60)
                assert number == index, f"{number} came, {index} was due"
                total += len(data)
            say(grown=grown(began), total=total)
        await hear()


async def send(engine: str, target: str, count: int) -> None:
    """Sends messages."""
    async with new_node(engine) as node:
        await node.connect(target)
        began = memory("VmRSS")
        sent = [0]

        async def report() -> None:
            while True:
                say(sent=sent[0], grown=grown(began))
                await asyncio.sleep(0.25)

        reporting = asyncio.create_task(report())
        data = bytes(CHUNK)
        for index in range(count):
            message: Term = (index, data)
            await node.send(("basin", target), message)
            sent[0] = index + 1
        reporting.cancel()
    say(sent=sent[0], grown=grown(began), done=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if sys.argv[2] == "receive":
        asyncio.run(receive(sys.argv[1], int(sys.argv[3])))
    else:
        asyncio.run(send(sys.argv[1], sys.argv[3], int(sys.argv[4])))
