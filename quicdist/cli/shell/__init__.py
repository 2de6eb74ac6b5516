"""`quicdist shell`: a prompt for calls on a node."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import MOST_SECONDS, ClientOptions, PeerNode, peer_of

_TO_CONNECT = 7.0
"""The default timeout in seconds."""


@takes_groups
def shell(
    node: PeerNode,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.001,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="The time limit of each call; by default there is none.",
            show_default=False,
        ),
    ] = None,
    *,
    options: ClientOptions,
) -> None:
    """Read calls such as lists:seq(1, 3) and run them on NODE.

    Terms are in Erlang notation, and pids as the shell of NODE prints them. Tab completes loaded
    modules and their functions, and the exports of a Python node. Ctrl-C cancels the wait for a
    call, Ctrl-D ends the shell. If the input is not a terminal, the first failed call ends it.
    """
    from quicdist.cli import client, terminal
    from quicdist.cli.remote_output import RemoteOutput
    from quicdist.cli.running import until_signal
    from quicdist.cli.shell import script
    from quicdist.cli.shell.session import Session

    node = peer_of(node, options.dial.lookups)
    is_typed = sys.stdin.isatty()
    if is_typed:
        terminal.need_library("quicdist shell on a terminal")

    printed = RemoteOutput(lambda: sys.stdout)

    async def main() -> None:
        async with client.connected(
            node, options, timeout or _TO_CONNECT, on_output=printed
        ) as ours:
            session = Session(ours, node, timeout, printed)
            if is_typed:
                from quicdist.carriers.trust import state_directory
                from quicdist.cli.shell import prompt

                await prompt.talk(session, state_directory() / "shell_history")
            else:
                await script.run(session)

    client.run(until_signal(main()), options.verbose)
