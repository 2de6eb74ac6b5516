"""The kind of a NAT by the addresses that peers observe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.doctor.nat import Address, Kind, describe, kind_of
from quicdist.etf import Atom, Term
from quicdist.kernel.net_kernel import observed_address

OWN = ("192.168.1.5", 4433)
OUTSIDE = ("203.0.113.21", 4433)
ADDRESSES = st.tuples(st.ip_addresses().map(str), st.integers(1, 65535))


@pytest.mark.parametrize(
    ("observed", "kind"),
    [
        ([OWN], Kind.NONE),
        ([("::ffff:192.168.1.5", 4433)], Kind.NONE),
        ([OWN, OWN], Kind.NONE),
        ([OUTSIDE], Kind.PORT_KEPT),
        ([("203.0.113.21", 9)], Kind.PORT_CHANGED),
        ([OUTSIDE, OUTSIDE], Kind.INDEPENDENT),
        ([OUTSIDE, ("203.0.113.21", 9)], Kind.DEPENDENT),
        ([OWN, OUTSIDE], Kind.DEPENDENT),
    ],
)
def test_the_kind(observed: list[Address], kind: Kind) -> None:
    assert kind_of(OWN, observed) is kind


@given(ADDRESSES, st.lists(ADDRESSES, min_size=1, max_size=4))
def test_the_order_of_observers_does_not_matter(own: Address, observed: list[Address]) -> None:
    assert kind_of(own, observed) is kind_of(own, observed[::-1])


def test_what_would_help_is_said() -> None:
    text = describe(OWN, {"4433@203.0.113.10": OUTSIDE})
    assert "sees 203.0.113.21:4433: a NAT that keeps the port" in text
    assert "--via" in text
    assert "--observer" in text


def test_nothing_is_concluded_without_an_observation() -> None:
    text = describe(OWN, {"5555@203.0.113.10": None})
    assert text == "from 192.168.1.5:4433, 5555@203.0.113.10 does not tell what it sees"


def test_without_a_nat_no_relay_is_advised() -> None:
    assert describe(OUTSIDE, {"a@b": OUTSIDE}).endswith("no NAT in between")


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        ((Atom("ok"), (b"203.0.113.21", 4433)), OUTSIDE),
        ((Atom("ok"), (b"2001:db8::1", 1)), ("2001:db8::1", 1)),
        ((Atom("ok"), (b"evil\x1b[2J", 4433)), None),
        ((Atom("ok"), (b"\xff", 4433)), None),
        ((Atom("ok"), (b"203.0.113.21", 0)), None),
        ((Atom("ok"), (b"203.0.113.21", 65536)), None),
        ((Atom("error"), Atom("noconnection")), None),
        (None, None),
    ],
)
def test_the_answer_of_a_node_is_checked(answer: Term, address: Address | None) -> None:
    assert observed_address(answer) == address
