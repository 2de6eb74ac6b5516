"""`quicdist shell`: calls on a node, one after another."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quicdist.cli.options import (
    Certificate,
    Cookie,
    Key,
    Lookups,
    OwnName,
    PeerNode,
    Trusted,
    Verbose,
)

_TO_CONNECT = 7.0
"""Seconds, where --timeout says nothing."""


def shell(
    node: PeerNode,
    cookie: Cookie = None,
    name: OwnName = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=0.001,
            metavar="SECONDS",
            help="How long to wait for an answer; by default for ever, or until Ctrl-C.",
            show_default=False,
        ),
    ] = None,
    lookups: Lookups = None,
    trust: Trusted = "first-use",
    cert: Certificate = None,
    key: Key = None,
    verbose: Verbose = 0,
) -> None:
    """Type calls such as lists:seq(1, 3) and have NODE do them.

    Terms are written in Erlang notation, there and back; pids as NODE's own shell prints them. Tab
    completes the modules that NODE has loaded and their functions, Ctrl-C gives up waiting, Ctrl-D
    leaves. Where the input is no terminal, its calls are made up to the first that fails.
    """
    from quicdist.cli import client
    from quicdist.cli.remote_output import Printed
    from quicdist.cli.running import until_signal
    from quicdist.cli.shell import script
    from quicdist.cli.shell.session import Session

    is_typed = sys.stdin.isatty()
    if is_typed:
        _need_terminal_library()
    settings = client.Settings(
        node, cookie, name, trust, cert, key, timeout or _TO_CONNECT, verbose, lookups
    )

    printed = Printed(lambda: sys.stdout)

    async def main() -> None:
        async with client.connected(settings, on_output=printed) as ours:
            session = Session(ours, node, timeout, printed)
            if is_typed:
                from quicdist.carriers.trust import state_directory
                from quicdist.cli.shell import prompt

                await prompt.talk(session, state_directory() / "shell_history")
            else:
                await script.run(session)

    client.run(until_signal(main()), verbose)


def _need_terminal_library() -> None:
    """Raises MissingExtra."""
    from quicdist.extras import optional

    optional(
        "prompt_toolkit",
        what="quicdist shell on a terminal",
        library="prompt_toolkit",
        extra="terminal",
    )
