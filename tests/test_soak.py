"""The violations that `make soak` reports."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path

import pytest

from soak.processes import Kind, Member, Sample
from soak.python_node import Ledger
from soak.report import growth, halves, slope, warm, wrong


def counts_of(*events: tuple[int, int] | str) -> Counter[str]:
    """Messages are (incarnation, number). Other entries are established or lost connections."""
    ledger = Ledger()
    for event in events:
        if isinstance(event, str):
            ledger.node_changed("a@b")
        else:
            ledger.received("a@b", *event, zlib.crc32(b"x"), b"x")
    return ledger.counts


def test_a_gap_within_a_connection_is_a_loss() -> None:
    assert counts_of((1, 1), (1, 2), (1, 5))["lost"] == 2


def test_a_gap_between_connections_is_none() -> None:
    assert counts_of((1, 1), "down", "up", (1, 5), (1, 6))["lost"] == 0


def test_another_incarnation_begins_anew() -> None:
    counts = counts_of((1, 8), "down", "up", (2, 1), (2, 2))
    assert counts["lost"] == counts["twice"] == 0


@pytest.mark.parametrize("between", [(), ("down", "up")])
def test_a_number_that_was_there_is_twice(between: tuple[str, ...]) -> None:
    assert counts_of((1, 7), (1, 8), *between, (1, 8))["twice"] == 1
    assert counts_of((1, 7), (1, 8), *between, (1, 7))["twice"] == 1


def test_another_body_is_corrupt() -> None:
    ledger = Ledger()
    ledger.received("a@b", 1, 1, zlib.crc32(b"x"), b"y")
    assert ledger.counts["corrupt"] == 1


def sample(number: int, memory: int) -> Sample:
    return Sample(at=10.0 * number, memory=memory, blocks=70, files=5, tasks=3, connected=1)


def test_slopes_are_per_hour() -> None:
    samples = [sample(number, 1000 + number) for number in range(50)]
    assert slope(samples, "memory") == pytest.approx(360)
    assert slope(samples, "files") == pytest.approx(0)


def test_growth_that_ends_shows_in_the_halves_of_what_was_warm() -> None:
    cold = [sample(number, 0) for number in range(20)]
    grows = [sample(number, 1000 + number) for number in range(20, 60)]
    stays = [sample(number, 1060) for number in range(60, 100)]
    member = Member(Kind.PYTHON, "a@b", [], 0.0, may_die=False, samples=[*cold, *grows, *stays])
    assert warm(member.samples) == [*grows, *stays]
    assert halves(warm(member.samples)) == (grows, stays)
    *_, row = growth([member]).splitlines()
    assert "| 1020 to 1060 | +360 | +0 | 70 to 70 | +0 | +0 |" in row


def test_what_is_reported() -> None:
    fine, lossy = (Member(Kind.PYTHON, name, [], 0.0, True, Path()) for name in ("a@b", "c@d"))
    for member in (fine, lossy):
        member.now = Counter(connected=1, received=10)
    assert not wrong([fine, lossy])
    lossy.totals["lost"] = 2
    lossy.deaths = 1
    fine.now["connected"] = 0
    assert len(wrong([fine, lossy])) == 3
