"""Measures connecting and reconnecting over a wide-area path, with both engines.

    python -m benchmarks.wan.connects [--rtt MS] [--rate MBIT] [--loss %] [--times N]

`connect` is the median duration of `Node.connect` after `Node.disconnect`. `first` and `again` are
the durations of the first 16 MiB on a new path and after a reconnect, which starts with what was
measured before (Careful Resume). It needs Linux, root, iproute2 and a C compiler (see network.py).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from statistics import median

from benchmarks.drivers import Absent, ask
from benchmarks.wan.network import Path, Spaces, built, check
from benchmarks.wan.sides import Sides, each_variant, start_ours

_MIB = 16
"""MiB of the start of a connection."""


def row(spaces: Spaces, engine: str, alpn: str, times: int) -> tuple[float, float, float]:
    """Returns the durations of `connect`, `first` and `again` in seconds. Raises Absent."""
    with contextlib.closing(Sides(spaces)) as sides:
        driver = start_ours(sides, spaces, {"engine": engine, "dial_alpns": [alpn]})
        first = ask(driver, "start", _MIB)["times"][-1]
        ask(driver, "bulk", 4)
        connect = ask(driver, "connect", 0)["times"][0]
        again = ask(driver, "start", _MIB)["times"][-1]
        more = [ask(driver, "connect", 0)["times"][0] for _ in range(times - 1)]
        return median([connect, *more]), first, again


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan.connects")
    parser.add_argument("--rtt", type=float, default=100.0, help="round trip of the path in ms")
    parser.add_argument("--rate", type=float, default=1000.0, help="rate of the path in Mbit/s")
    parser.add_argument("--loss", type=float, default=0.0, help="lost datagrams in percent")
    parser.add_argument("--times", type=int, default=9, help="number of connections")
    options = parser.parse_args()
    path = Path(options.rtt, options.rate, options.loss, 100)
    try:
        check()
        with built() as program:
            print(f"{path}\n")
            print("| engine | ALPN | connect, ms | first 16 MiB, s | again, s |")
            print("|---|---|---|---|---|")
            for engine, alpn, spaces in each_variant(program, path):
                connect, first, again = row(spaces, engine, alpn, options.times)
                cells = f"{connect * 1000:.0f} | {first:.2f} | {again:.2f}"
                print(f"| {engine} | {alpn} | {cells} |", flush=True)
    except Absent as why:
        print(f"wide-area paths cannot be measured here: {why}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
