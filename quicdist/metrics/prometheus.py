"""Metrics for Prometheus, through prometheus-client (`pip install 'quicdist[prometheus]'`).

    async with Node("4433@127.0.0.1", cookie="secret") as node:
        prometheus_client.REGISTRY.register(NodeCollector(node))

With an HTTP server of its own: `with serve(node, port=9464): ...`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from quicdist.blocking import BlockingNode
from quicdist.extras import optional
from quicdist.metrics.catalogue import METRICS, Kind, Metric
from quicdist.metrics.reading import Reader
from quicdist.node.node import Node


def _library(module: str) -> Any:
    return optional(
        module,
        what="quicdist.metrics.prometheus",
        library="prometheus-client",
        extra="prometheus",
    )


class NodeCollector:
    """A collector for a `prometheus_client` registry; it reads its nodes at each scrape.

    A node that does not run has no metrics. Made in the nodes' event loop, or of
    `BlockingNode`s; scraped from any thread. Raises MissingExtra, RuntimeError.
    """

    def __init__(self, *nodes: Node | BlockingNode) -> None:
        self._families = _library("prometheus_client.core")
        self._readers = [Reader(node) for node in nodes]

    def describe(self) -> Iterable[Any]:
        """The families, empty: registering reads nothing."""
        return [self._family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Any]:
        """The families, with the samples of what the nodes have now."""
        read = [reader.read() for reader in self._readers]
        nodes = [stats for stats in read if stats is not None]
        for metric in METRICS if nodes else ():
            family = self._family(metric)
            for stats in nodes:
                for labels, value in metric.read(stats):
                    family.add_metric([stats.name, *labels], value)
            yield family

    def _family(self, metric: Metric) -> Any:
        kinds = {
            Kind.COUNTER: self._families.CounterMetricFamily,
            Kind.GAUGE: self._families.GaugeMetricFamily,
        }
        name = f"quicdist_{metric.name}"
        return kinds[metric.kind](name, metric.text, labels=["node", *metric.labels])


@contextlib.contextmanager
def serve(
    *nodes: Node | BlockingNode, host: str = "127.0.0.1", port: int = 9464
) -> Iterator[tuple[str, int]]:
    """Metrics of nodes at `http://host:port/metrics`, from a thread, as long as the `with`.

    Whoever reaches that address may read them: it has no password. Port 0 takes a free one;
    gives where it listens. Raises MissingExtra, OSError, RuntimeError.
    """
    library = _library("prometheus_client")
    registry = library.CollectorRegistry()
    registry.register(NodeCollector(*nodes))
    server, thread = library.start_http_server(port, host, registry)
    try:
        yield server.server_address[:2]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
