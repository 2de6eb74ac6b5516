"""What the Python node of docker-compose.yml serves: `erpc:call(Node, calc, add, [1, 2])`."""

from __future__ import annotations

from quicdist import export


@export
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b
