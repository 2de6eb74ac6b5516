"""Node discovery by DNS, with a DNS server in the test."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from quicdist import DnsSrv, Epmd, NoConnection, Node, NodeLimits, PortInName, Table
from quicdist.extras import MissingExtra
from tests.node.conftest import MakeNode

pytestmark = pytest.mark.io

HOST = "cluster.example"
QUESTION = f"_erlang-dist._quic.{HOST}."


class NameServer(asyncio.DatagramProtocol):
    """A DNS server that records queries and ignores those for names that contain `silent`."""

    def __init__(self, records: list[str]) -> None:
        self.records = records
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text()
        self.asked.append(name)
        if "silent" in name:
            return
        if "garbage" in name:
            self._transport.sendto(data[:2] + b"\x80" * 20, address)
            return
        answer = dns.message.make_response(question)
        if name == QUESTION:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "SRV", *self.records))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), address)


@asynccontextmanager
async def name_server(*records: str) -> AsyncIterator[tuple[NameServer, DnsSrv]]:
    """Yields a server and a resolver that uses it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(list(records)), local_addr=("127.0.0.1", 0)
    )
    try:
        port = transport.get_extra_info("sockname")[1]
        yield server, DnsSrv(["127.0.0.1"], port)
    finally:
        transport.close()


def port_of(node: Node) -> str:
    return node.name.partition("@")[0]


async def test_a_record_leads_to_a_node_over_quic(make_node: MakeNode) -> None:
    """DNS gives the address only: the node there must have the expected name."""
    async with make_node() as other, name_server(f"0 0 {port_of(other)} localhost.") as found:
        server, by_dns = found
        async with make_node(lookups=[by_dns]) as node:
            with pytest.raises(NoConnection, match=f"the peer is {other.name}, expected hub@"):
                await node.connect(f"hub@{HOST}")
        assert set(server.asked) == {QUESTION}


async def test_the_best_priority_comes_first(make_node: MakeNode) -> None:
    async with make_node() as other:
        records = ["9 0 1 localhost.", f"1 0 {port_of(other)} localhost.", "5 0 1 localhost."]
        async with name_server(*records) as (_, by_dns), make_node(lookups=[by_dns]) as node:
            with pytest.raises(NoConnection, match=f"the peer is {other.name}"):
                await node.connect(f"hub@{HOST}")


async def test_where_nobody_is_the_next_is_tried(make_node: MakeNode) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        deaf = nobody.getsockname()[1]
        async with make_node() as other:
            records = [f"2 0 {port_of(other)} localhost.", f"1 0 {deaf} 127.0.0.1."]
            async with name_server(*records) as (_, by_dns), make_node(lookups=[by_dns]) as node:
                with pytest.raises(NoConnection, match=f"the peer is {other.name}"):
                    await node.connect(f"hub@{HOST}")
        limits = NodeLimits(connect_timeout=0.5)
        async with (
            name_server("1 0 1 a.invalid.", "2 0 1 b.invalid.") as (_, by_dns),
            make_node(lookups=[by_dns], limits=limits) as node,
        ):
            with pytest.raises(NoConnection, match=r"quic:a\.invalid:1: .*quic:b\.invalid:1: "):
                await node.connect(f"hub@{HOST}")


async def test_the_order_of_places_is_the_users(make_node: MakeNode) -> None:
    async with make_node() as other, name_server("0 0 1 nowhere.") as (server, by_dns):
        table = Table({f"hub@{HOST}": f"quic:127.0.0.1:{port_of(other)}"})
        async with make_node(lookups=[table, by_dns]) as node:
            with pytest.raises(NoConnection, match=f"the peer is {other.name}"):
                await node.connect(f"hub@{HOST}")
        assert server.asked == []


async def test_each_place_says_what_it_answered(make_node: MakeNode) -> None:
    async with name_server() as (_, by_dns):
        for host, said in (
            ("other.example", r"DNS has no _erlang-dist\._quic\.other\.example: .*does not exist"),
            ("silent.example", r"no answer from DNS for _erlang-dist\._quic\.silent"),
            ("garbage.example", r".*DNS .*_erlang-dist\._quic\.garbage"),
            ("127.0.0.1", "an IP address is not looked up in DNS"),
        ):
            lookups = [PortInName(), by_dns, Epmd(port=1)]
            async with make_node(lookups=lookups) as node:
                expected = rf"the name has no port.*; {said}.*; no EPMD answers at {host}:1"
                with pytest.raises(NoConnection, match=expected):
                    await node.connect(f"hub@{host}")


async def test_a_service_that_is_said_not_to_be_there(make_node: MakeNode) -> None:
    async with name_server("0 0 0 .") as (_, by_dns), make_node(lookups=[by_dns]) as node:
        with pytest.raises(NoConnection, match="DNS has no service for"):
            await node.connect(f"hub@{HOST}")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(MissingExtra, match=r"pip install 'quicdist\[dns\]'"):
        DnsSrv()
