"""Node statistics: each event is counted once, and counters are not shared between nodes."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from quicdist import Access, MailboxLimits, NoConnection, Node, NodeLimits, WhenFull
from quicdist.carriers.log_rate_limit import MOST
from quicdist.node.info import PeerInfo
from quicdist.protocol.role import Role
from tests.node.conftest import MakeNode
from tests.node.memory import Hub
from tests.node.test_two_nodes import get, make
from tests.support.waiting import until

KIB = 1024


def the_connection(node: Node) -> PeerInfo:
    (connection,) = node.stats().connections
    return connection


async def test_a_node_by_itself_has_counted_nothing() -> None:
    async with make(Hub()) as node:
        stats = node.stats()
    assert (stats.name, stats.connections, stats.refused, stats.ended) == (node.name, [], {}, {})
    assert stats.mailboxes == stats.messages_waiting == stats.traffic.messages_sent == 0
    with pytest.raises(FrozenInstanceError):
        stats.mailboxes = 1  # type: ignore[misc]


async def test_both_ends_of_a_connection_count_the_same_messages() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two, two.mailbox("here") as me:
        before = one.stats().since
        await one.connect(two.name)
        for number in range(10):
            await one.send(("here", two.name), number)
        assert [await get(me) for _ in range(10)] == list(range(10))
        here, there = the_connection(one), the_connection(two)
    assert (here.name, here.role, there.role) == (two.name, Role.DIALER, Role.LISTENER)
    assert here.since >= before > 0
    assert here.traffic.messages_sent == there.traffic.messages_received == 10


async def test_totals_keep_what_closed_connections_counted() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two, two.mailbox("here") as me:
        for number in range(3):
            await one.send(("here", two.name), number)
            await get(me)
            one.disconnect(two.name)
            await until(lambda: not two.nodes())
        stats = one.stats()
        assert (stats.dialed, stats.accepted, stats.ended) == (3, 0, {"left": 3})
        assert (stats.connections, stats.traffic.messages_sent) == ([], 3)
        assert two.stats().ended == {"lost": 3}


async def test_the_fullest_mailboxes_are_named() -> None:
    async with make(Hub()) as node, node.mailbox("full"), node.mailbox("empty"):
        await node.send("full", b"x" * 1000)
        await node.send("full", 1)
        stats = node.stats()
    (full,) = stats.fullest
    assert (full.name, full.messages, stats.mailboxes, stats.messages_waiting) == ("full", 2, 2, 2)
    assert full.bytes == stats.bytes_waiting > 1000


@pytest.mark.io
async def test_the_time_that_a_full_mailbox_holds_a_peer_back_is_told() -> None:
    hub = Hub()
    limits = NodeLimits(mailbox=MailboxLimits(high=64 * KIB, low=32 * KIB, hard=1024 * KIB))
    async with make(hub) as one, make(hub, limits=limits) as two, two.mailbox("full") as me:
        for _ in range(4):
            await one.send(("full", two.name), bytes(32 * KIB))
        await until(lambda: the_connection(two).is_held_back)
        held = the_connection(two).traffic.held_back
        await until(lambda: the_connection(two).traffic.held_back > held)
        for _ in range(4):
            await get(me)
        await until(lambda: not the_connection(two).is_held_back)
        over = the_connection(two).traffic.held_back
        await asyncio.sleep(0.01)
        assert the_connection(two).traffic.held_back == over > 0


async def test_what_full_mailboxes_cost_is_counted_beyond_their_end() -> None:
    drop = MailboxLimits(messages=3, when_full=WhenFull.DROP)
    kill = NodeLimits(mailbox=MailboxLimits(messages=3, when_full=WhenFull.KILL))
    async with make(Hub(), limits=kill) as node:
        async with node.mailbox("drops", limits=drop) as drops:
            for number in range(8):
                await node.send("drops", number)
            assert drops.dropped == 8 - drops.message_count > 0
            dropped = drops.dropped
        victim = node.spawn(lambda me: me.receive(lambda message: False))
        for number in range(8):
            await node.send(victim.pid, number)
        await until(lambda: not victim.is_alive)
        assert node.stats().messages_dropped == dropped
        assert node.stats().mailboxes_killed == 1


async def test_who_was_refused_is_counted_by_why() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub, cookie="another") as two:
        with pytest.raises(NoConnection):
            await one.connect(two.name)
        assert set(two.stats().refused) == {"cookie"}
        assert one.stats().refused == {}


async def test_all_that_are_refused_are_counted_though_few_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    async with make(hub, access=Access(accept=["nobody@here"])) as two:
        for _ in range(3 * MOST):
            async with make(hub) as one:
                with pytest.raises(NoConnection):
                    await one.connect(two.name)
        await until(lambda: sum(two.stats().refused.values()) == 3 * MOST)
    logged = Counter(getattr(record, "event", "") for record in caplog.records)
    assert logged["peer_refused"] == logged["not_allowed"] == MOST


async def test_a_peer_that_falls_silent_is_counted_as_that() -> None:
    hub = Hub()
    limits = NodeLimits(net_ticktime=0.4)
    async with make(hub, limits=limits) as one, make(hub) as two:
        await one.connect(two.name)
        for connection in hub.connections:
            connection.is_frozen = True
        await until(lambda: one.stats().ended == {"tick_timeout": 1})


@pytest.mark.io
async def test_a_quic_connection_tells_its_round_trip_and_bytes(make_node: MakeNode) -> None:
    async with make_node() as one, make_node() as two, two.mailbox("here") as me:
        await one.send(("here", two.name), bytes(100 * KIB))
        await get(me)

        def is_acknowledged() -> bool:
            return the_connection(one).bytes_unacknowledged == 0

        await until(is_acknowledged)
        here = the_connection(one)
        assert (here.carrier, here.bytes_queued, here.traffic.migrations) == ("quicdist", 0, 0)
        assert here.round_trip is not None
        assert here.traffic.bytes_sent > 100 * KIB
        await until(
            lambda: (
                the_connection(two).traffic.bytes_received == the_connection(one).traffic.bytes_sent
            )
        )


@pytest.mark.io
async def test_a_quic_endpoint_counts_whom_it_turns_away(make_node: MakeNode) -> None:
    def port(node: Node) -> int:
        return int(node.name.partition("@")[0])

    junk: dict[str, Any] = {
        "stray": bytes(20),
        "version": b"\xc0\x12\x34\x56\x78" + b"\x08" + bytes(8) + b"\x08" + bytes(1200),
        "broken": b"\xc0\x00\x00\x00\x01" + b"\x08" + bytes(8) + b"\x08" + bytes(1200),
    }
    async with make_node() as node:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for data in junk.values():
                stranger.sendto(data, ("127.0.0.1", port(node)))
        await until(lambda: sum(node.stats().refused.values()) == len(junk))
        assert node.stats().refused == dict.fromkeys(junk, 1)
