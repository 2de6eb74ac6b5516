"""A Python node is a member of a `pg` scope with stock Erlang nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicdist import Mailbox, NameTaken, Node, NoProcess
from quicdist.etf import Pid, Term
from quicdist.otp import pg
from tests.node.conftest import Beam, MakeNode, atom
from tests.node.memory import Hub
from tests.support.waiting import PATIENCE, until


async def get(me: Mailbox) -> Any:
    return await me.receive(timeout=PATIENCE)


SLEEPER = "spawn(fun() -> receive stop -> ok end end)"


@pytest.mark.erlang
@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("first", ["python", "beam"])
async def test_members_are_known_on_both_sides(
    beam: Beam, make_node: MakeNode, visible: bool, first: str
) -> None:
    scope = f"scope_{first}_{visible}".lower()
    async with make_node(visible=visible) as node, node.mailbox() as me:
        if first == "beam":
            await beam.eval(f"{{ok, _}} = pg:start({scope}), pg:join({scope}, g, {SLEEPER})")
            await node.connect(beam.name)
            groups = pg.start(node, scope)
        else:
            groups = pg.start(node, scope)
            await node.connect(beam.name)
            # A BEAM that starts a scope only asks visible nodes. A hidden node asks again.
            await beam.eval(f"{{ok, _}} = pg:start({scope}), pg:join({scope}, g, {SLEEPER})")
        groups.join(atom("g"), me.pid, me.pid)
        groups.join(b"name", me.pid)
        await until(lambda: len(groups.members(atom("g"))) == 3)
        (there,) = (pid for pid in groups.members(atom("g")) if pid.node == beam.name)
        await _until_beam(beam, f"pg:get_members({scope}, g)", {there, me.pid}, 3)
        await _until_beam(beam, f'pg:get_members({scope}, <<"name">>)', {me.pid}, 1)
        assert groups.local_members(atom("g")) == [me.pid, me.pid]
        assert groups.groups() == [atom("g"), b"name"]
        assert groups.local_groups() == [atom("g"), b"name"]

        assert groups.leave(atom("g"), me.pid)
        await _until_beam(beam, f"pg:get_members({scope}, g)", {there, me.pid}, 2)
        await beam.eval(f"ok = pg:leave({scope}, g, hd(pg:get_local_members({scope}, g)))")
        await until(lambda: groups.members(atom("g")) == [me.pid])
        assert not groups.leave(atom("nothing"), me.pid)

        async with node.mailbox() as brief:
            groups.join(atom("g"), brief.pid)
            groups.join(atom("h"), brief.pid)
            await _until_beam(beam, f"pg:get_members({scope}, h)", {brief.pid}, 1)
        await _until_beam(beam, f"pg:get_members({scope}, h)", set(), 0)
        await _until_beam(beam, f"pg:get_members({scope}, g)", {me.pid}, 1)
        assert groups.groups() == [atom("g"), b"name"]
    await _until_beam(beam, f"pg:which_groups({scope})", set(), 0)
    await beam.eval(f"gen_server:stop({scope})")


async def _until_beam(beam: Beam, source: str, members: set[Pid], count: int) -> None:
    async def is_so() -> bool:
        found = await beam.eval(source)
        assert isinstance(found, list)
        return set(found) == members and len(found) == count

    await until(is_so)


@pytest.mark.erlang
async def test_monitors(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me, node.mailbox() as member:
        groups = pg.start(node, "watched")
        reference, members = groups.monitor_group(me, atom("g"))
        assert members == []
        all_of_it, pairs = groups.monitor_scope(me)
        assert pairs == []
        pid = await beam.eval(
            f"{{ok, _}} = pg:start(watched), P = {SLEEPER}, ok = pg:join(watched, g, P), P"
        )
        await node.connect(beam.name)
        for _ in range(2):
            message = await get(me)
            assert message[1:] == (atom("join"), atom("g"), [pid])
            assert message[0] in (reference, all_of_it)
        assert groups.demonitor_groups(all_of_it)
        assert not groups.demonitor_groups(all_of_it)

        # The same on the BEAM, for its own scope process and that of Python.
        seen = asyncio.create_task(
            beam.eval(
                f"""{{R, [P]}} = pg:monitor(watched, g),
                {{S, M}} = gen_server:call({{watched, '{node.name}'}}, monitor),
                {{sink, '{node.name}'}} ! ready,
                A = receive {{R, J, g, Ps}} -> {{J, Ps}} end,
                B = receive {{S, K, g, Qs}} -> {{K, Qs}} end,
                ok = gen_server:call({{watched, '{node.name}'}}, {{demonitor, S}}),
                {{P, M, A, B}}"""
            )
        )
        async with node.mailbox("sink") as sink:
            assert await get(sink) == "ready"
        groups.join(atom("g"), member.pid)
        joined = (atom("join"), [member.pid])
        assert await seen == (pid, {atom("g"): [pid]}, joined, joined)
        assert await get(me) == (reference, *joined[:1], atom("g"), joined[1])

        # Its scope ends, and with it its members.
        await beam.eval("gen_server:stop(watched)")
        assert await get(me) == (reference, atom("leave"), atom("g"), [pid])
        assert groups.members(atom("g")) == [member.pid]
        # It returns and receives the current members.
        await beam.eval("{ok, _} = pg:start(watched), ok")
        await _until_beam(beam, "pg:get_members(watched, g)", {member.pid}, 1)
        # The connection is lost.
        await beam.eval(f"ok = pg:join(watched, g, {SLEEPER}), ok")
        assert (await get(me))[:2] == (reference, atom("join"))
        node.disconnect(beam.name)
        assert (await get(me))[:2] == (reference, atom("leave"))
        await _until_beam(
            beam, "pg:get_local_members(watched, g) -- pg:get_members(watched, g)", set(), 0
        )
    await beam.eval("gen_server:stop(watched)")


async def test_two_python_nodes() -> None:
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as two,
        one.mailbox() as mine,
        two.mailbox() as yours,
    ):
        here, there = pg.start(one), pg.start(two)
        with pytest.raises(NameTaken):
            pg.start(one)
        groups: list[Term] = [1, 1.0, True, [1], {b"k": 2}]
        for group in groups:
            here.join(group, mine.pid)
        await one.connect(two.name)
        there.join([1], yours.pid)
        await until(lambda: set(here.members([1])) == {mine.pid, yours.pid})
        await until(lambda: len(there.groups()) == 5)
        assert there.members(1.0) == [mine.pid]
        with pytest.raises(NoProcess):
            here.join(1, yours.pid)
        one.disconnect(two.name)
        await until(lambda: here.members([1]) == [mine.pid])
        await until(lambda: there.groups() == [[1]])


async def test_no_node_speaks_for_the_scope_of_another() -> None:
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as two,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as evil,
        one.mailbox() as mine,
        two.mailbox() as yours,
        evil.mailbox() as theirs,
    ):
        here, there = pg.start(one), pg.start(two)
        there.join(1, yours.pid)
        await one.connect(two.name)
        await evil.connect(one.name)
        await until(lambda: here.members(1) == [yours.pid])
        scope, sync, cast = there.pid, atom("sync"), atom("$gen_cast")
        forged: list[Term] = [
            (atom("join"), scope, 1, theirs.pid),
            (atom("leave"), scope, yours.pid, [1]),
            (cast, (sync, scope, [])),
            (atom("discover"), mine.pid),
            (atom("discover"), yours.pid),
            # Its own scope announces processes of others.
            (cast, (sync, theirs.pid, [(1, [mine.pid, theirs.pid])])),
            (atom("join"), theirs.pid, 1, [mine.pid, yours.pid]),
        ]
        for message in forged:
            await theirs.send(("pg", one.name), message)
        assert await evil.ping(one.name)
        assert here.members(1) == [yours.pid, theirs.pid]
        assert mine.message_count == yours.message_count == 0


async def test_nodes_are_watched_by_processes() -> None:
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as hidden,
        Node("0@127.0.0.1", cookie="c", carriers=[hub], visible=True) as visible,
        one.mailbox() as all_of_them,
        one.mailbox() as some,
    ):
        all_of_them.monitor_nodes(hidden=True)
        some.monitor_nodes()
        await one.connect(hidden.name)
        await one.connect(visible.name)
        up, down = atom("nodeup"), atom("nodedown")
        assert await get(all_of_them) == (up, hidden.name)
        assert await get(all_of_them) == (up, visible.name)
        assert await get(some) == (up, visible.name)
        some.demonitor_nodes()
        one.disconnect(visible.name)
        assert await get(all_of_them) == (down, visible.name)
        assert some.message_count == 0
        some.monitor_nodes(hidden=True, info=True)
        await hidden.stop()
        kind = {"node_type": "hidden"}
        closed = {**kind, "nodedown_reason": "connection_closed"}
        assert await get(some) == (down, hidden.name, closed)
        await hidden.start()
        await hidden.connect(one.name)
        assert await get(some) == (up, hidden.name, kind)
        one.disconnect(hidden.name)
        left = {**kind, "nodedown_reason": "disconnect"}
        assert await get(some) == (down, hidden.name, left)
