"""Selection of the congestion controller by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quicdist.carriers.quic.congestion.bbr import Bbr
from quicdist.carriers.quic.congestion.controller import Algorithm, Controller
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.reno import Reno

CONTROLLERS: Mapping[Algorithm, Callable[[int], Controller]] = {
    Algorithm.BBR: Bbr,
    Algorithm.CUBIC: Cubic,
    Algorithm.RENO: Reno,
}
"""Controllers by name. Each takes the datagram size in bytes."""


def algorithm(name: str) -> Algorithm:
    """Returns the algorithm `name`. Raises ValueError if it is unknown."""
    try:
        return Algorithm(name)
    except ValueError:
        known = ", ".join(each.value for each in Algorithm)
        raise ValueError(f"invalid congestion control {name!r}: expected one of {known}") from None
