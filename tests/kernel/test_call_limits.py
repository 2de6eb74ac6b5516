"""The limit of an exported function."""

from __future__ import annotations

import asyncio

import pytest

from quicdist import ErlangError
from quicdist.kernel.call_limits import Limiter


async def _begun(limiter: Limiter) -> None:
    await limiter.turn().__aenter__()


async def test_a_waiting_call_that_is_cancelled_leaves_the_queue() -> None:
    limiter = Limiter(1, 1)
    async with limiter.turn():
        waiting = asyncio.create_task(_begun(limiter))
        await asyncio.sleep(0)
        with pytest.raises(ErlangError, match="busy"):
            await _begun(limiter)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        other = asyncio.create_task(_begun(limiter))
        await asyncio.sleep(0)
    await other


async def test_a_turn_that_was_passed_to_a_cancelled_call_is_passed_on() -> None:
    limiter = Limiter(1, None)
    turn = limiter.turn()
    await turn.__aenter__()
    one, two = (asyncio.create_task(_begun(limiter)) for _ in range(2))
    await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    await two


async def test_calls_run_in_the_order_of_their_arrival() -> None:
    limiter = Limiter(1, None)
    order: list[int] = []

    async def call(number: int) -> None:
        async with limiter.turn():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*map(call, range(10)))
    assert order == list(range(10))


async def test_a_call_that_is_cancelled_while_a_turn_ends_is_cancelled() -> None:
    limiter = Limiter(1, None)
    turn = limiter.turn()
    await turn.__aenter__()
    waiting = asyncio.create_task(_begun(limiter))
    await asyncio.sleep(0)
    waiting.cancel()
    await turn.__aexit__(None, None, None)  # before the task has handled its cancellation
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await _begun(limiter)
