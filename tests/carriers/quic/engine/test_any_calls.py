"""The native engine and calls in any order, with any bytes: no panic, and no exceeded limit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from quicdist.carriers.quic.engine import MAX_SEGMENTED, MAX_SEGMENTS, EngineError, burst
from tests.carriers.quic.engine.network import HERE, THERE, Network, settings
from tests.support.engines import needs_native

pytestmark = needs_native

CREDIT = 1 << 16

streams = st.one_of(st.integers(0, 12), st.integers(0, (1 << 64) - 1))
codes = st.integers(0, (1 << 32) - 1)
sizes = st.one_of(st.integers(0, 40), st.integers(0, 70_000))
numbers = st.one_of(
    st.floats(0, 1e12), st.sampled_from([0.0, -1.0, 1e300, math.inf, -math.inf, math.nan])
)
calls = st.one_of(
    st.tuples(st.just("write"), streams, sizes),
    st.tuples(st.just("peer_writes"), st.integers(0, 12), sizes),
    st.tuples(st.just("refuse"), streams, codes),
    st.tuples(st.just("send_whole"), st.booleans()),
    st.tuples(st.just("grant"), st.integers(0, CREDIT)),
    st.tuples(st.just("ping")),
    st.tuples(st.just("prove")),
    st.tuples(st.just("renew_id")),
    st.tuples(st.just("migrate")),
    st.tuples(st.just("resume"), numbers, numbers),
    st.tuples(st.just("close"), codes, st.binary(max_size=2000)),
    st.tuples(st.just("is_reset"), st.binary(max_size=100)),
    st.tuples(
        st.just("receive"), st.binary(max_size=100), st.integers(0, 100), st.integers(0, 255)
    ),
    st.tuples(st.just("distort"), st.integers(0, 1500), st.integers(0, 255)),
    st.tuples(st.just("take_path"), st.integers(0, 65535)),
    st.tuples(st.just("exchange"), st.integers(1, 3)),
    st.tuples(st.just("pass"), st.floats(0, 40)),
)


class Calls:
    """Performs the calls on one end, and checks its answers."""

    def __init__(self, network: Network, end: Any, other: Any) -> None:
        self._network = network
        self._end, self._other = end, other
        self._core = end.connection._core
        self._received = end.connection.received()
        is_listener = end is not network.dialer
        self._limit = settings("native").first_window(is_listener=is_listener)

    def do(self, name: str, *arguments: Any) -> None:
        do: Callable[..., None] = getattr(self, f"_{name}", self._plain(name))
        do(*arguments)
        self._check()

    def _plain(self, name: str) -> Callable[..., None]:
        return lambda *arguments: getattr(self._core, name)(*arguments)

    def _write(self, stream: int, size: int) -> None:
        with contextlib.suppress(RuntimeError):  # the stream has ended; a panic is raised again
            self._core.write(stream, [bytes(size // 2), memoryview(bytes(size))[size // 2 :]])

    def _peer_writes(self, stream: int, size: int) -> None:
        with contextlib.suppress(EngineError):
            self._other.connection.write(stream, [bytes(size)])

    def _grant(self, credit: int) -> None:
        self._core.grant(credit)
        self._limit = max(self._limit, self._received + credit)

    def _migrate(self) -> None:
        self._core.migrate(self._network.now)

    def _is_reset(self, data: bytes) -> None:
        self._core.is_reset(data, self._network.now)

    def _receive(self, data: bytes, size: int, ecn: int) -> None:
        self._core.receive(data, size, self._network.now, ecn)

    def _distort(self, at: int, byte: int) -> None:
        """The next datagrams of the peer arrive with one other byte."""
        for data, size, _ in self._other.connection.transmit(self._network.now):
            changed = bytearray(data)
            changed[at % len(changed)] = byte
            self._core.receive(bytes(changed), size, self._network.now, 0)

    def _take_path(self, port: int) -> None:
        self._core.take_path("192.0.2.77", port, 0, None)

    def _exchange(self, rounds: int) -> None:
        here, there = self._end.connection, self._other.connection
        sides = ((here, there, HERE), (there, here, THERE))
        for one, other, path in sides * rounds:
            for data, size, _ in one.transmit(self._network.now):
                other.receive(data, size, (path, None), self._network.now)

    def _pass(self, seconds: float) -> None:
        self._network.now += seconds
        self._core.handle_timer(self._network.now)

    def _check(self) -> None:
        core = self._core
        found, progress = core.transmit(self._network.now, burst(1200))  # raises after a panic
        _, sent, rate, *_, timer, _, _ = progress
        assert sum(-(-len(data) // size) for data, size, _ in found) <= burst(1200) + MAX_SEGMENTS
        assert all(len(data) <= max(MAX_SEGMENTED, size) for data, size, _ in found)
        assert sent >= 0
        assert rate >= 0
        _, self._received, _ = core.drain()
        assert self._received <= self._limit
        assert timer is None or math.isfinite(timer)


@how(max_examples=80, deadline=None)
@given(
    begun=st.integers(0, 3),
    is_dialer=st.booleans(),
    made=st.lists(calls, min_size=1, max_size=25),
)
def test_none_panics(begun: int, is_dialer: bool, made: list[tuple[Any, ...]]) -> None:
    network = Network("native", "native")
    network.run(lambda: len(network.ends) == 2)
    if begun:
        network.wait(begun * 0.012)
    if begun == 3:
        network.establish()
    here, there = network.dialer, network.listener
    end, other = (here, there) if is_dialer else (there, here)
    does = Calls(network, end, other)
    for name, *arguments in made:
        does.do(name, *arguments)
    end.connection.release()


@pytest.mark.parametrize("released", [False, True])
def test_every_call_is_possible_before_and_after_the_connection(released: bool) -> None:
    network = Network("native", "native")
    network.establish()
    core: Any = network.dialer.connection._core  # type: ignore[attr-defined]
    if released:
        core.release()
    else:
        core.close(0, b"")
    core.write(0, [b"data"])
    core.receive(b"data", 4, network.now, 0)
    _, progress = core.transmit(network.now, 10)
    core.drain()
    core.grant(1 << 20)
    core.migrate(network.now)
    core.refuse(0, 1)
    assert progress[6] is None or not released
