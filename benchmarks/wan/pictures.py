"""Draws the pictures of the wide-area benchmark, and prints its table.

    python -m benchmarks.wan.pictures [RECORD]

RECORD is a file of `python -m benchmarks.wan --record`, by default wan.json beside this package.
The pictures are written beside it: loss.svg has the throughput over the loss of two paths,
latency.svg the round trip of small messages on the idle path and beside bulk.
"""

from __future__ import annotations

import sys
from pathlib import Path as File

from benchmarks.picture import Chart, Line, draw_charts
from benchmarks.wan.network import Path
from benchmarks.wan.record import Record

OURS = ("quicdist", "quicdist[native]")
OTHERS = ("Erlang TCP, BBR", "Erlang TCP, CUBIC", "Erlang TLS")
_LOSS_PATHS = ((20.0, 1000.0), (100.0, 100.0))
"""Round trip in ms and rate in Mbit/s of the paths that differ in their loss only."""
_LATENCY_PATHS = (
    Path(20, 1000, 0.1, 100),
    Path(20, 200, 1, 100),
    Path(50, 50, 0.5, 100),
    Path(100, 100, 0.5, 200),
)


def by_loss(record: Record) -> list[Chart]:
    """Returns the throughput over the loss, one chart for each kind of path."""
    charts = []
    for rtt, rate in _LOSS_PATHS:
        paths = sorted(
            {path for path, _ in record.results if (path.rtt, path.rate) == (rtt, rate)},
            key=lambda path: path.loss,
        )
        if len(paths) > 1:
            title = f"{paths[0].kind}: MiB/s of 1 MiB messages over the loss"
            charts.append(
                _chart(record, title, paths, "bulk", [f"{one.loss:g} %" for one in paths])
            )
    return charts


def by_load(record: Record) -> list[Chart]:
    """Returns the round trips on the idle path and beside bulk, one chart for each path."""
    charts = []
    for path in _LATENCY_PATHS:
        lines = []
        for name in (*OTHERS, *OURS):
            got = record.results.get((path, name))
            if got is not None:
                values = (got["ping"], got["p50"], got["p99"])
                lines.append(Line(name, name in OURS, values))
        if not lines:
            continue
        labels = ("idle, p50", "with bulk, p50", "with bulk, p99")
        charts.append(Chart(f"{path}: round trip, ms", labels, lines, is_logarithmic=True))
    return charts


def _chart(record: Record, title: str, paths: list[Path], figure: str, labels: list[str]) -> Chart:
    lines = []
    for name in (*OTHERS, *OURS):
        values = [record.results.get((path, name)) for path in paths]
        if all(values):
            lines.append(Line(name, name in OURS, [one[figure] for one in values if one]))
    return Chart(title, labels, lines)


def table(record: Record) -> str:
    """Returns the results as a Markdown table: bulk in MiB/s, and p50 / p99 of questions in ms."""
    names = (*OTHERS, *OURS)
    head = ["path", *names]
    rows = [head, ["---"] * len(head)]
    for path in {path: None for path, _ in record.results}:
        cells = [str(path)]
        for name in names:
            got = record.results.get((path, name))
            cells.append(
                "-" if got is None else f"{got['bulk']:.1f}; {got['p50']:.0f} / {got['p99']:.0f}"
            )
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    file = File(sys.argv[1]) if len(sys.argv) > 1 else File(__file__).parents[1] / "wan.json"
    record = Record.read(file)
    (file.parent / "loss.svg").write_text(draw_charts(by_loss(record), record.about))
    (file.parent / "latency.svg").write_text(draw_charts(by_load(record), record.about))
    print(table(record))


if __name__ == "__main__":
    main()
