"""Metrics for Prometheus, through prometheus-client (`pip install 'quicdist[prometheus]'`).

    async with Node("4433@127.0.0.1", cookie="secret") as node:
        prometheus_client.REGISTRY.register(NodeCollector(node))

With an HTTP server of its own: `with serve(node, port=9464): ...`.
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
    """A collector for a `prometheus_client` registry; it reads nodes and gateways at each scrape.

    One that does not run has no metrics. Made in their event loop, or of `BlockingNode`s; scraped
    from any thread. Raises MissingExtra, RuntimeError.
    """

    def __init__(self, *nodes: Source) -> None:
        self._families = _library("prometheus_client.core")
        self._readers = [Reader(node) for node in nodes]

    def describe(self) -> Iterable[Any]:
        """The families, empty: registering reads nothing."""
        return [self._family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Any]:
        """The families, with the samples of what the nodes have now."""
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


@contextlib.contextmanager
def serve(*nodes: Source, host: str = "127.0.0.1", port: int = 9464) -> Iterator[tuple[str, int]]:
    """Metrics at `http://host:port/metrics`, from a thread, as long as the `with`.

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
