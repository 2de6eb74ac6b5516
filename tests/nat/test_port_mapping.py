"""A router that maps a port by UPnP: miniupnpd, which many home routers run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.nat.conftest import Sites
from tests.nat.kinds import DOUBLE_SYMMETRIC, SYMMETRIC, Outcome, outcome
from tests.nat.lab import Lab, Site
from tests.nat.namespaces import run
from tests.nat.nodes import Stage, staged
from tests.support.waiting import PATIENCE, until, wait_until

pytestmark = [
    pytest.mark.io,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("miniupnpd") is None, reason="no miniupnpd: apt install miniupnpd-nftables"
    ),
]

OUTSIDE = "11.0.0.1"
"""The address of the router. miniupnpd maps no port if it has one for documentation."""

_CHAINS = """
table inet upnp {
  chain forward { type filter hook forward priority 0; jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
"""
_SETTINGS = f"""
ext_ifname=wan
ext_ip={OUTSIDE}
listening_ip=lan
upnp_table_name=upnp
upnp_nat_table_name=upnp
uuid=73f4a5a2-5d4c-4f0e-9a43-0c1f5d7c2f10
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    async with staged(lab) as found:
        yield found


@pytest.fixture
def home(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A site whose router is symmetric, and maps ports."""
    site = lab.site(SYMMETRIC)
    router = site.routers[0]
    router.ip([f"address add {OUTSIDE}/32 dev wan"])
    router.nft(_CHAINS)
    settings = tmp_path / "miniupnpd.conf"
    settings.write_text(_SETTINGS)
    words = ["miniupnpd", "-d", "-f", str(settings), "-P", str(tmp_path / "pid")]
    log = tmp_path / "miniupnpd.log"
    with (
        log.open("w") as output,
        subprocess.Popen(router.command(words), stdout=output, stderr=output) as daemon,
    ):
        try:
            wait_until(lambda: "HTTP listening" in log.read_text())
            yield site
        finally:
            daemon.terminate()


async def test_two_symmetric_nats_become_direct_with_a_mapped_port(
    stage: Stage, sites: Sites, home: Site
) -> None:
    other = sites(DOUBLE_SYMMETRIC, 1)
    assert outcome(home.kind, other.kind) is Outcome.RELAYED
    other.routers[1].ip([f"route replace {OUTSIDE}/32 via {home.public}"])
    inside = await stage.node(home, map_port=True)
    mapped = await inside.event(lambda event: event.get("event") == "port_mapped")
    assert OUTSIDE in mapped["text"]
    outside = await stage.node(other)
    assert (await outside.order("ping", node=inside.name))["ok"]
    await outside.until_path(inside, "direct")
    await inside.until_path(outside, "direct")


def mapped_ports(home: Site) -> str:
    """The rules of miniupnpd for ports that it has mapped."""
    words = ["nft", "list", "chain", "inet", "upnp", "prerouting_miniupnpd"]
    return "\n".join(
        line for line in run(home.routers[0].command(words)).split("\n") if "dnat" in line
    )


async def test_a_mapping_ends_with_its_node(stage: Stage, home: Site) -> None:
    # The node waits for the answer of the router, however slow this machine is.
    inside = await stage.node(home, map_port=True, close_time=PATIENCE)
    await inside.event(lambda event: event.get("event") == "port_mapped")
    assert mapped_ports(home)
    await inside.stop()
    await until(lambda: not mapped_ports(home))
    assert not inside.named("port_not_unmapped")
