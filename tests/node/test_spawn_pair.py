"""Spawning and aliases between two nodes of one event loop, in cases that Erlang cannot produce."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicdist import (
    AliasMode,
    CallTimeout,
    Mailbox,
    MailboxLimits,
    NoConnection,
    Node,
    NodeLimits,
    SpawnError,
    shell,
)
from quicdist.etf import EtfEncodeError, Term
from quicdist.protocol import signals
from tests.node import exported
from tests.node.conftest import atom
from tests.node.memory import Hub
from tests.support.waiting import PATIENCE, until

KIB = 1024


def make(hub: Hub, **settings: Any) -> Node:
    return Node("0@127.0.0.1", **{"cookie": "c", "carriers": [hub], **settings})


async def get(me: Mailbox) -> Any:
    return await me.receive(timeout=PATIENCE)


async def test_a_python_node_spawns_on_another_and_on_itself() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub, exports=[exported]) as two:
        for node, there in ((one, two), (two, two)):
            async with node.mailbox() as me:
                child = await me.spawn_remote(
                    there.name, "py", "tell", [me.pid, 1], monitor=True, link=True
                )
                assert await get(me) == 1
                down = (atom("DOWN"), child.reference, atom("process"), child.pid, atom("normal"))
                assert await get(me) == down
                assert not me.links
                assert not me.monitoring


async def test_the_connection_goes_before_the_reply() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two, one.mailbox() as me:
        await one.connect(two.name)
        for connection in hub.connections:
            connection.is_deaf = True
        asked = me.spawn_request(
            two.name, "py", "f", [], monitor=True, alias=AliasMode.EXPLICIT_UNALIAS
        )
        abandoned = me.spawn_request(two.name, "py", "f", [], monitor=True)
        assert me.spawn_request_abandon(abandoned)
        waiting = asyncio.create_task(me.spawn_remote(two.name, "py", "f", timeout=None))
        with pytest.raises(CallTimeout):
            await me.spawn_remote(two.name, "py", "f", timeout=0.01)
        assert list(me.aliases) == [asked]
        one.disconnect(two.name)
        assert await get(me) == (
            atom("spawn_reply"),
            asked,
            atom("error"),
            atom("noconnection"),
        )
        with pytest.raises(NoConnection):
            await waiting
        assert me.message_count == 0
        assert not me.aliases
        assert not me.monitoring


async def test_a_node_refuses() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two, one.mailbox() as me:

        def refuse(control: signals.SpawnRequest, args: Term, source: object) -> None:
            answer = signals.SpawnReply(control.req_id, control.sender, 0, atom("badopt"))
            two.system.emit_if_connected(control.sender.node, two.pid, answer)

        two.system.handlers[signals.SpawnRequest] = refuse
        with pytest.raises(SpawnError, match="badopt") as caught:
            await me.spawn_remote(two.name, "m", "f", [1], alias=AliasMode.DEMONITOR)
        assert caught.value.reason == "badopt"
        asked = me.spawn_request(two.name, "m", "f", reply_tag=7)
        assert await get(me) == (7, asked, atom("error"), atom("badopt"))
        with pytest.raises(EtfEncodeError):
            await me.spawn_remote(two.name, "m", "f", [object()], monitor=True)
        assert not me.aliases


async def test_a_parent_that_dies_before_the_reply() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub, exports=[exported]) as two, two.mailbox() as watcher:
        await one.connect(two.name)
        async with one.mailbox() as me:
            me.spawn_request(two.name, "py", "forever", link=True, monitor=True)
        async with one.mailbox() as me:
            kept = await me.spawn_remote(two.name, "py", "forever")
        reference = watcher.monitor(kept.pid)
        await until(lambda: _running(two) == 1)
        assert watcher.demonitor(reference)
        watcher.exit(kept.pid, atom("kill"))
        await until(lambda: _running(two) == 0)


def _running(node: Node) -> int:
    """Returns the node's processes that run a spawned function."""
    mailboxes = [one for one in node.system.processes.values() if isinstance(one, Mailbox)]
    here = asyncio.current_task()
    return sum(one.loop is not None and one._task is not here for one in mailboxes)


async def test_a_full_shell_holds_its_printers_back() -> None:
    """A group leader is bounded like any receiver, and all output arrives in order."""
    hub = Hub()
    printed: list[str] = []
    limits = NodeLimits(mailbox=MailboxLimits(high=64 * KIB, low=32 * KIB, hard=256 * KIB))

    async with make(hub, limits=limits) as one, make(hub) as two:
        await one.connect(two.name)
        async with two.group_leader(printed.append) as out, one.mailbox() as me:

            async def main(process: Mailbox) -> None:
                process.group_leader = out
                for number in range(2000):
                    print(number, "x" * 100, file=shell)

            process = one.spawn(main)
            watch = me.monitor(process.pid)
            assert (await get(me))[1] == watch
            await until(lambda: "".join(printed).count("\n") == 2000)
    lines = "".join(printed).splitlines()
    assert lines == [f"{number} {'x' * 100}" for number in range(2000)]


async def test_print_where_there_is_no_process(capsys: pytest.CaptureFixture[str]) -> None:
    print("plain", file=shell)
    assert capsys.readouterr().out == "plain\n"
    assert shell.writable()
    with pytest.raises(TypeError):
        shell.write(b"bytes")  # type: ignore[arg-type]


async def test_an_alias_that_ends_with_the_reply() -> None:
    async with make(Hub()) as node, node.mailbox() as me, node.mailbox() as you:
        watch = me.monitor(you.pid, alias=AliasMode.REPLY_DEMONITOR)
        await you.send(watch, 1)
        await you.send(watch, 2)
        assert await get(me) == 1
        assert me.message_count == 0
        assert not you.watchers
        assert not me.monitoring
