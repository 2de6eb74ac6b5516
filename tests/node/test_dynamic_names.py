"""Dynamic node names, as requester and as provider, with quicdist and stock Erlang nodes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from quicdist import (
    Identity,
    NoConnection,
    Node,
    NodeLimits,
    NodeNameError,
    NotRunning,
    ProcessExited,
    StartError,
)
from tests.node import exported
from tests.node.conftest import COOKIE, Beam, MakeNode, atom
from tests.support.named import RealEpmd, named_erl
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

PATIENT = NodeLimits(connect_timeout=20.0)


def site(by: str, host: str = "192.168.1.5", **settings: Any) -> Node:
    """One of many nodes that report the same address."""
    return Node(f"@{host}", named_by=by, **{"cookie": COOKIE, "limits": PATIENT, **settings})


async def receive_something(node: Node) -> None:
    async with node.mailbox() as me:
        await me.receive(timeout=PATIENCE)


async def test_nodes_of_one_address_get_names_of_their_own(make_node: MakeNode) -> None:
    async with make_node() as hub, site(hub.name, exports=[exported]) as one, site(hub.name) as two:
        assert one.name.endswith("@192.168.1.5")
        assert one.name != two.name
        assert set(hub.nodes()) == {one.name, two.name}
        assert hub.nodes(hidden=False) == []
        assert await hub.call(one.name, "py", "add", [1, 2]) == 3
        async with one.mailbox("me") as mine, two.mailbox("me") as theirs:
            for node, me in ((one, mine), (two, theirs)):
                await hub.send(("me", node.name), atom("by_name"))
                await hub.send(me.pid, atom("by_pid"))
                assert await me.receive(timeout=PATIENCE) == "by_name"
                assert await me.receive(timeout=PATIENCE) == "by_pid"


async def test_a_named_node_has_its_name_towards_others_too(make_node: MakeNode) -> None:
    async with make_node() as hub, make_node() as other, site(hub.name) as named:
        await named.connect(other.name)
        assert other.nodes() == [named.name]
        assert named.nodes() == [hub.name, other.name]
        assert other.peer(named.name).creation == named.creation
        assert named.creation > 3


async def test_the_name_goes_with_the_connection_that_gave_it(make_node: MakeNode) -> None:
    async with make_node() as hub, make_node() as other, site(hub.name) as named:
        first = named.name
        await named.connect(other.name)
        waiting = asyncio.create_task(receive_something(named))
        await asyncio.sleep(0)
        hub.disconnect(named.name)
        with pytest.raises(ProcessExited, match="noconnection"):
            await waiting
        with pytest.raises(
            NotRunning, match=f"lost its name: lost the connection to the naming node {hub.name}"
        ):
            await named.ping(other.name)
        await named.stop()
        await named.start()
        assert named.name != first
        assert await named.ping(other.name)
        assert other.nodes() == [named.name]


async def test_a_named_node_listens_to_nobody(make_node: MakeNode) -> None:
    async with make_node(limits=NodeLimits(connect_timeout=1.0)) as hub, site(hub.name) as named:
        port = hub.peer(named.name).peer_address[1]
        with pytest.raises(NoConnection):
            await hub.connect(f"{port}@127.0.0.1")
    for settings in ({"visible": True}, {"listen": "0.0.0.0:1"}):
        with pytest.raises(NodeNameError, match="named_by= excludes"):
            site("1@127.0.0.1", **settings)
    with pytest.raises(NodeNameError, match="expected @host"):
        Node("py", named_by="1@127.0.0.1", cookie=COOKIE)


async def test_nobody_there_to_name_it() -> None:
    with pytest.raises(StartError, match="connection refused"):
        await site("9@127.0.0.1").start()


async def test_a_host_that_no_name_can_have_is_refused(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "quicdist.node")
    async with make_node() as hub:
        unnamable = site(hub.name, ".".join(["h" * 60] * 4), identity=Identity.ephemeral())
        with pytest.raises(StartError, match="does not allow"):
            await unnamable.start()
        assert hub.nodes() == []


# -- with stock Erlang ---------------------------------------------------------------------------


@pytest.mark.erlang
async def test_a_beam_names_us_over_quic(beam: Beam) -> None:
    """Through a gateway, which does not interpret dynamic names."""
    async with site(beam.name, exports=[exported]) as one, site(beam.name) as two:
        for node in (one, two):
            assert node.name.endswith("@192.168.1.5")
            assert atom(node.name) in await beam.eval("nodes(hidden)")
            assert await node.call(beam.name, "erlang", "node") == atom(beam.name)
        assert await beam.eval("erpc:call('$py', py, add, [1, 2])", py=one.name) == 3
        assert one.name != two.name


@pytest.mark.erlang
async def test_a_beam_names_us_over_tcp_and_takes_the_name_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RealEpmd() as epmd, named_erl("namer@127.0.0.1", epmd, cookie=COOKIE) as erlang:
        monkeypatch.setenv("ERL_EPMD_PORT", str(epmd.port))
        beam = Beam(erlang, "namer@127.0.0.1")
        async with site(beam.name) as node:
            first, creation = node.name, node.creation
            assert await beam.eval("nodes(hidden)") == [first]
            waiting = asyncio.create_task(receive_something(node))
            await beam.eval("erlang:disconnect_node('$py'), ok", py=first)
            with pytest.raises(ProcessExited, match="noconnection"):
                await waiting
            await node.stop()
            await node.start()
            # OTP reuses a free name for the next requester.
            assert (node.name, node.creation) == (first, creation + 1)


@pytest.mark.erlang
@pytest.mark.parametrize(
    ("form", "host"), [("-sname", "localhost"), ("-name", "127.0.0.1")], ids=["short", "long"]
)
async def test_we_name_a_beam(form: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RealEpmd() as epmd:
        monkeypatch.setenv("ERL_EPMD_PORT", str(epmd.port))
        async with Node(f"hub@{host}", cookie=COOKIE, exports=[exported], visible=True) as hub:
            starting = asyncio.get_running_loop().run_in_executor(
                None, lambda: named_erl(f"undefined@{host}", epmd, cookie=COOKIE, form=form)
            )
            with await starting as erlang:
                beam = Beam(erlang, "undefined")
                assert await beam.eval("net_kernel:connect_node('$py')", py=hub.name) is True
                name = await beam.eval("node()")
                assert hub.nodes() == [name]
                assert str(name).endswith(f"@{host}")
                assert await hub.call(str(name), "erlang", "node") == name
                assert await beam.eval("erpc:call('$py', py, add, [1, 2])", py=hub.name) == 3
