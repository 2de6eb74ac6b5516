"""Against two stock Erlang nodes: Python processes with names in a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicdist import Mailbox, NameTaken, NoProcess
from quicdist.otp import global_names
from tests.gatewayed import GatewayThread, gatewayed_erl
from tests.node.conftest import COOKIE, PATIENCE, Beam, MakeNode, atom

pytestmark = pytest.mark.erlang


async def get(me: Mailbox) -> Any:
    return await me.receive(timeout=PATIENCE)


async def test_names_in_a_cluster(beam: Beam, make_node: MakeNode) -> None:
    gateway = await asyncio.to_thread(GatewayThread)
    erlang = await asyncio.to_thread(lambda: gatewayed_erl(gateway, cookie=COOKIE))
    try:
        other = Beam(erlang, gateway.name)
        assert await other.eval("net_adm:ping('$beam')", beam=beam.name) == "pong"
        await other.eval("global:sync(), ok")
        async with make_node() as node, node.mailbox() as me:
            await global_names.register(node, beam.name, atom("python"), me.pid)
            with pytest.raises(NameTaken):
                await global_names.register(node, other.name, atom("python"), me.pid)
            # A node that we have never talked to finds us by the name.
            for one in (other, beam):
                assert await one.eval("global:send(python, hello)") == me.pid
                assert await get(me) == "hello"
            assert await global_names.whereis(node, other.name, atom("python")) == me.pid
            await global_names.send(node, other.name, atom("python"), 1)
            assert await get(me) == 1
            await global_names.unregister(node, beam.name, atom("python"))
            assert await global_names.whereis(node, other.name, atom("python")) is None
            with pytest.raises(NoProcess):
                await global_names.send(node, other.name, atom("python"), 1)
            async with node.mailbox() as brief:
                await global_names.register(node, beam.name, atom("brief"), brief.pid)
                assert await other.eval("global:whereis_name(brief)") == brief.pid
            for one in (other, beam):
                gone = await one.eval(
                    """(fun F() -> case global:whereis_name(brief) of undefined -> gone;
                        _ -> timer:sleep(20), F() end end)()"""
                )
                assert gone == "gone"
    finally:
        await asyncio.to_thread(erlang.close)
        await asyncio.to_thread(gateway.close)
