"""Rate limits of a peer's messages, calls and handshakes."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist import NodeError, NodeLimits, export
from quicdist.carriers.quic.admission import Admission
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.token_bucket import MOST_KEYS, TokenBuckets
from quicdist.limits import AdmissionLimits
from quicdist.runtime.rate_limit import Pause, RateLimit, RateLimits
from tests.node.memory import Hub
from tests.node.test_two_nodes import get, make

HERE, THERE = ("192.0.2.1", 4433), ("192.0.2.2", 4433)


@export(module="calc")
async def one() -> int:
    return 1


# -- buckets -------------------------------------------------------------------------------------


@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
def test_who_waits_as_long_as_told_never_exceeds_the_rate(rate: float, gaps: list[float]) -> None:
    """The number of events in any interval is bounded by burst and rate.

    A wait is at most the share of one event.
    """
    limit = RateLimit(rate)
    now, due = 100.0, 100.0
    for count, gap in enumerate(gaps, 1):
        now = max(now + gap, due)
        wait = limit.take(now)
        assert 0 <= wait <= 1 / rate + 1e-6
        due = now + wait
        assert count <= max(1.0, rate) + (now - 100.0) * rate + 1.001


def test_keys_have_buckets_of_their_own_and_a_bounded_number_of_them() -> None:
    buckets = TokenBuckets(2)
    assert [buckets.take("a", 1.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 1.0)
    assert buckets.take("a", 1.5)
    for number in range(3 * MOST_KEYS):
        buckets.take(str(number), 2.0)
    assert len(buckets._buckets) == MOST_KEYS


def test_a_pause_ends_once_and_no_earlier_than_it_was_told_first() -> None:
    pause = Pause()
    assert not pause.look(1e9)
    pause.extend(2.0, 100.0)
    pause.extend(0.5, 101.0)
    assert pause.due == 102.0
    pause.extend(3.0, 101.0)
    assert pause.due == 104.0
    assert not pause.look(103.9)
    assert pause.look(104.0)
    assert pause.due == math.inf
    assert not pause.look(105.0)


# -- handshakes ----------------------------------------------------------------------------------


def test_an_address_that_has_proved_itself_begins_so_many_handshakes_in_a_second() -> None:
    admission = Admission(AdmissionLimits(handshakes_per_second_per_address=3))
    checked = [admission.check(HERE, 0, has_proved=True, now=1.0) for _ in range(5)]
    assert checked == [None] * 3 + [RejectReason.ADDRESS_RATE] * 2
    assert admission.check(THERE, 0, has_proved=True, now=1.0) is None
    assert admission.check(HERE, 0, has_proved=True, now=1.4) is None


def test_datagrams_in_the_name_of_an_address_do_not_use_up_its_handshakes() -> None:
    """Forged handshakes only trigger address validation."""
    admission = Admission(AdmissionLimits(handshakes_per_second_per_address=3))
    checked = [admission.check(HERE, 0, has_proved=False, now=1.0) for _ in range(5)]
    assert checked == [None] * 3 + [RejectReason.UNPROVED] * 2
    assert admission.check(HERE, 0, has_proved=True, now=1.0) is None


@pytest.mark.virtual_clock
async def test_whoever_connects_too_often_is_refused_and_counted() -> None:
    hub = Hub()
    limits = NodeLimits(handshakes_per_second=2)
    async with make(hub, limits=limits) as ours, make(hub) as theirs:
        for _ in range(2):
            await theirs.connect(ours.name)
            theirs.disconnect(ours.name)
        assert await theirs.ping(ours.name, timeout=5) in (True, False)
        assert ours.stats().refused["address_rate"] >= 1


# -- messages and calls --------------------------------------------------------------------------


@pytest.mark.virtual_clock
async def test_a_peer_that_sends_too_much_waits_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "quicdist.node")
    hub = Hub()
    limits = NodeLimits(messages_per_second=10)
    async with make(hub, limits=limits) as ours, make(hub) as theirs, ours.mailbox("box") as box:
        await theirs.connect(ours.name)
        for number in range(100):
            await theirs.send(("box", ours.name), number)
        assert [await get(box) for _ in range(100)] == list(range(100))
        traffic = ours.stats().traffic
        assert traffic.rate_holds > 50
        assert traffic.held_back > 8
    events = [getattr(one, "event", "") for one in caplog.records]
    assert events.count("peer_rate_limited") in (1, 2)


@pytest.mark.virtual_clock
async def test_a_peer_that_calls_too_often_waits() -> None:
    hub = Hub()
    limits = NodeLimits(calls_per_second=5)
    async with make(hub, limits=limits, exports=[one]) as ours, make(hub) as theirs:
        assert [await theirs.call(ours.name, "calc", "one") for _ in range(20)] == [1] * 20
        assert ours.stats().traffic.rate_holds >= 10
        # The limits of the peer do not delay calls of the node itself.
        assert await ours.ping(theirs.name)


@pytest.mark.virtual_clock
async def test_who_connects_anew_has_no_new_rate() -> None:
    hub = Hub()
    limits = NodeLimits(calls_per_second=10, messages_per_second=1000)
    async with make(hub, limits=limits, exports=[one]) as ours, make(hub) as theirs:
        assert [await theirs.call(ours.name, "calc", "one") for _ in range(10)] == [1] * 10
        for _ in range(3):
            theirs.disconnect(ours.name)
            await theirs.connect(ours.name)
            await theirs.call(ours.name, "calc", "one")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(theirs.call(ours.name, "calc", "one"), 0.05)


def test_names_have_rates_of_their_own_and_a_bounded_number_of_them() -> None:
    limits = RateLimits(2)
    assert [limits.take("a", 1.0) for _ in range(3)] == [0, 0.5, 1.0]
    assert limits.take("b", 1.0) == 0
    for number in range(5000):
        limits.take(str(number), 2.0)
    assert len(limits._limits) == 4096
    debtor = RateLimit(2)
    assert max(debtor.take(1.0) for _ in range(100)) == 1.5


@pytest.mark.virtual_clock
async def test_without_a_setting_nobody_is_held_back() -> None:
    hub = Hub()
    async with make(hub, exports=[one]) as ours, make(hub) as theirs:
        for _ in range(200):
            await theirs.call(ours.name, "calc", "one")
        assert ours.stats().traffic.rate_holds == 0


@pytest.mark.parametrize(
    "name", ["messages_per_second", "calls_per_second", "handshakes_per_second"]
)
def test_a_rate_is_above_zero(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(NodeError, match=name):
        NodeLimits(**settings)
