"""Nodes behind NATs that a relay gives their address: every kind of NAT, and every fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat.conftest import Sites
from tests.nat.kinds import BLOCKED, DOUBLE, KINDS, MASQ, OPEN, SYMMETRIC, Kind
from tests.nat.lab import CORE, Lab
from tests.nat.processes import NodeProcess, Process, relay
from tests.support.waiting import until

pytestmark = [pytest.mark.io, pytest.mark.slow]


@pytest.fixture
def at_core(lab: Lab, tmp_path: Path) -> Iterator[Process]:
    with relay(lab.core, tmp_path / "relay") as process:
        yield process


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_two_nodes_of_each_kind_of_network_call_each_other(
    sites: Sites, at_core: Process, tmp_path: Path, kind: Kind
) -> None:
    with (
        NodeProcess(sites(kind, 0).node, tmp_path / "one") as one,
        NodeProcess(sites(SYMMETRIC, 1).node, tmp_path / "other") as other,
    ):
        assert one.name.endswith(f"@{CORE}")
        assert one.ping(other.name)
        assert other.ping(one.name)
        way, observed, dropped, forged = one.ask("relay")
        assert way == ("udp" if kind.passes_udp else "tcp")
        assert (dropped, forged) == (0, 0)
        if kind.passes_udp:
            assert observed[0] == sites(kind, 0).public


def test_a_large_message_passes(sites: Sites, at_core: Process, tmp_path: Path) -> None:
    with (
        NodeProcess(sites(SYMMETRIC, 0).node, tmp_path / "one") as one,
        NodeProcess(sites(DOUBLE, 1).node, tmp_path / "other") as other,
    ):
        assert one.ask("send", other.name, 16 << 20)
        assert other.ask("receive") == 16 << 20
        assert one.ask("moves") == other.ask("moves") == [0]


def test_both_sides_without_udp(sites: Sites, at_core: Process, tmp_path: Path) -> None:
    with (
        NodeProcess(sites(BLOCKED, 0).node, tmp_path / "one") as one,
        NodeProcess(sites(BLOCKED, 1).node, tmp_path / "other") as other,
    ):
        assert one.ask("relay")[0] == other.ask("relay")[0] == "tcp"
        assert one.ask("send", other.name, 1 << 20)
        assert other.ask("receive") == 1 << 20


def test_a_node_outside_dials_the_name_without_knowing_of_relays(
    sites: Sites, at_core: Process, tmp_path: Path
) -> None:
    site = sites(OPEN, 0)
    with (
        NodeProcess(sites(SYMMETRIC, 1).node, tmp_path / "home") as home,
        NodeProcess(site.node, tmp_path / "outside", f"4433@{site.public}") as outside,
    ):
        assert outside.ping(home.name)
        assert home.ask("peers") == [outside.name]


@pytest.mark.parametrize("side", [0, 1])
async def test_the_nat_of_one_side_forgets(
    sites: Sites, at_core: Process, tmp_path: Path, side: int
) -> None:
    both = sites(SYMMETRIC, 0), sites(MASQ, 1)
    with (
        NodeProcess(both[0].node, tmp_path / "one") as one,
        NodeProcess(both[1].node, tmp_path / "other") as other,
    ):
        assert one.ping(other.name)
        before = (one, other)[side].ask("relay")[1]
        both[side].flush()
        assert one.ping(other.name)
        assert other.ping(one.name)
        assert one.ask("peers") == [other.name]
        if both[side].kind.is_symmetric:
            await until(lambda: (one, other)[side].ask("relay")[1] != before)


async def test_names_survive_restarts_of_relay_and_nodes(
    lab: Lab, sites: Sites, tmp_path: Path
) -> None:
    spaces = sites(SYMMETRIC, 0).node, sites(MASQ, 1).node
    with relay(lab.core, tmp_path / "relay") as first:
        one = NodeProcess(spaces[0], tmp_path / "one")
        other = NodeProcess(spaces[1], tmp_path / "other")
        assert one.ping(other.name)
        first.kill()
    with one, relay(lab.core, tmp_path / "relay"):
        await until(lambda: one.ping(other.name))
        other.kill()
        other.close()
        with NodeProcess(spaces[1], tmp_path / "other") as again:
            assert again.name == other.name
            await until(lambda: one.ping(again.name))
            await until(lambda: again.ping(one.name))


def test_equal_private_addresses_do_not_matter(
    sites: Sites, at_core: Process, tmp_path: Path
) -> None:
    one_site, other_site = sites(MASQ, 0), sites(MASQ, 1)
    assert one_site.inside == other_site.inside
    with (
        NodeProcess(one_site.node, tmp_path / "one") as one,
        NodeProcess(other_site.node, tmp_path / "other") as other,
    ):
        assert one.name != other.name
        assert one.ping(other.name)
