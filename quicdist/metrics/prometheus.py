"""Metrics for Prometheus, through prometheus-client (`pip install 'quicdist[prometheus]'`).

    async with Node("4433@127.0.0.1", cookie="secret") as node:
        prometheus_client.REGISTRY.register(NodeCollector(node))

`serve` starts an HTTP server: `with serve(node, port=9464): ...`. The server of
`quicdist.metrics.health` answers probes as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from quicdist.extras import optional
from quicdist.metrics.catalogue import METRICS, Kind, Metric, metrics_of
from quicdist.metrics.reading import Reader, Source


def _library(module: str) -> Any:
    return optional(
        module,
        what="quicdist.metrics.prometheus",
        library="prometheus-client",
        extra="prometheus",
    )


class NodeCollector:
    """A collector for a `prometheus_client` registry that reads nodes and gateways at each scrape.

    A node that does not run has no metrics. Create the collector in the event loop of the nodes,
    or with `BlockingNode`s. It can be scraped from any thread.

    Raises MissingExtra if prometheus-client is not installed, and RuntimeError outside the event
    loop of the nodes.
    """

    def __init__(self, *nodes: Source) -> None:
        self._families = _library("prometheus_client.core")
        self._readers = [Reader(node) for node in nodes]

    def describe(self) -> Iterable[Any]:
        """Returns the metric families without samples, so that registering reads nothing."""
        return [self._family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Any]:
        """Returns the metric families with the current samples."""
        read = [reader.read() for reader in self._readers]
        running = [(stats, metrics_of(stats)) for stats in read if stats is not None]
        for metric in METRICS:
            having = [stats for stats, metrics in running if metric in metrics]
            if not having:
                continue
            family = self._family(metric)
            for stats in having:
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


class Exposition:
    """The metrics of nodes and gateways as text for Prometheus.

    Raises MissingExtra if prometheus-client is not installed, and RuntimeError outside the event
    loop of the nodes.
    """

    def __init__(self, *nodes: Source) -> None:
        library = _library("prometheus_client")
        self._generate = library.generate_latest
        self._registry = library.CollectorRegistry()
        self._registry.register(NodeCollector(*nodes))
        self.content_type: str = library.CONTENT_TYPE_LATEST

    def render(self) -> bytes:
        """Returns the current metrics. May be called from any thread."""
        text: bytes = self._generate(self._registry)
        return text


@contextlib.contextmanager
def serve(*nodes: Source, host: str = "127.0.0.1", port: int = 9464) -> Iterator[tuple[str, int]]:
    """Serves metrics at `http://host:port/metrics` from a thread, inside a `with` block.

    There is no authentication. Port 0 takes a free port. Returns the bound address.

    Raises MissingExtra, OSError if the address cannot be bound, and RuntimeError outside the event
    loop of the nodes.
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
