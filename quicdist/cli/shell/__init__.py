"""`quicdist shell`: a prompt for calls on a node."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quicdist.cli.options import (
    Certificate,
    Cookie,
    CookieFile,
    Crl,
    Key,
    KeyPassphraseFile,
    Lookups,
    OwnName,
    PeerNode,
    RequireBinding,
    RequireTls,
    Security,
    Trusted,
    Verbose,
    peer_of,
)

_TO_CONNECT = 7.0
"""The default timeout in seconds."""


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
            help="The time limit of each call; by default there is none.",
            show_default=False,
        ),
    ] = None,
    lookups: Lookups = None,
    trust: Trusted = "first-use",
    cert: Certificate = None,
    key: Key = None,
    key_passphrase_file: KeyPassphraseFile = None,
    cookie_file: CookieFile = None,
    crl: Crl = None,
    require_tls: RequireTls = False,
    require_binding: RequireBinding = False,
    verbose: Verbose = 0,
) -> None:
    """Read calls such as lists:seq(1, 3) and run them on NODE.

    Terms are in Erlang notation, and pids as the shell of NODE prints them. Tab completes loaded
    modules and their functions, and the exports of a Python node. Ctrl-C cancels the wait for a
    call, Ctrl-D ends the shell. If the input is not a terminal, the first failed call ends it.
    """
    node = peer_of(node, lookups)
    from quicdist.cli import client
    from quicdist.cli.remote_output import Printed
    from quicdist.cli.running import until_signal
    from quicdist.cli.shell import script
    from quicdist.cli.shell.session import Session

    is_typed = sys.stdin.isatty()
    if is_typed:
        _need_terminal_library()
    settings = client.Settings(
        node,
        cookie,
        name,
        trust,
        cert,
        key,
        timeout or _TO_CONNECT,
        verbose,
        lookups,
        Security(crl, cookie_file, require_tls, require_binding, key_passphrase_file),
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
