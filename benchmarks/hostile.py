"""Measures the CPU time of an endpoint for each megabyte from unauthenticated peers.

    python -m benchmarks.hostile

Each line is a connection that completes the named phase, attacks until it is closed, and restarts.
The `honest` column is the same connection with as many valid datagrams of the same sizes. The
measurement runs in one process without sockets, so that it times the endpoint only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.carriers.attacks import ATTACKS, Attack, attack, honest
from tests.carriers.owners import Owner, settings

_LEAST = 0.2
"""Minimum CPU seconds for which each attack is repeated."""


class Clock:
    """Measures the CPU seconds of the enclosed block."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - began


async def cost(plan: Attack) -> tuple[float, str]:
    """Returns the CPU seconds per megabyte, and what ended the attack."""
    clock = Clock()
    size = 0
    while clock.seconds < _LEAST:
        outcome = await attack(settings(), Owner, plan, clock)
        size += outcome.size
    ended = outcome.refused.value if outcome.refused is not None else "-"
    return clock.seconds / size * 1e6, f"{ended} after {outcome.datagrams}"


async def main() -> None:
    print(f"{'attack':32} {'phase':16} {'s/MB':>7} {'honest':>7} {'ratio':>6}  ended by")
    for plan in ATTACKS:
        outcome = await attack(settings(), Owner, plan)
        hostile, ended = await cost(plan)
        usual, _ = await cost(honest(plan, outcome.datagrams))
        ratio = hostile / usual
        line = f"{plan.name:32} {plan.phase.value:16} {hostile:7.3f} {usual:7.3f} {ratio:6.2f}"
        print(f"{line}  {ended}")


if __name__ == "__main__":
    asyncio.run(main())
