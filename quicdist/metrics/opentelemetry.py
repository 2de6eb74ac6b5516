"""Metrics for OpenTelemetry, through its API (`pip install 'quicdist[opentelemetry]'`).

    async with Node("4433@127.0.0.1", cookie="secret") as node:
        observe(node)

The `MeterProvider`, readers and exporters are those of the program's SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from quicdist.extras import optional
from quicdist.metrics.catalogue import METRICS, Kind, Metric, Unit, metrics_of
from quicdist.metrics.reading import Reader, Source

_UNITS = {Unit.NONE: "1", Unit.BYTES: "By", Unit.SECONDS: "s"}
"""Units in UCUM's case-sensitive form, as OpenTelemetry requires."""


_ONE_READING = 0.2
"""Seconds within which an SDK reads all instruments."""


def observe(node: Source, meter: Any = None) -> None:
    """Creates an observable instrument for each metric, by default of the global meter `quicdist`.

    An instrument reads the node or gateway when it is read, from any thread. It has no values
    while the node does not run. Call this in the event loop of the node, or with a `BlockingNode`.

    Raises MissingExtra if opentelemetry-api is not installed, and RuntimeError outside the event
    loop of the node.
    """
    library = optional(
        "opentelemetry.metrics",
        what="quicdist.metrics.opentelemetry",
        library="opentelemetry-api",
        extra="opentelemetry",
    )
    reader = Reader(node, max_age=_ONE_READING)
    if meter is None:
        meter = library.get_meter("quicdist")
    make = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.GAUGE: meter.create_observable_gauge,
    }
    for metric in METRICS:
        make[metric.kind](
            f"quicdist.{metric.name}",
            callbacks=[_callback(metric, reader, library.Observation)],
            unit=_UNITS[metric.unit],
            description=metric.text,
        )


def _callback(
    metric: Metric, reader: Reader, observation: Callable[..., Any]
) -> Callable[[object], Iterable[Any]]:
    def read(options: object) -> Iterable[Any]:
        stats = reader.read()
        if stats is None or metric not in metrics_of(stats):
            return
        for values, value in metric.read(stats):
            labels = dict(zip(metric.labels, values, strict=True))
            yield observation(value, {"node": stats.name, **labels})

    return read
