"""`python -m faults [WORD...]`: plays the scenarios, those whose names have the words."""

from __future__ import annotations

import argparse
import asyncio
import sys

from faults.namespaces import NotHere
from faults.scenarios import SCENARIOS, Scenario


def _play(scenario: Scenario, scale: float) -> tuple[bool, str]:
    try:
        return True, asyncio.run(scenario.play(scale))  # type: ignore[arg-type]  # a coroutine
    except NotHere as why:
        return True, f"not played: {why}"
    except Exception as error:
        return False, f"**{type(error).__name__}: {error}**"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only scenarios whose names contain one of them")
    parser.add_argument("--scale", type=float, default=1.0, help="of the transfers' sizes")
    arguments = parser.parse_args()
    words = arguments.words
    chosen = [one for one in SCENARIOS if not words or any(word in one.name for word in words)]
    failed = 0
    print("| fault | what came of it |\n|---|---|", flush=True)
    for scenario in chosen:
        good, text = _play(scenario, arguments.scale)
        failed += not good
        print(f"| {scenario.name} | {text} |", flush=True)
    print(f"\n{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
