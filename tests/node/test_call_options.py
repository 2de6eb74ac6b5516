"""What `@export` promises about a call: its caller, its end, its limits and where it runs."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from quicdist import (
    CallError,
    CallTimeout,
    ExportError,
    NoConnection,
    Node,
    NodeLimits,
    Run,
    current_call,
    export,
)
from quicdist.etf import Atom
from tests.node import exported
from tests.node.conftest import Beam, MakeNode
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

Call = Callable[[Node, str, float], Awaitable[object]]

SOON = 1.0
"""Seconds after which a caller gives up. The function must have started by then."""


@pytest_asyncio.fixture
async def nodes(make_node: MakeNode) -> AsyncIterator[tuple[Node, Node]]:
    exported.closed.clear()
    exported.started.clear()
    async with make_node() as one, make_node(exports=[exported]) as two:
        await one.connect(two.name)
        yield one, two


def erpc(node: Node, other: str, timeout: float) -> Awaitable[object]:
    return node.call(other, "py", "wait_with_caller", timeout=timeout)


def rpc(node: Node, other: str, timeout: float) -> Awaitable[object]:
    return node.rpc(other, "py", "wait_with_caller", timeout=timeout)


def gen_call(node: Node, other: str, timeout: float) -> Awaitable[object]:
    return node.gen_call(("py", other), Atom("wait_with_caller"), timeout=timeout)


@pytest.mark.parametrize("call", [erpc, rpc, gen_call])
async def test_a_call_ends_when_its_caller_gives_up(nodes: tuple[Node, Node], call: Call) -> None:
    one, two = nodes
    with pytest.raises(CallTimeout):
        await call(one, two.name, SOON)
    await until(lambda: exported.closed == ["wait_with_caller"])


@pytest.mark.parametrize("call", [erpc, rpc, gen_call])
async def test_a_call_ends_when_its_caller_is_cancelled(
    nodes: tuple[Node, Node], call: Call
) -> None:
    one, two = nodes
    task = asyncio.ensure_future(call(one, two.name, 60))
    await until(lambda: exported.started == ["wait_with_caller"])
    task.cancel()
    await until(lambda: exported.closed == ["wait_with_caller"])


async def test_a_call_ends_when_the_connection_is_lost(make_node: MakeNode) -> None:
    exported.closed.clear()
    exported.started.clear()
    async with make_node(exports=[exported]) as two:
        async with make_node() as one:
            task = asyncio.ensure_future(erpc(one, two.name, 60))
            await until(lambda: exported.started == ["wait_with_caller"])
        await until(lambda: exported.closed == ["wait_with_caller"])
        task.cancel()


async def test_a_function_in_a_thread_learns_that_its_caller_gave_up(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    with pytest.raises(CallTimeout):
        await one.call(two.name, "py", "poll_caller", timeout=SOON)
    await until(lambda: exported.closed == ["poll_caller"])


async def test_a_call_goes_on_by_default(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    exported.gate = asyncio.Event()
    with pytest.raises(CallTimeout):
        await one.call(two.name, "py", "add_at_gate", [1, 2], timeout=SOON)
    exported.gate.set()
    await until(lambda: exported.closed == ["add_at_gate"])


async def test_a_function_knows_its_caller_and_deadline(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    node, pid, left = await one.call(two.name, "py", "who_calls", timeout=30)
    assert (node, pid) == (one.name, one.pid)
    assert 0 < left <= 30
    without = await one.call(two.name, "py", "who_calls", timeout=None)
    assert without == (Atom(one.name), one.pid, Atom("infinity"))
    by_rpc = await one.rpc(two.name, "py", "who_calls")
    assert by_rpc == (Atom(one.name), one.pid, Atom("infinity"))


async def test_a_deadline_passes_on_to_nested_calls(make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as last:

        @export(module="middle")
        async def forward() -> object:
            return await middle.call(last.name, "py", "who_calls", timeout=60)

        async with make_node(exports=[forward]) as middle, make_node() as first:
            _, _, left = await first.call(middle.name, "middle", "forward", timeout=20)
            assert 0 < left <= 20


async def test_calls_beyond_the_limit_wait_and_those_beyond_the_queue_fail_at_once(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    exported.gate = asyncio.Event()
    calls = [one.send_request(two.name, "py", "limited") for _ in range(3)]
    await until(lambda: exported.started == ["limited"] * 2)
    with pytest.raises(CallError, match="busy"):
        await one.call(two.name, "py", "limited", timeout=60)
    exported.gate.set()
    assert [await call.receive_response(60) for call in calls] == ["ok"] * 3


async def test_a_function_runs_in_a_worker_process(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    pid, square = await one.call(two.name, "py", "process_of", [7], timeout=60)
    assert square == 49
    assert pid != os.getpid()


async def test_a_worker_that_dies_fails_its_call_only(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    with pytest.raises(CallError, match="worker_down"):
        await one.call(two.name, "py", "die_in_process", timeout=PATIENCE)
    _, square = await one.call(two.name, "py", "process_of", [3], timeout=60)
    assert square == 9


async def test_a_worker_that_dies_leaves_the_calls_of_the_others(
    make_node: MakeNode, tmp_path: Path
) -> None:
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    limits = NodeLimits(processes=2)
    async with make_node() as one, make_node(exports=[exported], limits=limits) as two:
        paths = [str(begun).encode(), str(ends).encode()]
        running = one.send_request(two.name, "py", "wait_for_file", paths)
        await until(begun.exists)
        with pytest.raises(CallError, match="worker_down"):
            await one.call(two.name, "py", "die_in_process", timeout=PATIENCE)
        ends.touch()
        assert await running.receive_response(PATIENCE) == "ok"


async def test_a_call_waits_for_a_worker_that_is_free(make_node: MakeNode, tmp_path: Path) -> None:
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    limits = NodeLimits(processes=1)
    async with make_node() as one, make_node(exports=[exported], limits=limits) as two:
        paths = [str(begun).encode(), str(ends).encode()]
        running = one.send_request(two.name, "py", "wait_for_file", paths)
        await until(begun.exists)
        waiting = one.send_request(two.name, "py", "process_of", [3])
        ends.touch()
        assert await running.receive_response(PATIENCE) == "ok"
        _, square = await waiting.receive_response(PATIENCE)
        assert square == 9


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("error", "in a worker"),
        ("unpicklable", "Unpicklable: 1 and 2"),
        ("stop_iteration", "StopIteration"),
        ("exit", "SystemExit"),
    ],
)
async def test_an_exception_in_a_worker_fails_only_its_call(
    nodes: tuple[Node, Node], kind: str, text: str
) -> None:
    one, two = nodes
    before, _ = await one.call(two.name, "py", "process_of", [1], timeout=60)
    with pytest.raises(CallError, match=text):
        await one.call(two.name, "py", "fail_in_process", [Atom(kind)], timeout=60)
    after, _ = await one.call(two.name, "py", "process_of", [1], timeout=60)
    assert before == after


async def test_a_worker_ends_with_its_node(make_node: MakeNode) -> None:
    async with make_node() as one:
        async with make_node(exports=[exported], limits=NodeLimits(processes=1)) as two:
            pid, _ = await one.call(two.name, "py", "process_of", [1], timeout=60)
            running = one.send_request(two.name, "py", "wait_in_process")
            await until(
                lambda: any("mailbox" in str(each) for each in two.system.processes.values())
            )
        await until(lambda: not _is_running(pid))
        with pytest.raises((CallError, NoConnection)):
            await running.receive_response(60)


async def test_a_worker_ends_when_its_node_is_killed(make_node: MakeNode) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SERVES), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        worker = int(await process.stdout.readline())
        assert _is_running(worker)
    finally:
        process.kill()
        await process.communicate()
    await until(lambda: not _is_running(worker))


_SERVES = """
import asyncio
from quicdist import Node, NodeLimits, Trust
from tests.node import exported
async def main():
    limits = NodeLimits(processes=1)
    settings = dict(cookie="c", trust=Trust.nothing(), exports=[exported], limits=limits)
    async with Node("0@127.0.0.1", **settings) as node:
        pid, _ = await node.call(node.name, "py", "process_of", [1], timeout=None)
        running = asyncio.ensure_future(node.call(node.name, "py", "wait_in_process", timeout=None))
        await asyncio.sleep(0)
        print(pid, flush=True)
        await running
if __name__ == "__main__":
    asyncio.run(main())
"""


def _is_running(pid: int) -> bool:
    """Returns whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("timeout", [-1, 10**400, True])
async def test_a_timeout_that_erlang_does_not_allow_is_no_deadline(
    nodes: tuple[Node, Node], timeout: int
) -> None:
    one, two = nodes
    async with one.mailbox() as me:
        args = [me.alias(), Atom("py"), Atom("who_calls"), [], timeout]
        await me.spawn_remote(two.name, "quicdist_call", "execute", args, monitor=True)
        match await me.receive():
            case ("DOWN", _, "process", _, (_, "return", (_, _, deadline))):
                assert deadline == "infinity"


async def test_what_cannot_run_in_a_process_is_an_error_at_start(make_node: MakeNode) -> None:
    @export(run=Run.PROCESS)
    def local() -> None: ...

    @export(run=Run.PROCESS)
    async def later() -> None: ...

    with pytest.raises(ExportError, match="another process"):
        make_node(exports=[local])
    with pytest.raises(ExportError, match="is async"):
        make_node(exports=[later])


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="concurrency must be positive, not 0"):
        export(concurrency=0)
    with pytest.raises(ValueError, match="requires concurrency"):
        export(queue=1)
    with pytest.raises(RuntimeError, match="in an exported function"):
        current_call()


@pytest.mark.erlang
@pytest.mark.parametrize(
    "call",
    [
        "erpc:call('$node', py, wait_with_caller, [], $timeout)",
        "rpc:call('$node', py, wait_with_caller, [], $timeout)",
        "gen_server:call({py, '$node'}, wait_with_caller, $timeout)",
    ],
)
@pytest.mark.parametrize("timeout", ["infinity", "1000"])
async def test_erlang_callers_that_die_or_give_up(
    make_node: MakeNode, beam: Beam, call: str, timeout: str
) -> None:
    exported.closed.clear()
    exported.started.clear()
    async with make_node(exports=[exported]) as node:
        source = f"P = spawn(fun() -> catch {call} end), register(calling_$timeout, P), ok"
        await beam.eval(source, node=node.name, timeout=timeout)
        await until(lambda: exported.started == ["wait_with_caller"])
        await beam.eval(f"catch exit(whereis(calling_{timeout}), kill), ok")
        await until(lambda: exported.closed == ["wait_with_caller"])


@pytest.mark.parametrize(
    "timeout", [30, 30.5, Fraction(61, 2), np.float32(30), np.int64(30), 1e300, math.inf]
)
async def test_a_timeout_is_any_number(nodes: tuple[Node, Node], timeout: Any) -> None:
    one, two = nodes
    _, _, left = await one.call(two.name, "py", "who_calls", timeout=timeout)
    assert left == "infinity" or 0 < left <= timeout
    assert await one.rpc(two.name, "py", "echo", [1], timeout=timeout) == 1
    assert await one.ping(two.name, timeout=timeout)
