"""Which addresses a node offers, and which of a peer's it pings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.relay.candidates import (
    MAX_CANDIDATES,
    Address,
    Candidate,
    CandidateKind,
    accepted,
    own_candidates,
)
from quicdist.carriers.relay.offers import (
    MAX_OFFER,
    SECRET_LENGTH,
    Form,
    Offer,
    OfferError,
    decode,
)

HOST, OBSERVED, MAPPED = CandidateKind.HOST, CandidateKind.OBSERVED, CandidateKind.MAPPED
OUTSIDE: Address = ("203.0.113.9", 4433)

ports = st.integers(0, 65535)
addresses = st.tuples(st.ip_addresses().map(str), ports)
candidates = st.lists(
    st.builds(Candidate, st.sampled_from(CandidateKind), addresses), max_size=MAX_CANDIDATES
)


def test_addresses_that_outsiders_reach_come_first() -> None:
    found = own_candidates(
        ["192.168.1.5", "2001:4860::5"], 4433, observed=[OUTSIDE], mapped=[("203.0.113.9", 7000)]
    )
    assert found == [
        Candidate(MAPPED, ("203.0.113.9", 7000)),
        Candidate(OBSERVED, OUTSIDE),
        Candidate(HOST, ("2001:4860::5", 4433)),
        Candidate(HOST, ("192.168.1.5", 4433)),
    ]


def test_an_address_is_offered_once_and_in_one_form() -> None:
    found = own_candidates(["::ffff:203.0.113.9", "203.0.113.9"], 4433, observed=[OUTSIDE])
    assert found == [Candidate(OBSERVED, OUTSIDE)]


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "169.254.1.1", "fe80::1", "255.255.255.255"],
)
def test_an_address_that_is_not_unicast_is_neither_offered_nor_pinged(host: str) -> None:
    assert own_candidates([host], 4433) == []
    assert accepted([Candidate(HOST, (host, 4433))], []) == []


def test_loopback_is_pinged_only_by_a_node_on_loopback() -> None:
    offered = [Candidate(OBSERVED, ("127.0.0.1", 5000))]
    assert accepted(offered, own_candidates(["10.0.0.1"], 4433, observed=[OUTSIDE])) == []
    here = own_candidates(["127.0.0.1"], 4433, observed=[("127.0.0.1", 4433)])
    assert accepted(offered, here) == [("127.0.0.1", 5000)]


def test_own_addresses_are_not_pinged() -> None:
    own = own_candidates(["192.168.1.5"], 4433, observed=[OUTSIDE])
    offered = [Candidate(HOST, ("192.168.1.5", 4433)), Candidate(OBSERVED, ("198.51.100.7", 1))]
    assert accepted(offered, own) == [("198.51.100.7", 1)]


def test_a_node_has_at_most_eight_candidates() -> None:
    hosts = [f"10.0.0.{number}" for number in range(1, 20)]
    assert len(own_candidates(hosts, 4433)) == MAX_CANDIDATES
    offered = [Candidate(HOST, (host, 4433)) for host in hosts]
    assert len(accepted(offered, [])) == MAX_CANDIDATES


@given(
    form=st.sampled_from(Form),
    number=st.integers(0, 2**32 - 1),
    secret=st.binary(min_size=SECRET_LENGTH, max_size=SECRET_LENGTH),
    offered=candidates,
)
def test_an_offer_survives_its_encoding(
    form: Form, number: int, secret: bytes, offered: list[Candidate]
) -> None:
    data = Offer(form, number, secret, tuple(offered)).encode()
    assert len(data) <= MAX_OFFER
    assert decode(data).encode() == decode(decode(data).encode()).encode()
    for one, other in zip(decode(data).candidates, offered, strict=True):
        assert one.kind is other.kind
        assert one.address[1] == other.address[1]


@given(data=st.binary(max_size=MAX_OFFER + 2))
def test_bytes_that_are_no_offer_raise_only_offer_errors(data: bytes) -> None:
    try:
        offer = decode(data)
    except OfferError:
        return
    assert len(offer.candidates) <= MAX_CANDIDATES


@pytest.mark.parametrize("change", ["version", "form", "count", "kind", "family", "short", "long"])
def test_an_offer_with_one_wrong_byte_is_refused(change: str) -> None:
    data = bytearray(Offer(Form.OFFER, 1, bytes(16), (Candidate(HOST, OUTSIDE),)).encode())
    at = {"version": 0, "form": 1, "count": 22, "kind": 23, "family": 24}.get(change)
    if at is not None:
        data[at] = 99
    elif change == "short":
        data.pop()
    else:
        data.append(0)
    with pytest.raises(OfferError):
        decode(bytes(data))
