"""`quicdist top`: the processes, memory and connections of a node, live."""

from __future__ import annotations

import enum
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, Json, PeerNode, Timeout, peer_of

if TYPE_CHECKING:
    from quicdist.cli.top.watching import Watch


class SortBy(enum.StrEnum):
    """The same values as `sampling.Sort`, which --help does not import."""

    REDUCTIONS = "reductions"
    MEMORY = "memory"
    MAILBOX = "mailbox"


@takes_groups
def top(
    node: PeerNode,
    sort: Annotated[
        SortBy, typer.Option("--sort", "-s", help="The order of the processes.")
    ] = SortBy.REDUCTIONS,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            "-i",
            min=0.1,
            max=3600,
            metavar="SECONDS",
            help="Time between samples.",
        ),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one sample and end.")] = False,
    rows: Annotated[
        int,
        typer.Option(
            "--rows", "-n", min=1, max=1000, metavar="N", help="Number of processes to print."
        ),
    ] = 20,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    *,
    options: ClientOptions,
) -> None:
    """Show the processes, memory and connections of NODE, until q is pressed.

    NODE is a BEAM node or a Python node. A BEAM node is asked with one call for each sample, and
    no code is loaded on it. A Python node must permit the call quicdist:status. If the output is
    not a terminal, or with --json, each sample is printed.
    """
    from quicdist.cli import client, terminal
    from quicdist.cli.running import until_signal
    from quicdist.cli.top.sampling import Sort
    from quicdist.cli.top.watching import View, Watch

    node = peer_of(node, options.dial.lookups)
    is_live = not once and not as_json and sys.stdout.isatty() and sys.stdin.isatty()
    if is_live:
        terminal.need_library("quicdist top on a terminal (--once needs nothing)")

    async def main() -> None:
        async with client.connected(node, options, timeout) as ours:
            watch = Watch(ours, View(node, Sort(sort.value), interval), timeout)
            watch.rows = rows
            if is_live:
                from quicdist.cli.top import live

                await live.show(watch)
                return
            await watch.look()
            show = _print_json if as_json else _print
            show(watch)
            if not once:
                await watch.look_on(lambda: show(watch))

    client.run(until_signal(main()), options.verbose)


def _print_json(watch: Watch) -> None:
    from quicdist.cli.json_output import print_object
    from quicdist.cli.top import as_json

    print_object(as_json.fields(watch.view))


def _print(watch: Watch) -> None:
    from quicdist.cli.top import screen

    width = shutil.get_terminal_size((120, 40)).columns
    print(screen.plain(watch.view, width), flush=True)
