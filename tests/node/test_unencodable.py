"""Objects that cannot be encoded.

The error is raised at once, is small, and names the function and its argument. Other calls are not
affected.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from quicdist import CallError, Node, NodeLimits, export
from quicdist.etf import EtfEncodeError, Term
from quicdist.limits import SessionLimits
from tests.node.memory import Hub
from tests.support.waiting import PATIENCE


class Odd:
    pass


@export(module="py")
def zeros(count: int) -> bytes:
    return bytes(count)


@export(module="py")
def odd() -> Term:
    return {"key": [1, Odd()]}


@export(module="py")
def echo(*args: Term) -> Term:
    return args[0] if args else None


def make(hub: Hub, limits: NodeLimits | None = None) -> Node:
    exports = [zeros, odd, echo]
    return Node("0@127.0.0.1", cookie="c", carriers=[hub], exports=exports, limits=limits)


SMALL = NodeLimits(session=SessionLimits(max_message=200_000))


async def test_the_argument_and_its_function_are_named() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two:
        args = [1, {"key": (Odd(),)}]
        expected = r"argument 2 of py:echo/2: Odd has no Erlang form \(at \[\"key\"\]\[0\]\)"
        for call in (one.call, one.cast, one.rpc):
            with pytest.raises(EtfEncodeError, match=expected) as caught:
                await call(two.name, "py", "echo", args)
            assert caught.value.path == '["key"][0]'


async def test_arguments_that_are_too_large_name_the_function_and_the_setting() -> None:
    hub = Hub()
    async with make(hub, SMALL) as one, make(hub) as two:
        with pytest.raises(EtfEncodeError, match=r"py:echo/1: .*SessionLimits\.max_message"):
            await one.call(two.name, "py", "echo", [bytes(200_000)])


async def test_a_result_is_named_to_the_caller_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two:
        with (
            caplog.at_level(logging.WARNING, "quicdist.node"),
            pytest.raises(CallError, match="py:odd/0") as caught,
        ):
            await one.call(two.name, "py", "odd", [], timeout=PATIENCE)
        expected = 'the result: Odd has no Erlang form (at ["key"][1])'
        assert expected.replace('"', '\\"') in str(caught.value)
        assert expected in caplog.text


async def test_a_result_that_is_too_large_is_a_small_error() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub, SMALL) as two:
        pings = asyncio.ensure_future(ping(one, two))
        for size in (200_000, 150_000_000):
            with pytest.raises(CallError, match=r"SessionLimits\.max_message is 200000") as caught:
                await one.call(two.name, "py", "zeros", [size], timeout=PATIENCE)
            assert len(str(caught.value)) < 5000
        assert len(await one.call(two.name, "py", "zeros", [100_000])) == 100_000
        pings.cancel()
        assert one.nodes() == [two.name]


async def ping(one: Node, two: Node) -> None:
    while True:
        assert await one.ping(two.name)
