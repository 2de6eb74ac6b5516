"""Measures how fast a new connection over a wide-area path becomes, beside stock Erlang over TCP.

    python -m benchmarks.wan.starts [--rtt MS] [--rate MBIT] [--loss %] [--queue MS] [--mib N]
        [--only WORD,...] [--times N]

A row shows the seconds until the other side has answered to the first 1, 4, 16 and 64 MiB of a new
connection, in messages of 1 MiB. The path is new for each candidate. With `--times`, the row shows
the median. It needs Linux, root, iproute2 and a C compiler (see network.py), and Erlang for the
comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from statistics import median

from benchmarks.drivers import Absent, ask
from benchmarks.wan.candidates import Candidate, erlang, ours
from benchmarks.wan.network import Path, built, check, network
from benchmarks.wan.sides import ENGINES, Sides

CANDIDATES = [
    *(Candidate(f"quicdist[{engine}]", ours(engine=engine)) for engine in ENGINES),
    Candidate("Erlang TCP, BBR", erlang("bbr")),
    Candidate("Erlang TCP, CUBIC", erlang("cubic")),
]


def start(program: str, path: Path, candidate: Candidate, mib: int) -> list[float]:
    """Returns the seconds for the first 1, 4, 16, ... MiB. Raises Absent."""
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(network(program, path))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        sides = stack.enter_context(contextlib.closing(Sides(spaces)))
        times: list[float] = ask(candidate.start(sides, spaces, directory), "start", mib)["times"]
        return times


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan.starts")
    parser.add_argument("--rtt", type=float, default=100.0, help="round trip of the path in ms")
    parser.add_argument("--rate", type=float, default=1000.0, help="rate of the path in Mbit/s")
    parser.add_argument("--loss", type=float, default=0.0, help="lost datagrams in percent")
    parser.add_argument("--queue", type=float, default=100.0, help="queue of the path in ms")
    parser.add_argument("--mib", type=int, default=64, help="MiB to send, at least 1")
    parser.add_argument("--times", type=int, default=1, help="number of connections")
    parser.add_argument(
        "--only", default="", help="only candidates whose name contains one of these words"
    )
    options = parser.parse_args()
    path = Path(options.rtt, options.rate, options.loss, options.queue)
    words = options.only.split(",")
    sizes = [size for size in (1, 4, 16, 64, 256, 1024) if size <= options.mib]
    try:
        check()
        with built() as program:
            print(f"{path}; seconds for the first MiB\n")
            print(f"| candidate | {' | '.join(map(str, sizes))} |")
            print(f"|---{'|---' * len(sizes)}|")
            for candidate in CANDIDATES:
                if not any(word in candidate.name for word in words):
                    continue
                try:
                    runs = [
                        start(program, path, candidate, options.mib) for _ in range(options.times)
                    ]
                except Absent as why:
                    print(f"| {candidate.name} | {why} |", flush=True)
                    continue
                cells = (f"{median(column):.2f}" for column in zip(*runs, strict=True))
                print(f"| {candidate.name} | {' | '.join(cells)} |", flush=True)
    except Absent as why:
        print(f"wide-area paths cannot be measured here: {why}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
