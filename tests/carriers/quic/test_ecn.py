"""The validation of ECN counts (RFC 9000, 13.4.2.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.ecn import EcnCounts, EcnValidation

SENT = 1 << 20


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5)), min_size=1))
def test_correct_counts_are_believed_and_each_mark_is_reported_once(
    acks: list[tuple[int, int, int]],
) -> None:
    validation = EcnValidation()
    ect0, ce = 1, 0
    reported = 0
    assert validation.acknowledged(1, EcnCounts(ect0, 0, ce), SENT) == 0
    for unmarked, marked, reordered in acks:
        # Some ACK frames were lost or reordered: their packets are counted, not newly acknowledged.
        ect0, ce = ect0 + unmarked + reordered, ce + marked
        reported += validation.acknowledged(unmarked + marked, EcnCounts(ect0, 0, ce), SENT)
    assert validation.marks
    assert reported == ce


@pytest.mark.parametrize(
    ("packets", "counts"),
    [
        (1, None),
        (3, EcnCounts(11, 0, 1)),
        (1, EcnCounts(10, 1, 0)),
        (0, EcnCounts(9, 0, 1)),
        (0, EcnCounts(10, 0, -1)),
        (1, EcnCounts(SENT + 1, 0, 0)),
    ],
    ids=["no counts", "bleached", "ECT(1)", "lower", "negative", "more than sent"],
)
def test_wrong_counts_end_marking(packets: int, counts: EcnCounts | None) -> None:
    validation = EcnValidation()
    validation.acknowledged(10, EcnCounts(10, 0, 0), SENT)
    assert validation.acknowledged(packets, counts, SENT) == 0
    assert not validation.marks
    assert validation.acknowledged(1, EcnCounts(100, 0, 50), SENT) == 0


def test_a_path_that_marks_everything_is_not_believed() -> None:
    validation = EcnValidation()
    for ce in range(1, 10):
        assert validation.acknowledged(1, EcnCounts(0, 0, ce), SENT) == 1
    assert validation.acknowledged(1, EcnCounts(0, 0, 10), SENT) == 0
    assert not validation.marks


def test_an_acknowledgement_of_unmarked_packets_needs_no_counts() -> None:
    validation = EcnValidation()
    assert validation.acknowledged(0, None, SENT) == 0
    assert validation.marks


def test_a_new_path_begins_with_the_counts_of_its_first_acknowledgement() -> None:
    validation = EcnValidation()
    validation.acknowledged(1, None, SENT)
    validation.restart()
    assert validation.acknowledged(5, EcnCounts(3, 0, 2), SENT) == 0
    assert validation.marks
    assert validation.acknowledged(5, EcnCounts(6, 0, 4), SENT) == 2
    assert validation.acknowledged(2, EcnCounts(6, 0, 5), SENT) == 0
    assert not validation.marks
