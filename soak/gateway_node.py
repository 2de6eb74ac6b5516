"""A gateway of the soak. Its orders and reports are those of soak/python_node.py."""

from __future__ import annotations

import asyncio
import json
import sys

from quicdist.gateway import Gateway, GatewaySettings
from soak.python_node import REPORT_EVERY, move


async def serve(name: str) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Gateway(GatewaySettings(name)) as gateway:

        async def report() -> None:
            while True:
                counts = {
                    "tasks": len(asyncio.all_tasks()),
                    "blocks": sys.getallocatedblocks(),
                    "connected": gateway.connections,
                }
                print(json.dumps(counts), flush=True)
                await asyncio.sleep(REPORT_EVERY)

        reporting = asyncio.create_task(report())
        while line := await reader.readline():
            order = line.decode().strip()
            if order != "quiet":
                move(gateway._endpoint, order, int(name.partition("@")[0]))
        reporting.cancel()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
