"""The lab itself: each kind of NAT does what its description says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.nat.conftest import Sites
from tests.nat.kinds import BLOCKED, DOUBLE, KINDS, MASQ, MASQ_ACCEPT, OPEN, Dependence, Kind
from tests.nat.lab import CORE, Lab
from tests.nat.namespaces import Namespace
from tests.nat.probing import Probe, passes

pytestmark = [pytest.mark.io, pytest.mark.slow]

_DIAL = "import socket, sys; socket.create_connection(sys.argv[1:], 1)"

PASSING = [kind for kind in KINDS if kind.passes_udp]


def dial(node: Namespace, port: str) -> str:
    """Returns the error of a TCP connection from a node to the core."""
    words = node.command([sys.executable, "-c", _DIAL, CORE, port])
    return subprocess.run(words, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("kind", PASSING, ids=str)
def test_mapping_and_filtering(lab: Lab, sites: Sites, kind: Kind) -> None:
    site = sites(kind, 0)
    with Probe(lab) as probe:
        mapping, inside, outside = probe.mapping(site.node)
        assert mapping is kind.mapping
        assert (inside == outside) is kind.keeps_port
        assert probe.filtering(site.node) is kind.filtering


@pytest.mark.parametrize("kind", [MASQ, MASQ_ACCEPT], ids=str)
def test_a_packet_that_the_router_accepts_takes_the_mapping(
    lab: Lab, sites: Sites, kind: Kind
) -> None:
    with Probe(lab) as probe:
        assert probe.is_spoiled_by_a_knock(sites(kind, 0).node) is (kind is MASQ_ACCEPT)


@pytest.mark.parametrize("kind", [MASQ, DOUBLE], ids=str)
def test_no_nat_hairpins(lab: Lab, sites: Sites, kind: Kind) -> None:
    with Probe(lab) as probe:
        assert not probe.hairpins(sites(kind, 0).node)


def test_a_firewall_that_blocks_udp_lets_out_tcp_443(lab: Lab, sites: Sites) -> None:
    node = sites(BLOCKED, 0).node
    with Probe(lab) as probe, probe.client(node) as client:
        assert probe.observed(client) is None
    # Nobody listens at port 443 of the core, but the firewall would say something else.
    assert "ConnectionRefusedError" in dial(node, "443")
    assert "ConnectionRefusedError" not in dial(node, "444")


@pytest.mark.parametrize("kind", [OPEN, MASQ], ids=str)
def test_ipv6_is_not_translated_but_filtered(lab: Lab, sites: Sites, kind: Kind) -> None:
    site = sites(kind, 0)
    with Probe(lab, is_v6=True) as probe:
        mapping, inside, outside = probe.mapping(site.node)
        assert mapping is Dependence.ENDPOINT_INDEPENDENT
        assert inside == outside
        assert probe.filtering(site.node) is kind.filtering


def test_a_nat_that_is_flushed_forgets_its_mappings(lab: Lab, sites: Sites) -> None:
    site = sites(MASQ, 0)
    with Probe(lab) as probe, probe.client(site.node) as client:
        outside = probe.observed(client)
        assert outside is not None
        assert passes(probe.servers[0, 0], client, outside)
        site.flush()
        assert not passes(probe.servers[0, 0], client, outside)
