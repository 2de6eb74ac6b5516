"""The work of an endpoint for attack datagrams is bounded relative to valid datagrams."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from quicdist.carriers.reject_reason import RejectReason
from tests.carriers.attacks import ATTACKS, Attack, Phase, attack, honest
from tests.carriers.owners import Owner, settings
from tests.carriers.stranger import run_virtually
from tests.support.engines import needs_native

pytestmark = pytest.mark.skipif(
    sys.gettrace() is not None, reason="lines are counted where a debugger or coverage does"
)

BATCHES = [1, 16]


class Lines:
    """Counts the executed lines of Python in the enclosed block."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        self.count += event == "line"
        return self._line


def name_of(plan: Attack) -> str:
    return f"{plan.name}, {plan.phase.value}"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("plan", ATTACKS, ids=name_of)
def test_an_attack_ends_by_its_bound_or_stays_within_all(plan: Attack, batch: int) -> None:
    outcome = run_virtually(attack(settings(engine="aioquic"), Owner, plan, batch=batch))
    assert outcome.refused is plan.refusal
    if plan.refusal is not None and plan.phase is not Phase.FIRST:
        assert outcome.is_over


@needs_native
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    "plan",
    [
        each
        for each in ATTACKS
        if each.refusal is RejectReason.FRAMES and each.phase is not Phase.COOKIE
    ],
    ids=name_of,
)
def test_the_native_engine_counts_frames_too(plan: Attack, batch: int) -> None:
    outcome = run_virtually(attack(settings(engine="native"), Owner, plan, batch=batch))
    # It may find another violation first, which closes the connection as well.
    assert outcome.refused in (RejectReason.FRAMES, RejectReason.UNUSED)
    assert outcome.is_over


@pytest.mark.slow  # counts each line of Python that an attack runs
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    "plan", [each for each in ATTACKS if each.phase is not Phase.COOKIE], ids=name_of
)
def test_a_byte_of_a_stranger_costs_about_what_an_honest_one_costs(
    plan: Attack, batch: int
) -> None:
    """Executed lines approximate the cost.

    Lines are not seconds: cryptography is one line but most of the cost of a valid packet.
    benchmarks/hostile.py measures seconds, with half of this ratio as the bound.
    """
    hostile, usual = Lines(), Lines()
    outcome = run_virtually(attack(settings(), Owner, plan, hostile, batch=batch))
    other = honest(plan, outcome.datagrams)
    beside = run_virtually(attack(settings(), Owner, other, usual, batch=batch))
    assert hostile.count / outcome.size <= 4 * usual.count / beside.size
