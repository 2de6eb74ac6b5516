"""The compiled core of a relay: it forwards what a flow allows, and returns everything else."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from quicdist.carriers.quic.engine import Batch, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay import fast_path
from quicdist.carriers.relay.fast_path import FastPath
from quicdist.carriers.relay.frames import data_head
from quicdist.carriers.relay.statistics import RelayCounters
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.io,
    pytest.mark.skipif(
        not FastPath(RelayCounters()).is_compiled, reason="the core is not compiled"
    ),
]

HEAD = data_head(("192.0.2.1", 9))
OTHER_HEAD = data_head(("192.0.2.1", 10))
QUIC = b"\x40 like QUIC"


class Bench:
    """A sender, a socket of the relay, and a receiver."""

    def __init__(self, host: str, stack: contextlib.ExitStack) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = [UdpSocket.bind(cast(SocketAddress, (host, 0)), family, 1 << 20) for _ in range(4)]
        for one in made:
            stack.callback(one.close)
        self.sender, self.stranger, self.relay, self.receiver = made
        self.counters = RelayCounters()
        self.fast = FastPath(self.counters)

    def flow(
        self,
        *,
        match: bytes = b"",
        head: bytes = b"",
        budget: int = 1 << 20,
        life: float = fast_path.LIFE,
    ) -> None:
        sender, to = self.sender.address, self.receiver.address
        self.fast.put(self.relay, sender, match, self.relay, to, head, budget, life)

    def send(self, *datagrams: bytes, by: UdpSocket | None = None) -> None:
        path = (self.relay.address, None)
        (by or self.sender).send_all([(data, len(data), path) for data in datagrams])

    def pump(self, *, frames: bool = False) -> tuple[list[bytes], int, int]:
        """Waits for something, and returns the datagrams that are for Python, and the counts."""
        found: list[Batch] = []
        self.counters.datagrams_in = self.counters.datagrams_out = 0
        self.counters.bytes_in = self.counters.bytes_out = 0
        counters = self.counters

        def something() -> bool:
            found.extend(self.fast.receive(self.relay, 16, frames=frames))
            return bool(found or counters.datagrams_in or counters.datagrams_out)

        wait_until(something)
        datagrams = counters.datagrams_out if frames else counters.datagrams_in
        size = counters.bytes_out if frames else counters.bytes_in
        return [data for data, _, _ in found], datagrams, size

    def received(self) -> list[bytes]:
        return [
            data[at : at + size]
            for data, size, *_ in self.receiver.receive(64)
            for at in range(0, len(data), size)
        ]


@pytest.fixture(params=["127.0.0.1", "::1"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        try:
            yield Bench(request.param, stack)
        except OSError:
            pytest.skip("no IPv6 here")


def test_datagrams_of_a_flow_get_its_head(bench: Bench) -> None:
    bench.flow(head=HEAD)
    sent = [QUIC + bytes([number]) for number in range(5)]
    bench.send(*sent, QUIC)
    assert bench.pump() == ([], 6, sum(map(len, sent)) + len(QUIC))
    assert bench.received() == [HEAD + data for data in [*sent, QUIC]]


def test_data_frames_of_a_flow_lose_their_head(bench: Bench) -> None:
    bench.flow(match=HEAD)
    bench.send(HEAD + QUIC + b"1", HEAD + QUIC + b"2", HEAD + QUIC)
    assert bench.pump(frames=True) == ([], 3, 3 * len(QUIC) + 2)
    assert bench.received() == [QUIC + b"1", QUIC + b"2", QUIC]


def test_a_batch_above_the_limit_of_one_call_is_sent_in_several(bench: Bench) -> None:
    bench.flow(head=HEAD)
    bench.send(*[b"\x40" + bytes(1399)] * 46)
    assert bench.pump()[1] == 46
    found: list[bytes] = []

    def all_there() -> bool:
        found.extend(bench.received())
        return len(found) >= 46

    wait_until(all_there)
    assert found == [HEAD + b"\x40" + bytes(1399)] * 46


def test_a_budget_is_not_exceeded(bench: Bench) -> None:
    bench.flow(head=HEAD, budget=len(QUIC))
    bench.send(QUIC)
    assert bench.pump() == ([], 1, len(QUIC))
    bench.send(QUIC)
    assert bench.pump() == ([QUIC], 0, 0)
    assert bench.received() == [HEAD + QUIC]


def test_a_flow_ends(bench: Bench) -> None:
    bench.flow(head=HEAD, life=0.0)
    bench.send(QUIC)
    assert bench.pump() == ([QUIC], 0, 0)


def test_flows_are_forgotten(bench: Bench) -> None:
    bench.flow(head=HEAD)
    bench.fast.clear()
    bench.send(QUIC)
    assert bench.pump() == ([QUIC], 0, 0)


@pytest.mark.parametrize("data", [b"\x20" + QUIC, b"\x00", b""], ids=["frame", "junk", "empty"])
def test_what_is_not_quic_is_returned(bench: Bench, data: bytes) -> None:
    bench.flow(head=HEAD)
    bench.send(data)
    assert bench.pump() == ([data], 0, 0)
    assert bench.received() == []


def test_datagrams_of_another_sender_are_returned(bench: Bench) -> None:
    bench.flow(head=HEAD)
    bench.send(QUIC, by=bench.stranger)
    assert bench.pump() == ([QUIC], 0, 0)
    assert bench.received() == []


@pytest.mark.parametrize(
    "frame",
    [OTHER_HEAD + QUIC, HEAD, HEAD + b"\x20" + QUIC, HEAD[:5], QUIC],
    ids=["another address", "nothing in it", "a frame in it", "cut", "QUIC"],
)
def test_other_frames_are_returned(bench: Bench, frame: bytes) -> None:
    bench.flow(match=HEAD)
    bench.send(frame)
    assert bench.pump(frames=True) == ([frame], 0, 0)
    assert bench.received() == []


def test_merged_frames_of_which_one_differs_are_returned_whole(bench: Bench) -> None:
    bench.flow(match=HEAD)
    frames = [HEAD + QUIC, HEAD + QUIC, OTHER_HEAD + QUIC]
    bench.send(*frames)
    found: list[bytes] = []

    def all_there() -> bool:
        batches = bench.fast.receive(bench.relay, 16, frames=True)
        found.extend(data for data, _, _ in batches)
        return sum(map(len, [*found, *bench.received()])) >= len(frames[0]) * 3 - 14

    wait_until(all_there)
    assert OTHER_HEAD + QUIC in b"".join(found)


def test_more_flows_than_there_is_room_for_replace_earlier_ones(bench: Bench) -> None:
    for port in range(1, 20_000):
        to = bench.receiver.address
        sender = cast(SocketAddress, (to[0], port, *to[2:]))
        bench.fast.put(bench.relay, sender, b"", bench.relay, to, HEAD, 1)
    bench.flow(head=HEAD)
    bench.send(QUIC)
    assert bench.pump()[1] == 1


def test_other_sockets_are_served_while_a_flow_is_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path, "STAY", 60.0)
    taken: list[Batch] = []
    bench.fast.watch(bench.receiver, taken.append, frames=False)
    junk = b"\x00 no flow"
    bench.stranger.send(junk, (bench.receiver.address, None))
    wait_until(lambda: bool(select.select([bench.receiver], [], [], 0)[0]))
    for _ in range(2):  # the first one makes the flow busy
        bench.fast.put(
            bench.relay, bench.sender.address, b"", bench.relay, bench.stranger.address, HEAD, 99
        )
        bench.send(QUIC)
        assert bench.pump() == ([], 1, len(QUIC))
    assert [data for data, _, _ in taken] == [junk]


def test_a_socket_that_is_no_longer_watched_is_not_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Batch] = []
    bench.fast.watch(bench.receiver, taken.append, frames=False)
    bench.fast.unwatch(bench.receiver)
    bench.stranger.send(b"\x00", (bench.receiver.address, None))
    wait_until(lambda: bool(select.select([bench.receiver], [], [], 0)[0]))
    for _ in range(2):
        bench.fast.put(
            bench.relay, bench.sender.address, b"", bench.relay, bench.stranger.address, HEAD, 99
        )
        bench.send(QUIC)
        assert bench.pump() == ([], 1, len(QUIC))
    assert not taken
    assert bench.receiver.receive(1)


def test_merged_datagrams_of_which_one_is_not_quic_are_returned_whole(bench: Bench) -> None:
    bench.flow(head=HEAD)
    bench.send(QUIC, b"\x20" * len(QUIC), QUIC)
    forwarded: list[bytes] = []
    returned: list[Batch] = []

    def all_there() -> bool:
        returned.extend(bench.fast.receive(bench.relay, 16, frames=False))
        forwarded.extend(bench.received())
        return len(forwarded) + sum(-(-len(data) // size) for data, size, _ in returned) == 3

    wait_until(all_there)
    assert not any(b"\x20" * len(QUIC) in data for data in forwarded)
