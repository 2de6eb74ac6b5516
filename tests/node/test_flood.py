"""Back-pressure of a mailbox that is not read: bounded memory on both sides and no losses.

QUICDIST_FLOOD_MIB sets the amount of data; 1024 is the documented value.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from tests.node.flood import CHUNK
from tests.support.engines import ENGINES

pytestmark = pytest.mark.io

MIB = 1024 * 1024
VOLUME = int(os.environ.get("QUICDIST_FLOOD_MIB", "128")) * MIB
ALLOWED = 64 * MIB


class Child:
    """One of the two processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *args: str) -> Child:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.node.flood",
                *args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 300)
        if not line:
            raise AssertionError((await self.end())[-2000:])
        return dict(json.loads(line))

    def say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def end(self) -> str:
        _, errors = await asyncio.wait_for(self._process.communicate(), 60)
        return errors.decode()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_flood_at_a_mailbox_nobody_reads(engine: str) -> None:
    count = VOLUME // CHUNK
    receiver = await Child.start(engine, "receive", str(count))
    try:
        name = (await receiver.hear())["name"]
        sender = await Child.start(engine, "send", name, str(count))
        try:
            await flood(receiver, sender, count)
        finally:
            sender.kill()
    finally:
        receiver.kill()


async def flood(receiver: Child, sender: Child, count: int) -> None:
    assert (await receiver.hear())["held"]
    # The sender fills its buffers and then stalls for a second, according to its reports.
    reports = [-1]
    while reports[-4:] != [reports[-1]] * 4:
        reports.append((await sender.hear())["sent"])
    before = reports[-1]
    assert before < count, "nothing held the sender back"
    receiver.say()
    idle = await receiver.hear()
    assert 0 < idle["waiting"] < count
    drained = await receiver.hear()
    assert drained["total"] == VOLUME
    receiver.say()
    while "done" not in (report := await sender.hear()):
        pass
    log = await receiver.end()
    await sender.end()
    grown = {"receiver": drained["grown"], "sender": report["grown"]}
    print({side: f"{size / MIB:.1f} MiB" for side, size in grown.items()}, "at", before, "sent")
    assert max(grown.values()) < ALLOWED, grown
    assert "basin" in log
    assert "is paused until the receiver has room" in log
