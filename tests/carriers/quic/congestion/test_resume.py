"""Careful Resume: what is remembered, and what a new connection does with it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.congestion.bbr import Bbr
from quicdist.carriers.quic.congestion.controller import Ack, Controller
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.congestion.resume import (
    LEAST_ROUND_TRIP,
    LIFETIME,
    MOST_PATHS,
    Capacity,
    CarefulResume,
    PathMemory,
    Phase,
)
from tests.carriers.quic.congestion.path_model import Flow, Network, Path

DATAGRAM = 1452
MBIT = 125_000
RATE, RTT = 100 * MBIT, 0.1
EARLIER = Capacity(RATE * RTT, RTT)


def bbr() -> Bbr:
    return Bbr(DATAGRAM, chance=random.Random(1))


# -- the memory ---------------------------------------------------------------------------------


def test_a_measurement_is_used_once_and_within_its_lifetime() -> None:
    memory = PathMemory()
    memory.store("10.0.0.7", EARLIER, 5.0)
    assert memory.take("10.0.0.8", 6.0) is None
    assert memory.take("10.0.0.7", 5.0 + LIFETIME) == EARLIER
    assert memory.take("10.0.0.7", 6.0) is None
    memory.store("10.0.0.7", EARLIER, 5.0)
    assert memory.take("10.0.0.7", 5.1 + LIFETIME) is None


def test_a_later_measurement_replaces_an_earlier_one() -> None:
    memory = PathMemory()
    memory.store("10.0.0.7", EARLIER, 5.0)
    memory.store("10.0.0.7", later := Capacity(1.0, RTT), 6.0)
    assert memory.take("10.0.0.7", 7.0) == later


def test_a_short_path_is_not_stored() -> None:
    memory = PathMemory()
    memory.store("127.0.0.1", Capacity(1e6, LEAST_ROUND_TRIP * 0.9), 0.0)
    assert memory.take("127.0.0.1", 0.0) is None


@given(st.lists(st.integers(0, 2 * MOST_PATHS), min_size=MOST_PATHS, max_size=4 * MOST_PATHS))
def test_the_newest_addresses_are_kept(addresses: list[int]) -> None:
    memory = PathMemory()
    for now, address in enumerate(addresses):
        memory.store(str(address), EARLIER, now / 1000)
    newest = list(dict.fromkeys(reversed(addresses)))
    kept = [address for address in newest if memory.take(str(address), 5.0) is not None]
    assert kept == newest[:MOST_PATHS]


# -- the phases ---------------------------------------------------------------------------------


class Steady:
    """A controller with a constant window."""

    datagram_size = DATAGRAM
    window = 10 * DATAGRAM
    pacing_rate = 1000.0
    capacity = 0.0

    def on_sent(self, now: float, in_flight: int, size: int) -> SendState:
        return SendState(now, 0, now, now, 0, in_flight, False)

    def on_app_limited(self, in_flight: int) -> None: ...
    def on_ack(self, ack: Ack) -> None: ...
    def on_spurious_loss(self, now: float, size: int) -> None: ...
    def on_persistent_congestion(self) -> None: ...


def ack(now: float, acknowledged: int = DATAGRAM, *, lost: int = 0, rtt: float | None = RTT) -> Ack:
    return Ack(now, acknowledged, lost, 0, None, rtt=rtt)


def ready() -> CarefulResume:
    """A controller whose path is confirmed at the time 1."""
    resume = CarefulResume(Steady(), EARLIER)
    assert (resume.phase, resume.window) == (Phase.RECONNAISSANCE, Steady.window)
    resume.on_ack(ack(1.0))
    assert resume.phase is Phase.UNVALIDATED
    return resume


def ended(resume: CarefulResume) -> bool:
    is_plain = (resume.window, resume.pacing_rate) == (Steady.window, Steady.pacing_rate)
    return resume.phase is Phase.NORMAL and is_plain


def test_half_of_the_capacity_is_paced_over_a_round_trip() -> None:
    resume = ready()
    assert resume.window == EARLIER.in_flight / 2
    assert resume.pacing_rate == pytest.approx(RATE / 2)


@pytest.mark.parametrize("rtt", [0.04, 0.21])
def test_another_round_trip_is_another_path(rtt: float) -> None:
    resume = CarefulResume(Steady(), EARLIER)
    resume.on_ack(ack(1.0, rtt=rtt))
    assert ended(resume)


def test_a_loss_before_and_during_the_phase_ends_it() -> None:
    resume = CarefulResume(Steady(), EARLIER)
    resume.on_ack(ack(1.0, lost=DATAGRAM))
    assert ended(resume)
    resume = ready()
    resume.on_ack(ack(1.1, lost=DATAGRAM))
    assert ended(resume)
    resume = ready()
    resume.on_persistent_congestion()
    assert ended(resume)


def test_acknowledgements_confirm_the_capacity() -> None:
    resume = ready()
    resume.on_sent(1.0, Steady.window, DATAGRAM)
    resume.on_ack(ack(1.1, int(EARLIER.in_flight / 2) - 1))
    assert not ended(resume)
    resume.on_ack(ack(1.1, 1))
    assert ended(resume)


def test_the_phase_lasts_three_round_trips_from_its_use() -> None:
    resume = ready()
    resume.on_sent(5.0, 0, DATAGRAM)  # the handshake needs no larger window
    resume.on_ack(ack(5.2))
    resume.on_sent(6.0, Steady.window, DATAGRAM)
    resume.on_ack(ack(6.25))
    assert not ended(resume)
    resume.on_ack(ack(6.35))
    assert ended(resume)


def test_an_unused_phase_ends_after_ten_seconds() -> None:
    resume = ready()
    resume.on_ack(ack(10.9))
    assert not ended(resume)
    resume.on_ack(ack(11.1))
    assert ended(resume)


# -- simulations --------------------------------------------------------------------------------


def run(controller: Controller, path: Path, until: float) -> Flow:
    flow = Flow(controller)
    Network(path, [flow]).run(until)
    return flow


@pytest.mark.parametrize("make", [bbr, lambda: Cubic(DATAGRAM)])
def test_a_resumed_connection_fills_a_long_path_sooner(make: type[Bbr] | type[Cubic]) -> None:
    path = Path(RTT, RATE)
    plain = run(make(), path, 0.6)  # type: ignore[call-arg]
    resumed = run(CarefulResume(make(), EARLIER), path, 0.6)  # type: ignore[call-arg]
    assert resumed.delivered > 2 * plain.delivered
    assert resumed.lost <= plain.lost


def test_the_capacity_that_it_measures_is_that_of_the_path() -> None:
    flow = run(controller := bbr(), Path(RTT, RATE), 3.0)
    assert flow.delivered
    assert controller.capacity == pytest.approx(RATE * RTT, rel=0.1)
    assert bbr().capacity == 0.0


def test_a_path_that_has_become_slower_is_not_overloaded_for_long() -> None:
    slower = Path(RTT, RATE / 10, queue=0.2)
    plain, resumed = (
        run(controller, slower, 6.0) for controller in (bbr(), CarefulResume(bbr(), EARLIER))
    )
    assert resumed.throughput(3.0, 6.0) >= 0.8 * plain.throughput(3.0, 6.0)
    assert resumed.mean_rtt(3.0) <= 1.1 * plain.mean_rtt(3.0)
    assert resumed.lost - plain.lost <= EARLIER.in_flight / 2


@pytest.mark.slow
def test_a_resumed_connection_shares_with_another() -> None:
    path = Path(0.05, 50 * MBIT, queue=0.05)
    earlier = Capacity(path.rate * path.rtt, path.rtt)
    flows = [Flow(bbr()), Flow(CarefulResume(bbr(), earlier), starts=2.0)]
    Network(path, flows).run(30.0)
    shares = [flow.throughput(15.0, 30.0) for flow in flows]
    assert min(shares) >= 0.25 * sum(shares)
