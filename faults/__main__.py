"""`python -m faults [WORD...]`: runs the scenarios whose names contain one of the words."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile

from faults.namespaces import NotHere
from faults.scenarios import SCENARIOS, Run, Scenario


def _play(scenario: Scenario, run: Run) -> tuple[bool, str]:
    try:
        with tempfile.TemporaryDirectory(prefix="quicdist-faults-") as state:
            # A node of another scenario may have had the same port and thus the same name.
            os.environ["QUICDIST_STATE_DIR"] = state
            return True, asyncio.run(scenario.play(run))  # type: ignore[arg-type]  # a coroutine
    except NotHere as why:
        return True, f"not run: {why}"
    except Exception as error:
        return False, f"**{type(error).__name__}: {error}**"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument(
        "words", nargs="*", help="run only scenarios whose names contain one of these words"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the transfer sizes")
    parser.add_argument("--engine", default="aioquic", help="QUIC library: aioquic or native")
    arguments = parser.parse_args()
    words = arguments.words
    chosen = [one for one in SCENARIOS if not words or any(word in one.name for word in words)]
    failed = 0
    print("| fault | result |\n|---|---|", flush=True)
    for scenario in chosen:
        good, text = _play(scenario, Run(arguments.scale, arguments.engine))
        failed += not good
        print(f"| {scenario.name} | {text} |", flush=True)
    print(f"\n{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
