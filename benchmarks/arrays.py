"""Sends a large array of float64 from the BEAM to Python and back, in several ways.

    python -m benchmarks.arrays [--megabytes N] [--rounds N] [--only WORD,...]

The BEAM side measures each transfer, until the payload is a binary there or an array in Python. The
ways are measured in turn, round after round, and the medians are compared. A copy is memory that
Python allocated for the payload, in multiples of the payload (the peak of tracemalloc, in a run of
its own). JSON has a tenth of the bytes, and the BEAM does not parse it. The output is a Markdown
table.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.nodes import COOKIE, QUIET, ROOT, Absent, Processes, hear

WAYS = ("take", "give")
JSON_PART = 10


@dataclass
class Pair:
    """A BEAM process and a Python process."""

    beam: subprocess.Popen[str]
    python: subprocess.Popen[str] | None
    """None if the BEAM process started it."""

    def transfer(self, way: str) -> float:
        """Returns the seconds of one transfer."""
        return float(_ask(self.beam, way)["seconds"])

    def copies(self, way: str) -> float:
        """Returns the copies that Python made in one transfer, after one that loads code."""
        self.transfer(way)
        self._read_copies()
        self.transfer(way)
        return self._read_copies()

    def _read_copies(self) -> float:
        return float(_ask(self.python or self.beam, "copies")["copies"])


Start = Callable[[Processes, int, dict[str, str]], Pair]


@dataclass
class Candidate:
    name: str
    start: Start
    part: int = 1
    """The payload is this part of that of the others."""

    pair: Pair | None = None
    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    copied: dict[str, float] = field(default_factory=dict)


def _ask(process: subprocess.Popen[str], order: str) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()
    return hear(process)


def _erl(
    processes: Processes, arguments: list[str], what: list[str], environment: dict[str, str]
) -> subprocess.Popen[str]:
    built = processes.directory()
    source = str(ROOT / "benchmarks/sides/arrays_side.erl")
    subprocess.run(["erlc", "-o", built, source], check=True)
    command = ["erl", "-noshell", "-pa", built, *arguments, "-run", "arrays_side", *what]
    beam = processes.start(*command, **environment)
    hear(beam)
    return beam


def _python(processes: Processes, *what: object, **environment: str) -> subprocess.Popen[str]:
    return processes.python("benchmarks.sides.arrays_side", *map(str, what), **environment)


def over_gateway(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    from quicdist.gateway import emit_module, erl_arguments

    python = _python(processes, "quic", size, **environment)
    peer = hear(python)["name"]
    name = f"{_free_port(socket.SOCK_DGRAM)}@127.0.0.1"
    gateway = processes.python("benchmarks.sides.gateway", name)
    epmd = {"ERL_EPMD_PORT": str(hear(gateway)["epmd_port"])}
    module = emit_module(processes.directory()).directory
    arguments = ["-name", name, "-setcookie", COOKIE, *QUIET, *erl_arguments(module)]
    return Pair(_erl(processes, arguments, ["node", peer], epmd), python)


def over_tcp(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    port = _free_port()
    epmd = {"ERL_EPMD_PORT": str(port)}
    python = _python(processes, "tcp", size, port, **epmd, **environment)
    peer = hear(python)["name"]
    arguments = ["-name", "beam@127.0.0.1", "-setcookie", COOKIE, *QUIET, "-start_epmd", "false"]
    return Pair(_erl(processes, arguments, ["node", peer], epmd), python)


def over_port(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    return Pair(_erl(processes, [], ["port", sys.executable, str(size)], environment), None)


def over_http(kind: str) -> Start:
    def start(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
        python = _python(processes, kind, size, **environment)
        return Pair(_erl(processes, [], ["http", hear(python)["name"]], {}), python)

    return start


def _free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CANDIDATES = (
    Candidate("quicdist, QUIC and a gateway", over_gateway),
    Candidate("quicdist, TCP", over_tcp),
    Candidate("Erlang port, pickle", over_port),
    Candidate("HTTP, Arrow", over_http("arrow")),
    Candidate("HTTP, JSON", over_http("json"), part=JSON_PART),
)


def _start(one: Candidate, processes: Processes, size: int, **environment: str) -> bool:
    try:
        one.pair = one.start(processes, size // one.part, environment)
    except (Absent, FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"{one.name}: left out: {error}", file=sys.stderr)
        return False
    return True


def measure(candidates: list[Candidate], size: int, rounds: int) -> list[Candidate]:
    """Measures the candidates. Returns those that run on this machine."""
    processes = Processes()
    try:
        running = [one for one in candidates if _start(one, processes, size)]
        for _ in range(rounds):
            for one in running:
                assert one.pair is not None
                for way in WAYS:
                    one.seconds[way].append(one.pair.transfer(way))
    finally:
        processes.close()
    for one in running:
        processes = Processes()
        try:
            if _start(one, processes, size, COPIES="1"):
                assert one.pair is not None
                one.copied = {way: one.pair.copies(way) for way in WAYS}
        finally:
            processes.close()
    return running


def table(measured: list[Candidate], size: int) -> str:
    """Returns the results in Markdown. The first candidate is the base of the ratios."""
    rates = {
        one.name: {way: size / one.part / 1e6 / statistics.median(one.seconds[way]) for way in WAYS}
        for one in measured
    }
    base = rates[measured[0].name]
    lines = [
        "| way | to Python, MB/s | ratio | copies | to the BEAM, MB/s | ratio | copies |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        cells = [one.name]
        for way in WAYS:
            rate = rates[one.name][way]
            cells += [f"{rate:.0f}", f"{rate / base[way]:.2f}", f"{one.copied.get(way, 0):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="words of the names, separated by commas")
    options = parser.parse_args()
    words = options.only.split(",")
    chosen = [one for one in CANDIDATES if any(word in one.name for word in words)]
    size = options.megabytes * 1_000_000
    measured = measure(chosen, size, options.rounds)
    print(f"{options.megabytes} MB of float64, median of {options.rounds}\n")
    print(table(measured, size))


if __name__ == "__main__":
    main()
