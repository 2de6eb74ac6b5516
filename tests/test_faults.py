"""A selection of `make faults`: one scenario of each kind with small transfers."""

from __future__ import annotations

import pytest

from faults.namespaces import NotHere
from faults.scenarios import SCENARIOS, Run, Scenario

pytestmark = pytest.mark.io

RUN = Run(scale=0.02)


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.in_ci], ids=lambda scenario: scenario.name
)
async def test_bytes_are_exact_or_the_node_is_down_for_the_right_reason(
    scenario: Scenario,
) -> None:
    try:
        assert await scenario.play(RUN)
    except NotHere as why:
        pytest.skip(f"no bad networks on this machine: {why}")
