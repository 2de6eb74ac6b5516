"""The choice of the path of a datagram, below QUIC."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.ecn import CE, ECT0, NOT_ECT
from quicdist.carriers.quic.engine import Batch, Path, Received, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay.frames import data_head
from quicdist.carriers.relay.transport import Paths, binder, local_of, met_at
from tests.support.waiting import PATIENCE

RELAY: SocketAddress = ("203.0.113.10", 4433)
PEER: SocketAddress = ("198.51.100.7", 5555)
QUIC = b"\x40 a QUIC packet"


class Stream:
    """Stands for the TLS connection to the relay."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_frames(self, frames: Sequence[bytes]) -> None:
        self.sent += frames


def relayed() -> Paths:
    """Paths of a node that is 20000@203.0.113.10."""
    paths = Paths()
    paths.relay = RELAY
    paths.relay_host = RELAY[0]
    paths.local = local_of((RELAY[0], 20000))
    return paths


def single(data: bytes, path: Path) -> Batch:
    return data, len(data), path


def received(data: bytes, path: Path) -> Received:
    return data, len(data), path, NOT_ECT


def test_a_datagram_from_the_relay_has_the_address_of_the_peer() -> None:
    paths = relayed()
    frame = data_head((PEER[0], PEER[1])) + QUIC
    assert paths.sort([received(frame, (RELAY, None))]) == [received(QUIC, (PEER, paths.local))]
    assert met_at(paths.local) == ("203.0.113.10", 20000)
    assert paths.is_relayed((PEER, paths.local))
    assert not paths.is_relayed((PEER, None))


def test_only_the_marks_of_a_direct_path_are_passed_on() -> None:
    paths = relayed()
    frame = data_head((PEER[0], PEER[1])) + QUIC
    marked = [(frame, len(frame), (RELAY, None), CE), (QUIC, len(QUIC), (PEER, None), CE)]
    assert [ecn for *_, ecn in paths.sort(marked)] == [NOT_ECT, CE]


def test_frames_from_elsewhere_are_ignored_and_counted() -> None:
    paths = relayed()
    frame = data_head((PEER[0], PEER[1])) + QUIC
    others: list[SocketAddress] = [PEER, (RELAY[0], 4434), ("203.0.113.11", 4433)]
    assert paths.sort([received(frame, (address, None)) for address in others]) == []
    paths.relay = None
    assert paths.sort([received(frame, (RELAY, None))]) == []
    assert paths.counters.forged == 4


def test_a_frame_in_a_frame_is_ignored() -> None:
    paths = relayed()
    head = data_head((PEER[0], PEER[1]))
    assert paths.sort([received(head + head + QUIC, (RELAY, None))]) == []
    assert paths.sort([received(head + b"\x30 a ping of a peer", (RELAY, None))]) == []
    assert paths.counters.forged == 2


@given(st.binary(max_size=60))
def test_hostile_frames_bring_only_what_looks_like_quic(data: bytes) -> None:
    paths = relayed()
    for found, *_ in paths.sort([received(data, (RELAY, None))]):
        assert found[0] >= 64
    paths.frames_arrived([data])


def test_a_direct_path_replaces_the_relayed_one() -> None:
    paths = relayed()
    constant: Path = (PEER, paths.local)
    real: SocketAddress = ("192.0.2.99", 7777)
    paths.use_direct(constant, real)
    assert paths.direct[constant] == real
    # The connection that the connection ID names puts its constant path in place of this one.
    assert paths.sort([received(QUIC, (real, None))]) == [received(QUIC, (real, None))]
    assert paths.counters.direct_in == 1
    paths.use_relay(constant)
    assert constant not in paths.direct
    assert paths.sort([received(QUIC, (real, None))]) == [received(QUIC, (real, None))]
    assert paths.counters.direct_in == 1


def test_what_is_neither_quic_nor_a_frame_goes_to_the_punches() -> None:
    paths = relayed()
    heard: list[tuple[bytes, SocketAddress]] = []
    paths.aside = lambda data, address: heard.append((data, address))
    assert paths.sort([received(data, (PEER, None)) for data in (b"\x30 ping", b"")]) == []
    assert heard == [(b"\x30 ping", PEER)]


def test_where_udp_is_blocked_other_ports_of_the_relay_are_reached_through_it() -> None:
    paths = relayed()
    other: Path = (("203.0.113.10", 20001), None)
    assert not paths.is_relayed(other)
    paths.relay, paths.stream = None, Stream()
    assert paths.is_relayed(other)
    assert not paths.is_relayed((("203.0.113.11", 20001), None))
    frame = data_head(("203.0.113.10", 20001)) + QUIC
    assert paths.wrapped([single(QUIC, other)], other[0], other) == [single(frame, other)]


def test_an_ipv6_socket_sees_mapped_addresses_and_frames_have_plain_ones() -> None:
    paths = relayed()
    paths.family = 10  # AF_INET6 on Linux; any other than AF_INET
    paths.relay = ("::ffff:203.0.113.10", 4433, 0, 0)
    frame = data_head((PEER[0], PEER[1])) + QUIC
    mapped: SocketAddress = (f"::ffff:{PEER[0]}", PEER[1], 0, 0)
    assert paths.sort([received(frame, (paths.relay, None))]) == [
        received(QUIC, (mapped, paths.local))
    ]
    over: Path = (paths.relay, None)
    batch = single(QUIC, (mapped, paths.local))
    assert paths.wrapped([batch], mapped, over) == [single(frame, over)]


MERGED = st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6)


@given(MERGED, st.integers(1, 40), st.booleans(), st.sampled_from([RELAY, PEER]))
def test_merged_datagrams_are_sorted_like_single_ones(
    parts: list[bytes], size: int, framed: bool, source: SocketAddress
) -> None:
    head = data_head((PEER[0], PEER[1])) if framed else b""
    data = b"".join(head + part for part in parts)
    path: Path = (source, None)
    merged, one_by_one = relayed(), relayed()
    aside: list[bytes] = []
    others: list[bytes] = []
    merged.aside = lambda data, address: aside.append(data)
    one_by_one.aside = lambda data, address: others.append(data)
    cut = [received(data[at : at + size], path) for at in range(0, len(data), size)]
    found = [
        received(datagrams[at : at + each], way)
        for datagrams, each, way, _ in merged.sort([(data, size, path, NOT_ECT)])
        for at in range(0, len(datagrams), each)
    ]
    assert found == one_by_one.sort(cut)
    assert aside == others
    assert merged.counters == one_by_one.counters


def test_merged_frames_of_the_relay_stay_merged() -> None:
    paths = relayed()
    head = data_head((PEER[0], PEER[1]))
    frames = head + QUIC + head + QUIC + head + QUIC[:3]
    assert paths.sort([(frames, len(head + QUIC), (RELAY, None), CE)]) == [
        (QUIC + QUIC + QUIC[:3], len(QUIC), (PEER, paths.local), NOT_ECT)
    ]
    constant: Path = (PEER, paths.local)
    over: Path = (RELAY, None)
    batch = (QUIC + QUIC + QUIC[:3], len(QUIC), constant)
    assert paths.wrapped([batch], PEER, over) == [(frames, len(head + QUIC), over)]
    assert (paths.counters.relayed_in, paths.counters.relayed_out) == (3, 3)


@pytest.mark.io
def test_frames_to_the_relay_are_sent_without_a_mark() -> None:
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(contextlib.closing(listening()))
        relay = stack.enter_context(contextlib.closing(listening()))
        paths = Paths()
        ours = binder(paths)(("127.0.0.1", 0), socket.AF_INET, 1 << 16)
        stack.callback(ours.close)
        for each in (target, relay, ours):
            each.use_ecn()
        paths.relay, paths.relay_host = relay.address, "127.0.0.1"
        paths.local, paths.is_used = local_of(("127.0.0.1", 1)), True
        through: Path = (("192.0.2.1", 9), paths.local)
        direct: Path = (("192.0.2.2", 9), paths.local)
        paths.use_direct(direct, target.address)
        ours.send_all([single(QUIC, direct)])
        assert read_one(target) == ECT0
        ours.send_all([single(QUIC, through)])
        assert read_one(relay) == NOT_ECT
        ours.leave_unmarked(direct[0])
        ours.send_all([single(QUIC, direct)])
        assert read_one(target) == NOT_ECT


def listening() -> UdpSocket:
    return UdpSocket.bind(("127.0.0.1", 0), socket.AF_INET, 1 << 16)


def read_one(udp: UdpSocket) -> int:
    """Returns the ECN codepoint of the next datagram."""
    assert select.select([udp.fileno()], [], [], PATIENCE)[0]
    ((*_, ecn),) = udp.receive(1)
    return ecn
