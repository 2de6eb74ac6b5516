"""Nodes over QUIC in one process and in two processes, one of which is killed."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from quicdist import (
    Cause,
    Identity,
    NoConnection,
    Node,
    NodeDown,
    NodeLimits,
    Quic,
    StartError,
    Trust,
)
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.engine import EngineError
from quicdist.etf import Atom
from quicdist.limits import CarrierLimits
from tests.node import exported
from tests.node.conftest import COOKIE, MakeNode
from tests.support.lossy import LossyProxy, Weather
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io


async def test_the_spine(make_node: MakeNode) -> None:
    async with (
        make_node() as one,
        make_node(exports=[exported]) as two,
        one.mailbox("a") as a,
        two.mailbox("b") as b,
    ):
        assert await one.ping(two.name)
        assert await two.ping(one.name)
        assert await one.call(two.name, "py", "add", [1, 2]) == 3
        assert await two.call(two.name, "py", "add_later", [1, 2]) == 3
        await a.send(("b", two.name), (a.pid, {"n": 1, "xs": [1, 2.5, b"bin"]}))
        sender, message = await b.receive(timeout=PATIENCE)
        assert message == {b"n": 1, b"xs": [1, 2.5, b"bin"]}
        await b.send(sender, bytes(3_000_000))
        assert await a.receive(timeout=PATIENCE) == bytes(3_000_000)


async def test_connects_that_cross(make_node: MakeNode) -> None:
    for _ in range(15):
        async with make_node() as one, make_node() as two:
            assert all(await asyncio.gather(one.ping(two.name), two.ping(one.name)))
            assert (one.nodes(), two.nodes()) == ([two.name], [one.name])


async def test_several_nodes_in_one_process(make_node: MakeNode) -> None:
    async with make_node() as one, make_node() as two, make_node() as three:
        names = {one.name, two.name, three.name}
        for node in (one, two, three):
            for name in names - {node.name}:
                assert await node.ping(name)
            assert set(node.nodes()) == names - {node.name}


async def test_a_frame_beyond_the_bound_ends_its_connection_and_is_counted(
    make_node: MakeNode,
) -> None:
    small = Quic(limits=CarrierLimits(max_frame=16 * 1024))
    async with make_node() as one, make_node() as three, make_node(carriers=[small]) as two:
        assert await three.ping(two.name)
        with two.events() as events:
            await one.send(("nobody", two.name), bytes(40_000))
            seen = [await asyncio.wait_for(events.__anext__(), PATIENCE) for _ in range(2)]
        assert isinstance(seen[1], NodeDown)
        assert "exceeds the limit of 16384" in seen[1].reason
        assert two.stats().ended == {"protocol": 1}
        assert two.nodes() == [three.name]


async def test_a_port_in_use(make_node: MakeNode) -> None:
    async with make_node() as one:
        with pytest.raises(StartError, match="in use"):
            await Node(one.name, cookie="c", identity=Identity.ephemeral()).start()


async def test_it_listens_where_it_is_told(identity: Identity, make_node: MakeNode) -> None:
    async with make_node() as one:
        port = one.name.partition("@")[0]
    listening = Node(
        f"{port}@127.0.0.1", cookie=COOKIE, identity=identity, listen=f"0.0.0.0:{port}"
    )
    async with listening as one, make_node() as two:
        assert await two.ping(one.name)
        assert await one.ping(two.name)


async def test_what_is_verified_is_said(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quicdist.node")
    async with make_node():
        assert "nodes are verified" in caplog.text
        assert "no certificate is verified" not in caplog.text
    async with make_node(trust=Trust.nothing()):
        assert "no certificate is verified" in caplog.text


async def test_a_peer_that_disconnects_is_no_warning(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quicdist.node")
    async with make_node() as one, make_node() as two:
        assert await one.ping(two.name)
        assert one.disconnect(two.name)
        await until(lambda: not two.nodes())
        ends = [each for each in caplog.records if getattr(each, "event", "") == "peer_down"]
        seen = {(vars(each)["node"], vars(each)["cause"], each.levelno) for each in ends}
        assert seen == {
            (one.name, Cause.DISCONNECTED.value, logging.INFO),
            (two.name, Cause.PEER_CLOSED.value, logging.INFO),
        }


async def test_a_peer_that_is_not_believed(make_node: MakeNode, tmp_path: Path) -> None:
    other = Identity.ephemeral(["127.0.0.1"])
    authority = tmp_path / "ca.pem"
    from cryptography.hazmat.primitives.serialization import Encoding

    authority.write_bytes(other.certificate.public_bytes(Encoding.PEM))
    limits = NodeLimits(connect_timeout=20.0)
    async with (
        make_node(trust=Trust.authority(authority), limits=limits) as one,
        make_node() as stranger,
        make_node(identity=other) as friend,
    ):
        with pytest.raises(NoConnection, match="certificate"):
            await one.connect(stranger.name)
        assert await one.ping(friend.name)


_PEER = """
import asyncio, sys
from quicdist import Node
async def main():
    async with Node(sys.argv[1], cookie=sys.argv[2]) as node:
        print(node.name, flush=True)
        async with node.mailbox("b") as me:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


async def start_peer(name: str = "0@127.0.0.1") -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PEER, name, COOKIE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_kill_9_and_return(make_node: MakeNode) -> None:
    process, name = await start_peer()
    try:
        async with (
            make_node(limits=NodeLimits(net_ticktime=1.0)) as one,
            one.mailbox() as me,
        ):
            reference = me.monitor(("b", name))
            assert await one.ping(name)
            with one.events() as events:
                process.kill()
                await process.communicate()
                down = await asyncio.wait_for(anext(events), PATIENCE)
                assert isinstance(down, NodeDown)
            message = await me.receive(timeout=PATIENCE)
            assert (message[1], message[4]) == (reference, "noconnection")
            process, again = await start_peer(name)
            assert again == name
            assert await one.ping(name)
    finally:
        process.kill()
        await process.communicate()


async def test_a_peer_that_ends_is_seen_at_once(make_node: MakeNode) -> None:
    process, name = await start_peer()
    try:
        async with make_node(limits=NodeLimits(net_ticktime=600)) as one:
            assert await one.ping(name)
            with one.events() as events:
                await process.communicate(b"\n")
                down = await asyncio.wait_for(anext(events), PATIENCE)
                assert isinstance(down, NodeDown)
                assert "has stopped" in down.reason
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_bad_weather_loses_and_reorders_nothing(
    identity: Identity, make_node: MakeNode
) -> None:
    """Reaches the peer through a proxy on the port of the peer's name."""
    weather = Weather(loss=0.05, duplicate=0.05, reorder=0.1, corrupt=0.02)
    real = free_port()
    async with LossyProxy(("127.0.0.1", real), weather, seed=1) as proxy:
        two = Node(
            f"{proxy.address[1]}@127.0.0.1",
            cookie=COOKIE,
            identity=identity,
            listen=("127.0.0.1", real),
            exports=[exported],
        )
        async with make_node() as one, two, two.mailbox("sink") as sink:
            for number in range(500):
                await one.send(("sink", two.name), (number, bytes(number % 50 * 100)))
                if number % 100 == 0:
                    answer = await one.call(two.name, "py", "add", [number, 1], timeout=PATIENCE)
                    assert answer == number + 1
            for number in range(500):
                assert (await sink.receive(timeout=PATIENCE))[0] == number
            assert proxy.dropped > 0


@pytest.mark.parametrize("error", [EngineError, ZeroDivisionError])
async def test_a_message_whose_engine_fails_ends_its_connection_once(
    error: type[Exception], make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        make_node() as one,
        make_node(exports=[exported]) as two,
        one.mailbox("a") as a,
        two.mailbox("b") as b,
    ):
        await b.send(("a", one.name), b.pid)
        there = await a.receive(timeout=PATIENCE)
        await asyncio.sleep(0.05)
        a.trap_exit = b.trap_exit = True
        a.link(b.pid)
        reference = a.monitor(b.pid)
        call = asyncio.create_task(one.call(two.name, "py", "forever", []))
        await asyncio.sleep(0.05)
        peer = one._running.connections.up[Atom(two.name)]
        connection = peer.connection
        assert isinstance(connection, QuicConnection)
        engine = connection._engine

        def fail(*_: object) -> None:
            raise error("no")

        with one.events() as events:
            with monkeypatch.context() as broken:
                broken.setattr(engine, "write", fail)
                await a.send(there, b"lost")
                await a.send(there, b"lost as well")
            with pytest.raises(NoConnection):
                await call
            seen = [await a.receive(timeout=PATIENCE) for _ in range(2)]
            down = await asyncio.wait_for(events.__anext__(), PATIENCE)
        assert isinstance(down, NodeDown)
        assert sorted(str(each[0]) for each in seen) == ["DOWN", "EXIT"]
        assert all(each[-1] == "noconnection" for each in seen)
        assert reference in next(each for each in seen if each[0] == "DOWN")
        await a.send(there, b"after a new connection")
        last = await b.receive(lambda each: isinstance(each, bytes), timeout=PATIENCE)
        assert last == b"after a new connection"
        assert not a.message_count
