"""Nodes behind real NATs that find a direct path, and what faults do to it."""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quicdist.carriers.relay.punching import LENGTH, PUNCH_KIND
from quicdist.gateway import emit_module
from tests.nat.conftest import Sites
from tests.nat.kinds import (
    BLOCKED,
    DOUBLE,
    FULL_CONE,
    MASQ,
    OPEN,
    SHIFTED_CONE,
    SYMMETRIC,
    Kind,
    Outcome,
    outcome,
)
from tests.nat.lab import Lab
from tests.nat.nodes import LabNode, Stage, staged
from tests.nat.probing import passes
from tests.support.engines import ENGINES
from tests.support.erlang import ERL
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.io, pytest.mark.slow]

_TALK = """
Until = fun Until() -> net_adm:ping('PEER') =:= pong orelse begin timer:sleep(50), Until() end end,
Until(), 'PEER' = rpc:call('PEER', erlang, node, []), io:format("talked~n"), receive stop -> ok end.
"""

PAIRS = [
    (MASQ, MASQ),
    (SHIFTED_CONE, DOUBLE),
    (FULL_CONE, SYMMETRIC),
    (MASQ, SYMMETRIC),
    (BLOCKED, MASQ),
]


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    async with staged(lab) as found:
        yield found


async def connected(stage: Stage, sites: Sites, *kinds: Kind) -> tuple[LabNode, LabNode]:
    """Two nodes behind NATs of these kinds, the first of which has dialed the other."""
    one, other = [await stage.node(sites(kind, n)) for n, kind in enumerate(kinds)]
    assert (await one.order("ping", node=other.name))["ok"]
    return one, other


@pytest.mark.parametrize(("dialer", "listener"), PAIRS, ids=str)
async def test_nodes_are_direct_where_the_matrix_says_so(
    stage: Stage, sites: Sites, dialer: Kind, listener: Kind
) -> None:
    one, other = await connected(stage, sites, dialer, listener)
    is_direct = outcome(dialer, listener) is Outcome.DIRECT or (
        dialer.has_ipv6 and listener.has_ipv6
    )
    for node, peer in ((one, other), (other, one)):
        if is_direct:
            await node.until_path(peer, "direct")
        else:
            assert await node.path_to(peer) == "relayed"
    assert (await one.order("send", node=other.name, size=4 << 20))["ok"]
    for node in (one, other):
        assert not node.named("nodedown")
        peers = (await node.order("status"))["peers"].values()
        assert [peer["migrations"] for peer in peers] == [0]


async def test_a_node_without_a_relay_gets_a_direct_path_too(stage: Stage, sites: Sites) -> None:
    """It learns its outside address from the peer."""
    home = await stage.node(sites(MASQ, 0))
    outside = sites(OPEN, 1)
    dialer = await stage.node(outside, name=f"4433@{outside.public}")
    assert (await dialer.order("ping", node=home.name))["ok"]
    await dialer.until_path(home, "direct")
    await home.until_path(dialer, "direct")


async def test_two_nodes_of_one_network(stage: Stage, lab: Lab) -> None:
    site = lab.site(SYMMETRIC, nodes=2)
    one, other = await stage.node(site), await stage.node(site, index=1)
    assert (await one.order("ping", node=other.name))["ok"]
    await one.until_path(other, "direct")
    await other.until_path(one, "direct")


async def test_equal_private_addresses_raise_no_alarm(stage: Stage, sites: Sites) -> None:
    one, other = await connected(stage, sites, MASQ, SHIFTED_CONE)
    await one.until_path(other, "direct")
    for node in (one, other):
        assert not node.named("key_changed")
        assert not [event for event in node.events if event.get("level") in ("WARNING", "ERROR")]


async def test_a_dead_direct_path_is_replaced_by_the_relay(stage: Stage, sites: Sites) -> None:
    one, other = await connected(stage, sites, MASQ, MASQ)
    await one.until_path(other, "direct")
    stage.cut(sites(MASQ, 0), sites(MASQ, 1))
    await one.until_path(other, "relayed")
    assert (await one.order("ping", node=other.name))["ok"]
    stage.mend()
    await one.until_path(other, "direct")
    await other.until_path(one, "direct")
    assert not one.named("nodedown")
    assert not other.named("nodedown")


async def test_a_transfer_over_several_switches_is_exact(stage: Stage, sites: Sites) -> None:
    one, other = await connected(stage, sites, MASQ, MASQ)
    await one.until_path(other, "direct")
    sending = asyncio.create_task(transfers(one, other))
    for _ in range(3):
        stage.cut(sites(MASQ, 0), sites(MASQ, 1))
        await one.until_path(other, "relayed")
        stage.mend()
        await one.until_path(other, "direct")
    sending.cancel()
    assert (await one.order("send", node=other.name, size=32 << 20, name="last"))["ok"]
    sends = [event for event in one.events if "chunks" in event.get("text", "")]
    assert all(event["ok"] for event in sends)
    peers = (await one.order("status"))["peers"].values()
    assert [(peer["switches"] >= 6, peer["migrations"]) for peer in peers] == [(True, 0)]
    assert not one.named("nodedown")
    assert not other.named("nodedown")


async def transfers(one: LabNode, other: LabNode) -> None:
    """Transfers data, again and again."""
    for number in range(1000):
        await one.order("send", node=other.name, size=4 << 20, name=f"t{number}")


async def test_the_direct_path_lives_without_the_relay(stage: Stage, sites: Sites) -> None:
    one, other = await connected(stage, sites, MASQ, MASQ)
    await one.until_path(other, "direct")
    await other.until_path(one, "direct")
    await stage.relay.kill()
    assert (await one.order("beat", node=other.name, seconds=3))["ok"]
    assert await one.path_to(other) == "direct"
    assert not one.named("nodedown")
    await stage.start_relay()


@pytest.mark.parametrize("side", [0, 1])
async def test_a_nat_that_forgets(stage: Stage, sites: Sites, side: int) -> None:
    one, other = await connected(stage, sites, MASQ, SHIFTED_CONE)
    await one.until_path(other, "direct")
    (sites(MASQ, 0) if side == 0 else sites(SHIFTED_CONE, 1)).flush()
    assert (await one.order("ping", node=other.name))["ok"]
    assert (await other.order("ping", node=one.name))["ok"]
    await one.until_path(other, "direct")
    assert not one.named("nodedown")


async def test_forged_pings_are_ignored_and_counted(lab: Lab, stage: Stage, sites: Sites) -> None:
    one, other = await connected(stage, sites, FULL_CONE, MASQ)
    await one.until_path(other, "direct")
    observed = (await one.order("status"))["observed"]
    with lab.core.udp("203.0.113.11", 5555) as stranger, lab.core.udp("203.0.113.11", 5556) as ear:
        stranger.sendto(bytes([PUNCH_KIND]) + bytes(LENGTH - 1), tuple(observed))
        stranger.sendto(b"\x20" + bytes(60), tuple(observed))
        assert not passes(stranger, ear, ("203.0.113.11", 5555))
    await until(functools.partial(_has_ignored_both, one))
    assert await one.path_to(other) == "direct"


async def _has_ignored_both(node: LabNode) -> bool:
    status = await node.order("status")
    return bool(status["refused"].get("ping") == 1 == status["forged"])


@pytest.mark.erlang
async def test_stock_beam_nodes_behind_gateways(stage: Stage, sites: Sites, tmp_path: Path) -> None:
    emit_module(tmp_path, erl=ERL)
    gateways = [await stage.gateway(sites(MASQ, side), str(tmp_path)) for side in (0, 1)]
    ups = [await each.event(lambda event: "gateway" in event) for each in gateways]
    words = [[*shlex.split(up["start"]), "-setcookie", "lab", "-noshell", "-eval"] for up in ups]
    waiting = await asyncio.create_subprocess_exec(
        *sites(MASQ, 1).node.command([*words[1], "receive stop -> ok end."]),
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        talk = _TALK.replace("PEER", ups[1]["gateway"])
        talking = await asyncio.create_subprocess_exec(
            *sites(MASQ, 0).node.command([*words[0], talk]),
            env={**os.environ, "HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert talking.stdout is not None
            said = await asyncio.wait_for(talking.stdout.readline(), PATIENCE)
            assert said == b"talked\n"
            for gateway in gateways:
                changed = await gateway.event(lambda event: event.get("event") == "path_changed")
                assert changed["path"] == "direct"
        finally:
            talking.kill()
            await talking.wait()
    finally:
        waiting.kill()
        await waiting.wait()


@pytest.mark.parametrize("engine", ENGINES)
async def test_both_engines(stage: Stage, sites: Sites, engine: str) -> None:
    one = await stage.node(sites(MASQ, 0), engine=engine)
    other = await stage.node(sites(MASQ, 1), engine=engine)
    assert (await one.order("ping", node=other.name))["ok"]
    await one.until_path(other, "direct")
    assert (await one.order("send", node=other.name, size=4 << 20))["ok"]


async def test_relay_only(stage: Stage, sites: Sites) -> None:
    one = await stage.node(sites(MASQ, 0), path="relay-only")
    other = await stage.node(sites(MASQ, 1))
    assert (await one.order("ping", node=other.name))["ok"]
    await one.order("beat", node=other.name, seconds=1)
    assert (await one.order("ping", node=other.name))["ok"]
    assert await one.path_to(other) == await other.path_to(one) == "relayed"


async def test_direct_only_ends_a_connection_that_stays_relayed(stage: Stage, lab: Lab) -> None:
    one, other = lab.sites_of_one_carrier(DOUBLE)
    dialer = await stage.node(one)
    listener = await stage.node(other, path="direct-only")
    assert (await dialer.order("ping", node=listener.name))["ok"]
    down = await listener.event(lambda event: event.get("event") == "nodedown")
    assert down["node"] == dialer.name
