"""The state of a node at its relay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quicdist.carriers.relay.frames import Allocated, Refusal
from quicdist.carriers.relay.registration import (
    KEEP_ALIVE,
    SILENCE,
    Action,
    Ask,
    Close,
    Dial,
    KeepAliveNow,
    Registration,
    State,
    Use,
    Way,
)

ANSWER = Allocated(20000, 443, ("192.0.2.1", 1))
UDP, TCP = Way.UDP, Way.TCP


def up(way: Way, now: float = 0.0) -> Registration:
    """A registration that is up in one way."""
    node = Registration()
    node.start(now)
    if way is TCP:
        node.failed(UDP, now)
        node.tick(now)
    node.opened(way, now)
    node.answered(way, ANSWER, now)
    assert node.used is way
    return node


def test_udp_is_dialed_first_and_used() -> None:
    node = Registration()
    assert node.start(0.0) == (Dial(UDP),)
    assert node.opened(UDP, 0.1) == (Ask(UDP),)
    assert node.answered(UDP, ANSWER, 0.2) == [Use(UDP)]
    assert node.due == pytest.approx(0.2 + KEEP_ALIVE)


def test_tcp_is_dialed_when_udp_gets_no_answer() -> None:
    node = Registration(tcp_delay=1.0)
    node.start(0.0)
    assert node.tick(0.9) == []
    assert node.tick(1.0) == [Dial(TCP)]
    node.opened(TCP, 1.1)
    assert node.answered(TCP, ANSWER, 1.2) == [Use(TCP)]


def test_tcp_is_dialed_at_once_when_udp_fails() -> None:
    node = Registration()
    node.start(0.0)
    node.failed(UDP, 0.1)
    assert Dial(TCP) in node.tick(0.1)


def test_tcp_is_not_dialed_if_there_is_none() -> None:
    node = Registration(has_tcp=False)
    node.start(0.0)
    node.failed(UDP, 0.1)
    assert node.tick(node.due or 0.0) == [Dial(UDP)]


def test_udp_replaces_tcp_when_it_works_again() -> None:
    node = up(TCP)
    due = node.due
    while due is not None and node.state(UDP) is State.IDLE:
        node.heard(TCP, due)
        node.tick(due)
        due = node.due
    assert node.state(UDP) is State.DIALING
    node.opened(UDP, 100.0)
    assert node.answered(UDP, ANSWER, 100.0) == [Use(UDP), Close(TCP)]


def test_a_silent_relay_is_lost_and_dialed_again() -> None:
    node = up(UDP)
    actions: list[Action] = []
    for _ in range(10):
        assert node.due is not None
        actions += node.tick(node.due)
        if node.used is None:
            break
    assert actions[0] == KeepAliveNow(UDP)
    assert actions[-2:] == [Close(UDP), Use(None)]
    assert Dial(UDP) in node.tick(SILENCE + 60.0)


def test_a_relay_that_answers_is_kept() -> None:
    node = up(UDP)
    for _ in range(20):
        assert node.due is not None
        node.heard(UDP, node.due - 0.1)
        assert node.tick(node.due) == [KeepAliveNow(UDP)]


def test_attempts_are_made_ever_more_rarely() -> None:
    node = Registration(has_tcp=False)
    node.start(0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        node.failed(UDP, now)
        assert node.due is not None
        pauses.append(node.due - now)
        now = node.due
        assert node.tick(now) == [Dial(UDP)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 30.0)


def test_a_refusal_ends_the_use_and_is_asked_about_again_later() -> None:
    node = up(UDP)
    assert node.refused(UDP, Refusal.SUPERSEDED, 5.0) == [Close(UDP), Use(None)]
    assert node.refusal is Refusal.SUPERSEDED
    assert node.due == pytest.approx(35.0)
    assert node.allocated == ANSWER, "the port stays the one of this node"


@pytest.mark.parametrize("way", Way)
def test_a_relay_that_stops_is_dialed_again_as_one_that_died(way: Way) -> None:
    told, died = up(way), up(way)
    assert told.refused(way, Refusal.STOPPING, 5.0) == [Close(way), *died.failed(way, 5.0)]
    assert told.due == died.due
    assert told.due is not None
    assert told.due <= 6.0


def test_the_spread_lengthens_pauses() -> None:
    node = Registration(has_tcp=False, spread=0.5)
    node.start(0.0)
    node.failed(UDP, 0.0)
    assert node.due == pytest.approx(0.75)


class Anything(RuleBasedStateMachine):
    """Events in any order, also those that no connection would cause."""

    @initialize()
    def start(self) -> None:
        self.node = Registration()
        self.now = 0.0
        self.connected: set[Way] = set()
        self.dialing: set[Way] = set()
        self.using: Way | None = None
        self.do(self.node.start(0.0))

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Dial(way):
                    assert way not in self.dialing | self.connected, "dialed twice"
                    self.dialing.add(way)
                case Ask(way) | KeepAliveNow(way):
                    assert way in self.connected
                case Close(way):
                    self.dialing.discard(way)
                    self.connected.discard(way)
                case Use(used):
                    self.using = used

    @precondition(lambda self: self.dialing)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        way = data.draw(st.sampled_from(sorted(self.dialing, key=lambda one: one.value)))
        self.dialing.discard(way)
        self.connected.add(way)
        self.do(self.node.opened(way, self.now))

    @rule(way=st.sampled_from(Way))
    def answer(self, way: Way) -> None:
        if way in self.connected:
            self.do(self.node.answered(way, ANSWER, self.now))

    @rule(way=st.sampled_from(Way))
    def fail(self, way: Way) -> None:
        self.dialing.discard(way)
        self.connected.discard(way)
        self.do(self.node.failed(way, self.now))

    @rule(way=st.sampled_from(Way), why=st.sampled_from(Refusal))
    def refuse(self, way: Way, why: Refusal) -> None:
        self.do(self.node.refused(way, why, self.now))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.node.tick(self.now))

    @invariant()
    def the_used_way_is_up_and_something_is_planned(self) -> None:
        used = self.node.used
        assert self.using is used
        assert used is None or used in self.connected
        if self.node.state(UDP) is State.UP:
            assert used is UDP
        if used is None and not self.dialing:
            assert self.node.due is not None, "the node tries again by itself"


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
