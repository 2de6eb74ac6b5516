"""Use of a node from another event loop, thread or process raises an error at once."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from quicdist import Node, NotRunning
from quicdist.cluster.carrier import CarrierSettings
from quicdist.cluster.quic import Quic
from quicdist.cluster.tcp import EpmdUse, Tcp
from quicdist.otp import pg, pubsub
from tests.node.conftest import COOKIE, MakeNode
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.io,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

HARMLESS = {
    *("name", "start", "stop", "events"),
    *("pid", "trap_exit", "level", "links", "is_alive", "message_count", "loop"),
}
"""Methods that need no event loop, or that have separate tests."""

FOR_THE_SYSTEM = {
    *("deliver", "signalled", "stopped", "link_broken", "exit_signalled", "die", "runs_in"),
    *("monitor_fired", "alias_used", "spawn_replied", "node_lost", "fields", "reply"),
    *("both_locked", "known", "candidates", "lock_set", "add", "is_answered"),
    *("ended_error", "sys_state", "run_room", "run_overhead", "deliver_run"),
}


def uses(subject: object) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields calls of each public method of an object, with arbitrary arguments."""
    for name in dir(type(subject)):
        if name.startswith("_") or name in HARMLESS | FOR_THE_SYSTEM:
            continue
        member = inspect.getattr_static(type(subject), name)
        if isinstance(member, property):
            yield name, lambda name=name: getattr(subject, name)  # type: ignore[misc]
        elif inspect.isfunction(member):
            wanted = [
                one
                for one in list(inspect.signature(member).parameters.values())[1:]
                if one.default is one.empty and one.kind is not one.VAR_POSITIONAL
            ]
            arguments = [["x@127.0.0.1"] if one.name == "nodes" else "x@h" for one in wanted]
            method = getattr(subject, name)
            yield name, lambda method=method, arguments=arguments: method(*arguments)  # type: ignore[misc]


async def use(call: Callable[[], Any]) -> None:
    result = call()
    if isinstance(result, contextlib.AbstractAsyncContextManager):
        async with result:
            pass
    elif isinstance(result, Awaitable):
        await result


def in_another_loop(work: Callable[[], Awaitable[None]]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(work(), PATIENCE))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="the other")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def subjects(node: Node, stack: contextlib.AsyncExitStack) -> list[object]:
    me = await stack.enter_async_context(node.mailbox())
    request = node.send_request(node.name, "erlang", "node")
    await request.answered()
    return [node, me, request, pg.start(node), pubsub.start(node, "App"), node.global_names]


async def test_from_another_loop_every_method_names_the_loop(make_node: MakeNode) -> None:
    async with make_node(visible=True) as node, contextlib.AsyncExitStack() as stack:
        silent = []
        count = 0
        for subject in await subjects(node, stack):
            for name, call in uses(subject):
                count += 1
                text = ""
                try:
                    in_another_loop(lambda call=call: use(call))  # type: ignore[misc]
                except RuntimeError as error:
                    text = str(error)
                if "belongs to the event loop" not in text or "'the other'" not in text:
                    silent.append(f"{type(subject).__name__}.{name}")
        assert not silent
        assert count > 60


async def test_events_and_the_end_of_another_loop(make_node: MakeNode) -> None:
    async with make_node() as node:
        with node.events() as events:

            async def use_both() -> None:
                with pytest.raises(RuntimeError, match="belongs to the event loop"):
                    await anext(events)
                with pytest.raises(RuntimeError, match="belongs to the event loop"):
                    await node.stop()

            in_another_loop(use_both)


async def test_another_thread_without_a_loop(make_node: MakeNode) -> None:
    async with make_node() as node:
        with pytest.raises(RuntimeError, match="from no event loop in thread"):
            await asyncio.to_thread(node.nodes)


def test_between_two_runs_of_its_loop_a_node_can_be_looked_at(make_node: MakeNode) -> None:
    loop = asyncio.new_event_loop()
    try:
        node = make_node()
        loop.run_until_complete(node.start())
        assert node.nodes() == []
        loop.run_until_complete(node.stop())
    finally:
        loop.close()


# -- fork -----------------------------------------------------------------------------------------

_PARENT = """
import asyncio, os, sys
from quicdist import Node
from quicdist.cluster.quic import Quic
from quicdist.cluster.tcp import EpmdUse, Tcp
async def main():
    name, cookie, epmd_port = sys.argv[1:]
    carriers = [Quic(), Tcp(epmd_port=int(epmd_port), epmd=EpmdUse.EMBED)]
    async with Node(name, cookie=cookie, carriers=carriers):
        child = os.fork()
        if child == 0:
            os.close(1)  # a reader of the parent only waits for the end of the parent
            os.read(0, 1)  # until the test ends
            os._exit(0)
        print(child, flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["quic", "tcp"])
async def test_a_child_keeps_nothing_of_a_parent_that_is_killed(kind: str) -> None:
    """The name, the port and the EPMD entry are free again while the child process lives."""
    epmd_port = free_port()
    name = f"{free_port()}@127.0.0.1" if kind == "quic" else "forked@127.0.0.1"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT, name, COOKIE, str(epmd_port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    try:
        process.kill()
        await process.wait()
        os.kill(child, 0)  # the child exists
        carriers: list[CarrierSettings] = [Quic(), Tcp(epmd_port=epmd_port, epmd=EpmdUse.EMBED)]
        async with Node(name, cookie=COOKIE, carriers=carriers):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        await process.communicate()


async def _in_child(node: Node, me: Any) -> list[str]:
    silent = []
    for subject in (node, me):
        for name, call in uses(subject):
            with contextlib.suppress(NotRunning):
                await use(call)
                silent.append(name)
    await node.stop()
    return silent


async def test_in_a_child_the_node_says_whose_it_is(make_node: MakeNode) -> None:
    context = multiprocessing.get_context("fork")
    async with make_node(visible=True) as node, node.mailbox() as me:
        receiver, sender = context.Pipe(duplex=False)

        def child() -> None:
            asyncio.set_event_loop(None)
            try:
                sender.send(asyncio.run(_in_child(node, me)))
            except BaseException as error:
                sender.send(repr(error))

        process = context.Process(target=child)
        process.start()
        answer = await asyncio.to_thread(receiver.recv)
        await asyncio.to_thread(process.join)
        assert answer == []
        # The parent's node is not affected.
        async with make_node() as other:
            assert await node.ping(other.name)


def test_a_start_without_an_asyncio_loop_is_a_clear_error() -> None:
    """As in a program of trio, which runs the coroutine itself."""
    with pytest.raises(RuntimeError, match="no event loop of asyncio runs here"):
        Node("0@127.0.0.1", cookie=COOKIE).start().send(None)
