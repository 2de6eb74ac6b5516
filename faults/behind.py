"""A stock Erlang node behind a gateway in a separate process, and a Python node that it dialed."""

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
from faults.stage import PATIENCE
from quicdist import Node, NodeDown
from quicdist.gateway import emit_module, erl_arguments
from quicdist.runtime.mailbox import Mailbox
from tests.support.erlang import Erlang
from tests.support.ports import free_port

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
    """A running process of soak/gateway_node.py."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self._state = state
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Starts the process and waits until its ports are open."""
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
        """Sends an order; `away` moves the gateway to another port."""
        assert self.process.stdin is not None
        self.process.stdin.write(order.encode() + b"\n")

    async def kill(self) -> float:
        """Sends SIGKILL and returns the monotonic time."""
        if self.process.returncode is None:
            self.process.kill()
        at = time.monotonic()
        await self.process.wait()
        return at


@dataclass
class GatewayedStage:
    """The nodes, the gateway and the records of one scenario."""

    node: Node
    gateway: GatewayProcess
    erlang: Erlang
    sink: Mailbox
    downs: list[tuple[float, NodeDown]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, source: str, data: bytes = b"") -> bytes:
        """Evaluates an Erlang expression on the Erlang node."""
        return await asyncio.to_thread(self.erlang.eval, source, data)

    async def stream_until(self, count: int, *, begin: bool = True) -> list[int]:
        """Returns the numbers of the next `count` chunks; the Erlang node sends one every 5 ms."""
        if begin:
            await self.ask(_STREAM, self.node.name.encode())
        return [_number(await self.sink.receive(timeout=PATIENCE)) for _ in range(count)]

    def rest(self) -> list[int]:
        """Returns the numbers of the chunks received so far."""
        found = []
        while self.sink.message_count:
            message = self.sink._find(None)
            assert message is not None
            found.append(_number(message[0]))
        return found

    async def down(self) -> tuple[float, str]:
        """Waits for nodedown of the Erlang node and returns its time and reason."""
        while not self.downs:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
        at, event = self.downs[-1]
        return at, event.reason

    async def erlang_downs(self) -> list[float]:
        """Returns the times of nodedown on the Erlang node, on this process's monotonic clock."""
        offset = time.time() - time.monotonic()
        text = await self.ask('[io_lib:format("~b ", [At]) || {At} <- ets:tab2list(log)].')
        return [int(word) / 1000 - offset for word in text.split()]

    async def erlang_sees_down(self) -> float:
        """Waits for the first nodedown on the Erlang node and returns its time."""
        while not (downs := await self.erlang_downs()):
            await asyncio.sleep(0.2)
        return downs[0]

    async def watch(self) -> None:
        """Records every nodedown."""
        with self.node.events() as events:
            async for event in events:
                if isinstance(event, NodeDown):
                    self.downs.append((time.monotonic(), event))
                    self._changed.set()

    async def recovers(self) -> None:
        """Waits until both nodes are connected again."""
        deadline = time.monotonic() + PATIENCE
        while not await self.node.ping(self.gateway.name):
            assert time.monotonic() < deadline, "the nodes do not reconnect"
            await asyncio.sleep(0.2)


def _number(message: object) -> int:
    assert isinstance(message, tuple)
    number = message[2]
    assert isinstance(number, int)
    return number


@contextlib.asynccontextmanager
async def gatewayed_stage(engine: str, ticktime: float) -> AsyncIterator[GatewayedStage]:
    """Yields the stage after the Erlang node has dialed this process's node."""
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
