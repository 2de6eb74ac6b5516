"""One timer for several deadlines."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from quicdist.carriers.alarm import Alarm

pytestmark = pytest.mark.virtual_clock


async def test_it_rings_at_the_earliest_time_that_was_set() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    alarm = Alarm(loop, rung.append)
    start = loop.time()
    alarm.set(start + 5)
    alarm.set(start + 3)
    alarm.set(start + 4)
    alarm.set(None)
    await asyncio.sleep(10)
    assert rung == [start + 3], "the owner sets the next deadline when it rings"
    alarm.set(start + 12)
    await asyncio.sleep(10)
    assert rung == [start + 3, start + 12]


async def test_it_rings_at_once_for_a_time_that_has_passed() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    await asyncio.sleep(1)
    Alarm(loop, rung.append).set(loop.time() - 1)
    await asyncio.sleep(0.001)
    assert len(rung) == 1


async def test_it_may_be_set_while_it_rings() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []

    def ring(now: float) -> None:
        rung.append(now)
        if len(rung) < 4:
            alarm.set(now + 1)

    alarm = Alarm(loop, ring)
    start = loop.time()
    alarm.set(start)
    await asyncio.sleep(10)
    assert rung == [start, start + 1, start + 2, start + 3]


async def test_a_stopped_alarm_never_rings_and_keeps_nothing_alive() -> None:
    class Owner:
        def __init__(self) -> None:
            self.alarm = Alarm(asyncio.get_running_loop(), self.ring)

        def ring(self, now: float) -> None:
            raise AssertionError("it is stopped")

    loop = asyncio.get_running_loop()
    owner = Owner()
    owner.alarm.set(loop.time() + 1)
    owner.alarm.stop()
    owner.alarm.set(loop.time() + 1)
    await asyncio.sleep(2)
    gc.disable()
    try:
        is_alive = weakref.ref(owner)
        del owner
        assert is_alive() is None, "without a collection of cycles"
    finally:
        gc.enable()
