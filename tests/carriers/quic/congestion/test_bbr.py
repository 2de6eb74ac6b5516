"""BBR's invariants, whatever the path does and the peer acknowledges."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quicdist.carriers.quic.congestion.bbr import GAINS, TRANSITIONS, Bbr, State
from quicdist.carriers.quic.congestion.controller import MIN_WINDOW, Ack, Controller
from quicdist.carriers.quic.congestion.cubic import Cubic
from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.congestion.reno import Reno
from tests.carriers.quic.congestion.path_model import Flow, Network, Path

DATAGRAM = 1200


def test_every_state_has_gains_and_a_way_out() -> None:
    assert set(GAINS) == set(TRANSITIONS) == set(State)
    assert all(TRANSITIONS[state] for state in State)
    assert State.STARTUP not in set().union(*TRANSITIONS.values())


def settled(loss: float = 0.0) -> tuple[Bbr, Network, Flow]:
    controller = Bbr(DATAGRAM, chance=random.Random(1))
    flow = Flow(controller)
    network = Network(Path(0.02, 6_250_000, loss=loss), [flow])
    network.run(1.5)
    while controller.state is not State.PROBE_BW_CRUISE:
        network.run(network.now + 0.05)
    return controller, network, flow


def lose(controller: Bbr, now: float, share: float) -> int:
    """A round trip in which that share is lost; bytes lost."""
    flight = 100_000
    state = controller.on_sent(now, 0, flight)
    lost = int(share * flight)
    controller.on_ack(
        Ack(
            now=now + 0.02,
            acknowledged=flight - lost,
            lost=lost,
            in_flight=0,
            newest=state,
            newest_lost=state,
            rtt=0.02,
        )
    )
    return lost


def test_a_loss_within_the_tolerance_changes_nothing() -> None:
    controller, _, _ = settled()
    before = controller.bandwidth
    lose(controller, 2.0, 0.02)
    assert controller.bandwidth == before


def test_much_loss_lowers_the_rate_and_a_spurious_one_is_undone() -> None:
    controller, _, _ = settled()
    before = controller.bandwidth
    lost = lose(controller, 2.0, 0.5) + lose(controller, 2.1, 0.5)
    assert controller.bandwidth < before
    controller.on_spurious_loss(2.1, lost)
    assert controller.bandwidth == before


def test_ecn_marks_lower_the_rate_as_losses_do() -> None:
    controller, _, _ = settled()
    before = controller.bandwidth
    for now in (2.0, 2.1):
        state = controller.on_sent(now, 0, 100_000)
        controller.on_ack(
            Ack(
                now=now + 0.03,
                acknowledged=100_000,
                lost=0,
                in_flight=0,
                newest=state,
                rtt=0.02,
                ecn_ce=100_000,
            )
        )
    assert controller.bandwidth < before


def test_persistent_congestion_leaves_the_least_window() -> None:
    for controller in (settled()[0], Cubic(DATAGRAM), Reno(DATAGRAM)):
        controller.on_persistent_congestion()
        assert controller.window == MIN_WINDOW * DATAGRAM


class Transport(RuleBasedStateMachine):
    """Any sequence of departures, acknowledgements, losses, marks, pauses."""

    def __init__(self) -> None:
        super().__init__()
        chance = random.Random(1)
        self.controllers: list[Controller] = [
            Bbr(DATAGRAM, chance=chance),
            Cubic(DATAGRAM),
            Reno(DATAGRAM),
        ]
        self.flights: list[tuple[int, list[SendState]]] = []
        self.lost: list[int] = []
        self.in_flight = 0
        self.now = 1.0

    @rule(after=st.floats(0, 2), share=st.floats(0.01, 1))
    def send(self, after: float, share: float) -> None:
        self.now += after
        size = max(int(share * min(each.window for each in self.controllers)), 100)
        states = [each.on_sent(self.now, self.in_flight, size) for each in self.controllers]
        self.in_flight += size
        self.flights.append((size, states))

    @precondition(lambda self: self.flights)
    @rule(
        after=st.floats(0, 2),
        at=st.integers(0, 5),
        is_lost=st.booleans(),
        rtt=st.one_of(st.none(), st.floats(1e-6, 5)),
        marked=st.floats(0, 1),
    )
    def answer(
        self, after: float, at: int, is_lost: bool, rtt: float | None, marked: float
    ) -> None:
        self.now += after
        size, states = self.flights.pop(min(at, len(self.flights) - 1))
        self.in_flight -= size
        if is_lost:
            self.lost.append(size)
        for each, state in zip(self.controllers, states, strict=True):
            each.on_ack(
                Ack(
                    now=self.now,
                    acknowledged=0 if is_lost else size,
                    lost=size if is_lost else 0,
                    in_flight=self.in_flight,
                    newest=None if is_lost else state,
                    newest_lost=state if is_lost else None,
                    rtt=None if is_lost else rtt,
                    ecn_ce=0 if is_lost else int(marked * size),
                )
            )

    @precondition(lambda self: self.lost)
    @rule()
    def find_it_was_spurious(self) -> None:
        size = self.lost.pop()
        for each in self.controllers:
            each.on_spurious_loss(self.now, size)

    @rule()
    def have_nothing_to_say(self) -> None:
        for each in self.controllers:
            each.on_app_limited(self.in_flight)

    @rule()
    def lose_everything(self) -> None:
        for each in self.controllers:
            each.on_persistent_congestion()

    @rule(size=st.sampled_from([1200, 1452, 9000, 16_000]))
    def change_the_datagram_size(self, size: int) -> None:
        for each in self.controllers:
            each.datagram_size = size

    @invariant()
    def windows_and_rates_are_sane(self) -> None:
        for each in self.controllers:
            assert each.window >= MIN_WINDOW * each.datagram_size
            assert math.isfinite(each.window)
            assert each.pacing_rate >= 0
            assert math.isfinite(each.pacing_rate)


TestTransport = Transport.TestCase


@given(
    rtt=st.floats(0.0005, 0.3),
    mbit=st.floats(0.5, 50),
    loss=st.floats(0, 0.2),
    queue=st.floats(0.001, 0.5),
    late=st.floats(0, 0.02),
    seed=st.integers(0, 1000),
)
def test_no_path_stalls_a_sender(
    rtt: float, mbit: float, loss: float, queue: float, late: float, seed: int
) -> None:
    flow = Flow(Bbr(DATAGRAM, chance=random.Random(seed)))
    network = Network(Path(rtt, mbit * 125_000, loss, queue, late), [flow], seed)
    network.run(2.0)
    for _ in range(3):
        before = flow.delivered
        for _ in range(8):  # the path may drop several retransmissions in a row
            network.run(network.now + 2.5)
            if flow.delivered > before:
                break
        assert flow.delivered > before
