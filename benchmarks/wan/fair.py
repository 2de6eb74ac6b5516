"""Measures how a path is shared with another sender: kernel TCP with BBR or CUBIC, or another node.

    python -m benchmarks.wan.fair [--rtt MS] [--rate MBIT] [--queue BDP] [--seconds S]
        [--engines E,...] [--beside WORD,...]

Two bulk flows go in one direction through one bottleneck. The second one starts HEAD_START seconds
after the first one, and SETTLE seconds later the measurement begins. Each pair is measured twice,
with the other sender as the first one and as the second one. `queue` is the queueing delay that
small datagrams find, in round trips of the path. It needs Linux, root, iproute2 and a C compiler
(see network.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import Popen

from benchmarks.drivers import Absent, ask, hear
from benchmarks.wan.network import HERE, THERE, Path, Spaces, built, check, network
from benchmarks.wan.sides import ENGINES, Sides

HEAD_START, SETTLE = 2.0, 5.0
"""Seconds."""
_PING = "0.02"
"""Seconds between two datagrams that measure the queue."""


@dataclass(frozen=True)
class Sender:
    """A kind of sender; `words` are arguments of fair_side.py."""

    name: str
    words: tuple[str, str]


OTHERS = [Sender("kernel BBR", ("tcp", "bbr")), Sender("kernel CUBIC", ("tcp", "cubic"))]


def ours(engine: str) -> Sender:
    return Sender(f"quicdist[{engine}]", ("quicdist", json.dumps({"engine": engine})))


@dataclass
class Flow:
    """The two processes of a flow."""

    sender: Popen[str]
    receiver: Popen[str]

    def received(self) -> int:
        """Returns the number of bytes received so far."""
        count: int = ask(self.receiver, "count", 0)["bytes"]
        return count

    def start(self) -> None:
        assert self.sender.stdin is not None
        self.sender.stdin.write("start\n")
        self.sender.stdin.flush()


def connected(sides: Sides, spaces: Spaces, words: tuple[str, str]) -> Flow:
    """Starts fair_side.py at both ends. Raises Absent."""
    command = (sys.executable, "-m", "benchmarks.wan.fair_side", *words)
    receiver = sides.start(spaces.there, *command, THERE)
    sender = sides.start(spaces.here, *command, HERE, hear(receiver)["name"])
    hear(sender)
    return Flow(sender, receiver)


@dataclass(frozen=True)
class Result:
    first: float
    second: float
    """Mbit/s."""
    queue: float
    queue_p95: float
    """Median and 95th percentile of the queueing delay in round trips."""


def measure(spaces: Spaces, path: Path, pair: tuple[Sender, Sender], seconds: float) -> Result:
    """Measures two flows, in the order in which they start. Raises Absent."""
    with contextlib.closing(Sides(spaces)) as sides:
        first, second = (connected(sides, spaces, each.words) for each in pair)
        pinger = connected(sides, spaces, ("ping", _PING)).sender
        first.start()
        time.sleep(HEAD_START)
        second.start()
        time.sleep(SETTLE)
        began, before = time.perf_counter(), (first.received(), second.received())
        ask(pinger, "times", 0)
        time.sleep(seconds)
        elapsed, after = time.perf_counter() - began, (first.received(), second.received())
        times = ask(pinger, "times", 0)["times"]
    queues = [each * 1000 / path.rtt - 1 for each in times]
    one, other = ((now - then) * 8 / elapsed / 1e6 for then, now in zip(before, after, strict=True))
    return Result(one, other, statistics.median(queues), statistics.quantiles(queues, n=20)[-1])


def pairs(engine: str, words: list[str]) -> Iterator[tuple[Sender, Sender]]:
    """Yields the pairs of senders whose other name contains one of the words."""
    node = ours(engine)
    for other in OTHERS:
        if any(word in other.name for word in words):
            yield node, other
            yield other, node
    if any(word in node.name for word in words):
        yield node, node


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan.fair")
    parser.add_argument("--rtt", type=float, default=20.0, help="round trip of the path in ms")
    parser.add_argument("--rate", type=float, default=50.0, help="rate of the path in Mbit/s")
    parser.add_argument("--queue", type=float, default=1.0, help="queue of the path in round trips")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each measurement")
    parser.add_argument("--engines", default="aioquic,native", help="engines of quicdist")
    parser.add_argument(
        "--beside",
        default="BBR,CUBIC,quicdist",
        help="only other senders whose name contains one of these words",
    )
    options = parser.parse_args()
    path = Path(options.rtt, options.rate, 0, options.rtt * options.queue)
    engines = options.engines.split(",")
    if "native" not in ENGINES:
        engines = [each for each in engines if each != "native"]
    try:
        check()
        with built() as program:
            print("| path | first | second | Mbit/s | smaller share | queue, p50 / p95 |")
            print("|---|---|---|---|---|---|")
            for pair in (
                pair for each in engines for pair in pairs(each, options.beside.split(","))
            ):
                with network(program, path) as spaces:
                    got = measure(spaces, path, pair, options.seconds)
                share = min(got.first, got.second) / (got.first + got.second)
                print(
                    f"| {path.kind} | {pair[0].name} | {pair[1].name} | {got.first:.1f}, "
                    f"{got.second:.1f} | {share:.2f} | {got.queue:.2f} / {got.queue_p95:.2f} |",
                    flush=True,
                )
    except Absent as why:
        print(f"wide-area paths cannot be measured here: {why}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
