"""The fast paths through aioquic deliver the same bytes under loss, delay and reordering.

The network is simulated without sockets or a clock, from a random seed.
"""

from __future__ import annotations

import copy
import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from quicdist.carriers.quic.engine import (
    Batch,
    EngineError,
    Opening,
    aioquic_packets,
    aioquic_short,
    burst,
)
from quicdist.carriers.quic.engine import aioquic as adapter
from quicdist.carriers.quic.engine.aioquic_short import TESTED, ShortPaths, is_tested
from tests.carriers.owners import settings
from tests.carriers.quic.engine.network import opened

pytestmark = pytest.mark.skipif(
    not is_tested(), reason=f"short ways are for aioquic {', '.join(sorted(TESTED))} alone"
)

ADDRESS = ("127.0.0.1", 4433)
SHORT, PLAIN = "aioquic", "aioquic-plain"


def engine(name: str = SHORT, largest: int = 1200) -> adapter.AioquicEngine:
    """Returns the configuration of one side."""
    return adapter.engine(settings(engine=name, max_datagram_size=largest), lambda _: bytes(16))


@dataclass
class Side:
    """One end: the data to send and the data received."""

    connection: adapter.AioquicConnection
    received: dict[int, bytearray] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def handshake_completed(self, alpn: str) -> None: ...

    def stream_data(self, stream: int, data: bytes) -> None:
        self.received.setdefault(stream, bytearray()).extend(data)

    def stream_ended(self, stream: int, how: str) -> None:
        self.ended.append(how)

    def connection_id_issued(self, connection_id: bytes) -> None: ...

    def connection_id_retired(self, connection_id: bytes) -> None: ...


def each_of(batches: Sequence[Batch]) -> list[bytes]:
    """Returns the datagrams of batches."""
    return [data[at : at + size] for data, size, _ in batches for at in range(0, len(data), size)]


class Network:
    """The simulated network between two sides."""

    def __init__(self, dialer: str, listener: str, loss: float, seed: int, largest: int) -> None:
        self.now = 0.0
        self.loss = loss
        self._dice = random.Random(seed)
        self._flying: list[tuple[float, int, int, bytes]] = []
        self.hurt: Callable[[bytes, random.Random], bytes] | None = None
        """What changes some datagrams."""
        self._sent = 0
        client = engine(dialer, largest).dialer("localhost", ["quicdist/1"])
        client.verify_peer = lambda certificates: None
        client.connect((ADDRESS, None), 0.0)
        first = Opening(client._quic.original_destination_connection_id)
        server = engine(listener, largest).listener(first)
        server.verify_peer = lambda certificates: None
        self.sides = (Side(client), Side(server))

    def step(self) -> None:
        """Sends or delivers datagrams, or advances the clock."""
        # The first datagram creates the listener.
        live = [side for side in self.sides if side.connection._quic._network_paths]
        for place, side in enumerate(live):
            for data in each_of(side.connection.transmit(self.now)):
                if self._dice.random() < self.loss:
                    continue
                if self.hurt is not None and self._dice.random() < self.loss:
                    data = self.hurt(data, self._dice)
                late = 0.02 if self._dice.random() < self.loss else 0.0
                self._sent += 1
                arrival = self.now + 0.001 + late * self._dice.random()
                heapq.heappush(self._flying, (arrival, self._sent, 1 - place, data))
                if self._dice.random() < self.loss / 4:  # a copy
                    heapq.heappush(self._flying, (arrival, -self._sent, 1 - place, data))
        timers = [side.connection.progress().timer for side in live]
        assert timers == [QuicConnection.get_timer(side.connection._quic) for side in live]
        times = [at for at in timers if at is not None] + [at for at, *_ in self._flying[:1]]
        # A fixed clock would repeat the same timer rounding error forever.
        self.now = max(self.now + 1e-6, min(times))
        for place, data, size in self._arrivals():
            self.sides[place].connection.receive(data, size, (ADDRESS, None), self.now)
        for side, at in zip(live, timers, strict=True):
            if at is not None and at <= self.now:
                side.connection.handle_timer(self.now)
            side.connection.drain(side)
            side.connection.grant(1 << 20)

    def _arrivals(self) -> list[tuple[int, bytes, int]]:
        """Returns batches of what has arrived, as the socket joins it."""
        batches: list[tuple[int, bytes, int]] = []
        while self._flying and self._flying[0][0] <= self.now:
            _, _, place, data = heapq.heappop(self._flying)
            if batches and self._dice.random() < 0.9:
                to, before, size = batches[-1]
                if to == place and len(before) % size == 0 and len(data) <= size:
                    batches[-1] = (place, before + data, size)
                    continue
            batches.append((place, data, len(data)))
        return batches

    def run(self, expected: list[dict[int, bytes]]) -> None:
        for _ in range(20_000):
            self.step()
            if all(
                sum(map(len, side.received.values())) >= sum(map(len, due.values()))
                for side, due in zip(self.sides, expected, strict=True)
            ):
                return
        raise AssertionError("not all has arrived")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the uses of the fast paths."""
    counted: Counter[str] = Counter()
    receive, send = ShortPaths._receive_short, ShortPaths._send_burst

    def counting_receive(
        self: ShortPaths, data: bytes, size: int, at: int, addr: object, now: float, ecn: int
    ) -> int:
        end = receive(self, data, size, at, addr, now, ecn)
        counted["in"] += -((at - end) // size)
        return end

    def counting_send(self: ShortPaths, burst: Any, now: float) -> Any:
        counted["out"] += len(burst.payloads)
        return send(self, burst, now)

    monkeypatch.setattr(ShortPaths, "_receive_short", counting_receive)
    monkeypatch.setattr(ShortPaths, "_send_burst", counting_send)
    return counted


@pytest.mark.parametrize("largest", [1200, 16_000])
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("ends", [(SHORT, SHORT), (SHORT, PLAIN), (PLAIN, SHORT)])
def test_every_byte_arrives(
    ends: tuple[str, str], loss: float, largest: int, taken: Counter[str]
) -> None:
    network = Network(*ends, loss=loss, seed=7, largest=largest)
    dice = random.Random(8)
    sizes = (1, 63, 64, 500, 1100, 1171, 1172, 20_000, 100_000)
    sent: list[dict[int, bytes]] = [{}, {}]
    for side in network.sides:
        side.connection.send_whole(False)
        side.connection.peer_proved()
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    for _ in range(12):
        for place, side in enumerate(network.sides):
            # Mostly one stream, sometimes several at once, as with many senders.
            for stream in [0] if dice.random() < 0.6 else dice.sample([0, 4, 8, 12], 3):
                if place == 1 and stream not in network.sides[1].received:
                    continue  # not there yet
                data = dice.randbytes(dice.choice(sizes))
                side.connection.write(stream, [data])
                mine = sent[place]
                mine[stream] = mine.get(stream, b"") + data
        network.step()
        if dice.random() < 0.2:
            network.sides[0].connection.ping()
    network.run([sent[1], sent[0]])
    assert {stream: bytes(data) for stream, data in network.sides[1].received.items()} == sent[0]
    assert {stream: bytes(data) for stream, data in network.sides[0].received.items()} == sent[1]
    assert taken["in"] > 0
    assert taken["out"] > 0
    assert not any(side.connection.closed for side in network.sides)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Returns a datagram with a changed bit, often of the header, or a part of it."""
    if dice.random() < 0.3:
        return data[: dice.randrange(1, len(data) + 1)]
    changed = bytearray(data)
    place = dice.choice([0, 1, 9, 10, dice.randrange(len(data))])
    changed[place % len(data)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def in_step(name: str, one: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls both, and compares the results and the `Room`s."""

    def checked(*arguments: Any) -> Any:
        copies = [
            copy.copy(each) if name == "frames" and not at else each
            for at, each in enumerate(arguments)
        ]
        result = one(*arguments)
        assert result == other(*copies)
        if name == "frames":
            for field_ in aioquic_packets.Room.__slots__:
                assert getattr(arguments[0], field_) == getattr(copies[0], field_)
        return result

    return checked


@pytest.mark.skipif(
    aioquic_packets.take is aioquic_packets._take, reason="the compiled module was not built"
)
@pytest.mark.parametrize("seed", range(6))
def test_both_implementations_do_the_same_on_a_hostile_path(
    seed: int, monkeypatch: pytest.MonkeyPatch, taken: Counter[str]
) -> None:
    """Packets are damaged, repeated and lost, and keys and IDs change."""
    for name in ("samples", "take", "seal", "frames"):
        module = aioquic_packets if name == "samples" else aioquic_short
        compiled, python = getattr(module, name), getattr(aioquic_packets, f"_{name}")
        monkeypatch.setattr(module, name, in_step(name, compiled, python))
    loss = (0.02, 0.05, 0.1)[seed % 3]
    network = Network(SHORT, SHORT, loss=0.0, seed=seed, largest=(1200, 16_000)[seed % 2])
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    dice = random.Random(seed)
    sent: list[dict[int, bytes]] = [{}, {}]
    for side in network.sides:
        side.connection.send_whole(False)
        side.connection.peer_proved()
    network.loss, network.hurt = loss, damaged
    for round_ in range(60):
        for place, side in enumerate(network.sides):
            for stream in dice.sample([0, 4, 8], dice.choice([1, 1, 3])):
                if place == 1 and stream not in network.sides[1].received:
                    continue  # not there yet
                data = dice.randbytes(dice.choice((1, 60, 1170, 5000, 30_000)))
                side.connection.write(stream, [data])
                sent[place][stream] = sent[place].get(stream, b"") + data
        if round_ == 20:
            network.sides[seed % 2].connection._quic.request_key_update()
        if round_ % 20 == 15:
            network.sides[0].connection.renew_id()
        network.step()
    network.run([sent[1], sent[0]])
    for side, mine in zip(network.sides, reversed(sent), strict=True):
        assert {stream: bytes(data) for stream, data in side.received.items()} == mine
        assert side.connection.closed is None
    assert taken["in"] > 0
    assert taken["out"] > 0


def test_what_is_forged_or_replayed_changes_nothing() -> None:
    network = Network(SHORT, SHORT, loss=0.0, seed=1, largest=1200)
    client, server = (side.connection for side in network.sides)
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    client.send_whole(False)
    client.peer_proved()
    client.write(0, [b"once"])
    network.run([{}, {0: b"once"}])
    client.write(0, [b"twice" * 10])
    ((genuine, _, _),) = client.transmit(network.now)
    for place in range(len(genuine)):
        forged = bytearray(genuine)
        forged[place] ^= 1 << place % 8
        server.receive(bytes(forged), len(bytes(forged)), (ADDRESS, None), network.now)
    for _ in range(3):
        server.receive(genuine, len(genuine), (ADDRESS, None), network.now)
    server.receive(genuine[:20], len(genuine[:20]), (ADDRESS, None), network.now)
    server.receive(genuine * 3, len(genuine), (ADDRESS, None), network.now)
    server.drain(network.sides[1])
    assert bytes(network.sides[1].received[0]) == b"once" + b"twice" * 10
    assert server.closed is None


@pytest.mark.parametrize("pause", [0.0001, 0.0004])
def test_an_answer_acknowledges_what_it_answers_without_a_datagram_of_its_own(
    pause: float,
) -> None:
    network = Network(SHORT, SHORT, loss=0.0, seed=1, largest=1200)
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    now = network.now + 1
    for side in network.sides:
        side.connection.send_whole(False)
        side.connection.peer_proved()
        side.connection.transmit(now)  # the rest of the handshake
        side.connection.handle_timer(now)
    asking, answering = network.sides
    for _ in range(100):
        for one, other in ((asking, answering), (answering, asking)):
            now += pause
            one.connection.write(0, [bytes(64)])
            ((data, _, _),) = one.connection.transmit(now)
            other.connection.receive(data, len(data), (ADDRESS, None), now)
            other.connection.drain(other)
    for side in network.sides:
        assert side.connection._quic._loss.bytes_in_flight < 1200


@pytest.mark.parametrize("name", [SHORT, PLAIN])
def test_bulk_leaves_in_bursts_and_is_acknowledged_at_once(name: str) -> None:
    network = Network(name, name, loss=0.0, seed=1, largest=1200)
    client, server = (side.connection for side in network.sides)
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    client.send_whole(False)
    client.peer_proved()
    client.write(0, [bytes(4 * 1200 * burst(1200))])
    now = network.now + 1
    for connection in (client, server):  # the rest of the handshake
        connection.transmit(now)
    client._quic._loss._cc.congestion_window = 1 << 20
    client._pacer.pacer.set_rate(0.0, now)
    bursts = [each_of(client.transmit(now)) for _ in range(3)]
    assert [len(each) for each in bursts] == [burst(1200)] * 3
    assert not server.transmit(now)
    for data in bursts[0]:
        server.receive(data, len(data), (ADDRESS, None), now)
    in_flight = client._quic._loss.bytes_in_flight
    ((acknowledgement, _, _),) = server.transmit(now)
    client.receive(acknowledgement, len(acknowledgement), (ADDRESS, None), now)
    assert client._quic._loss.bytes_in_flight < in_flight
    server.receive(bursts[1][0], len(bursts[1][0]), (ADDRESS, None), now)
    assert not server.transmit(now)


def test_a_peer_that_sends_more_than_it_may_is_stopped() -> None:
    network = Network(SHORT, SHORT, loss=0.0, seed=1, largest=1200)
    client, server = (side.connection for side in network.sides)
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    client.send_whole(False)
    client.peer_proved()
    server.peer_proved()
    client._quic._remote_max_data = 1 << 40
    client.write(0, [bytes(3 << 20)])
    for stream in client._quic._streams.values():
        stream.max_stream_data_remote = 1 << 40
    now = network.now
    for _ in range(100_000):
        for data, size, _ in client.transmit(now):
            server.receive(data, size, (ADDRESS, None), now)
        for data, size, _ in server.transmit(now):
            client.receive(data, size, (ADDRESS, None), now)
        if server.closed is not None:
            break
        now += 0.002
    assert server.closed is not None
    assert "flow control" in server.closed.text


@pytest.mark.parametrize("name", [SHORT, PLAIN])
def test_a_packet_without_frames_ends_the_connection(name: str) -> None:
    network = Network(PLAIN, name, loss=0.0, seed=1, largest=1200)
    client, server = (side.connection for side in network.sides)
    while not all(side.connection._quic._handshake_confirmed for side in network.sides):
        network.step()
    number = client._quic._packet_number
    header = b"\x43" + client._quic._peer_cid.cid + number.to_bytes(4, "big")
    keys = client._quic._cryptos[Epoch.ONE_RTT]
    packet = keys.encrypt_packet(header, b"", number)
    server.receive(packet, len(packet), (ADDRESS, None), network.now)
    assert server.closed is not None
    assert "no frames" in server.closed.text


def test_they_are_not_for_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(engine().dialer("x", ["y"])._quic, ShortPaths)
    monkeypatch.setattr(aioquic_short, "version", lambda _: "1.7.99")
    quic = engine().dialer("x", ["y"])._quic
    assert isinstance(quic, QuicConnection)
    assert not isinstance(quic, ShortPaths)


def test_they_can_be_left_out() -> None:
    quic = engine(PLAIN).dialer("x", ["y"])._quic
    assert not isinstance(quic, ShortPaths)


def with_late_ack() -> tuple[Any, Sequence[Batch], float]:
    """Returns an end with an acknowledgement that came with data, those batches and the time."""
    network = opened(SHORT, SHORT)
    here, there = network.dialer, network.listener
    network.wait(1.0)
    here.write(0, b"question")
    for data, size, _ in here.connection.transmit(network.now):
        there.connection.receive(data, size, there.connection.path, network.now)
    here.connection.progress()
    there.write(0, b"answer")
    answers = there.connection.transmit(network.now + 0.01)
    for data, size, _ in answers:
        here.connection.receive(data, size, here.connection.path, network.now + 0.02)
    here.connection.drain(here)
    return here, answers, network.now + 0.02


@pytest.mark.parametrize("then", ["progress", "transmit", "handle_timer", "receive"])
def test_an_acknowledgement_with_data_counts_before_what_depends_on_it(then: str) -> None:
    here, answers, now = with_late_ack()
    assert here.data[0] == b"answer"
    quic = here.connection._quic
    assert quic._late_ack is not None
    assert quic._loss.bytes_in_flight
    if then == "progress":
        assert here.connection.progress().acknowledged == here.written
    elif then == "receive":
        data, size, _ = answers[0]
        here.connection.receive(data, size, here.connection.path, now + 0.01)
    else:
        getattr(here.connection, then)(now + 0.01)
    assert quic._late_ack is None
    assert not quic._loss.bytes_in_flight


def answered(size: int) -> Any:
    """Returns an end with an acknowledgement that came with data, and `size` bytes to send."""
    here, _, _ = with_late_ack()
    here.write(0, bytes(size))
    return here.connection


def watched(connection: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the reports to the congestion controller from now on."""
    reports: list[str] = []
    loss = connection._quic._loss
    take, sent = loss.on_ack_ranges, loss.on_burst_sent

    def taking(*arguments: Any) -> None:
        reports.append("ack")
        take(*arguments)

    def sending(*arguments: Any) -> None:
        reports.append("sent")
        sent(*arguments)

    monkeypatch.setattr(loss, "on_ack_ranges", taking)
    monkeypatch.setattr(loss, "on_burst_sent", sending)
    return reports


def test_a_message_leaves_before_the_acknowledgement_that_came_with_its_question_is_processed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = answered(100)
    reports = watched(connection, monkeypatch)
    assert len(connection.transmit(1.03)) == 1
    assert reports == []
    connection.progress()
    assert reports == ["ack", "sent"]
    (packet,) = connection._quic._loss.spaces[-1].sent_packets.values()
    assert connection._quic._loss.bytes_in_flight == packet.sent_bytes


@pytest.mark.parametrize("why", ["much data", "a full window"])
def test_other_data_waits_for_the_acknowledgement_that_makes_room(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = answered(100 if why == "a full window" else 5000)
    if why == "a full window":
        connection._congestion.congestion_window = connection._congestion.bytes_in_flight + 10
    reports = watched(connection, monkeypatch)
    assert connection.transmit(1.03)
    assert reports[0] == "ack"


@pytest.mark.parametrize("beside", ["nothing", "a path MTU probe", "a gap in the data"])
def test_a_loss_that_a_late_acknowledgement_reveals_leaves_in_the_next_turn(
    beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = answered(100)
    quic, loss = connection._quic, connection._quic._loss
    if beside == "a path MTU probe":
        connection._mtu_path = None
    elif beside == "a gap in the data":
        pending = quic._streams[0].sender._pending
        pending.subtract(pending.parts[0].start + 40, pending.parts[0].start + 60)
    monkeypatch.setattr(loss, "on_ack_ranges", lambda *_: setattr(loss, "has_lost", True))
    assert len(each_of(connection.transmit(1.03))) == (1 if beside == "nothing" else 2)
    assert quic._late_ack is None or beside == "nothing"
    assert connection.progress().has_more
    connection.transmit(1.03)
    assert not connection.progress().has_more


def test_what_arrives_puts_off_the_idle_timeout() -> None:
    connection = answered(100)
    quic = connection._quic
    assert quic._is_refresh_due
    before = quic._close_at
    connection.progress()
    assert quic._close_at > before
    assert quic._close_at == quic._refreshed_at + connection.idle_timeout()


def test_a_connection_that_ends_keeps_the_end_of_its_closing_period() -> None:
    connection = answered(0)
    connection.close(0, "done")
    quic = connection._quic
    assert quic._is_refresh_due
    connection.transmit(1.03)
    before = quic._close_at
    assert quic.get_timer() == before


def test_a_datagram_that_the_pacer_allows_alone_sets_the_timer_of_the_next() -> None:
    network = opened(SHORT, SHORT)
    connection: Any = network.dialer.connection
    network.wait(1.0)
    now = network.now
    pacer = connection._pacer.pacer
    pacer.set_rate(1e6, now)
    pacer.on_sent(int(pacer.room(now)) - 1)
    network.dialer.write(0, bytes(3 * connection.progress().datagram_size))
    ((data, size, _),) = connection.transmit(now)
    assert len(data) == size
    timer = connection.progress().timer
    assert timer < now + 2 * size / 1e6
    assert connection.transmit(timer)


def test_a_late_acknowledgement_that_fails_costs_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = answered(100)
    connection.transmit(1.03)
    monkeypatch.setattr(connection._quic._loss, "on_ack_ranges", lambda *_: 1 // 0)
    with pytest.raises(EngineError):
        connection.receive(bytes(100), 100, connection.path, 1.04)
