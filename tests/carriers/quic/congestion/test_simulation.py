"""The controllers on a model of a path: throughput, fairness, queues."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from quicdist.carriers.quic.congestion.bbr import Bbr
from quicdist.carriers.quic.congestion.controller import Controller
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.reno import Reno
from tests.carriers.quic.congestion.bbr_v1 import KernelBbr
from tests.carriers.quic.congestion.path_model import Flow, Network, Path

MBIT = 125_000
DATAGRAM = 1452


def bbr(seed: int = 5) -> Bbr:
    return Bbr(DATAGRAM, chance=random.Random(seed))


def alone(controller: Controller, path: Path, seconds: float) -> tuple[float, float]:
    """Share of the line that a flow gets, and its mean round trip in the path's."""
    flow = Flow(controller)
    Network(path, [flow]).run(seconds)
    begin = seconds / 3
    return flow.throughput(begin, seconds) / path.rate, flow.mean_rtt(begin) / path.rtt


def shared(
    first: Flow, second: Flow, *, rtt: float, mbit: float, queue: float, seconds: float
) -> tuple[float, float, float]:
    """The results of a simulation: shares, utilization and delay in the second half.

    These are the share of the first flow, the utilization of the path, the mean round trip as a
    multiple of that of the path, and the queue in BDPs.
    """
    path = Path(rtt, mbit * MBIT, queue=queue * rtt)
    Network(path, [first, second]).run(seconds)
    half = seconds / 2
    one, other = (flow.throughput(half, seconds) for flow in (first, second))
    return one / (one + other), (one + other) / path.rate, first.mean_rtt(half) / rtt


PATHS = [
    # milliseconds, Mbit/s, loss in percent, queue in milliseconds, seconds
    (20, 1000, 0.0, 100, 1.5),
    (20, 1000, 0.1, 100, 1.5),
    (20, 1000, 1.0, 100, 1.5),
    pytest.param(100, 1000, 0.0, 200, 4.5, marks=pytest.mark.slow),
    (100, 100, 0.1, 200, 6),
    (100, 100, 0.5, 200, 6),
    (50, 50, 0.5, 100, 6),
    (20, 200, 1.0, 100, 5),
]


@pytest.mark.parametrize(("rtt", "mbit", "loss", "queue", "seconds"), PATHS)
def test_bbr_fills_the_line_and_makes_no_standing_queue(
    rtt: int, mbit: int, loss: float, queue: int, seconds: float
) -> None:
    path = Path(rtt / 1000, mbit * MBIT, loss / 100, queue / 1000)
    share, round_trip = alone(bbr(), path, seconds)
    assert share >= 0.94 * (1 - loss / 100)
    assert round_trip <= 1.3


def queues(flow: Flow, path: Path, since: float, until: float) -> list[float]:
    """The queueing delays that a small message finds, each millisecond, in ascending order."""
    network = Network(path, [flow])
    network.run(since)
    found = []
    while network.now < until:
        network.run(network.now + 0.001)
        found.append(network.queue)
    return sorted(found)


@pytest.mark.parametrize("aggregation", [0.0, 0.002])
@pytest.mark.parametrize(("rtt", "mbit", "loss"), [(0.05, 50, 0.005), (0.1, 50, 0.001)])
def test_small_messages_find_a_short_queue(
    rtt: float, mbit: int, loss: float, aggregation: float
) -> None:
    path = Path(rtt, mbit * MBIT, loss, queue=2 * rtt, late=0.002, aggregation=aggregation)
    flow = Flow(bbr())
    found = queues(flow, path, 3, 9)
    assert found[len(found) // 2] <= 0.005
    assert found[len(found) * 99 // 100] <= rtt + 0.02
    assert flow.throughput(3, 9) >= 0.95 * path.rate


@pytest.mark.parametrize("rtt", [0.05, 0.1])
def test_acknowledgements_that_come_together_do_not_raise_the_bandwidth(rtt: float) -> None:
    controller = bbr()
    path = Path(rtt, 50 * MBIT, queue=2 * rtt, late=0.002, aggregation=0.01)
    found = queues(Flow(controller), path, 3, 12)
    assert controller.bandwidth <= 1.1 * path.rate
    assert found[len(found) // 2] <= 0.01


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_a_bottleneck_with_pauses_keeps_a_short_queue(seed: int) -> None:
    """Such as a busy receiver. Its rate between the pauses is no bandwidth."""
    path = Path(0.02, 100 * MBIT, pauses=0.25)
    flow = Flow(bbr(seed))
    Network(path, [flow], seed).run(8)
    queues = [rtt - path.rtt for at, rtt in flow.rtts if at >= 2]
    assert statistics.median(queues) < 0.008
    assert flow.throughput(2, 8) > 0.8 * 0.75 * path.rate


def test_short_bursts_of_an_application_do_not_lower_the_bandwidth() -> None:
    controller = bbr()
    flow = Flow(controller)
    path = Path(0.05, 50 * MBIT)
    network = Network(path, [flow])
    network.run(3)
    for _ in range(10):  # a fifth of a second of data each second
        flow.starts, flow.limit = network.now - flow.sent / (10 * path.rate), 10 * path.rate
        network.run(network.now + 0.2)
        flow.starts, flow.limit = network.now - flow.sent / 1.0, 1.0
        network.run(network.now + 0.8)
    assert controller.bandwidth >= 0.8 * path.rate


@pytest.mark.parametrize("late", [0.0, 0.002, 0.004, 0.008])
def test_late_timers_cost_no_throughput(late: float) -> None:
    path = Path(0.02, 100 * MBIT, loss=0.001, late=late)
    share, round_trip = alone(bbr(), path, 4)
    assert share >= 0.93
    assert round_trip <= 1.25


@pytest.mark.parametrize("loss", [0.0, 0.001, 0.01, 0.03])
def test_bbr_bears_random_loss_that_stops_cubic(loss: float) -> None:
    path = Path(0.05, 50 * MBIT, loss=loss, queue=0.05)
    share, _ = alone(bbr(), path, 12)
    assert share >= 0.88
    if loss >= 0.01:
        other, _ = alone(Cubic(DATAGRAM), path, 12)
        assert share >= 5 * other


def test_cubic_and_reno_fill_a_short_line_without_loss() -> None:
    for controller in (Cubic(DATAGRAM), Reno(DATAGRAM)):
        share, _ = alone(controller, Path(0.02, 50 * MBIT, queue=0.02), 12)
        assert share >= 0.9


def test_cubic_grows_back_sooner_than_reno_on_a_long_path() -> None:
    shares = []
    for controller in (Cubic(DATAGRAM), Reno(DATAGRAM)):
        flow = Flow(controller)
        Network(Path(0.1, 100 * MBIT, loss=0.0002, queue=0.02), [flow]).run(30)
        shares.append(flow.throughput(5, 30))
    assert shares[0] >= 1.2 * shares[1]


@pytest.mark.slow
@pytest.mark.parametrize(("rtt", "queue"), [(0.02, 1), (0.05, 1), (0.05, 5), (0.1, 1)])
def test_two_bbr_flows_share_evenly(rtt: float, queue: float) -> None:
    shares, round_trips = [], []
    for seed in (1, 4):
        share, used, round_trip = shared(
            Flow(bbr(seed)),
            Flow(bbr(seed + 10), starts=2.0),
            rtt=rtt,
            mbit=50,
            queue=queue,
            seconds=30,
        )
        assert used >= 0.95
        shares.append(share)
        round_trips.append(round_trip)
    assert all(0.3 <= share <= 0.7 for share in shares)
    # Each probes for more on its own, and makes a queue for a moment that both then drain.
    assert sum(round_trips) / len(round_trips) <= 1.45


@pytest.mark.slow
@pytest.mark.parametrize("other", [Cubic, Reno], ids=["cubic", "reno"])
@pytest.mark.parametrize("bbr_starts", [0.0, 2.0])
@pytest.mark.parametrize("rtt", [0.02, 0.05])
def test_each_side_gets_a_quarter_at_least(
    other: Callable[[int], Controller], bbr_starts: float, rtt: float
) -> None:
    ours = Flow(bbr(), starts=bbr_starts)
    theirs = Flow(other(DATAGRAM), starts=2.0 - bbr_starts, paced=False)
    share, used, _ = shared(ours, theirs, rtt=rtt, mbit=50, queue=1, seconds=30)
    assert used >= 0.95
    assert 0.25 <= share <= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("bbr_starts", [0.0, 2.0])
@pytest.mark.parametrize(("rtt", "mbit"), [(0.02, 50), (0.05, 100), (0.1, 50)])
def test_each_side_gets_a_quarter_at_least_beside_the_bbr_of_a_kernel(
    bbr_starts: float, rtt: float, mbit: float
) -> None:
    shares = []
    for seed in (1, 2):
        ours = Flow(bbr(seed), starts=bbr_starts)
        controller = KernelBbr(DATAGRAM, chance=random.Random(seed + 100))
        theirs = Flow(controller, starts=2.0 - bbr_starts, ack_every=2, late=0.0001)
        share, used, _ = shared(ours, theirs, rtt=rtt, mbit=mbit, queue=1, seconds=20)
        assert used >= 0.95
        shares.append(share)
    assert 0.25 <= sum(shares) / len(shares) <= 0.75


@pytest.mark.slow
def test_a_path_that_gets_faster_is_found_out() -> None:
    flow = Flow(bbr())
    network = Network(Path(0.02, 20 * MBIT), [flow])
    network.run(4)
    network.path = Path(0.02, 100 * MBIT)
    network.run(30)
    assert flow.throughput(25, 30) >= 0.9 * 100 * MBIT


def test_a_path_that_gets_slower_keeps_no_long_queue() -> None:
    flow = Flow(bbr())
    network = Network(Path(0.02, 100 * MBIT, queue=0.2), [flow])
    network.run(4)
    network.path = Path(0.02, 20 * MBIT, queue=0.2)
    network.run(14)  # two cycles of probing remember the old bandwidth
    assert flow.throughput(10, 14) >= 0.9 * 20 * MBIT
    assert flow.mean_rtt(10) <= 1.3 * 0.02


def test_a_path_that_gets_longer_is_seen_to_be() -> None:
    controller = bbr()
    flow = Flow(controller)
    network = Network(Path(0.02, 50 * MBIT), [flow])
    network.run(4)
    network.path = Path(0.08, 50 * MBIT)
    network.run(24)
    assert controller.min_rtt == pytest.approx(0.08, rel=0.1)
    assert flow.throughput(18, 24) >= 0.85 * 50 * MBIT


@pytest.mark.parametrize("credit", [1.5, 1.9, 3.0])
def test_a_sender_that_waits_for_credit_notices_that_the_path_is_full(credit: float) -> None:
    """The receive window is `credit` BDPs, and the queue would take all of it."""
    path = Path(0.1, 20 * MBIT, queue=0.3)
    flow = Flow(bbr(), credit=credit * path.rtt * path.rate)
    Network(path, [flow]).run(8.0)
    assert flow.mean_rtt(4.0) < 1.2 * path.rtt
    assert flow.throughput(4.0, 8.0) > 0.9 * path.rate


def test_a_sender_with_little_to_say_keeps_what_it_knows_of_the_path() -> None:
    controller = bbr()
    flow = Flow(controller)
    network = Network(Path(0.02, 100 * MBIT), [flow])
    network.run(3)
    before = controller.bandwidth
    flow.limit = flow.sent / 3 * 0.2
    flow.starts = 3 - 3 / 0.2
    network.run(8)
    assert controller.bandwidth >= 0.8 * before


def test_ecn_marks_keep_the_queue_short_without_loss() -> None:
    path = Path(0.02, 50 * MBIT, queue=0.2, mark=0.002)
    flows = [Flow(bbr(1)), Flow(bbr(2), starts=1.0)]
    network = Network(path, flows)
    network.run(20)
    assert network.dropped == 0
    assert flows[0].mean_rtt(10) <= 1.25 * path.rtt
    assert sum(flow.throughput(10, 20) for flow in flows) >= 0.85 * path.rate
