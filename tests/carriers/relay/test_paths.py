"""Single steps of the path choice. `test_simulation` has whole scenarios."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from quicdist.carriers.relay.candidates import Address, Candidate, CandidateKind
from quicdist.carriers.relay.offers import Form, Offer, OfferError, decode
from quicdist.carriers.relay.paths import (
    ANSWER_TIMEOUT,
    CHECK_ACTIVE,
    CHECK_IDLE,
    RETRY,
    RETRY_MAX,
    Negotiation,
    Output,
    PathMode,
    PeerPaths,
    SendOffer,
    Switched,
)
from quicdist.carriers.relay.punching import DURATION, Refusal, Transmit
from quicdist.protocol.role import Role

A: Address = ("198.51.100.1", 4433)
B: Address = ("198.51.100.2", 4433)


def one(address: Address) -> Sequence[Candidate]:
    return (Candidate(CandidateKind.OBSERVED, address),)


def offer_in(outputs: Sequence[Output]) -> bytes:
    (data,) = [output.data for output in outputs if isinstance(output, SendOffer)]
    return data


def transmits(outputs: Sequence[Output]) -> Sequence[Transmit]:
    return [output for output in outputs if isinstance(output, Transmit)]


class Pair:
    """Dialer and listener that have exchanged their offers at the time 0."""

    def __init__(self, round_trip: float = 0.0) -> None:
        self.dialer = PeerPaths(Role.DIALER, own=one(A))
        self.listener = PeerPaths(Role.LISTENER, own=one(B))
        answered = self.dialer.offer_received(offer_in(self.listener.proved(0.0)), 0.0, round_trip)
        self.first = self.listener.offer_received(offer_in(answered), 0.0, None)

    def exchange(self, now: float) -> None:
        """Has the listener ping the dialer, and all answers delivered."""
        queue = [(B, each) for each in transmits(self.listener.tick(now))]
        while queue:
            source, sent = queue.pop(0)
            if sent.address == A:
                got = self.dialer.receive(sent.data, source, now)
                queue += [(A, each) for each in transmits(got)]
            elif sent.address == B:
                got = self.listener.receive(sent.data, source, now)
                queue += [(B, each) for each in transmits(got)]


def test_the_listener_pings_with_the_answer_and_the_dialer_half_a_round_trip_later() -> None:
    pair = Pair(round_trip=0.2)
    assert [each.address for each in transmits(pair.first)] == [A]
    assert pair.dialer.next_at == pytest.approx(0.1)
    assert pair.dialer.tick(0.09) == []
    assert [each.address for each in transmits(pair.dialer.tick(0.1))] == [B]


def test_a_ping_alone_is_no_path_a_pong_is() -> None:
    pair = Pair()
    (ping,) = transmits(pair.first)
    got = pair.dialer.receive(ping.data, B, 0.0)
    assert pair.dialer.address is None
    pong, check = transmits(got)
    assert pair.listener.receive(pong.data, A, 0.0) == (Switched(A),)
    (answer,) = transmits(pair.listener.receive(check.data, A, 0.0))
    assert pair.dialer.receive(answer.data, B, 0.0) == (Switched(B),)


def test_a_path_in_use_that_answers_nothing_is_given_up_after_three_pings() -> None:
    pair = Pair()
    pair.exchange(0.05)
    listener = pair.listener
    assert listener.address == A
    now = 100.0
    listener.sent(now)
    outputs: list[Output] = []
    while listener.address is not None:
        now = max(now, listener.next_at)
        listener.sent(now)
        outputs += listener.tick(now)
    assert now - 100.0 <= 3 * CHECK_ACTIVE + 0.01
    assert outputs.count(Switched(None)) == 1
    assert len(transmits(outputs)) == 3


def test_an_idle_path_is_pinged_every_ten_seconds() -> None:
    pair = Pair()
    pair.exchange(0.05)
    times = []
    for _ in range(5):
        times.append(pair.listener.next_at)
        pair.exchange(times[-1])
    pauses = [b - a for a, b in itertools.pairwise(times[1:])]
    assert pauses == pytest.approx([CHECK_IDLE] * 3)


def test_attempts_become_rare_where_none_succeeds() -> None:
    listener = PeerPaths(Role.LISTENER, own=one(B))
    listener.proved(0.0)
    pauses, now, failed_at = [], 0.0, 0.0
    while now < 3000:
        now = listener.next_at
        is_waiting = listener.negotiation is Negotiation.OFFERED
        listener.tick(now)
        if is_waiting:
            failed_at = now
        else:
            pauses.append(now - failed_at)
    assert pauses[:3] == [RETRY, 2 * RETRY, 4 * RETRY]
    assert pauses[-1] == RETRY_MAX
    assert listener.negotiation in (Negotiation.OFFERED, Negotiation.IDLE)


def test_a_peer_that_rejects_the_stream_gets_no_more_offers() -> None:
    listener = PeerPaths(Role.LISTENER, own=one(B))
    listener.proved(0.0)
    listener.declined()
    assert listener.next_at == math.inf


def test_a_late_answer_to_an_earlier_offer_is_ignored() -> None:
    listener, dialer = PeerPaths(Role.LISTENER, own=one(B)), PeerPaths(Role.DIALER, own=one(A))
    late = offer_in(dialer.offer_received(offer_in(listener.proved(0.0)), 0.0, None))
    listener.tick(ANSWER_TIMEOUT)
    again = offer_in(listener.tick(ANSWER_TIMEOUT + RETRY))
    assert decode(again).round == 2
    assert listener.offer_received(late, ANSWER_TIMEOUT + RETRY, None) == ()
    assert listener.negotiation is Negotiation.OFFERED


def test_offers_in_quick_succession_cause_one_attempt() -> None:
    dialer = PeerPaths(Role.DIALER, own=one(A))
    offer = Offer(Form.OFFER, 1, bytes(16), one(B)).encode()
    assert dialer.offer_received(offer, 10.0, None)
    assert not dialer.offer_received(offer, 10.5, None)
    assert dialer.offer_received(offer, 11.0, None)


def test_bad_offers_raise_and_change_nothing() -> None:
    dialer = PeerPaths(Role.DIALER, own=one(A))
    with pytest.raises(OfferError):
        dialer.offer_received(b"\0", 0.0, None)
    assert dialer.next_at == math.inf


def test_forged_pings_are_ignored_and_counted() -> None:
    pair = Pair()
    (ping,) = transmits(pair.first)
    forged = ping.data[:-1] + bytes([ping.data[-1] ^ 1])
    assert pair.dialer.receive(forged, B, 0.0) == ()
    assert pair.dialer.receive(b"x" * 27, B, 0.0) == ()
    assert pair.dialer.rejected == {Refusal.FORGED: 2}


def test_a_ping_that_seems_to_come_from_the_own_address_is_ignored() -> None:
    pair = Pair()
    (ping,) = transmits(pair.first)
    assert pair.dialer.receive(ping.data, A, 0.0) == ()
    assert pair.dialer.rejected == {Refusal.OWN: 1}


def test_an_attempt_ends_after_four_seconds() -> None:
    pair = Pair()
    pair.dialer.tick(DURATION + 0.01)
    assert pair.dialer.negotiation is Negotiation.IDLE
    assert pair.dialer.next_at == math.inf


@pytest.mark.parametrize("mode", [PathMode.AUTO, PathMode.DIRECT_ONLY])
def test_a_dialer_makes_no_offer_of_its_own(mode: PathMode) -> None:
    dialer = PeerPaths(Role.DIALER, mode, own=one(A))
    assert dialer.proved(0.0) == ()
