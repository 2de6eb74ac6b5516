"""`global` among quicdist nodes in one event loop; tests/otp tests it with real Erlang."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from quicdist import Mailbox, NameTaken, Node, NotRunning, NotVisible
from quicdist.etf import Export, Term
from quicdist.kernel.global_.conflicts import OnConflict
from tests.node.conftest import atom
from tests.node.memory import Hub
from tests.support.waiting import PATIENCE, until


@contextlib.asynccontextmanager
async def nodes_of_one_hub(count: int) -> AsyncIterator[list[Node]]:
    hub = Hub()
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Node("0@127.0.0.1", cookie="c", carriers=[hub], visible=True)
            )
            for _ in range(count)
        ]


def is_mesh(nodes: list[Node]) -> bool:
    """Whether each node knows all others and is known by them."""
    everybody = {node.name for node in nodes}
    return all(
        set(node.global_names.known) == set(node.nodes()) == everybody - {node.name}
        for node in nodes
    )


async def synced(nodes: list[Node]) -> None:
    await until(lambda: is_mesh(nodes))
    for node in nodes:
        await asyncio.wait_for(node.global_names.sync(), PATIENCE)


async def forever(me: Mailbox) -> None:
    await asyncio.Event().wait()


async def test_a_mesh_forms_and_each_has_all_names() -> None:
    async with nodes_of_one_hub(5) as nodes, contextlib.AsyncExitStack() as stack:
        named: dict[Term, Any] = {}
        for number, node in enumerate(nodes):
            me = await stack.enter_async_context(node.mailbox())
            await node.global_names.register(number, me.pid)
            named[number] = me
        # Two partitions, which merge, and a third one.
        await asyncio.gather(nodes[0].connect(nodes[1].name), nodes[2].connect(nodes[3].name))
        await nodes[1].connect(nodes[2].name)
        await nodes[4].connect(nodes[0].name)
        await synced(nodes)
        for node in nodes:
            names = node.global_names
            assert {name: names.whereis(name) for name in names.names()} == {
                name: me.pid for name, me in named.items()
            }


async def test_one_of_many_gets_a_name() -> None:
    async with nodes_of_one_hub(3) as nodes, contextlib.AsyncExitStack() as stack:
        for node in nodes[1:]:
            await nodes[0].connect(node.name)
        await synced(nodes)
        wanted = []
        for node in nodes * 2:
            me = await stack.enter_async_context(node.mailbox())
            wanted.append(node.global_names.register("one", me.pid))
        outcomes = await asyncio.gather(*wanted, return_exceptions=True)
        assert outcomes.count(None) == 1
        assert sum(isinstance(one, NameTaken) for one in outcomes) == 5
        (holder,) = {node.global_names.whereis("one") for node in nodes}
        assert holder is not None
        with pytest.raises(NameTaken, match="already"):
            await nodes[0].global_names.register("other", holder)
        await nodes[2].global_names.unregister("one")
        assert [node.global_names.names() for node in nodes] == [[], [], []]


async def test_names_go_with_their_processes_and_nodes() -> None:
    async with nodes_of_one_hub(3) as nodes:
        await nodes[0].connect(nodes[1].name)
        await nodes[1].connect(nodes[2].name)
        await synced(nodes)
        async with nodes[2].mailbox() as one, nodes[2].mailbox() as other:
            names: list[Term] = [1, 1.0, True, [1], {b"k": 2}]
            for name in names:
                await nodes[2].global_names.re_register(name, one.pid)
            await nodes[2].global_names.re_register([1], other.pid)
            assert nodes[0].global_names.whereis(1.0) == one.pid
            assert nodes[0].global_names.whereis([1]) == other.pid
        await until(lambda: not any(node.global_names.names() for node in nodes))
        await nodes[0].global_names.register("last", nodes[2].spawn(forever).pid)
        await nodes[2].stop()
        await until(lambda: not any(node.global_names.names() for node in nodes[:2]))
        # The stopped node did not separate the others.
        await until(lambda: is_mesh(nodes[:2]))


@pytest.mark.parametrize("on_conflict", OnConflict)
async def test_conflicts_when_two_parts_meet(on_conflict: OnConflict) -> None:
    async with nodes_of_one_hub(4) as nodes:
        one, two = nodes[1].spawn(forever), nodes[2].spawn(forever)
        await nodes[0].connect(nodes[1].name)
        await nodes[2].connect(nodes[3].name)
        await asyncio.gather(synced(nodes[:2]), synced(nodes[2:]))
        await nodes[0].global_names.register("name", one.pid, on_conflict=on_conflict)
        await nodes[3].global_names.register("name", two.pid, on_conflict=on_conflict)
        await nodes[0].connect(nodes[3].name)
        await synced(nodes)
        keeps = None if on_conflict is OnConflict.TELL_BOTH else one.pid
        assert {node.global_names.whereis("name") for node in nodes} == {keeps}
        if on_conflict is OnConflict.KILL_ONE:
            assert await two.wait() == "killed"
            return
        conflict: tuple[Term, ...] = (atom("global_name_conflict"), b"name")
        if on_conflict is OnConflict.TELL_ONE:
            assert await two.receive(timeout=PATIENCE) == conflict
        else:
            assert await two.receive(timeout=PATIENCE) == (*conflict, one.pid)
            assert await one.receive(timeout=PATIENCE) == (*conflict, two.pid)
        assert one.is_alive
        assert two.is_alive


async def test_a_conflict_that_nobody_can_settle_kills_nobody() -> None:
    async with nodes_of_one_hub(2) as nodes, nodes[0].mailbox() as one, nodes[1].mailbox() as two:
        for node, me in zip(nodes, (one, two), strict=True):
            # Registered as on a BEAM, with a custom resolve function.
            method = Export(atom("their"), atom("choice"), 3)
            request = (atom("register"), "name", me.pid, method)
            assert await node.gen_call("global_name_server", request) == "yes"
        await nodes[0].connect(nodes[1].name)
        await synced(nodes)
        assert {node.global_names.whereis("name") for node in nodes} == {two.pid}
        assert one.is_alive


async def test_a_lost_connection_parts_both_ends_from_all() -> None:
    async with nodes_of_one_hub(4) as nodes, nodes[0].mailbox() as me:
        for node in nodes[1:]:
            await nodes[0].connect(node.name)
        await synced(nodes)
        await nodes[0].global_names.register("name", me.pid)
        assert nodes[0].disconnect(nodes[1].name)
        # Otherwise the others would be in the partition of both, which are separated.
        await until(lambda: not nodes[0].nodes() and not nodes[1].nodes())
        await until(lambda: is_mesh(nodes[2:]))
        await until(lambda: not any(node.global_names.names() for node in nodes[1:]))
        # They reconnect.
        await nodes[0].connect(nodes[1].name)
        await nodes[1].connect(nodes[2].name)
        await synced(nodes)
        assert {node.global_names.whereis("name") for node in nodes} == {me.pid}


async def test_locks_are_let_go() -> None:
    async with nodes_of_one_hub(2) as nodes, nodes[1].mailbox() as me, nodes[0].mailbox() as other:
        await nodes[0].connect(nodes[1].name)
        await synced(nodes)
        server = ("global_name_server", nodes[0].name)

        def lock(verb: str, requester: Term) -> Term:
            return atom(verb), (atom("resource"), requester)

        assert await me.gen_call(server, lock("set_lock", 1)) is True
        assert await other.gen_call(server, lock("set_lock", 1.0)) is False
        assert await other.gen_call(server, lock("set_lock", 1)) is True
        assert await me.gen_call(server, lock("del_lock", 1)) is True
        assert await me.gen_call(server, lock("set_lock", 2)) is False
        assert await other.gen_call(server, lock("del_lock", 1)) is True
        assert await me.gen_call(server, lock("set_lock", 2)) is True
        # The loss of the connection removes the holder.
        nodes[0].disconnect(nodes[1].name)
        assert await other.gen_call(server, lock("set_lock", 3)) is True


async def test_who_stops_waiting_leaves_no_lock() -> None:
    async with nodes_of_one_hub(2) as nodes, nodes[0].mailbox() as me, nodes[1].mailbox() as other:
        await nodes[0].connect(nodes[1].name)
        await synced(nodes)
        for turns in range(20):
            task = asyncio.ensure_future(nodes[0].global_names.register("name", me.pid))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        await nodes[1].global_names.re_register("name", other.pid)
        await nodes[0].global_names.unregister("name")
        assert not nodes[1].global_names.names()


async def test_what_makes_no_sense_is_ignored() -> None:
    async with nodes_of_one_hub(2) as nodes, nodes[1].mailbox() as me:
        await nodes[0].connect(nodes[1].name)
        await synced(nodes)
        here, there = atom(nodes[1].name), ("global_name_server", nodes[0].name)
        casts: list[Term] = [
            (atom("init_connect"), (8, 1), here, ()),
            (atom("init_connect"), atom("what"), here, ()),
            (atom("lock_set"), me.pid, True, [], 77),
            (atom("exchange"), here, [1, 2], [], 77),
            (atom("resolved"), here, [1], [1], 1, [1], 77),
            (atom("new_nodes"), here, [1, (atom("insert"), 2)], [3], [], atom("x")),
            (atom("new_nodes"), here, [], [], [17], []),
            (atom("in_sync"), here, 1),
            (),
        ]
        for cast in casts:
            await me.gen_cast(there, cast)
        for message in (1, (atom("init_connect_ack"), atom("x@y"), 1, 2), (atom("nodeup"), 3)):
            await me.send(there, message)
        assert await me.gen_call(there, atom("get_protocol_version")) == 8
        await me.send(there, (atom("cancel_connect"), here, 77))
        assert await me.gen_call(there, atom("get_known")) == [here]
        assert is_mesh(nodes)


async def test_a_hidden_node_has_no_part_and_a_stopped_one_no_more() -> None:
    hub = Hub()
    async with Node("0@127.0.0.1", cookie="c", carriers=[hub]) as hidden:
        with pytest.raises(NotVisible):
            _ = hidden.global_names
    async with nodes_of_one_hub(1) as (node,):
        names = node.global_names
        waiting = asyncio.ensure_future(names.sync(["1000@127.0.0.1"]))
        await asyncio.sleep(0)
    with pytest.raises(NotRunning):
        await waiting
