"""A stock Erlang node behind a gateway in a process of its own, and a Python node it dialed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.peer import COOKIE, make_node
from faults.stage import PATIENCE, free_port
from quicdist import Node, NodeDown
from quicdist.gateway import emit_module, erl_arguments
from quicdist.runtime.mailbox import Mailbox
from tests.support.erlang import Erlang

_WATCH = """
Log = ets:new(log, [public, named_table, ordered_set]),
Heir = spawn(fun() ->
    net_kernel:monitor_nodes(true, [{node_type, all}]),
    receive go -> ok end,
    (fun F() -> receive
        {nodedown, _, _} -> ets:insert(log, {erlang:system_time(millisecond)}), F();
        _ -> F()
    end end)()
end),
ets:give_away(log, Heir, none), Heir ! go, [].
"""

_STREAM = """
Body = binary:copy(<<"x">>, 65536),
To = {sink, list_to_atom(binary_to_list(In))},
spawn(fun() ->
    (fun F(N) -> To ! {chunk, <<"stream">>, N, Body}, timer:sleep(5), F(N + 1) end)(0)
end), [].
"""


class GatewayProcess:
    """soak/gateway_node.py, running."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self._state = state
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Until its ports are open."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "soak.gateway_node", self.name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "QUICDIST_STATE_DIR": str(self._state)},
        )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        assert line, "the gateway does not start"

    def order(self, order: str) -> None:
        """`away` moves it to another port."""
        assert self.process.stdin is not None
        self.process.stdin.write(order.encode() + b"\n")

    async def kill(self) -> float:
        """As `kill -9` does; when."""
        if self.process.returncode is None:
            self.process.kill()
        at = time.monotonic()
        await self.process.wait()
        return at


@dataclass
class GatewayedStage:
    """One scenario's."""

    node: Node
    gateway: GatewayProcess
    erlang: Erlang
    sink: Mailbox
    downs: list[tuple[float, NodeDown]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, source: str, data: bytes = b"") -> bytes:
        """Of the Erlang node."""
        return await asyncio.to_thread(self.erlang.eval, source, data)

    async def stream_until(self, count: int, *, begin: bool = True) -> list[int]:
        """The numbers of so many chunks that the Erlang node sends, one every 5 ms."""
        if begin:
            await self.ask(_STREAM, self.node.name.encode())
        return [_number(await self.sink.receive(timeout=PATIENCE)) for _ in range(count)]

    def rest(self) -> list[int]:
        """Of what else has come."""
        found = []
        while self.sink.message_count:
            message = self.sink._find(None)
            assert message is not None
            found.append(_number(message[0]))
        return found

    async def down(self) -> tuple[float, str]:
        """When the Erlang node was down for us, and why."""
        while not self.downs:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
        at, event = self.downs[-1]
        return at, event.reason

    async def erlang_downs(self) -> list[float]:
        """When we were down for the Erlang node, on our monotonic clock."""
        offset = time.time() - time.monotonic()
        text = await self.ask('[io_lib:format("~b ", [At]) || {At} <- ets:tab2list(log)].')
        return [int(word) / 1000 - offset for word in text.split()]

    async def erlang_sees_down(self) -> float:
        """The first of them."""
        while not (downs := await self.erlang_downs()):
            await asyncio.sleep(0.2)
        return downs[0]

    async def watch(self) -> None:
        """Notes every nodedown."""
        with self.node.events() as events:
            async for event in events:
                if isinstance(event, NodeDown):
                    self.downs.append((time.monotonic(), event))
                    self._changed.set()

    async def recovers(self) -> None:
        """Both find each other again."""
        deadline = time.monotonic() + PATIENCE
        while not await self.node.ping(self.gateway.name):
            assert time.monotonic() < deadline, "they do not find each other again"
            await asyncio.sleep(0.2)


def _number(message: object) -> int:
    assert isinstance(message, tuple)
    number = message[2]
    assert isinstance(number, int)
    return number


@contextlib.asynccontextmanager
async def gatewayed_stage(engine: str, ticktime: float) -> AsyncIterator[GatewayedStage]:
    """The Erlang node has dialed ours."""
    name = f"{free_port()}@127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="quicdist-faults-") as directory:
        emit_module(directory)
        gateway = GatewayProcess(name, Path(directory))
        await gateway.start()
        arguments = (
            *("-name", name, "-setcookie", COOKIE, "-hidden"),
            *("-kernel", "net_ticktime", str(max(1, int(ticktime)))),
            *erl_arguments(directory),
        )
        erlang = await asyncio.to_thread(Erlang, *arguments)
        try:
            async with (
                make_node("0@127.0.0.1", engine, ticktime) as node,
                node.mailbox("sink") as sink,
            ):
                scene = GatewayedStage(node, gateway, erlang, sink)
                await scene.ask(_WATCH)
                pong = await scene.ask(
                    "atom_to_list(net_adm:ping(list_to_atom(binary_to_list(In)))).",
                    node.name.encode(),
                )
                assert pong == b"pong", pong
                watching = asyncio.create_task(scene.watch())
                try:
                    yield scene
                finally:
                    watching.cancel()
        finally:
            await asyncio.to_thread(erlang.close)
            await gateway.kill()
