"""erldistpy as driver of an Erlang node. It is a blocking client and cannot be the answering side.

python -m benchmarks.sides.erldistpy_side NODE EPMD_PORT COOKIE
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any

import erldistpy.node
from erldistpy import Atom, Node

from benchmarks.sides.measuring import SMALL, drive, log_errors_only


class ErldistpyLink:
    """A link with blocking calls and sends."""

    def __init__(self, other: str, cookie: str) -> None:
        self._name, _, self._host = other.partition("@")
        self._cookie = cookie
        self._made = 0
        self._node = self._open()
        self._held: list[Any] = []

    def _open(self) -> Any:
        self._made += 1
        return Node(
            our_name=f"erldistpy{self._made}@127.0.0.1",
            peer_name=self._name,
            peer_host=self._host,
            cookie=self._cookie,
        )

    async def echo(self) -> None:
        self._node.call("echo", SMALL)

    async def put(self, message: bytes) -> None:
        self._node._channel.send_reg_send(self._node._our_pid, Atom("sink"), message)

    async def settle(self) -> None:
        self._node.call("sink", 1, timeout=60)

    async def disconnect(self) -> None:
        self._node.close()

    async def connect(self) -> None:
        self._node = self._open()

    async def hold(self, count: int) -> None:
        self._held += [self._open() for _ in range(count)]


if __name__ == "__main__":
    erldistpy.node.lookup = functools.partial(erldistpy.node.lookup, port=int(sys.argv[2]))
    log_errors_only()
    asyncio.run(drive(ErldistpyLink(sys.argv[1], sys.argv[3])))
