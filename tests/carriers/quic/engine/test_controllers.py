"""The congestion controllers of the native engine decide as those in Python do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from quicdist.carriers.quic.congestion.bbr import Bbr
from quicdist.carriers.quic.congestion.controller import Ack, Controller
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.congestion.reno import Reno
from quicdist.carriers.quic.congestion.resume import Capacity, CarefulResume
from tests.carriers.quic.congestion.bbr_v1 import KernelBbr
from tests.carriers.quic.congestion.path_model import Flow, Network, Path
from tests.support.engines import IS_BUILT, needs_native

if IS_BUILT:
    import quicdist_engine

pytestmark = needs_native

DATAGRAM = 1452
MBIT = 125_000


class Even(random.Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * 0.5


CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "bbr": lambda: Bbr(DATAGRAM, chance=Even()),
    "cubic": lambda: Cubic(DATAGRAM),
    "reno": lambda: Reno(DATAGRAM),
}
OTHERS = CONTROLLERS | {"a kernel's bbr": lambda: KernelBbr(DATAGRAM)}


class Twin:
    """A controller in Python that passes each call on to the compiled one, and compares."""

    def __init__(self, name: str) -> None:
        self._ours: Controller = CONTROLLERS[name]()
        self._theirs = quicdist_engine.ControllerModel(name, DATAGRAM, 0.5)
        self._states: dict[int, tuple[Any, SendState]] = {}
        self.acks = 0

    @property
    def datagram_size(self) -> int:
        return self._ours.datagram_size

    @datagram_size.setter
    def datagram_size(self, size: int) -> None:
        self._ours.datagram_size = size
        self._theirs.set_datagram_size(size)

    @property
    def window(self) -> int:
        return self._ours.window

    @property
    def pacing_rate(self) -> float:
        return self._ours.pacing_rate

    @property
    def capacity(self) -> float:
        return self._ours.capacity

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        state = self._ours.on_sent(now, in_flight, size)
        self._states[id(state)] = (self._theirs.on_sent(now, in_flight, size), state)
        return state

    def on_app_limited(self, in_flight: int) -> None:
        self._ours.on_app_limited(in_flight)
        self._theirs.on_app_limited(in_flight)

    def on_ack(self, ack: Ack) -> None:
        self.acks += 1
        self._ours.on_ack(ack)
        self._theirs.on_ack(
            ack.now,
            ack.acknowledged,
            ack.lost,
            ack.in_flight,
            self._state(ack.newest),
            self._state(ack.newest_lost),
            ack.rtt,
            ack.ecn_ce,
        )
        assert self._theirs.window == pytest.approx(self._ours.window, rel=1e-9, abs=1)
        assert self._theirs.pacing_rate == pytest.approx(self._ours.pacing_rate, rel=1e-9)

    def _state(self, state: SendState | None) -> Any:
        return None if state is None else self._states[id(state)][0]

    def on_spurious_loss(self, now: float, size: int) -> None:
        self._ours.on_spurious_loss(now, size)
        self._theirs.on_spurious_loss(now, size)

    def on_persistent_congestion(self) -> None:
        self._ours.on_persistent_congestion()
        self._theirs.on_persistent_congestion()


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize(
    ("path", "limit", "seconds"),
    [
        (Path(0.02, 200 * MBIT), float("inf"), 3.0),
        (Path(0.02, 200 * MBIT, loss=0.01), float("inf"), 3.0),
        (Path(0.05, 20 * MBIT, loss=0.05, queue=0.02), float("inf"), 12.0),
        (Path(0.1, 10 * MBIT, queue=0.3, mark=0.05), float("inf"), 12.0),
        (Path(0.001, 100 * MBIT), float("inf"), 1.0),
        (Path(0.03, 50 * MBIT, loss=0.001), 2 * MBIT, 8.0),
        (Path(0.03, 50 * MBIT, late_share=0.01), float("inf"), 5.0),
        (Path(0.03, 50 * MBIT, late_share=0.1, mark=0.01), float("inf"), 5.0),
    ],
)
def test_alone(name: str, path: Path, limit: float, seconds: float) -> None:
    twin = Twin(name)
    Network(path, [Flow(twin, limit=limit)]).run(seconds)
    assert twin.acks > 100


class ResumedTwin(Twin):
    """A twin that starts with an earlier capacity."""

    def __init__(self, name: str, capacity: Capacity) -> None:
        super().__init__(name)
        self._ours = CarefulResume(self._ours, capacity)
        self._theirs.resume(capacity.in_flight, capacity.round_trip)


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("earlier", [0.05, 0.3])
def test_resumed(name: str, loss: float, earlier: float) -> None:
    twin = ResumedTwin(name, Capacity(0.05 * 40 * MBIT, earlier))
    Network(Path(0.05, 40 * MBIT, loss=loss), [Flow(twin)]).run(3.0)
    assert twin.acks > 100
    assert twin._theirs.capacity == pytest.approx(twin._ours.capacity, rel=1e-9)


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("other", OTHERS)
def test_beside_another_flow(name: str, other: str) -> None:
    twin = Twin(name)
    path = Path(0.03, 30 * MBIT, queue=0.06, loss=0.0005)
    Network(path, [Flow(twin), Flow(OTHERS[other](), starts=0.7)]).run(10.0)
    assert twin.acks > 100
