"""The compiled core leaks no memory. `python -m fuzz.leaks` runs the check a million times."""

from __future__ import annotations

import sys

import pytest

from fuzz.leaks import NODE, PID, growth, run
from tests.etf.core import compiled

core = compiled()
# Many, as what the rest of the run leaves to be collected meanwhile is counted too.
ROUNDS = 1000


@pytest.mark.slow
def test_no_memory_is_left_behind() -> None:
    # Tables and free lists may fill once. A leak grows each time.
    assert min(growth(core, ROUNDS) for _ in range(2)) < ROUNDS // 2


@pytest.mark.slow
def test_no_references_are_left_behind() -> None:
    run(core, 3)
    shared = (NODE, PID, NODE.encoded, None, 7)
    before = [sys.getrefcount(one) for one in shared]
    run(core, ROUNDS)
    grown = [sys.getrefcount(one) - count for one, count in zip(shared, before, strict=True)]
    assert max(map(abs, grown)) < ROUNDS // 2
