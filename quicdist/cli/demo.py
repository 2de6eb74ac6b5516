"""`quicdist demo`: two nodes talk over QUIC."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import Verbose, start_logging


def demo(
    without_erlang: Annotated[
        bool, typer.Option("--without-erlang", help="Show two Python nodes, as where no erl is.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Show a Python node and a real Erlang node talking over QUIC, then end.

    The Erlang node is a stock one, behind a gateway. Everything is on 127.0.0.1, on free ports,
    in a temporary directory. Exits with 0 when all that is shown was seen.
    """
    import asyncio
    import shutil

    from quicdist.cli.demo_scenario import show_all
    from quicdist.cli.running import until_signal

    start_logging(verbose)
    was_told = asyncio.run(until_signal(show_all(without_erlang or shutil.which("erl") is None)))
    if was_told:
        raise Problem(ExitCode.INTERRUPTED, "ended before everything was shown")
