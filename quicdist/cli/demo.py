"""`quicdist demo`: two nodes that exchange messages over QUIC."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import Verbose, start_logging


def demo(
    without_erlang: Annotated[
        bool, typer.Option("--without-erlang", help="Use two Python nodes, as without erl.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Show a Python node and an Erlang node that exchange messages over QUIC.

    The Erlang node is a stock node behind a gateway. The demo uses free ports of 127.0.0.1 and a
    temporary directory. The exit code is 0 if every step succeeded.
    """
    import asyncio
    import shutil

    from quicdist.cli.demo_scenario import show_all
    from quicdist.cli.running import until_signal

    start_logging(verbose)
    was_told = asyncio.run(until_signal(show_all(without_erlang or shutil.which("erl") is None)))
    if was_told:
        raise Problem(ExitCode.INTERRUPTED, "interrupted before the end of the demo")
