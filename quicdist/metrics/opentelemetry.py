"""Metrics for OpenTelemetry, through its API (`pip install 'quicdist[opentelemetry]'`).

    async with Node("4433@127.0.0.1", cookie="secret") as node:
        observe(node)

Where they go is for the program's SDK to say: its `MeterProvider`, readers and exporters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from quicdist.extras import optional
from quicdist.metrics.catalogue import METRICS, Kind, Metric, Unit, metrics_of
from quicdist.metrics.reading import Reader, Source

_UNITS = {Unit.NONE: "1", Unit.BYTES: "By", Unit.SECONDS: "s"}
"""In UCUM's case-sensitive form, as OpenTelemetry has it."""


_ONE_READING = 0.2
"""Seconds within which an SDK has read all instruments."""


def observe(node: Source, meter: Any = None) -> None:
    """Makes an observable instrument of each metric, by default of the global meter `quicdist`.

    Each reads the node, or gateway, when it is itself read, from any thread; one that does not run
    shows nothing. Called in its event loop, or with a `BlockingNode`. Raises MissingExtra,
    RuntimeError.
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
