"""Compares quicdist with stock Erlang over TCP and TLS on wide-area paths.

    python -m benchmarks.wan [--seconds S] [--paths N,...] [--only WORD,...] [--seed N]
        [--record FILE]

Each path of PATHS is emulated between two network namespaces (see network.py). The candidates are
measured one after the other, each on a new path with the same seed: 1 MiB messages in one
direction, with encoding and decoding; round trips of small messages of ten processes during that
transfer; and the same on the idle path. It needs Linux, root, iproute2 and a C compiler, and Erlang
for the comparison. It prints the reason if a candidate cannot run. --record adds the results to a
JSON file, in place of earlier ones of the same path and candidate; pictures.py draws it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as File

from benchmarks.drivers import Absent, ask
from benchmarks.wan.candidates import Candidate, erlang, ours
from benchmarks.wan.network import Path, built, check, network
from benchmarks.wan.record import Record
from benchmarks.wan.sides import Sides

PATHS = [
    Path(20, 1000, 0, 100),
    Path(20, 1000, 0.1, 100),
    Path(20, 1000, 1, 100),
    Path(100, 1000, 0, 200),
    Path(100, 100, 0.1, 200),
    Path(100, 100, 0.5, 200),
    Path(50, 50, 0.5, 100),
    Path(20, 200, 1, 100),
]
_MIB = 1024 * 1024

REFERENCE = "Erlang TCP, BBR"
CANDIDATES = [
    Candidate(REFERENCE, erlang("bbr")),
    Candidate("Erlang TCP, CUBIC", erlang("cubic")),
    Candidate("Erlang TLS", erlang(tls=True)),
    Candidate("quicdist", ours(engine="aioquic")),
    Candidate("quicdist, CUBIC", ours(engine="aioquic", congestion="cubic")),
    Candidate("quicdist[native]", ours(engine="native")),
    Candidate("quicdist[native], CUBIC", ours(engine="native", congestion="cubic")),
]


@dataclass
class Result:
    """MiB/s, milliseconds."""

    bulk: float
    mixed: float
    p50: float
    p99: float
    ping: float


def measure(program: str, path: Path, candidate: Candidate, seconds: float, seed: int) -> Result:
    """Measures one candidate on one path. Raises Absent."""
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(network(program, path, seed))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        sides = stack.enter_context(contextlib.closing(Sides(spaces)))
        driver = candidate.start(sides, spaces, directory)
        ping = ask(driver, "ping", 1.0)
        bulk = ask(driver, "bulk", seconds)
        mixed = ask(driver, "mixed", seconds)
    times = sorted(mixed["times"])
    return Result(
        bulk["rate"] / _MIB,
        mixed["rate"] / _MIB,
        statistics.median(times) * 1000,
        times[min(int(len(times) * 0.99), len(times) - 1)] * 1000,
        statistics.median(ping["times"]) * 1000,
    )


def rows(
    program: str,
    path: Path,
    candidates: Sequence[Candidate],
    seconds: float,
    seed: int,
    record: Record | None,
) -> Iterator[str]:
    """Yields the row of a Markdown table. Ratios are to REFERENCE in the same run."""
    reference: float | None = None
    for candidate in candidates:
        try:
            got = measure(program, path, candidate, seconds, seed)
        except Absent as why:
            yield f"| {path} | {candidate.name} | - | - | - | - | {why} |"
            continue
        if candidate.name == REFERENCE:
            reference = got.bulk
        if record is not None:
            record.add(path, candidate.name, asdict(got))
        ratio = "-" if reference is None else f"{got.bulk / reference:.2f}"
        yield (
            f"| {path} | {candidate.name} | {got.bulk:.1f} | {ratio} | {got.mixed:.1f} "
            f"| {got.p50:.0f} / {got.p99:.0f} | {got.ping:.1f} |"
        )


def settings(seconds: float, seed: int) -> str:
    """Returns a line about the machine and the settings of a run."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, load {load:.1f} at the start, Linux {platform.release()}, CPython "
        f"{platform.python_version()}; {seconds:g} s for each measurement, seed {seed}, MTU 1500"
    )


def _paths(text: str) -> list[Path]:
    """Returns the paths with the given numbers."""
    known = {str(number): path for number, path in enumerate(PATHS, 1)}
    try:
        return [known[number] for number in text.split(",")]
    except KeyError as error:
        why = f"invalid path {error}: expected 1 to {len(PATHS)}"
        raise argparse.ArgumentTypeError(why) from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each measurement")
    parser.add_argument(
        "--paths", type=_paths, default=PATHS, help=f"numbers of the paths, from 1 to {len(PATHS)}"
    )
    parser.add_argument(
        "--only", default="", help="only candidates whose name contains one of these words"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the losses")
    parser.add_argument("--record", type=File, default=None, help="a JSON file for the results")
    options = parser.parse_args()
    words = [word for word in options.only.split(",") if word]
    chosen = [each for each in CANDIDATES if not words or any(word in each.name for word in words)]
    if not chosen:
        names = ", ".join(each.name for each in CANDIDATES)
        parser.error(f"no candidate has a name with {options.only!r}: {names}")
    try:
        check()
        about = settings(options.seconds, options.seed)
        record = None if options.record is None else Record.read(options.record, about)
        with built() as program:
            print(f"{about}\n")
            print(
                f"| path | candidate | bulk, MiB/s | to {REFERENCE} | with questions, MiB/s "
                "| p50 / p99 of the questions, ms | idle round trip, ms |"
            )
            print("|---|---|---|---|---|---|---|")
            for path in options.paths:
                for row in rows(program, path, chosen, options.seconds, options.seed, record):
                    print(row, flush=True)
                if record is not None:
                    record.write()
    except Absent as why:
        print(f"wide-area paths cannot be measured here: {why}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
