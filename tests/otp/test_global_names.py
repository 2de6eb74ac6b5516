"""A visible Python node in `global` with stock Erlang nodes: names, locks and connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from quicdist import Mailbox, NameTaken, NoConnection, Node, NoProcess
from quicdist.etf import Term, encode
from quicdist.otp import Child, Supervisor, global_names, start
from quicdist.otp.global_names import OnConflict
from tests.node.conftest import COOKIE, Beam, MakeNode, atom
from tests.otp.servers import Counter
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.erlang


class Other(Beam):
    """A BEAM of one test, which can be killed and restarted."""

    def __init__(self, gateway: GatewayThread) -> None:
        self._gateway = gateway
        self._process = self._start()
        super().__init__(self._process, gateway.name)

    def _start(self) -> Erlang:
        return gatewayed_erl(self._gateway, cookie=COOKIE)

    async def kill(self) -> None:
        await asyncio.to_thread(self._process.close)

    async def come_back(self) -> None:
        self._erlang = self._process = await asyncio.to_thread(self._start)

    async def until(self, source: str, wanted: Term) -> None:
        """Waits until Erlang source has this value."""

        async def is_so() -> bool:
            return bool(await self.eval(source) == wanted)

        await until(is_so)


@contextlib.asynccontextmanager
async def other_beam(name: str | None = None) -> AsyncIterator[Other]:
    gateway = await asyncio.to_thread(GatewayThread, name)
    try:
        other = await asyncio.to_thread(Other, gateway)
        try:
            yield other
        finally:
            await other.kill()
    finally:
        await asyncio.to_thread(gateway.close)


async def get(me: Mailbox) -> Any:
    return await me.receive(timeout=PATIENCE)


async def is_one_cluster(beams: list[Other], nodes: list[Node]) -> None:
    """Waits until all nodes are connected to each other and know all names."""
    everybody = {*(beam.name for beam in beams), *(node.name for node in nodes)}
    for beam in beams:
        their_others = sorted(atom(name) for name in everybody - {beam.name})
        await beam.until("lists:sort(nodes())", [*their_others])
        await beam.until(
            "lists:sort(gen_server:call(global_name_server, get_synced))", [*their_others]
        )
        # Without a participating visible node, this call did not return.
        assert await beam.eval("global:sync()") == "ok"
    for node in nodes:
        others = everybody - {node.name}
        await until(sees(node, others))
        await global_names.sync(node, timeout=PATIENCE)
        assert set(node.global_names.known) == everybody - {node.name}


def sees(node: Node, others: set[str]) -> Callable[[], bool]:
    return lambda: set(node.nodes(hidden=False)) == others


async def come_together(beams: list[Other], nodes: list[Node]) -> None:
    """Connects until all nodes are one cluster. Some may still be disconnecting."""

    async def connect() -> None:
        while True:
            for node in nodes:
                for other in beams:
                    with contextlib.suppress(NoConnection):
                        await node.connect(other.name)
            await asyncio.sleep(0.2)

    connecting = asyncio.ensure_future(connect())
    try:
        await is_one_cluster(beams, nodes)
    finally:
        connecting.cancel()


async def test_names_by_way_of_a_beam_node(beam: Beam, make_node: MakeNode) -> None:
    async with other_beam() as other:
        assert await other.eval("net_adm:ping('$beam')", beam=beam.name) == "pong"
        await other.eval("global:sync(), ok")
        async with make_node() as node, node.mailbox() as me:
            name = atom("python")
            await global_names.register(node, name, me.pid, via=beam.name)
            with pytest.raises(NameTaken):
                await global_names.register(node, name, me.pid, via=other.name)
            # A node without a previous connection finds this node by the name.
            for one in (other, beam):
                assert await one.eval("global:send(python, hello)") == me.pid
                assert await get(me) == "hello"
            assert await global_names.whereis(node, name, via=other.name) == me.pid
            await global_names.send(node, name, 1, via=other.name)
            assert await get(me) == 1
            await global_names.unregister(node, name, via=beam.name)
            assert await global_names.whereis(node, name, via=other.name) is None
            with pytest.raises(NoProcess):
                await global_names.send(node, name, 1, via=other.name)
            async with node.mailbox() as brief:
                await global_names.register(node, atom("brief"), brief.pid, via=beam.name)
                assert await other.eval("global:whereis_name(brief)") == brief.pid
            await other.until("global:whereis_name(brief)", atom("undefined"))
    await beam.eval("[net_kernel:disconnect(N) || N <- nodes(connected)], ok")


SLEEPER = "spawn(fun() -> receive stop -> ok end end)"


async def test_two_beams_and_a_visible_python(make_node: MakeNode) -> None:
    async with other_beam() as one, other_beam() as two, make_node(visible=True) as node:
        theirs = await one.eval(f"P = {SLEEPER}, yes = global:register_name(theirs, P), P")
        await node.connect(one.name)
        assert await two.eval("net_adm:ping('$node')", node=node.name) == "pong"
        await is_one_cluster([one, two], [node])
        assert await global_names.whereis(node, atom("theirs")) == theirs
        async with node.mailbox() as me:
            await global_names.register(node, atom("ours"), me.pid)
            for beam in (one, two):
                assert await beam.eval("global:send(ours, hello)") == me.pid
                assert await get(me) == "hello"
                assert await beam.eval("global:register_name(ours, self())") == "no"
                assert await beam.eval("global:trans({x, self()}, fun() -> done end)") == "done"
            with pytest.raises(NameTaken):
                await global_names.register(node, atom("theirs"), me.pid)
            await two.eval("global:unregister_name(ours)")
            assert await global_names.whereis(node, atom("ours")) is None

        # One node is killed. The others stay connected. It restarts.
        await two.eval(
            """spawn(fun() -> register(watcher, self()), net_kernel:monitor_nodes(true),
            (fun F(L) -> receive {get, P} -> P ! lists:reverse(L); M -> F([M | L]) end end)([])
            end)"""
        )
        await one.kill()
        await two.until("nodes()", [atom(node.name)])
        await is_one_cluster([two], [node])
        assert node.global_names.names() == []
        await one.come_back()
        again = await one.eval(f"P = {SLEEPER}, yes = global:register_name(again, P), P")
        assert await one.eval("net_adm:ping('$two')", two=two.name) == "pong"
        await is_one_cluster([one, two], [node])
        assert await global_names.whereis(node, atom("again")) == again
        seen = await two.eval("watcher ! {get, self()}, receive L when is_list(L) -> L end")
        assert seen == [(atom("nodedown"), atom(one.name)), (atom("nodeup"), atom(one.name))]

        # A connection is cut. At least one of its nodes disconnects from all, as between BEAMs.
        # Both reconnect.
        node.disconnect(one.name)
        await two.until("length(nodes()) < 2", True)
        await come_together([one, two], [node])
        assert await global_names.whereis(node, atom("again")) == again


async def test_a_beam_and_two_visible_pythons(make_node: MakeNode) -> None:
    async with other_beam() as beam, make_node(visible=True) as one:
        async with make_node(visible=True) as two, two.mailbox() as me:
            await global_names.register(two, atom("mine"), me.pid)
            await one.connect(beam.name)
            await two.connect(one.name)
            await is_one_cluster([beam], [one, two])
            for node in (one, two):
                assert await global_names.whereis(node, atom("mine")) == me.pid
            assert await beam.eval("global:send(mine, hello)") == me.pid
            assert await get(me) == "hello"
        await beam.until("nodes()", [atom(one.name)])
        await is_one_cluster([beam], [one])
        async with make_node(visible=True) as two:
            await two.connect(beam.name)
            await is_one_cluster([beam], [one, two])
            # The BEAM node is lost.
            await beam.kill()
            await is_one_cluster([], [one, two])
            await beam.come_back()
            await two.connect(beam.name)
            await is_one_cluster([beam], [one, two])
            cut = await one.call(beam.name, "erlang", "disconnect_node", [atom(two.name)])
            assert cut is True
            await until(lambda: beam.name not in two.nodes())
            await come_together([beam], [one, two])


@pytest.mark.parametrize("ours", ["lesser", "greater"])
@pytest.mark.parametrize("on_conflict", OnConflict)
async def test_conflicts(make_node: MakeNode, on_conflict: OnConflict, ours: str) -> None:
    """Two clusters with the same names connect.

    The node with the lesser name resolves the conflict and keeps its own process.
    """
    lesser, greater = sorted(f"{free_port()}@127.0.0.1" for _ in range(2))
    name, other_name = (lesser, greater) if ours == "lesser" else (greater, lesser)
    async with other_beam(other_name) as beam, make_node(name=name, visible=True) as node:
        mine = [node.spawn(keep) for _ in range(2)]
        await node.connect(beam.name)
        await is_one_cluster([beam], [node])
        # One method is a function that both nodes have, the other is Erlang code.
        function = f"global:{on_conflict.value}"
        methods = f"fun {function}/3", f"fun(N, A, B) -> {function}(N, A, B) end"
        await global_names.register(node, atom("a"), mine[0].pid, on_conflict=on_conflict)
        pid = f"binary_to_term(list_to_binary({list(encode(mine[1].pid))}))"
        assert await beam.eval(f"global:register_name(b, {pid}, {methods[1]})") == "yes"
        node.disconnect(beam.name)
        await beam.until("global:registered_names()", [])
        theirs = await beam.eval(
            f"""A = {SLEEPER}, B = {SLEEPER}, register(a, A), register(b, B),
            yes = global:register_name(a, A, {methods[0]}),
            yes = global:register_name(b, B, {methods[1]}), [A, B]"""
        )
        assert isinstance(theirs, list)
        await node.connect(beam.name)
        await is_one_cluster([beam], [node])
        is_ours = node.name < beam.name
        kept: list[Term] = [one.pid for one in mine] if is_ours else theirs
        if on_conflict is OnConflict.TELL_BOTH:
            kept = [None, None]
        assert [await global_names.whereis(node, atom(name)) for name in ("a", "b")] == kept
        seen = [atom("undefined") if one is None else one for one in kept]
        await beam.until("[global:whereis_name(N) || N <- [a, b]]", seen)
        if on_conflict is OnConflict.KILL_ONE and is_ours:
            await beam.until("[whereis(N) || N <- [a, b]]", [atom("undefined")] * 2)
        elif on_conflict is OnConflict.KILL_ONE:
            assert [await one.wait() for one in mine] == ["killed", "killed"]
        elif on_conflict is OnConflict.TELL_BOTH or not is_ours:
            for one, conflicting in zip(mine, ("a", "b"), strict=True):
                message = await get(one)
                assert message[:2] == (atom("global_name_conflict"), atom(conflicting))


class Named(Counter):
    """A server that registers its global name on each restart."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    async def init(self) -> None:
        await global_names.register(self._node, atom("named"), self.me.pid, timeout=PATIENCE)


async def test_a_supervised_server_with_a_global_name(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(visible=True) as node:
        await node.connect(beam.name)
        await global_names.sync(node, timeout=PATIENCE)
        children = [Child("named", lambda: Named(node))]
        await start(node, Supervisor(node, children, intensity=3), name="tree")
        assert await beam.eval("gen_server:call({global, named}, count)") == 0
        assert await beam.eval("gen_server:cast({global, named}, {add, 3})") == "ok"
        assert await beam.eval("gen_server:call({via, global, named}, count)") == 3
        assert await beam.eval("sys:get_state({global, named})") == {atom("count"): 3}
        again = await beam.eval(
            """Old = global:whereis_name(named), exit(Old, kill),
            (fun F() -> case global:whereis_name(named) of
                P when is_pid(P), P =/= Old -> ok;
                _ -> timer:sleep(20), F()
            end end)()"""
        )
        assert again == "ok"
        assert await beam.eval("gen_server:call({global, named}, count)") == 0


async def keep(me: Mailbox) -> None:
    await asyncio.Event().wait()
