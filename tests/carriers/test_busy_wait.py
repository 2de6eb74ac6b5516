"""Busy waiting after traffic, observed by the timeouts that the loop passes to its selector."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterator

import pytest

from quicdist import NodeError, Quic
from quicdist.carriers.base import DialError
from quicdist.carriers.quic import busy_wait
from quicdist.carriers.quic.busy_wait import WAKEUP, Adaptive, BusyWait
from tests.carriers.owners import node

AWAKE = 1.0
"""The longest busy wait in seconds that can be set, so that the node does not sleep in a test."""


class Watched(selectors.DefaultSelector):
    """Records the timeout of each select call."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits.append(timeout)
        return super().select(timeout)


class Played(selectors.DefaultSelector):
    """A selector whose calls take one simulated second; it stops a loop that would sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.stop: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            self.turns += 1
        else:
            self.stop()
        return super().select(0)


class PlayedLoop(asyncio.SelectorEventLoop):
    """Returns a loop on that clock."""

    def __init__(self) -> None:
        self.played = Played()
        super().__init__(self.played)
        self.played.stop = self.stop

    def time(self) -> float:
        return float(self.played.turns)

    def turns_until_it_sleeps(self, *begin: Callable[[], None]) -> int:
        """Runs after the iteration in which it started."""
        for one in begin:
            self.call_soon(one)
        self.run_forever()
        return self.played.turns - 1


@pytest.fixture
def loop() -> Iterator[PlayedLoop]:
    loop = PlayedLoop()
    yield loop
    loop.close()


def test_without_traffic_the_loop_sleeps(loop: PlayedLoop) -> None:
    BusyWait(loop, 5.0)
    assert loop.turns_until_it_sleeps(lambda: None) == 0


def test_after_traffic_it_does_not_for_as_long_as_was_said(loop: PlayedLoop) -> None:
    assert loop.turns_until_it_sleeps(BusyWait(loop, 5.0).extend) == 5


def test_the_time_begins_with_the_last_traffic(loop: PlayedLoop) -> None:
    waiting = BusyWait(loop, 5.0)
    loop.call_at(4.0, waiting.extend)  # three iterations after the first
    assert loop.turns_until_it_sleeps(waiting.extend) == 3 + 5


def test_it_begins_anew_after_a_sleep(loop: PlayedLoop) -> None:
    waiting = BusyWait(loop, 5.0)
    first = loop.turns_until_it_sleeps(waiting.extend)
    assert loop.turns_until_it_sleeps(waiting.extend) == first + 1 + 5


def test_much_traffic_in_a_turn_asks_for_one_more(
    loop: PlayedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def call_soon(*call: object) -> asyncio.Handle:
        asked.append(call)
        return asyncio.Handle(lambda: None, (), loop)

    monkeypatch.setattr(loop, "call_soon", call_soon)
    waiting = BusyWait(loop, 5.0)
    for _ in range(10):
        waiting.extend()
    assert len(asked) == 1


def test_every_turn_lets_others_have_the_core(
    loop: PlayedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave: list[float] = []
    monkeypatch.setattr(busy_wait, "_give_way", lambda: gave.append(loop.time()))
    assert loop.turns_until_it_sleeps(BusyWait(loop, 3.0).extend) == len(gave) == 3


def test_off_it_asks_for_none(loop: PlayedLoop) -> None:
    assert loop.turns_until_it_sleeps(BusyWait(loop, 0.0).extend) == 0


def test_stopped_it_asks_for_no_more_turns_than_it_has(loop: PlayedLoop) -> None:
    waiting = BusyWait(loop, 5.0)
    assert loop.turns_until_it_sleeps(waiting.extend, waiting.stop) == 1


# -- adaptive -------------------------------------------------------------------------------------


class Waiting:
    """The adaptive decision, with a clock. Each datagram comes after `gap` seconds."""

    def __init__(self) -> None:
        self.now = 1.0
        self.adaptive = Adaptive()
        self.seconds = self.adaptive.wait(self.now)

    def exchange(self, gap: float, count: int = 1) -> int:
        """Returns how many of the waits for `count` datagrams were busy to their end."""
        in_vain = 0
        for _ in range(count):
            is_awake = gap < self.seconds
            if self.seconds and not is_awake:
                in_vain += 1
                self.adaptive.in_vain(is_taken=False)
            self.now += gap
            self.adaptive.received(self.now, is_awake=is_awake)
            self.seconds = self.adaptive.wait(self.now)
        return in_vain


def test_answers_that_come_soon_are_awaited_busily() -> None:
    waiting = Waiting()
    assert waiting.seconds == 0
    waiting.exchange(WAKEUP / 2, 100)
    assert waiting.seconds == WAKEUP


@pytest.mark.parametrize("gap", [0.001, 0.02, 1.0])
def test_answers_that_come_late_are_not(gap: float) -> None:
    waiting = Waiting()
    waiting.exchange(WAKEUP / 2, 100)
    assert waiting.exchange(gap, 100) <= 4
    assert waiting.seconds == 0
    assert waiting.exchange(gap, 1000) == 0


def test_few_waits_are_in_vain_if_answers_come_a_little_too_late() -> None:
    assert Waiting().exchange(1.5 * WAKEUP, 1000) < 100


def test_a_core_that_others_want_is_left_to_them() -> None:
    waiting = Waiting()
    waiting.exchange(WAKEUP / 2, 100)
    waiting.adaptive.in_vain(is_taken=True)
    assert waiting.adaptive.wait(waiting.now) == 0


def test_a_single_answer_after_a_long_time_does_not_keep_it_awake() -> None:
    waiting = Waiting()
    for _ in range(100):
        waiting.exchange(WAKEUP / 2, 8)
        waiting.exchange(0.02)
        assert waiting.seconds == 0


class Standing(PlayedLoop):
    """The clock stands still."""

    def time(self) -> float:
        return 0.0


def test_a_clock_that_stands_still_ends_it() -> None:
    loop = Standing()
    try:
        waiting = BusyWait(loop, None)
        for _ in range(100):
            waiting.received(loop.time())
        assert 1 < loop.turns_until_it_sleeps(lambda: None) < 1000
        waiting.stop()
    finally:
        loop.close()


def test_an_adaptive_wait_ends_when_another_process_takes_the_core(
    loop: PlayedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = BusyWait(loop, None)
    for _ in range(100):
        waiting.received(loop.time())

    def take_the_core() -> None:
        loop.played.turns += 1  # a second passes

    monkeypatch.setattr(busy_wait, "_give_way", take_the_core)
    assert loop.turns_until_it_sleeps(lambda: None) <= 2


def _run(play: Coroutine[None, None, None], selector: Watched) -> None:
    loop = asyncio.SelectorEventLoop(selector)
    try:
        loop.run_until_complete(play)
    finally:
        loop.close()


@pytest.mark.io
@pytest.mark.parametrize("busy", ["dialer", "listener"])
def test_an_endpoint_stays_awake_after_traffic_until_it_closes(busy: str) -> None:
    async def play() -> None:
        waits = selector.waits
        seconds = [AWAKE if busy == side else 0.0 for side in ("dialer", "listener")]
        async with node(busy_wait=seconds[0]) as a, node(busy_wait=seconds[1]) as b:
            await a.connect(b)
            waits.clear()
            await asyncio.sleep(0.01)
            assert waits
            assert not any(waits)
        waits.clear()
        await asyncio.sleep(0.01)
        assert any(waits)

    selector = Watched()
    _run(play(), selector)


@pytest.mark.io
@pytest.mark.parametrize("traffic", ["a datagram that comes", "a datagram that leaves"])
def test_each_way_alone_keeps_it_awake(traffic: str) -> None:
    async def play() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            async with node(busy_wait=AWAKE) as one:
                if traffic == "a datagram that comes":
                    other.sendto(b"junk", ("127.0.0.1", one.port))
                else:
                    with pytest.raises(DialError):
                        await one.dial(other.getsockname()[1], timeout=0.01)
                await asyncio.sleep(0.01)
                selector.waits.clear()
                await asyncio.sleep(0.01)
                assert selector.waits
                assert not any(selector.waits)

    selector = Watched()
    _run(play(), selector)


@pytest.mark.io
def test_by_default_an_endpoint_sleeps() -> None:
    async def play() -> None:
        async with node() as a, node() as b:
            await a.connect(b)
            await asyncio.sleep(0.01)
            assert any(selector.waits)

    selector = Watched()
    _run(play(), selector)


@pytest.mark.parametrize("seconds", [-0.001, 200, float("nan")])
def test_a_time_in_another_unit_is_refused(seconds: float) -> None:
    with pytest.raises(NodeError, match=r"busy_wait is in seconds, from 0 \(off\) to 1, got"):
        Quic(busy_wait=seconds)
