"""The closing state of a QUIC connection (RFC 9000, 10.2)."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.closing import Closing, Verdict


def test_the_close_is_repeated_once_and_then_forgotten() -> None:
    closing = Closing(100.0, 3.0, 50, math.inf)
    assert closing.due == 101.0
    assert closing.look(100.9) is Verdict.NOTHING
    assert closing.look(101.0) is Verdict.REPEAT
    assert closing.due == 103.0
    assert closing.look(102.0) is Verdict.NOTHING
    assert closing.look(103.0) is Verdict.FORGET
    assert closing.due is None
    assert closing.look(104.0) is Verdict.NOTHING


def test_it_is_over_even_if_nobody_looked_before() -> None:
    assert Closing(100.0, 3.0, 50, math.inf).look(110.0) is Verdict.FORGET


def test_datagrams_are_answered_ever_more_rarely() -> None:
    closing = Closing(0.0, 3.0, 50, math.inf)
    answered = [count for count in range(1, 1000) if closing.received(30)]
    assert answered == [1, 2, 4, 8, 16, 32, 64]


@given(
    st.integers(1, 1500),
    st.integers(0, 5000),
    st.lists(st.tuples(st.booleans(), st.integers(0, 1500)), max_size=80),
)
def test_an_address_that_is_not_validated_gets_three_times_what_it_sent(
    size: int, allowance: int, datagrams: list[tuple[bool, int]]
) -> None:
    closing = Closing(0.0, 3.0, size, allowance)
    sent = size * closing.may_send()
    credit = allowance
    for is_from_peer, count in datagrams:
        credit += 3 * count * is_from_peer
        if closing.received(count * is_from_peer):
            sent += size * closing.may_send()
        assert sent <= credit


def test_while_draining_there_is_nothing_to_send() -> None:
    closing = Closing(0.0, 3.0, 0, 0)
    assert closing.may_send(), "zero bytes"
