"""`quicdist bench`: measure the path to a node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, Json, PeerNode, Timeout, peer_of

if TYPE_CHECKING:
    from quicdist.cli.bench.measuring import Bounds
    from quicdist.cli.bench.report import Report
    from quicdist.node.node import Node


@takes_groups
def bench(
    node: PeerNode,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            "-s",
            min=0.2,
            max=600,
            metavar="SECONDS",
            help="Duration of each measurement, at most.",
        ),
    ] = 5.0,
    mib: Annotated[
        int,
        typer.Option(
            "--mib",
            min=1,
            max=1024 * 1024,
            metavar="N",
            help="MiB to transfer in each direction, at most.",
        ),
    ] = 256,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    *,
    options: ClientOptions,
) -> None:
    """Measure the path to NODE: round trip, throughput both ways and loss, and what limits it.

    The round trip is measured on the idle connection first, and again while data flows, with small
    requests beside calls of up to 256 KiB. A Python node must permit the call quicdist:bench, a
    BEAM node erlang:byte_size and binary:copy, which are permitted where no policy restricts them.
    Otherwise only the round trip is measured, and the exit code is 1. The loss is counted by QUIC
    at the sender: that of a BEAM node does not report it.
    """
    from quicdist.cli import client
    from quicdist.cli.bench.measuring import Bounds

    node = peer_of(node, options.dial.lookups)
    bounds = Bounds(seconds, mib * 1024 * 1024)

    async def main() -> None:
        async with client.connected(node, options, timeout) as ours:
            await _measure(ours, node, timeout, bounds, as_json=as_json)

    client.run(main(), options.verbose)


async def _measure(ours: Node, node: str, timeout: float, bounds: Bounds, *, as_json: bool) -> None:
    """Measures and prints. Raises NotAllowed after it has printed what it could measure."""
    from quicdist.cli.bench.measuring import Bench, NotAllowed
    from quicdist.cli.bench.report import Report
    from quicdist.cli.bench.verdict import Direction

    progress = _Progress(is_shown=not as_json and sys.stderr.isatty())
    bench = Bench(ours, node, timeout, progress.show)
    report = Report.of(bench.connection, await bench.round_trips(bounds.seconds))
    progress.clear()
    if not as_json:
        _print(report.idle_lines())
    refusal: NotAllowed | None = None
    for direction in Direction:
        try:
            if direction is Direction.TO:
                await bench.find_kind()
            report.add(await bench.transfer(direction, bounds))
        except NotAllowed as error:
            refusal = error
            break
        finally:
            progress.clear()
        if not as_json:
            _print(report.last_lines())
    if as_json:
        _print_json(report, refusal)
    if refusal is not None:
        raise refusal


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _print_json(report: Report, refusal: Exception | None) -> None:
    from quicdist.cli.json_output import print_object

    print_object({**report.fields(), "problem": None if refusal is None else str(refusal)})


class _Progress:
    """One line on a terminal that is overwritten."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown

    def show(self, text: str) -> None:
        if self._is_shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self.show("")
