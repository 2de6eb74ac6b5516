"""Detection of killed nodes over QUIC before net_ticktime.

A node that is stopped or hard to reach is not disconnected.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import pytest

from quicdist import Identity, NodeDown, NodeLimits, Trust
from quicdist.cluster.quic import Quic
from quicdist.limits import CarrierLimits
from tests.node.conftest import COOKIE, MakeNode
from tests.node.test_quic import start_peer
from tests.support.engines import ENGINES
from tests.support.lossy import LossyProxy, Weather
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.io,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="only Linux tells of refused datagrams"
    ),
]

UNHURRIED = NodeLimits(net_ticktime=600.0)
"""A net_ticktime so long that silence does not explain a detection."""


_DIALS = """
import asyncio, sys
from quicdist import Node, Trust
async def main():
    async with Node("0@127.0.0.1", cookie=sys.argv[1], trust=Trust.nothing()) as node:
        if len(sys.argv) > 2:
            await node.connect(sys.argv[2])
        print(node.name, flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_dialed", [False, True])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
async def test_a_killed_peer_is_noticed_by_its_closed_port(
    make_node: MakeNode, is_dialed: bool, engine: str, bound: str
) -> None:
    port = free_port()
    node = make_node(
        name=f"{port}@127.0.0.1",
        listen=(bound, port),
        limits=UNHURRIED,
        carriers=[Quic(engine=engine)],
        trust=Trust.nothing(),
    )
    async with node:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _DIALS, COOKIE),
            *([node.name] if is_dialed else []),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            name = (await process.stdout.readline()).decode().strip()
            assert await node.ping(name)
            with node.events() as events:
                process.kill()
                await process.communicate()
                down = await asyncio.wait_for(anext(events), PATIENCE)
            assert isinstance(down, NodeDown)
            assert "its process has ended" in down.reason
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def test_a_call_of_a_killed_peer_fails_then(make_node: MakeNode) -> None:
    """Detection needs no silence: datagrams to the closed port are refused."""
    process, name = await start_peer()
    async with make_node(limits=UNHURRIED) as node, node.mailbox() as me:
        reference = me.monitor(("b", name))
        assert await node.ping(name)
        process.kill()
        await process.communicate()
        await me.send(("b", name), "anybody there?")
        message = await me.receive(timeout=PATIENCE)
        assert (message[1], message[4]) == (reference, "noconnection")


async def test_a_stopped_peer_keeps_its_connection(make_node: MakeNode) -> None:
    process, name = await start_peer()
    try:
        async with make_node(limits=UNHURRIED) as node:
            assert await node.ping(name)
            with node.events() as events:
                process.send_signal(signal.SIGSTOP)
                asking = asyncio.ensure_future(node.ping(name, timeout=PATIENCE))
                # Several times the detection time of a killed node, with probes in between.
                done, _ = await asyncio.wait([asking], timeout=4.0)
                assert not done
                process.send_signal(signal.SIGCONT)
                assert await asking
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.01)
    finally:
        process.kill()
        await process.communicate()


async def test_a_path_that_loses_a_fifth_keeps_its_connection(
    identity: Identity, make_node: MakeNode
) -> None:
    real = free_port()
    async with LossyProxy(("127.0.0.1", real), Weather(loss=0.2), seed=3) as proxy:
        name = f"{proxy.address[1]}@127.0.0.1"
        two = make_node(name=name, listen=("127.0.0.1", real), limits=UNHURRIED)
        async with make_node(limits=UNHURRIED) as one, two:
            await one.connect(two.name)
            # Idle, so that both sides send only PING frames.
            with one.events() as events, pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 4.0)
            assert proxy.dropped > 0
            assert await one.ping(two.name, timeout=PATIENCE)


_SHORT_IDLE = """
import asyncio, sys
from quicdist import Node, Quic
from quicdist.limits import CarrierLimits
async def main():
    carriers = [Quic(limits=CarrierLimits(idle_timeout=2.0))]
    async with Node("0@127.0.0.1", cookie=sys.argv[1], carriers=carriers) as node:
        print(node.name, flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


async def test_our_own_blocked_loop_is_not_taken_for_a_restart_of_the_peer(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer's idle timeout expires meanwhile; it answers datagrams with a stateless reset."""
    limits = CarrierLimits(idle_timeout=2.0)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SHORT_IDLE, COOKIE), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    name = (await process.stdout.readline()).decode().strip()
    try:
        carriers = [Quic(limits=limits)]
        node_limits = NodeLimits(net_ticktime=6.0)
        async with make_node(carriers=carriers, limits=node_limits) as node:
            assert await node.ping(name)
            with node.events() as events:
                time.sleep(6.0)  # blocks the loop
                down = await asyncio.wait_for(anext(events), PATIENCE)
                assert isinstance(down, NodeDown)
                assert "event loop of this node was blocked" in down.reason
                assert "restarted" not in caplog.text
            assert await node.ping(name)
    finally:
        process.kill()
        await process.communicate()
