"""The exports of the Python node in docker-compose.yml: `erpc:call(Node, calc, add, [1, 2])`."""

from __future__ import annotations

from quicdist import export


@export
def add(a: int, b: int) -> int:
    """Returns the sum."""
    return a + b
