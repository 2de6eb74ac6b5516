"""A relay under floods: an honest node keeps its service, and memory and counters are bounded."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import AsyncIterator

import pytest

from quicdist.limits import MIB, RelayLimits
from tests.nat.conftest import Sites
from tests.nat.kinds import FULL_CONE, MASQ, OPEN, SYMMETRIC
from tests.nat.lab import Lab
from tests.nat.nodes import METRICS, LabNode, LabProcess, Stage, staged
from tests.support.waiting import until

REFUSED = ("not_permitted", "malformed")
"""Reasons for which frames of the node with a valid key are dropped."""

pytestmark = [pytest.mark.io, pytest.mark.slow]


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    async with staged(lab) as found:
        yield found


async def test_an_honest_node_keeps_its_service(stage: Stage, lab: Lab, sites: Sites) -> None:
    """One flood is from more addresses than a port has room for, the other from a valid key."""
    one = await stage.node(sites(SYMMETRIC, 0), path="relay-only")
    other = await stage.node(sites(MASQ, 1), path="relay-only")
    assert (await one.order("ping", node=other.name))["ok"]
    ports = [*3 * [one.name.partition("@")[0]], "4433"]
    before = stage.relay.memory
    async with contextlib.AsyncExitStack() as stack:
        for kind, site in (("spoofed", sites(OPEN, 0)), ("keyed", sites(FULL_CONE, 1))):
            flood = LabProcess()
            stack.push_async_callback(flood.kill)
            await flood.start(site.node, ["tests.nat.flood", kind, *ports], stage.directory)
            await flood.event(lambda event: event.get("event") == "floods")
        await until(lambda: _is_flooded(lab))
        await until(lambda: answered(other, "ping", one))
        await until(lambda: answered(one, "beat", other, seconds=2))
        assert (await one.order("send", node=other.name, size=1 << 20))["ok"]
        late = await stage.node(sites(OPEN, 1), path="relay-only")  # a client that comes now
        await until(lambda: answered(late, "ping", one))
        for node in (one, other):
            assert not node.named("nodedown")
        assert metric(lab, "relay_clients") < 2 * RelayLimits().clients_per_port
        assert stage.relay.memory - before < MIB * 64


async def answered(node: LabNode, order: str, other: LabNode, **words: object) -> bool:
    """Whether another node answers within the time of one order."""
    return bool((await node.order(order, node=other.name, **words))["ok"])


def metric(lab: Lab, name: str, label: str = "") -> float:
    """Returns the sum of a metric of the relay over its labels, or over those with this value."""
    with lab.core.entered():
        connection = http.client.HTTPConnection(*METRICS)
        connection.connect()
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    lines = re.findall(rf"^quicdist_{name}(\{{.*\}}) (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if label in labels)


def _is_flooded(lab: Lab) -> bool:
    """Whether both floods have arrived, from more addresses than one port takes."""
    dropped = [metric(lab, "relay_dropped_datagrams_total", why) for why in REFUSED]
    return min(dropped) > 100 and metric(lab, "relay_clients") >= RelayLimits().clients_per_port
