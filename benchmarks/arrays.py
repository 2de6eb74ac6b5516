"""Sends a large array of float64 from the BEAM to Python and back, in several ways.

    python -m benchmarks.arrays [--megabytes N] [--rounds N] [--only WORD,...]

The BEAM side measures each transfer, until the payload is a binary there or an array in Python. For
`between Python nodes` another Python node takes its place. The ways are measured in turn, round
after round, and the medians are compared. CPU is that of all processes, but not of a port program,
which is a child of the BEAM. A copy is memory that Python allocated for the payload, in multiples
of it (the peak of tracemalloc, in a run of its own; it does not see the memory of pyarrow). JSON
has a tenth of the bytes, and the BEAM does not parse it. The output is a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.drivers import Absent, hear
from benchmarks.nodes import COOKIE, QUIET, ROOT, Processes, free_port

WAYS = ("take", "give")
TO = ("to Python", "to the BEAM")
ENGINE = "QUICDIST_ENGINE"
JSON_PART = 10


@dataclass
class Pair:
    """A BEAM process and a Python process."""

    beam: subprocess.Popen[str]
    python: subprocess.Popen[str] | None
    """None if the BEAM process started it."""

    gateway: subprocess.Popen[str] | None = None

    def cpu(self) -> float:
        """Returns the CPU seconds that the processes have used, 0 without /proc."""
        seconds = 0.0
        for process in (self.beam, self.python, self.gateway):
            stat = Path(f"/proc/{process.pid}/stat") if process is not None else None
            if stat is not None and stat.exists():
                user, system = stat.read_text().rpartition(")")[2].split()[11:13]
                seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return seconds

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
    link: str
    """ENCRYPTED or PLAIN."""

    start: Start
    part: int = 1
    """The payload is this part of that of the others."""

    pair: Pair | None = None
    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WAYS, 0.0))
    copied: dict[str, float] = field(default_factory=dict)

    def transfer(self, way: str) -> None:
        """Makes one transfer and records it."""
        assert self.pair is not None
        before = self.pair.cpu()
        self.seconds[way].append(self.pair.transfer(way))
        self.cpu[way] += self.pair.cpu() - before


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
    keys = {key: environment[key] for key in environment if key == ENGINE}
    name = f"{free_port(socket.SOCK_DGRAM)}@127.0.0.1"
    gateway = processes.python("benchmarks.sides.gateway", name, **keys)
    epmd = {"ERL_EPMD_PORT": str(hear(gateway)["epmd_port"])}
    module = emit_module(processes.directory()).directory
    arguments = ["-name", name, "-setcookie", COOKIE, *QUIET, *erl_arguments(module)]
    return Pair(_erl(processes, arguments, ["node", peer], epmd), python, gateway)


def on(engine: str, start: Start) -> Start:
    """Returns the same way with this QUIC engine."""

    def start_on(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
        if engine == "native" and importlib.util.find_spec("quicdist_engine") is None:
            raise Absent("quicdist-engine is not installed")
        return start(processes, size, {**environment, ENGINE: engine})

    return start_on


def between_nodes(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    python = _python(processes, "quic", size, **environment)
    keys = {key: environment[key] for key in environment if key == ENGINE}
    caller = _python(processes, "call", size, hear(python)["name"], **keys)
    hear(caller)
    return Pair(caller, python)


def over_tcp(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    port = free_port()
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


def over_https(processes: Processes, size: int, environment: dict[str, str]) -> Pair:
    files = processes.directory()
    certificate, key = str(Path(files, "certificate.pem")), str(Path(files, "key.pem"))
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout {key}"
    subprocess.run([*command.split(), "-out", certificate], check=True, capture_output=True)
    python = _python(processes, "tls", size, certificate, key, **environment)
    return Pair(_erl(processes, [], ["http", hear(python)["name"]], {}), python)


ENCRYPTED, PLAIN = "encrypted", "plain"

CANDIDATES = (
    Candidate("quicdist, QUIC and a gateway", ENCRYPTED, on("aioquic", over_gateway)),
    Candidate("the same, native engine", ENCRYPTED, on("native", over_gateway)),
    Candidate("quicdist, QUIC between Python nodes", ENCRYPTED, on("aioquic", between_nodes)),
    Candidate(
        "the same between Python nodes, native engine", ENCRYPTED, on("native", between_nodes)
    ),
    Candidate("HTTPS, Arrow", ENCRYPTED, over_https),
    Candidate("quicdist, TCP", PLAIN, over_tcp),
    Candidate("HTTP, Arrow", PLAIN, over_http("arrow")),
    Candidate("HTTP, JSON", PLAIN, over_http("json"), part=JSON_PART),
    Candidate("Erlang port, pickle", PLAIN, over_port),
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
                for way in WAYS:
                    one.transfer(way)
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
        f"| way | link |{''.join(f' {to}, MB/s | ratio | CPU, s/GB | copies |' for to in TO)}",
        f"|---|---|{'---|' * 8}",
    ]
    for one in measured:
        cells = [one.name, one.link]
        for way in WAYS:
            rate = rates[one.name][way]
            cpu = one.cpu[way] / len(one.seconds[way]) / (size / one.part / 1e9)
            cells += [f"{rate:.0f}", f"{rate / base[way]:.2f}", f"{cpu:.1f}" if cpu else ""]
            cells.append(f"{one.copied.get(way, 0):.1f}")
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
