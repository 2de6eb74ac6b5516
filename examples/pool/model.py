"""A function that computes, and one that crashes."""

import os
import signal

from quicdist import export


@export
def squares(numbers: list[int]) -> list[int]:
    """Returns the squares of some numbers."""
    return [number * number for number in numbers]


@export
def crash() -> None:
    """Kills this worker."""
    os.kill(os.getpid(), signal.SIGKILL)
