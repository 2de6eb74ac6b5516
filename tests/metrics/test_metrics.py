"""The metrics exporters, read from another thread at any time."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.request
from typing import Any

import pytest

from quicdist import BlockingNode, Node
from quicdist.extras import MissingExtra
from quicdist.metrics import opentelemetry, prometheus
from quicdist.metrics.catalogue import METRICS, OF_NODES, Kind, Unit
from tests.node.memory import Hub
from tests.node.test_two_nodes import get, make

prometheus_client = pytest.importorskip("prometheus_client")
sdk = pytest.importorskip("opentelemetry.sdk.metrics")
export = pytest.importorskip("opentelemetry.sdk.metrics.export")


def scraped(host: str, port: int) -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
        return str(answer.read().decode())


def values(text: str, name: str) -> dict[str, float]:
    """The samples of one metric, by their labels as written."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_each_metric_has_a_name_of_its_own_that_says_its_unit() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.unit is Unit.NONE or metric.name.endswith(f"_{metric.unit.value}")


@pytest.mark.io
async def test_prometheus_scrapes_a_node_while_it_works() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two, two.mailbox("here") as me:
        with prometheus.serve(one, port=0) as address:
            for number in range(7):
                await one.send(("here", two.name), number)
                await get(me)
            text = await asyncio.to_thread(scraped, *address)
    mine = f'node="{one.name}"'
    peer = f'carrier="memory",{mine},peer="{two.name}",role="dialer"'
    assert values(text, "quicdist_sent_messages_total") == {mine: 7}
    assert values(text, "quicdist_peer_sent_messages_total") == {peer: 7}
    made = values(text, "quicdist_connections_made_total")
    assert made == {f'{mine},role="dialer"': 1, f'{mine},role="listener"': 0}


async def test_two_nodes_of_one_program_share_a_collector() -> None:
    registry = prometheus_client.CollectorRegistry()
    hub = Hub()
    async with make(hub) as one, make(hub) as two:
        registry.register(prometheus.NodeCollector(one, two))
        text = prometheus_client.generate_latest(registry).decode()
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(set(families)) == len(families) == len(OF_NODES)
    labels = {f'node="{node.name}"': 0.0 for node in (one, two)}
    assert values(text, "quicdist_connections") == labels


async def test_a_node_that_has_stopped_shows_nothing_and_breaks_nothing() -> None:
    registry = prometheus_client.CollectorRegistry()
    async with make(Hub()) as node:
        registry.register(prometheus.NodeCollector(node))
    assert prometheus_client.generate_latest(registry) == b""


def test_a_node_whose_loop_is_gone_shows_nothing_and_breaks_nothing() -> None:
    async def collector() -> Any:
        async with make(Hub()) as node:
            return prometheus.NodeCollector(node)

    made = asyncio.run(collector())
    # From another thread than that of the loop, as in a scrape.
    assert asyncio.run(asyncio.to_thread(lambda: list(made.collect()))) == []


@pytest.mark.io
def test_a_blocking_node_is_read_from_any_thread() -> None:
    node = Node("0@127.0.0.1", cookie="c", carriers=[Hub()])
    with BlockingNode(node) as blocking, prometheus.serve(blocking, port=0) as address:
        assert values(scraped(*address), "quicdist_connections") == {f'node="{node.name}"': 0}


async def test_opentelemetry_reads_a_node_through_any_sdk() -> None:
    hub = Hub()
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider(metric_readers=[reader])
    async with make(hub) as one, make(hub) as two:
        await one.connect(two.name)
        opentelemetry.observe(one, provider.get_meter("test"))
        data = await asyncio.to_thread(reader.get_metrics_data)
    provider.shutdown()
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    (point,) = found["quicdist.connections"].data.data_points
    assert (point.value, dict(point.attributes)) == (1, {"node": one.name})
    assert found["quicdist.sent_bytes"].unit == "By"
    assert found["quicdist.sent_bytes"].data.is_monotonic
    counters = [metric for metric in OF_NODES if metric.kind is Kind.COUNTER]
    # A node to which nothing happened has no samples by reason, without TLS no certificate, and
    # without a relay no path.
    assert len(found) >= len(OF_NODES) - 6 > len(counters)


@pytest.mark.parametrize("exporter", [prometheus.NodeCollector, opentelemetry.observe])
async def test_a_missing_library_is_asked_for_in_one_line(
    exporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("prometheus_client", "opentelemetry"):
            monkeypatch.setitem(sys.modules, name, None)
    async with make(Hub()) as node:
        with pytest.raises(MissingExtra) as raised:
            exporter(node)
    assert re.search(r"pip install 'quicdist\[\w+\]'$", str(raised.value))
    assert "\n" not in str(raised.value)


async def test_an_exporter_is_made_where_the_node_lives() -> None:
    async with make(Hub()) as node:
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(prometheus.NodeCollector, node)
