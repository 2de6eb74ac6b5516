"""Key updates of the aioquic engine (RFC 9001, 6)."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from quicdist.carriers.quic.engine import aioquic_keys
from quicdist.carriers.quic.engine.aioquic_keys import OneRttKeys, packets_per_key
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.limits import ConnectionBounds
from tests.carriers.quic.engine.network import HERE, opened, settings
from tests.support.engines import needs_native

PER_KEY = 150
DATAGRAM = 1200

each_pair = pytest.mark.parametrize(
    ("dialer", "listener"),
    [
        ("aioquic", "aioquic"),
        ("aioquic", "aioquic-plain"),
        ("aioquic-plain", "aioquic"),
        pytest.param("aioquic", "native", marks=needs_native),
        pytest.param("native", "aioquic", marks=needs_native),
    ],
)
each_aioquic = pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain"])


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Makes keys last for few packets. Counts the updates by who began them."""
    counter: Counter[str] = Counter()
    update = OneRttKeys._update_key

    def counted(keys: OneRttKeys, trigger: str) -> None:
        update(keys, trigger)
        counter[trigger] += 1

    monkeypatch.setattr(aioquic_keys, "MAX_PACKETS_PER_KEY", PER_KEY)
    monkeypatch.setattr(OneRttKeys, "_update_key", counted)
    return counter


def small(engine: str) -> QuicSettings:
    """Settings with small datagrams, and with which the peer may update keys often."""
    bounds = ConnectionBounds(min_packets_per_key=1)
    return settings(engine, max_datagram_size=DATAGRAM, bounds=bounds)


@each_pair
@pytest.mark.parametrize("seed", range(4))
def test_data_is_exact_while_keys_change(
    dialer: str, listener: str, seed: int, updates: Counter[str]
) -> None:
    network = opened(small(dialer), small(listener), seed=seed)
    network.loss, network.late = 0.03 * (seed % 2), 0.3
    here, there = network.dialer, network.listener
    sent = random.Random(seed).randbytes(20 * PER_KEY * DATAGRAM)
    here.write(0, sent)
    network.run(lambda: there.data[0])
    answer = sent[: len(sent) // 2]
    there.write(0, answer)
    network.run(lambda: len(there.data[0]) == len(sent) and len(here.data[0]) == len(answer))
    assert there.data[0] == sent
    assert here.data[0] == answer
    assert updates["local_update"] >= 3
    assert all(end.connection.closed is None for end in network.ends)


class Pair:
    """A dialer of the aioquic engine and a listener, whose packets arrive when a test wants."""

    def __init__(self, engine: str) -> None:
        self.network = opened(small("aioquic"), small(engine))
        self.network.wait(1.0)
        self.dialer: Any = self.network.dialer.connection
        self.listener: Any = self.network.listener.connection

    def write(self, data: bytes) -> bytes:
        """Returns the packet of the dialer with this data."""
        self.dialer.write(0, [data])
        ((packet, _, _),) = self.dialer.transmit(self.network.now)
        self.dialer.progress()
        return bytes(packet)

    def receives(self, packet: bytes) -> bytes:
        """Returns all data that the listener has received after this packet."""
        self.listener.receive(packet, len(packet), (HERE, None), self.network.now)
        self.listener.drain(self.network.listener)
        return bytes(self.network.listener.data[0])


@each_aioquic
def test_a_packet_of_the_last_phase_is_received_behind_one_of_this(engine: str) -> None:
    pair = Pair(engine)
    first = pair.write(b"first ")
    pair.dialer._quic.keys.update()
    second = pair.write(b"second")
    assert pair.receives(second) == b""
    assert pair.listener._quic.keys.key_phase == 1
    assert pair.receives(first) == b"first second"
    assert pair.listener.closed is None


@each_aioquic
def test_packets_of_the_last_phase_are_received_after_an_own_update(engine: str) -> None:
    pair = Pair(engine)
    assert pair.receives(pair.write(b"first ")) == b"first "
    pair.listener._quic.keys.update()
    assert pair.receives(pair.write(b"second ")) == b"first second "
    pair.network.listener.write(0, b"answer")
    pair.network.run(lambda: pair.network.dialer.data[0] == b"answer")
    assert pair.dialer._quic.keys.key_phase == 1
    assert pair.receives(pair.write(b"third")) == b"first second third"
    pair.dialer._quic.keys.update()
    assert pair.receives(pair.write(b"!")) == b"first second third!"
    assert pair.listener._quic.keys.key_phase == 0


def test_both_ends_may_begin_the_same_phase() -> None:
    pair = Pair("aioquic")
    pair.receives(pair.write(b"x"))
    for end, connection in zip(pair.network.ends, (pair.dialer, pair.listener), strict=True):
        connection._quic.keys.update()
        end.write(0, b"y")
    pair.network.run(lambda: all(end.data[0][-1:] == b"y" for end in pair.network.ends))
    pair.network.wait(1.0)
    assert pair.dialer._quic.keys.key_phase == pair.listener._quic.keys.key_phase == 1


@each_aioquic
def test_keys_are_not_updated_before_the_peer_has_them(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(small("aioquic"), small(engine))
    dialer: Any = network.dialer.connection
    keys = dialer._quic.keys
    keys.update()
    began = keys.first_sent
    monkeypatch.setattr(aioquic_keys, "MAX_PACKETS_PER_KEY", 1)
    network.muted = network.listener
    network.dialer.write(0, bytes(10 * DATAGRAM))
    network.wait(0.1)
    assert keys.first_sent == began
    network.muted = None
    network.run(lambda: dialer.progress().acknowledged == 10 * DATAGRAM)
    network.dialer.write(0, b"x")
    network.run(lambda: len(network.listener.data[0]) == 10 * DATAGRAM + 1)
    assert keys.first_sent > began


@each_aioquic
def test_forged_packets_of_other_phases_change_nothing(engine: str) -> None:
    pair = Pair(engine)
    genuine = pair.write(b"first ")
    for phase in range(2):
        dice = random.Random(phase)
        for _ in range(50):
            forged = genuine[:9] + dice.randbytes(len(genuine) - 9)
            assert pair.receives(bytes((forged[0] ^ dice.randrange(32),)) + forged[1:]) == b""
        assert pair.listener._quic.keys.key_phase == 0
    assert pair.receives(genuine) == b"first "
    pair.dialer._quic.keys.update()
    assert pair.receives(pair.write(b"second")) == b"first second"


def test_the_keys_of_the_last_phase_but_one_are_gone() -> None:
    pair = Pair("aioquic")
    pair.listener._quic.keys._least = 0
    old = pair.write(b"first ")
    for _ in range(2):
        pair.dialer._quic.keys.update()
        pair.receives(pair.write(b"next "))
    assert pair.receives(old) == b""
    assert pair.listener.closed is None
    pair.network.wait(5.0)
    assert pair.network.listener.data[0] == b"first next next "


@pytest.mark.parametrize(("size", "limit"), [(1200, 1 << 28), (1452, 1 << 28), (8900, 1 << 23)])
def test_keys_are_updated_before_their_limit(size: int, limit: int) -> None:
    """RFC 9001, B.1.1: 2^28 packets of up to 2^11 bytes, 2^23 of up to 2^16 bytes."""
    assert packets_per_key(size) <= limit / 2
