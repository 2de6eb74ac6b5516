"""Pings and pongs: who may send them, and which are ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.relay.candidates import MAX_CANDIDATES, Address
from quicdist.carriers.relay.punching import (
    DURATION,
    LENGTH,
    PING_INTERVAL,
    PUNCH_KIND,
    Pinged,
    Pinger,
    Ponged,
    Punch,
    Refusal,
    ReplayWindow,
    SessionKey,
    Verb,
    session_of,
)
from quicdist.protocol.role import Role

A: Address = ("198.51.100.1", 4433)
B: Address = ("198.51.100.2", 4433)
KEY = SessionKey.derive(b"a" * 16, b"b" * 16)


def pair() -> tuple[Pinger, Pinger]:
    return Pinger(KEY, Role.DIALER), Pinger(KEY, Role.LISTENER)


def test_a_ping_is_answered_and_the_pong_gives_the_round_trip() -> None:
    a, b = pair()
    ping = a.ping(B, 10.0)
    heard = b.receive(ping.data, A, 10.1)
    assert isinstance(heard, Pinged)
    assert heard.address == heard.pong.address == A
    assert a.receive(heard.pong.data, B, 10.25) == Ponged(B, 0.25)


def test_the_layout() -> None:
    data = KEY.seal(Verb.PING, Role.LISTENER, 7)
    assert len(data) == LENGTH == 27
    assert data[0] == PUNCH_KIND < 64
    assert session_of(data) == KEY.name == data[2:6]
    assert data[6:11] == bytes([0, 0, 0, 0, 7])


def test_both_secrets_make_the_key() -> None:
    others = [SessionKey.derive(b"b" * 16, b"a" * 16), SessionKey.derive(b"a" * 16, b"c" * 16)]
    assert len({KEY.key, *(other.key for other in others)}) == 3
    assert KEY.key.hex() not in repr(KEY)
    assert repr(KEY.key) not in repr(KEY)


@given(at=st.integers(0, LENGTH - 1), bit=st.integers(0, 7), verb=st.sampled_from(Verb))
def test_a_changed_bit_is_noticed(at: int, bit: int, verb: Verb) -> None:
    data = bytearray(KEY.seal(verb, Role.DIALER, 3))
    data[at] ^= 1 << bit
    # Only the name of the session is not looked at: it has led to this session.
    assert pair()[1].receive(bytes(data), A, 0.0) is Refusal.FORGED


@given(data=st.binary(max_size=64))
def test_any_bytes_are_ignored(data: bytes) -> None:
    assert pair()[1].receive(data, A, 0.0) is Refusal.FORGED


def test_own_datagrams_are_ignored() -> None:
    a, _ = pair()
    assert a.receive(a.ping(A, 0.0).data, A, 0.0) is Refusal.OWN


def test_a_replayed_ping_is_ignored() -> None:
    a, b = pair()
    ping = a.ping(B, 0.0)
    assert isinstance(b.receive(ping.data, A, 0.0), Pinged)
    assert b.receive(ping.data, ("203.0.113.66", 1), 0.0) is Refusal.REPEATED


def test_a_pong_counts_once_and_only_from_the_pinged_address() -> None:
    a, b = pair()
    heard = b.receive(a.ping(B, 0.0).data, A, 0.0)
    assert isinstance(heard, Pinged)
    assert a.receive(heard.pong.data, A, 0.1) is Refusal.ELSEWHERE
    assert a.receive(heard.pong.data, B, 0.1) == Ponged(B, 0.1)
    assert a.receive(heard.pong.data, B, 0.2) is Refusal.REPEATED


@given(numbers=st.lists(st.integers(0, 3000), max_size=100))
def test_each_number_is_taken_once(numbers: list[int]) -> None:
    window = ReplayWindow()
    taken: set[int] = set()
    for number in numbers:
        if window.take(number):
            assert number not in taken
            taken.add(number)
        else:
            assert number in taken or number <= max(taken) - 1024


def test_twenty_pings_a_second_for_four_seconds_to_each_address() -> None:
    punch = Punch([A, B], start=1.0)
    assert punch.due(0.9) == ()
    count, now = 0, 1.0
    while now < 1.0 + DURATION + 1:
        count += len(punch.due(now))
        now = max(punch.next_at, now + 0.001)
    assert count == pytest.approx(2 * DURATION / PING_INTERVAL, abs=2)


def test_a_late_timer_causes_no_burst() -> None:
    punch = Punch([A], start=0.0)
    counts = [len(punch.due(now / 100)) for now in range(200, 300)]
    assert max(counts) == 1
    assert sum(counts) <= 40


@pytest.mark.parametrize("offered", [0, 3, MAX_CANDIDATES])
def test_a_peer_has_at_most_eight_addresses(offered: int) -> None:
    punch = Punch([("198.51.100.9", port) for port in range(1, offered + 1)], start=0.0)
    met = [punch.met(("198.51.100.10", port)) for port in range(1, 20)]
    assert sum(met) == MAX_CANDIDATES - offered
    assert len(punch.due(0.0)) == MAX_CANDIDATES
