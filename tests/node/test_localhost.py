"""A node on localhost is found at each address of localhost."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from quicdist import Node
from quicdist.cluster.carrier import CarrierSettings
from quicdist.cluster.lookup import Table
from quicdist.cluster.quic import Quic
from quicdist.cluster.tcp import EpmdUse, Tcp
from tests.carriers.test_endpoint import has_ipv6
from tests.node.conftest import COOKIE, MakeNode
from tests.support.ports import free_port

pytestmark = pytest.mark.io


@pytest.fixture
def both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolves localhost to both address families, independent of /etc/hosts."""
    if os.environ.get("QUICDIST_TEST_LOOP") == "uvloop":
        pytest.skip("uvloop resolves names without Python's resolver")
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: int, **named: int) -> list[object]:
        if host != "localhost":
            return list(real(host, *args, **named))
        found: list[object] = []
        for address in ("::1", "127.0.0.1"):
            try:
                found += real(address, *args, **named)
            except socket.gaierror:  # no address of the requested family
                continue
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("both_families")
@pytest.mark.parametrize("family", ["127.0.0.1", "::1", "localhost"])
async def test_over_quic(make_node: MakeNode, family: str) -> None:
    if not await has_ipv6():
        pytest.skip("no IPv6 here")
    async with make_node(name="0@localhost") as node:
        port = node.name.partition("@")[0]
        place = f"quic:[{family}]:{port}" if ":" in family else f"quic:{family}:{port}"
        async with make_node(name=f"0@{family}", lookups=[Table({node.name: place})]) as other:
            assert await other.ping(node.name)


@pytest.mark.usefixtures("both_families")
@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
async def test_a_node_of_localhost_dials_both(make_node: MakeNode, at: str) -> None:
    if not await has_ipv6():
        pytest.skip("no IPv6 here")
    port = free_port()
    async with (
        make_node(name=f"{port}@localhost", listen=(at, port)) as node,
        make_node(name="0@localhost") as other,
    ):
        assert await other.ping(node.name)


@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
async def test_over_tcp(at: str) -> None:
    if not await has_ipv6():
        pytest.skip("no IPv6 here")
    port = free_port()
    carriers: list[CarrierSettings] = [Quic(), Tcp(port=port, epmd=EpmdUse.NONE)]
    async with Node("app@localhost", cookie=COOKIE, carriers=carriers):
        _, writer = await asyncio.open_connection(at, port)
        writer.close()
        await writer.wait_closed()
