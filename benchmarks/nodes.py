"""Compares message transport between quicdist nodes with alternatives.

    python -m benchmarks.nodes [--rounds N] [--seconds S] [--only WORD,...] [--picture FILE]
    python -m benchmarks.nodes --what bulk,mixed --record FILE   # some columns; the others are kept

A candidate is two processes on loopback and any gateways between them. All candidates run at the
same time and are measured in turn, round after round, so that a change of the machine's speed
affects all of them. The medians are compared. CPU time includes all processes of a candidate, from
/proc (Linux). The output is a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.drivers import Absent, ask, hear
from benchmarks.erlang_tls import tls_options
from benchmarks.picture import Bar, Panel, draw
from quicdist.etf.codec import CORE

COOKIE = "benchmark"
RAW = "aioquic raw"
GATEWAYS = "Erlang, two gateways"
IDLE = 50
"""Number of connections held open to measure the memory of one connection."""

BUSY_WAIT = 0.0005
"""Seconds; longer than a round trip of the slower engine."""

QUIET = ("-connect_all", "false", "-kernel", "dist_auto_connect", "never")

TICK = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[1]


class Processes:
    """The processes of one candidate."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []
        self._keeper = contextlib.ExitStack()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",  # a crash report may hold any bytes
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self._all.append(process)
        return process

    def python(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-m", module, *arguments, **environment)

    def directory(self) -> str:
        return self._keeper.enter_context(tempfile.TemporaryDirectory())

    def at_end(self, do: Callable[[], object]) -> None:
        self._keeper.callback(do)

    def cpu(self) -> float:
        """Returns the CPU seconds used by all processes."""
        return sum(_cpu(process.pid) for process in self._all)

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()
        self._keeper.close()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _resident(pid: int) -> int:
    """Returns the memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Pair:
    """A running candidate."""

    def __init__(self, start: Start) -> None:
        self.processes = Processes()
        try:
            self._sides = start(self.processes)
            hear(self._sides.driver)
        except BaseException:
            self.processes.close()
            raise

    def do(self, what: str, number: float) -> dict[str, Any]:
        """Returns the driver's answer and the CPU time. Raises Absent if there is no answer."""
        before = self.processes.cpu()
        answer = ask(self._sides.driver, what, number)
        answer["cpu"] = self.processes.cpu() - before
        return answer

    def idle_memory(self) -> float:
        """Returns the answering side's memory in bytes per connection, over IDLE connections."""
        sides = self._sides
        holder = sides.driver
        if sides.holder is not None:
            holder = sides.holder()
            hear(holder)
        ask(holder, "hold", IDLE)  # the first connections load code that all share
        time.sleep(1)
        before = sum(_resident(process.pid) for process in sides.answering)
        ask(holder, "hold", IDLE)
        time.sleep(1)
        after = sum(_resident(process.pid) for process in sides.answering)
        return (after - before) / IDLE


@dataclass(frozen=True)
class Sides:
    """The answering processes, a program and an optional gateway, and the driving process."""

    answering: Sequence[subprocess.Popen[str]]
    driver: subprocess.Popen[str]
    holder: Callable[[], subprocess.Popen[str]] | None = None
    """Starts the process that opens idle connections, if the driver cannot."""


Start = Callable[[Processes], Sides]


@dataclass(frozen=True)
class Candidate:
    name: str
    start: Start
    cannot: Sequence[str] = ()
    in_picture: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether quicdist carries the messages."""
        return self.name.startswith("quicdist") or self.name == GATEWAYS

    @property
    def is_encrypted(self) -> bool:
        """Whether the candidate encrypts; all except plain TCP do."""
        return not self.name.endswith(", TCP")


# -- candidates ---------------------------------------------------------------------------------


def ours(settings: dict[str, Any], **environment: str) -> Start:
    def start(processes: Processes) -> Sides:
        module = "benchmarks.sides.quicdist_side"
        server = processes.python(module, json.dumps(settings), **environment)
        name = hear(server)["name"]
        return Sides([server], _our_driver(processes, settings, name, **environment))

    return start


def _our_driver(
    processes: Processes, settings: dict[str, Any], name: str, **environment: str
) -> subprocess.Popen[str]:
    module = "benchmarks.sides.quicdist_side"
    return processes.python(module, json.dumps(settings), name, **environment)


def ours_over_tcp(processes: Processes) -> Sides:
    port = free_port()
    return ours({"epmd_port": port}, ERL_EPMD_PORT=str(port))(processes)


def raw(per_write: int) -> Start:
    def start(processes: Processes) -> Sides:
        module = "benchmarks.sides.aioquic_side"
        server = processes.python(module, "1")
        driver = processes.python(module, str(per_write), hear(server)["name"])
        return Sides([server], driver)

    return start


def erlang(processes: Processes) -> Sides:
    port = free_port()
    epmd = {"ERL_EPMD_PORT": str(port)}
    server, driver, name = _erlang_pair(processes, [], epmd)
    return Sides(
        [server], driver, lambda: _our_driver(processes, {"epmd_port": port}, name, **epmd)
    )


def erlang_over_tls(processes: Processes) -> Sides:
    try:
        options = tls_options(processes.directory())
    except LookupError as error:
        raise Absent(str(error)) from None
    epmd = {"ERL_EPMD_PORT": str(free_port())}
    server, driver, _ = _erlang_pair(processes, options, epmd)
    return Sides([server], driver)


def _erlang_pair(
    processes: Processes, options: Sequence[str], epmd: dict[str, str]
) -> tuple[subprocess.Popen[str], subprocess.Popen[str], str]:
    """Starts two Erlang nodes. Returns the answering one, the driver, and the former's name."""
    arguments = ["-pa", _compiled(processes), *options]
    _end_epmd(processes, epmd)
    server = _erl(processes, "bench1@127.0.0.1", arguments, ["serve"], epmd)
    name = hear(server)["name"]
    driver = _erl(processes, "bench2@127.0.0.1", arguments, ["drive", name], epmd)
    return server, driver, name


def gateways(processes: Processes) -> Sides:
    from quicdist.gateway import emit_module, erl_arguments

    built = _compiled(processes)
    module = emit_module(processes.directory())
    arguments = ["-pa", built, *erl_arguments(module.directory)]

    def behind_a_gateway(what: list[str]) -> Sequence[subprocess.Popen[str]]:
        name = f"{free_port(socket.SOCK_DGRAM)}@127.0.0.1"
        gateway = processes.python("benchmarks.sides.gateway", name)
        epmd = {"ERL_EPMD_PORT": str(hear(gateway)["epmd_port"])}
        return _erl(processes, name, arguments, what, epmd), gateway

    answering = behind_a_gateway(["serve"])
    name = hear(answering[0])["name"]
    driver, _ = behind_a_gateway(["drive", name])
    return Sides(answering, driver, lambda: _our_driver(processes, {}, name))


def erldistpy(processes: Processes) -> Sides:
    built = _compiled(processes)
    epmd = {"ERL_EPMD_PORT": str(free_port())}
    _end_epmd(processes, epmd)
    server = _erl(processes, "bench1@127.0.0.1", ["-pa", built], ["serve"], epmd)
    name = hear(server)["name"]
    module = "benchmarks.sides.erldistpy_side"
    return Sides([server], processes.python(module, name, epmd["ERL_EPMD_PORT"], COOKIE))


def _compiled(processes: Processes) -> str:
    if shutil.which("erlc") is None:
        raise Absent("there is no Erlang")
    built = processes.directory()
    subprocess.run(
        ["erlc", "-o", built, str(ROOT / "benchmarks/sides/erlang_side.erl")], check=True
    )
    return built


def _erl(
    processes: Processes,
    name: str,
    arguments: Sequence[str],
    what: Sequence[str],
    environment: dict[str, str],
) -> subprocess.Popen[str]:
    # The measurement closes connections. `global` would dial back at once and collide with the
    # driver's next attempt.
    command = ["erl", "-noshell", "-name", name, "-setcookie", COOKIE, *QUIET, *arguments]
    return processes.start(*command, "-run", "erlang_side", *what, **environment)


def _end_epmd(processes: Processes, environment: dict[str, str]) -> None:
    """Stops the EPMD that the first Erlang node started; it outlives the node."""
    processes.at_end(
        lambda: subprocess.run(
            ["epmd", "-kill"], env={**os.environ, **environment}, capture_output=True, check=False
        )
    )


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Returns a port on 127.0.0.1 that no socket of this kind uses."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


AIOQUIC: dict[str, Any] = {"engine": "aioquic"}
NATIVE: dict[str, Any] = {"engine": "native"}
ONE_STREAM: dict[str, Any] = {"dial_alpns": ["quicdist/1"]}

CANDIDATES = [
    Candidate(RAW, raw(1)),
    Candidate(
        "aioquic raw, 100 joined",
        raw(100),
        cannot=("round_trip", "bulk", "mixed", "connect", "hold"),
    ),
    Candidate("quicdist", ours(AIOQUIC)),
    Candidate("quicdist, 1200-byte datagrams", ours({**AIOQUIC, "max_datagram_size": 1200})),
    Candidate("quicdist, aioquic-plain", ours({"engine": "aioquic-plain"}), in_picture=False),
    Candidate("quicdist, one stream", ours({**AIOQUIC, **ONE_STREAM}), in_picture=False),
    Candidate(
        "quicdist, one stream, 1200-byte datagrams",
        ours({**AIOQUIC, **ONE_STREAM, "max_datagram_size": 1200}),
        in_picture=False,
    ),
    Candidate("quicdist[native]", ours(NATIVE)),
    Candidate("quicdist[native], one stream", ours({**NATIVE, **ONE_STREAM}), in_picture=False),
    Candidate(
        "quicdist[native], one stream, 1200-byte datagrams",
        ours({**NATIVE, **ONE_STREAM, "max_datagram_size": 1200}),
        in_picture=False,
    ),
    Candidate("quicdist[native], 1200-byte datagrams", ours({**NATIVE, "max_datagram_size": 1200})),
    Candidate("quicdist, busy wait", ours({**AIOQUIC, "busy_wait": BUSY_WAIT}), in_picture=False),
    Candidate(
        "quicdist[native], busy wait", ours({**NATIVE, "busy_wait": BUSY_WAIT}), in_picture=False
    ),
    Candidate("quicdist, pure codec", ours(AIOQUIC, QUICDIST_PURE_PYTHON="1"), in_picture=False),
    Candidate(GATEWAYS, gateways),
    Candidate("quicdist, TCP", ours_over_tcp),
    Candidate("Erlang, TCP", erlang),
    Candidate("Erlang, TLS", erlang_over_tls, cannot=("hold",)),
    Candidate("erldistpy, TCP", erldistpy, cannot=("mixed", "hold")),
]


# -- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    what: str
    value: Callable[[dict[str, Any]], float]
    digits: int = 0
    is_better_low: bool = True


def _cpu_each(answer: dict[str, Any]) -> float:
    return float(answer["cpu"]) / int(answer["count"])


COLUMNS = [
    Column("round trip, us", "round_trip", lambda answer: answer["seconds"] * 1e6),
    Column("CPU each, us", "round_trip", lambda answer: _cpu_each(answer) * 1e6),
    Column("64 bytes, /s", "small", lambda answer: answer["rate"], is_better_low=False),
    Column("CPU each, us", "small", lambda answer: _cpu_each(answer) * 1e6, 1),
    Column("1 MiB, MiB/s", "bulk", lambda answer: answer["rate"], 1, is_better_low=False),
    Column("CPU each, ms", "bulk", lambda answer: _cpu_each(answer) * 1e3, 1),
    Column("ping in bulk, ms", "mixed", lambda answer: answer["seconds"] * 1e3, 2),
    Column("that bulk, MiB/s", "mixed", lambda answer: answer["rate"], 1, is_better_low=False),
    Column("connect, ms", "connect", lambda answer: answer["seconds"] * 1e3, 2),
]
MEMORY = Column("idle, KiB", "hold", lambda answer: answer["bytes"] / 1024)


@dataclass
class Result:
    """The measurements of one candidate."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: Column, answer: dict[str, Any]) -> None:
        self.samples.setdefault(_key(column), []).append(column.value(answer))

    def median(self, column: Column) -> float | None:
        samples = self.samples.get(_key(column))
        return None if samples is None else statistics.median(samples)


def _key(column: Column) -> str:
    return f"{column.what}: {column.title}"


def measure(
    candidates: Sequence[Candidate], columns: Sequence[Column], rounds: int, seconds: float
) -> dict[str, Result]:
    """Measures in rounds; the first round is a warm-up and is not counted."""
    kinds = list(dict.fromkeys(column.what for column in columns))
    results: dict[str, Result] = {}
    with contextlib.ExitStack() as running:
        pairs = dict(_started(candidates, running))
        for number in range(rounds + 1):
            for kind in kinds:
                for candidate, pair in list(pairs.items()):
                    if kind in candidate.cannot:
                        continue
                    try:
                        answer = pair.do(kind, seconds)
                    except Absent as absent:
                        print(f"{candidate.name}: {kind} failed, not measured further: {absent}")
                        del pairs[candidate]
                        continue
                    if not number:
                        continue
                    result = results.setdefault(candidate.name, Result())
                    for column in columns:
                        if column.what == kind:
                            result.add(column, answer)
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    order = [candidate.name for candidate in candidates]
    return {name: results[name] for name in order if name in results}


def measure_memory(candidates: Sequence[Candidate], results: dict[str, Result]) -> None:
    """Restarts each candidate, because memory that earlier traffic freed would be reused."""
    for candidate in candidates:
        if "hold" in candidate.cannot or candidate.name not in results:
            continue
        with contextlib.ExitStack() as running:
            for _, pair in _started([candidate], running):
                try:
                    idle = pair.idle_memory()
                except Absent as absent:
                    print(f"{candidate.name}: no idle connections: {absent}")
                else:
                    results[candidate.name].add(MEMORY, {"bytes": idle})


def _started(
    candidates: Sequence[Candidate], running: contextlib.ExitStack
) -> Iterator[tuple[Candidate, Pair]]:
    for candidate in candidates:
        try:
            pair = Pair(candidate.start)
        except Absent as absent:
            print(f"{candidate.name}: not available: {absent}")
            continue
        running.callback(pair.processes.close)
        yield candidate, pair


# -- output -------------------------------------------------------------------------------------


def table(results: dict[str, Result], columns: Sequence[Column]) -> str:
    """Formats Markdown; brackets hold the ratio to raw bytes, and the best value is bold."""
    rows = [["", *(column.title for column in columns)], ["---"] * (len(columns) + 1)]
    for name, result in results.items():
        cells = (_cell(result, column, results) for column in columns)
        rows.append([name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(result: Result, column: Column, results: dict[str, Result]) -> str:
    value = result.median(column)
    if value is None:
        return ""
    text = f"{value:,.{column.digits}f}"
    values = [one for other in results.values() if (one := other.median(column)) is not None]
    if value == (min if column.is_better_low else max)(values):
        text = f"**{text}**"
    base = results.get(RAW)
    raw_value = None if base is None else base.median(column)
    if not raw_value or base is result:
        return text
    ratio = value / raw_value
    return f"{text} ({ratio:{',.0f' if ratio >= 10 else '.2f'}})"


def recorded(results: dict[str, Result], file: Path) -> dict[str, Result]:
    """Replaces the same measurements in the file. Returns all results in it."""
    samples: dict[str, dict[str, list[float]]] = {}
    if file.exists():
        samples = json.loads(file.read_text())
    for name, result in results.items():
        samples.setdefault(name, {}).update(result.samples)
    file.write_text(json.dumps(samples, indent=1))
    names = [candidate.name for candidate in CANDIDATES if candidate.name in samples]
    return {name: Result(samples[name]) for name in names}


DRAWN = [
    ("Round trip of 64 bytes, µs", COLUMNS[0]),
    ("Messages of 64 bytes one way, a second", COLUMNS[2]),
    ("Messages of 1 MiB one way, MiB/s", COLUMNS[4]),
    ("Round trip of 64 bytes while 1 MiB ones flow, ms", COLUMNS[6]),
]


def picture(results: dict[str, Result]) -> str:
    """Draws the main columns as bars."""
    panels = []
    for title, column in DRAWN:
        bars = [
            Bar(one.name, value, one.is_ours, one.is_encrypted)
            for one in CANDIDATES
            if one.in_picture
            and one.name in results
            and (value := results[one.name].median(column)) is not None
        ]
        if bars:
            panels.append(Panel(title, column.is_better_low, column.digits, bars))
    return draw(panels, f"Two processes on loopback, medians. {_setting()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="duration of one measurement")
    parser.add_argument(
        "--only", default="", help="only candidates whose name contains one of these words"
    )
    parser.add_argument("--without", default="", help="no candidates with one of these words")
    parser.add_argument("--what", default="", help="only these measurements, separated by commas")
    parser.add_argument(
        "--record",
        type=Path,
        help="file for the results (JSON); the table and the picture show all results in it",
    )
    parser.add_argument("--picture", type=Path, help="file for the bar chart (SVG)")
    chosen = parser.parse_args()
    words = chosen.only.split(",")
    kinds = (
        chosen.what.split(",") if chosen.what else [column.what for column in [*COLUMNS, MEMORY]]
    )
    columns = [column for column in COLUMNS if column.what in kinds]
    unwanted = chosen.without.split(",") if chosen.without else []
    candidates = [
        one
        for one in CANDIDATES
        if any(word in one.name for word in words)
        and not any(word in one.name for word in unwanted)
    ]
    print(_setting())
    results = {one.name: Result() for one in candidates}
    if columns:
        results = measure(candidates, columns, chosen.rounds, chosen.seconds)
    if MEMORY.what in kinds:
        measure_memory(candidates, results)
    if chosen.record:
        results = recorded(results, chosen.record)
    columns = [
        column
        for column in [*COLUMNS, MEMORY]
        if any(result.median(column) is not None for result in results.values())
    ]
    print(table(results, columns))
    if chosen.picture:
        chosen.picture.write_text(picture(results))


def _setting() -> str:
    versions = []
    for package in ("aioquic", "quicdist-engine", "erldistpy"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    python = platform.python_version()
    return f"Python {python}, {CORE} codec, {', '.join(versions)}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
