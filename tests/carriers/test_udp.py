"""Batched datagrams: fewer system calls with the same result."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast
from unittest import mock

import pytest
from hypothesis import given, settings, strategies

from quicdist.carriers.quic import udp
from quicdist.carriers.quic.ecn import CE, ECT0, NOT_ECT
from quicdist.carriers.quic.engine import Batch, Received, SocketAddress, SocketOf, load_engine
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.udp import UdpSocket
from tests.carriers.owners import CREDENTIALS
from tests.carriers.quic.engine.network import TOKENS
from tests.support.engines import IS_BUILT, needs_native
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

SIZES = [1200] * 70 + [700, 1200, 1200, 50, 1201, 1200] + [16_000] * 5 + [1, 1, 2]


def readers() -> list[SocketOf | None]:
    """Python's reader, and the compiled ones that are installed; that of an engine is last."""
    found = [udp.reader_of()]
    if IS_BUILT:
        found.append(load_engine(QuicSettings(CREDENTIALS, engine="native"), TOKENS.of).socket_of)
    return [None, *(each for each in found if each is not None)]


SOCKETS = readers()

needs_reader = pytest.mark.skipif(udp.reader_of() is None, reason="the reader was not built")


def bound(host: str, family: int, socket_of: SocketOf | None) -> UdpSocket:
    made = UdpSocket.bind((host, 0), family, 4 << 20)
    made.compile(socket_of)
    return made


@pytest.fixture(
    params=itertools.product(["127.0.0.1", "0.0.0.0"], SOCKETS),
    ids=lambda each: f"{each[0]}-{'plain' if each[1] is None else each[1].__module__}",
)
def sockets(request: pytest.FixtureRequest) -> Iterator[list[UdpSocket]]:
    """One sending and two receiving sockets."""
    host, socket_of = request.param
    with ExitStack() as stack:
        made = [bound(each, socket.AF_INET, socket_of) for each in ("127.0.0.1", host, host)]
        for one in made:
            stack.callback(one.close)
        yield made


def batch(targets: list[UdpSocket]) -> list[Batch]:
    """Yields runs of equal size to one address, with breaks."""
    paths = [(("127.0.0.1", int(target.address[1])), None) for target in targets]
    return [
        (bytes([number % 256]) * size, size, paths[number % 40 == 7])
        for number, size in enumerate(SIZES)
    ]


def parts(batches: list[Received]) -> list[bytes]:
    """Returns the single datagrams."""
    return [data[at : at + size] for data, size, *_ in batches for at in range(0, len(data), size)]


def received(target: UdpSocket, count: int) -> list[bytes]:
    datagrams: list[bytes] = []
    while len(datagrams) < count:
        assert select.select([target.fileno()], [], [], 30)[0], "some are missing"
        datagrams += parts(target.receive(16))
    return datagrams


def check(sender: UdpSocket, targets: list[UdpSocket]) -> None:
    datagrams = batch(targets)
    sender.send_all(datagrams)
    assert not sender.has_queue
    for target in targets:
        due = [data for data, _, path in datagrams if path[0][1] == target.address[1]]
        assert received(target, len(due)) == due
        assert target.receive(16) == []


def test_they_arrive_as_they_were_sent(sockets: list[UdpSocket]) -> None:
    sender, *targets = sockets
    check(sender, targets)


@pytest.mark.skipif(not udp._LINUX, reason="only Linux tells it")
def test_it_tells_how_much_waits_to_be_read(sockets: list[UdpSocket]) -> None:
    sender, target, _ = sockets
    assert target.unread() == 0
    sender.send_all([(bytes(12_000), 1200, (("127.0.0.1", int(target.address[1])), None))])
    assert select.select([target.fileno()], [], [], PATIENCE)[0]
    assert target.unread() > 0
    assert received(target, 10) == [bytes(1200)] * 10
    assert target.unread() == 0


def test_a_closed_socket_has_nothing_to_read(sockets: list[UdpSocket]) -> None:
    sender = sockets[0]
    sender.close()
    assert sender.unread() == 0


@pytest.mark.parametrize(
    ("family", "host", "sender"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_every_reader_names_paths_alike(family: int, host: str, sender: str) -> None:
    found = []
    other = socket.AF_INET6 if ":" in sender else socket.AF_INET
    with socket.socket(other, socket.SOCK_DGRAM) as peer:
        peer.bind((sender, 0))
        for socket_of in SOCKETS:
            with contextlib.closing(bound(host, family, socket_of)) as one:
                peer.sendto(b"hello", (sender, one.address[1]))
                assert select.select([one.fileno()], [], [], PATIENCE)[0]
                found += one.receive(1)
    assert len(found) == len(SOCKETS)
    assert all(each == found[0] for each in found)
    assert found[0][:2] == (b"hello", 5)


@pytest.mark.parametrize(
    ("family", "host", "sender"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("socket_of", SOCKETS)
@pytest.mark.parametrize("is_marked", [True, False])
def test_codepoints_are_sent_and_read(
    family: int, host: str, sender: str, socket_of: SocketOf | None, is_marked: bool
) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(contextlib.closing(bound(host, family, socket_of)))
        source = stack.enter_context(contextlib.closing(bound(host, family, None)))
        target.use_ecn()
        source.use_ecn()
        to = f"::ffff:{sender}" if family == socket.AF_INET6 and "." in sender else sender
        rest = () if family == socket.AF_INET else (0, 0)
        address = cast(SocketAddress, (to, target.address[1], *rest))
        if not is_marked:
            source.leave_unmarked(address)
        source.send_all([(b"a" * 300, 100, (address, None)), (b"b", 1, (address, None))])
        found: list[Received] = []
        while sum(len(data) for data, *_ in found) < 301:
            assert select.select([target.fileno()], [], [], PATIENCE)[0], "some are missing"
            found += target.receive(16)
    assert {ecn for *_, ecn in found} == {ECT0 if is_marked else NOT_ECT}


@pytest.mark.parametrize("socket_of", SOCKETS)
def test_datagrams_with_other_marks_are_batches_of_their_own(socket_of: SocketOf | None) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(
            contextlib.closing(bound("127.0.0.1", socket.AF_INET, socket_of))
        )
        target.use_ecn()
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for mark in (ECT0, ECT0, CE, CE, NOT_ECT, CE):
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark)
            peer.sendto(b"x", target.address)
        found: list[Received] = []
        while len(parts(found)) < 6:
            assert select.select([target.fileno()], [], [], PATIENCE)[0], "some are missing"
            found += target.receive(16)
    assert [ecn for data, size, _, ecn in found for _ in range(0, len(data), size)] == [
        ECT0, ECT0, CE, CE, NOT_ECT, CE
    ]  # fmt: skip


@needs_native
def test_compiled_code_does_not_send_to_addresses_without_marks() -> None:
    marked, unmarked = ("192.0.2.1", 1000), ("192.0.2.1", 1001)
    with contextlib.closing(bound("127.0.0.1", socket.AF_INET, SOCKETS[-1])) as one:
        one.leave_unmarked(unmarked)
        assert one.sender_to(marked) is not None
        assert one.sender_to(unmarked) is None


def test_where_the_kernel_cannot_cut_them(
    sockets: list[UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, *targets = sockets
    monkeypatch.setattr(udp, "_UDP_SEGMENT", 250)
    check(sender, targets)
    assert not sender._segments
    check(sender, targets)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("socket_of", list(dict.fromkeys([None, udp.reader_of()])))
def test_datagrams_of_one_sender_and_size_are_one_batch(
    host: str, socket_of: SocketOf | None
) -> None:
    with ExitStack() as stack:
        sender, target = (bound(each, socket.AF_INET, socket_of) for each in ("127.0.0.1", host))
        stack.callback(sender.close)
        stack.callback(target.close)
        check_batches(sender, target)


def check_batches(sender: UdpSocket, target: UdpSocket) -> None:
    path = (("127.0.0.1", int(target.address[1])), None)
    sizes = [900] * 10 + [100, 100, 100, 900, 50, 900]
    for number, size in enumerate(sizes):
        sender.send(bytes([number]) * size, path)
    batches: list[Received] = []
    while len(parts(batches)) < len(sizes):
        assert select.select([target.fileno()], [], [], 30)[0], "some are missing"
        batches += target.receive(16)
    assert [(len(data), size) for data, size, *_ in batches] == [
        (10 * 900 + 100, 900),
        (200, 100),
        (950, 900),
        (900, 900),
    ]
    assert parts(batches) == [bytes([number]) * size for number, size in enumerate(sizes)]


@needs_reader
@given(data=strategies.data())
@settings(deadline=None, max_examples=50)
def test_the_compiled_reader_reads_as_the_other_one(data: strategies.DataObject) -> None:
    """Runs of any sizes and marks, from two senders, merged by the kernel or not."""
    runs = strategies.tuples(
        strategies.integers(0, 1),
        strategies.sampled_from([ECT0, CE, NOT_ECT]),
        strategies.integers(1, 24),
        strategies.sampled_from([0, 1, 2, 700, 1200, 1201]),
    )
    sent = data.draw(strategies.lists(runs, max_size=5))
    limit = data.draw(strategies.sampled_from([1, 3, 16, 128]))
    host = data.draw(strategies.sampled_from(["127.0.0.1", "0.0.0.0"]))
    total = sum(count for _, _, count, _ in sent)
    with ExitStack() as stack:
        peers = [
            stack.enter_context(contextlib.closing(bound("127.0.0.1", socket.AF_INET, None)))
            for _ in range(2)
        ]
        found = []
        for socket_of in (None, udp.reader_of()):
            made = bound(host, socket.AF_INET, socket_of)
            target = stack.enter_context(contextlib.closing(made))
            target.use_ecn()
            path = (("127.0.0.1", int(target.address[1])), None)
            for peer, mark, count, size in sent:
                peers[peer]._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark)
                many = b"".join(bytes([number]) * size for number in range(count))
                peers[peer].send_all([(many, size, path)] if size else [(many, 0, path)] * count)
            found.append(list(each_of(target, total, limit)))
    assert found[0] == found[1]


def each_of(target: UdpSocket, count: int, limit: int) -> Iterator[tuple[bytes, object, int]]:
    """Yields datagrams with their paths and codepoints."""
    while count:
        assert select.select([target.fileno()], [], [], PATIENCE)[0], "some are missing"
        for data, size, path, ecn in target.receive(limit):
            for at in range(0, len(data) or 1, size or 1):
                count -= 1
                yield data[at : at + size], path, ecn


@needs_reader
def test_an_error_of_the_socket_does_not_hide_datagrams(sockets: list[UdpSocket]) -> None:
    _, target, other = sockets
    reader = udp.reader_of()
    assert reader is not None
    target._compiled = reader(target.fileno(), False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        closed = gone.getsockname()
    port = target.address[1]
    target.send(b"refused", (closed, None))
    other.send(b"hello", (("127.0.0.1", int(port)), None))
    assert received(target, 1) == [b"hello"]


def test_others_behind_one_that_seemed_alone_are_read_soon(sockets: list[UdpSocket]) -> None:
    sender, target, _ = sockets
    path = (("127.0.0.1", int(target.address[1])), None)
    sender.send(b"alone", path)
    assert received(target, 1) == [b"alone"]
    sent = [bytes([number]) * (number + 1) for number in range(60)]
    for data in sent:
        sender.send(data, path)
    looks = [parts(target.receive(16)) for _ in range(len(sent) // 3)]
    assert [data for look in looks for data in look] == sent


@pytest.mark.parametrize("cuts", [True, False])
def test_a_batch_leaves_as_its_datagrams(
    sockets: list[UdpSocket], monkeypatch: pytest.MonkeyPatch, cuts: bool
) -> None:
    sender, target, _ = sockets
    monkeypatch.setattr(sender, "_segments", sender._segments and cuts)
    path = (("127.0.0.1", int(target.address[1])), None)
    data = bytes(range(250)) * 20
    sender.send_all([(data, 1200, path), (b"last", 4, path)])
    due = [data[at : at + 1200] for at in range(0, len(data), 1200)]
    assert received(target, len(due) + 1) == [*due, b"last"]


def test_one_that_can_never_leave_keeps_no_other_back(sockets: list[UdpSocket]) -> None:
    sender, target, _ = sockets
    path = (("127.0.0.1", int(target.address[1])), None)
    with pytest.raises(OSError, match="Message too long"):
        sender.send_all([(bytes(70_000), 70_000, path), (b"small", 5, path)])
    assert received(target, 1) == [b"small"]


def test_a_datagram_too_large_for_the_interface_leaves_nothing_to_read() -> None:
    """The error queue is read, because an event loop would spin otherwise.

    The kernel reports the socket readable until the error is read.
    """
    with contextlib.closing(UdpSocket.bind(("127.0.0.1", 0), socket.AF_INET, 4 << 20)) as ours:
        with contextlib.suppress(OSError):
            ours.send(bytes(65_530), (("127.0.0.1", 9), None))
        poll = select.poll()
        poll.register(ours.fileno(), select.POLLIN)
        assert poll.poll(1000), "the kernel noted nothing: this tests nothing"
        assert ours.receive(8) == []
        assert poll.poll(0) == []
        assert not ours.bounced


def test_an_event_loop_gets_file_descriptors() -> None:
    """It is all that `add_reader` takes by its documentation; some loops accept objects."""
    loop = mock.Mock(spec_set=asyncio.AbstractEventLoop)
    sock = UdpSocket.bind(("127.0.0.1", 0), socket.AF_INET, 1 << 16)
    sock.watch(loop, lambda: None)
    sock.close()
    descriptors = [call.args[0] for call in loop.mock_calls]
    assert descriptors
    assert all(isinstance(each, int) for each in descriptors)
