"""Measures what a lost datagram of one process costs others, over one stream and over several.

    python -m benchmarks.wan.pairs [--seconds S] [--rtt MS] [--rate MBIT] [--loss %] [--seed N]

Fifty processes send small messages, each to a process of its own that answers, and nothing else is
sent. `quicdist/1` uses one stream, `quicdist/2` one for some senders each. It needs Linux, root,
iproute2 and a C compiler (see network.py).
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from benchmarks.drivers import Absent, ask
from benchmarks.wan.network import Path, Spaces, built, check
from benchmarks.wan.sides import Sides, each_variant, start_ours

QUANTILES = (0.5, 0.9, 0.99)


def times_of(spaces: Spaces, engine: str, alpn: str, seconds: float) -> list[float]:
    """Returns the durations of the questions in seconds, ascending. Raises Absent."""
    with contextlib.closing(Sides(spaces)) as sides:
        driver = start_ours(sides, spaces, {"engine": engine, "dial_alpns": [alpn]})
        return sorted(ask(driver, "pairs", seconds)["times"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan.pairs")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of each measurement")
    parser.add_argument("--rtt", type=float, default=20.0, help="round trip of the path in ms")
    parser.add_argument("--rate", type=float, default=1000.0, help="rate of the path in Mbit/s")
    parser.add_argument("--loss", type=float, default=1.0, help="lost datagrams in percent")
    parser.add_argument("--seed", type=int, default=1, help="seed of the losses")
    options = parser.parse_args()
    path = Path(options.rtt, options.rate, options.loss, 100)
    try:
        check()
        with built() as program:
            print(f"{path}\n")
            print("| engine | ALPN | questions | p50, ms | p90, ms | p99, ms |")
            print("|---|---|---|---|---|---|")
            for engine, alpn, spaces in each_variant(program, path, options.seed):
                times = times_of(spaces, engine, alpn, options.seconds)
                cells = (f"{times[int(len(times) * part)] * 1000:.1f}" for part in QUANTILES)
                print(f"| {engine} | {alpn} | {len(times)} | {' | '.join(cells)} |", flush=True)
    except Absent as why:
        print(f"wide-area paths cannot be measured here: {why}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
