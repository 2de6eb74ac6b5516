"""`quicdist top`: what a BEAM node is busy with, live."""

from __future__ import annotations

import enum
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

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
    Timeout,
    Trusted,
    Verbose,
)

if TYPE_CHECKING:
    from quicdist.cli.top.watching import Watch


class SortBy(enum.StrEnum):
    """As `sampling.Sort`, which --help need not import."""

    REDUCTIONS = "reductions"
    MEMORY = "memory"
    MAILBOX = "mailbox"


def top(
    node: PeerNode,
    cookie: Cookie = None,
    sort: Annotated[
        SortBy, typer.Option("--sort", "-s", help="What the processes are listed by.")
    ] = SortBy.REDUCTIONS,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", "-i", min=0.1, max=3600, metavar="SECONDS", help="From look to look."
        ),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print it and end.")] = False,
    rows: Annotated[
        int,
        typer.Option(
            "--rows", "-n", min=1, max=1000, metavar="N", help="Processes, where it is printed."
        ),
    ] = 20,
    name: OwnName = None,
    timeout: Timeout = 5.0,
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
    """Show what the BEAM node NODE is busy with, until q is pressed.

    Its processes by reductions, memory or mailbox, its memory, run queue and connections, and how
    our own link to it fares. It is asked once for each look and nothing is loaded on it. Where the
    output is no terminal, each look is printed.
    """
    from quicdist.cli import client
    from quicdist.cli.running import until_signal
    from quicdist.cli.top.sampling import Sort
    from quicdist.cli.top.watching import View, Watch

    settings = client.Settings(
        node,
        cookie,
        name,
        trust,
        cert,
        key,
        timeout,
        verbose,
        lookups,
        Security(crl, cookie_file, require_tls, require_binding, key_passphrase_file),
    )
    is_live = not once and sys.stdout.isatty() and sys.stdin.isatty()
    if is_live:
        _need_terminal_library()

    async def main() -> None:
        async with client.connected(settings) as ours:
            watch = Watch(ours, View(node, Sort(sort.value), interval), timeout)
            watch.rows = rows
            if is_live:
                from quicdist.cli.top import live

                await live.show(watch)
                return
            await watch.look()
            _print(watch)
            if not once:
                await watch.look_on(lambda: _print(watch))

    client.run(until_signal(main()), verbose)


def _need_terminal_library() -> None:
    """Raises MissingExtra."""
    from quicdist.extras import optional

    optional(
        "prompt_toolkit",
        what="quicdist top on a terminal (--once needs nothing)",
        library="prompt_toolkit",
        extra="terminal",
    )


def _print(watch: Watch) -> None:
    from quicdist.cli.top import screen

    width = shutil.get_terminal_size((120, 40)).columns
    print(screen.plain(watch.view, width), flush=True)
