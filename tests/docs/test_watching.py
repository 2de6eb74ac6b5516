"""docs/watching.md names every metric."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quicdist.metrics.catalogue import METRICS, Kind, Metric

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"


def documented() -> set[str]:
    table = PAGE.read_text("utf-8").partition("### Metrics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_in_the_tables(metric: Metric) -> None:
    name = metric.name + ("_total" if metric.kind is Kind.COUNTER else "")
    # A traffic counter of one connection is documented once, with that of the node.
    assert name in documented() or name.removeprefix("peer_") in documented()


def test_the_tables_name_nothing_else() -> None:
    names = {one.name + ("_total" if one.kind is Kind.COUNTER else "") for one in METRICS}
    assert documented() <= names
