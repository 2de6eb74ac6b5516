"""The HTTP server for probes and metrics, asked with real requests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import pytest

from quicdist import Node
from quicdist.gateway import Gateway
from quicdist.metrics import health
from quicdist.metrics.health import MAX_CONNECTIONS, MAX_REQUEST, serve_health
from tests.gateway.test_gateway import gateway_and_beam
from tests.node import exported
from tests.node.memory import Hub
from tests.node.test_hostile import make
from tests.support.gatewayed import loopback_settings
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

Address = tuple[str, int]


async def exchange(address: Address, request: bytes) -> tuple[int, str, str]:
    """Sends bytes to the server. Returns the status, the head and the body of the answer."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(request)
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), head, body


async def get(address: Address, path: str) -> tuple[int, str]:
    status, _, body = await exchange(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return status, body


@contextlib.asynccontextmanager
async def served_node() -> AsyncIterator[tuple[Node, Address]]:
    async with make(Hub()) as node, serve_health(node, port=0) as address:
        yield node, address


async def test_a_running_node_is_healthy_and_ready() -> None:
    async with served_node() as (_, address):
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await get(address, "/readyz?verbose") == (200, "ready\n")


async def test_metrics_are_on_the_same_port() -> None:
    pytest.importorskip("prometheus_client")
    async with served_node() as (node, address):
        status, text = await get(address, "/metrics")
        assert status == 200
        assert f'quicdist_connections{{node="{node.name}"}} 0.0' in text


async def test_probes_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "prometheus_client":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with served_node() as (_, address):
        assert await get(address, "/readyz") == (200, "ready\n")
        status, text = await get(address, "/metrics")
        assert status == 501
        assert text.endswith("pip install 'quicdist[prometheus]'\n")


async def test_a_node_that_drains_is_healthy_and_not_ready() -> None:
    hub = Hub()
    async with (
        make(hub, exports=[exported]) as node,
        make(hub) as caller,
        serve_health(node, port=0) as address,
    ):
        caller.send_request(node.name, "py", "forever")
        await until(lambda: node.system._work_left() == 1)
        drained = asyncio.ensure_future(node.drain(PATIENCE))
        await until(lambda: node.stats().is_draining)
        assert await get(address, "/readyz") == (503, "draining\n")
        assert await get(address, "/healthz") == (200, "ok\n")
        drained.cancel()


async def test_a_node_that_has_stopped_is_not_ready() -> None:
    async with contextlib.AsyncExitStack() as stack:
        node = make(Hub())
        await node.start()
        address = await stack.enter_async_context(serve_health(node, port=0))
        await node.stop()
        assert await get(address, "/readyz") == (503, "not running\n")
        assert await get(address, "/healthz") == (200, "ok\n")


async def test_a_gateway_is_ready_when_its_beam_node_is_registered() -> None:
    async with Gateway(loopback_settings()) as gateway, serve_health(gateway, port=0) as address:
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await get(address, "/readyz") == (503, "the BEAM node is not registered\n")
    async with gateway_and_beam() as (gateway, _), serve_health(gateway, port=0) as address:
        assert await get(address, "/readyz") == (200, "ready\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /healthz\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 2 * MAX_REQUEST + b"\r\n\r\n", 431),
    ],
    ids=["head", "other path", "post", "no version", "tls", "large"],
)
async def test_each_request_gets_a_status(request_: bytes, status: int) -> None:
    async with served_node() as (_, address):
        found, head, body = await exchange(address, request_)
        assert found == status
        assert "Connection: close" in head
        assert bool(body) == (not request_.startswith(b"HEAD"))


async def test_a_slow_client_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_SECONDS", 0.05)
    async with served_node() as (_, address), asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_many_slow_clients_do_not_keep_a_probe_out() -> None:
    async with served_node() as (_, address), asyncio.timeout(PATIENCE):
        slow = [await asyncio.open_connection(*address) for _ in range(2 * MAX_CONNECTIONS)]
        assert await get(address, "/healthz") == (200, "ok\n")
        # The oldest connections were closed, not all.
        with contextlib.suppress(ConnectionResetError):
            assert await slow[0][0].read() == b""
        assert not slow[-1][0].at_eof()
        for _, writer in slow:
            writer.close()


async def test_a_port_in_use_is_an_error() -> None:
    async with served_node() as (node, (_, port)):
        with pytest.raises(OSError, match="in use"):
            async with serve_health(node, port=port):
                pass
