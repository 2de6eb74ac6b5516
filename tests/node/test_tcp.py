"""Nodes over TCP with EPMD: between two quicdist nodes, and with stock Erlang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from quicdist import (
    Epmd,
    EpmdUse,
    NoConnection,
    Node,
    NodeDown,
    NodeLimits,
    NodeUp,
    PortInName,
    Quic,
    Retry,
    StartError,
    Table,
    Tcp,
    blocking_node,
)
from quicdist.carriers import epmd
from quicdist.etf import Term
from quicdist.otp import net_adm
from tests.node import exported
from tests.node.conftest import COOKIE, Beam, MakeNode, atom
from tests.support.named import RealEpmd, named_erl
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io


@pytest.fixture
def own_epmd_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port that all nodes of the test use as the EPMD port."""
    port = free_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


def named(name: str, **settings: Any) -> Node:
    return Node(name, **{"cookie": COOKIE, **settings})


# -- two quicdist nodes ----------------------------------------------------------------------------


async def test_two_nodes_find_each_other_by_the_epmd_that_one_of_them_is(
    own_epmd_port: int,
) -> None:
    async with named("one@127.0.0.1") as one, named("two@localhost", exports=[exported]) as two:
        assert (one.name, two.name) == ("one@127.0.0.1", "two@localhost")
        assert await one.call(two.name, "py", "add", [1, 2]) == 3
        assert one.peer(two.name).carrier == "tcp"
        known = await epmd.names(epmd.EpmdAddress(port=own_epmd_port))
        assert [name for name, _ in known] == ["one", "two"]
    with pytest.raises(ConnectionRefusedError):
        await epmd.names(epmd.EpmdAddress(port=own_epmd_port))


async def test_the_world_of_some_hosts(own_epmd_port: int) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "localhost"]
    async with named("one@127.0.0.1") as one, named("two@127.0.0.1") as two:
        assert [name for name, _ in await net_adm.names("127.0.0.1")] == ["one", "two"]
        # The second host has no EPMD, and the node on the third does not have the name.
        assert await net_adm.world(one, hosts) == [two.name]
        assert one.nodes() == [two.name]


async def test_the_carrier_follows_from_the_name(own_epmd_port: int, make_node: MakeNode) -> None:
    """A node can have connections of both kinds, independent of its own name."""
    async with named("py@127.0.0.1") as py, make_node() as quic, make_node() as other:
        await py.connect(quic.name)
        assert py.peer(quic.name).carrier == "quicdist"
        await other.connect(py.name)
        assert other.peer(py.name).carrier == "tcp"
        await other.connect(quic.name)
        assert other.peer(quic.name).carrier == "quicdist"
        assert {py.name, quic.name} == set(other.nodes())


async def test_when_the_node_that_is_the_epmd_ends_another_takes_over(own_epmd_port: int) -> None:
    async with named("one@127.0.0.1") as one, named("two@127.0.0.1") as two:
        await one.stop()
        async with named("three@127.0.0.1", limits=NodeLimits(connect_timeout=1.0)) as three:
            await until(lambda: three.ping(two.name))


async def test_no_epmd_and_none_wanted(own_epmd_port: int) -> None:
    registering = named("one@127.0.0.1", carriers=[Tcp(epmd=EpmdUse.REGISTER)])
    with pytest.raises(StartError, match=r"no EPMD answers at .*epmd -daemon"):
        await registering.start()
    port = free_port()
    silent = named("one@127.0.0.1", carriers=[Tcp(port, epmd=EpmdUse.NONE)])
    knowing = named("two@127.0.0.1", lookups=[Table({silent.name: f"tcp:127.0.0.1:{port}"})])
    async with silent, knowing:
        assert await knowing.ping(silent.name)


async def test_a_name_can_be_had_once(own_epmd_port: int) -> None:
    async with named("one@127.0.0.1"):
        with pytest.raises(StartError, match="already has a node one"):
            await named("one@127.0.0.1").start()


async def test_a_node_whose_name_no_carrier_is_for() -> None:
    with pytest.raises(StartError, match="no carrier of this node supports"):
        await named("one@127.0.0.1", carriers=[Quic()]).start()


CROSSINGS = int(os.environ.get("QUICDIST_TEST_CROSSINGS", "20"))


async def test_two_of_ours_that_connect_at_once(own_epmd_port: int) -> None:
    for _ in range(CROSSINGS):
        async with named("one@127.0.0.1") as one, named("two@127.0.0.1") as two:
            assert all(await asyncio.gather(one.ping(two.name), two.ping(one.name)))
            assert (one.nodes(), two.nodes()) == ([two.name], [one.name])


async def test_who_connects_and_says_nothing_is_held_to_a_number(own_epmd_port: int) -> None:
    port = free_port()
    limits = NodeLimits(handshakes_at_once=20, handshake_timeout=3.0)
    async with named("one@127.0.0.1", carriers=[Tcp(port)], limits=limits) as one:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        ends = await asyncio.gather(*(reader.read() for reader, _ in silent[20:]))
        assert set(ends) == {b""}
        async with named("two@127.0.0.1") as two:
            await two.connect(
                one.name, retry=Retry(first=0.2)
            )  # after the timeout of the silent hosts
        for _, writer in silent:
            writer.close()


async def test_who_connects_from_one_address_leaves_room_for_others(own_epmd_port: int) -> None:
    port = free_port()
    limits = NodeLimits(handshakes_per_address=5)
    async with named("one@127.0.0.1", carriers=[Tcp(port)], limits=limits) as one:
        elsewhere = ("127.0.0.2", 0)
        silent = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=elsewhere)
            for _ in range(15)
        ]
        ends = await asyncio.gather(*(reader.read() for reader, _ in silent[5:]))
        assert set(ends) == {b""}
        assert one.stats().connecting == 5
        async with named("two@127.0.0.1") as two:
            await two.connect(one.name)
        for _, writer in silent:
            writer.close()


async def test_who_is_not_found_is_said_to_be_so_by_each_place_asked(own_epmd_port: int) -> None:
    table = Table({"two@host": "quic:127.0.0.1:4433"})
    lookups = [table, PortInName(), Epmd()]
    async with named("one@127.0.0.1", carriers=[Tcp()], lookups=lookups) as one:
        with pytest.raises(NoConnection) as caught:
            await one.connect("nobody@127.0.0.1")
        assert caught.value.reason == (
            "the table does not contain the node; the name has no port: expected port@ip for QUIC; "
            f"the EPMD at 127.0.0.1:{own_epmd_port} does not know 'nobody'"
        )
        with pytest.raises(
            NoConnection, match=r"no carrier of this node supports quic:127\.0\.0\.1:4433"
        ):
            await one.connect("two@host")


async def test_places_that_are_none() -> None:
    for text in ("127.0.0.1:4433", "udp:127.0.0.1:1", "tcp:127.0.0.1", "tcp:a b:1"):
        with pytest.raises(ValueError, match="invalid node address"):
            Table({"one@host": text})


# -- with stock Erlang ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RealEpmd, Beam]]:
    """OTP's epmd and a stock node with a long name, for all tests of this module."""
    with RealEpmd() as epmd, named_erl("stock@127.0.0.1", epmd, cookie=COOKIE) as erlang:
        yield epmd, Beam(erlang, "stock@127.0.0.1")


@pytest.fixture
def real(running: tuple[RealEpmd, Beam], monkeypatch: pytest.MonkeyPatch) -> RealEpmd:
    """The EPMD port of all nodes in the test."""
    monkeypatch.setenv("ERL_EPMD_PORT", str(running[0].port))
    return running[0]


@pytest.fixture
def stock(running: tuple[RealEpmd, Beam], real: RealEpmd) -> Beam:
    return running[1]


@pytest.mark.erlang
async def test_a_stock_node_and_ours_call_each_other(stock: Beam) -> None:
    async with named("py@127.0.0.1", exports=[exported]) as node:
        assert await node.call(stock.name, "lists", "sum", [[1, 2, 3]]) == 6
        assert await stock.eval("erpc:call('py@127.0.0.1', py, add, [1, 2])") == 3
        assert await stock.eval("nodes(hidden)") == ["py@127.0.0.1"]
        known = await stock.eval("element(2, net_adm:names('127.0.0.1'))")
        assert {bytes(name) for name, _ in known} >= {b"stock", b"py"}


@pytest.mark.erlang
async def test_a_stock_node_finds_ours_and_connects_first(stock: Beam) -> None:
    async with named("first@127.0.0.1", visible=True) as node:
        with node.events() as events:
            assert await stock.eval("net_adm:ping('first@127.0.0.1')") == "pong"
            assert await anext(events) == NodeUp(stock.name, False, "tcp")
            assert await stock.eval("nodes()") == ["first@127.0.0.1"]
            assert await stock.eval("erlang:disconnect_node('first@127.0.0.1')") is True
            assert isinstance(await asyncio.wait_for(anext(events), PATIENCE), NodeDown)


@pytest.mark.erlang
async def test_hidden_and_visible_nodes_side_by_side(stock: Beam) -> None:
    async with named("seen@127.0.0.1", visible=True) as seen, named("unseen@127.0.0.1") as unseen:
        for node in (seen, unseen):
            assert await stock.eval("net_adm:ping('$py')", py=node.name) == "pong"
        assert await stock.eval("nodes()") == [seen.name]
        assert await stock.eval("nodes(hidden)") == [unseen.name]


@pytest.mark.erlang
async def test_a_quic_node_reaches_a_stock_one_with_no_gateway(
    stock: Beam, make_node: MakeNode
) -> None:
    async with make_node(exports=[exported]) as node:
        assert await node.ping(stock.name)
        assert node.peer(stock.name).carrier == "tcp"
        assert await stock.eval("erpc:call('$py', py, add, [1, 2])", py=node.name) == 3


@pytest.mark.erlang
async def test_without_asyncio(stock: Beam) -> None:
    def program() -> tuple[Term, str]:
        with blocking_node(stock.name, cookie=COOKIE) as node:
            return node.call(stock.name, "lists", "sum", [[1, 2]]), node.peer(stock.name).carrier

    asking = asyncio.get_running_loop().run_in_executor(None, program)
    assert await asking == (3, "tcp")


@pytest.mark.erlang
async def test_short_names(real: RealEpmd) -> None:
    with named_erl("short@localhost", real, cookie=COOKIE, form="-sname") as erlang:
        beam = Beam(erlang, "short@localhost")
        async with named("py@localhost", exports=[exported]) as node:
            assert await beam.eval("erpc:call('py@localhost', py, add, [1, 2])") == 3
            assert await node.call(beam.name, "erlang", "node") == atom("short@localhost")


@pytest.mark.erlang
async def test_connects_that_cross(stock: Beam) -> None:
    for _ in range(CROSSINGS):
        for name in ("a@127.0.0.1", "z@127.0.0.1"):  # less and greater than the other name
            async with named(name) as node:
                ours, theirs = await asyncio.gather(
                    node.ping(stock.name), stock.eval("net_adm:ping('$py')", py=name)
                )
                assert (ours, theirs) == (True, "pong")
                assert node.nodes() == [stock.name]


@pytest.mark.erlang
async def test_a_stock_node_that_is_killed_and_comes_back(real: RealEpmd) -> None:
    async with named("watcher@127.0.0.1") as node, node.mailbox() as me:
        with named_erl("phoenix@127.0.0.1", real, cookie=COOKIE) as erlang:
            beam = Beam(erlang, "phoenix@127.0.0.1")
            await beam.eval("register(echo, spawn(fun() -> receive stop -> ok end end)), ok")
            old = await node.call(beam.name, "erlang", "whereis", [atom("echo")])
            watch = me.monitor(old)
            first = node.peer(beam.name).creation
            erlang.kill()
            down = await me.receive(timeout=PATIENCE)
            assert down == (atom("DOWN"), watch, atom("process"), old, atom("noconnection"))
        with named_erl("phoenix@127.0.0.1", real, cookie=COOKIE):
            await node.connect("phoenix@127.0.0.1")
            assert node.peer("phoenix@127.0.0.1").creation != first
            watch = me.monitor(old)
            down = await me.receive(timeout=PATIENCE)
            assert down == (atom("DOWN"), watch, atom("process"), old, atom("noproc"))


@pytest.mark.erlang
async def test_our_entry_is_made_again_when_epmd_comes_back(stock: Beam, real: RealEpmd) -> None:
    carriers = [Tcp(epmd=EpmdUse.REGISTER)]
    async with named("lasting@127.0.0.1", carriers=carriers):
        real.close()
        real.start()
        ping = "net_adm:ping('lasting@127.0.0.1') =:= pong"
        await until(lambda: stock.eval(ping))


@pytest.mark.erlang
async def test_a_wrong_cookie_is_said_to_be_one(stock: Beam) -> None:
    async with named("other@127.0.0.1", cookie="another") as node:
        with pytest.raises(NoConnection, match="cookie") as caught:
            await node.connect(stock.name)
        assert caught.value.is_refusal
