"""Functions for other nodes."""

from quicdist import export


@export
def add(a: int, b: int) -> int:
    """Returns the sum."""
    return a + b
