"""`quicdist doctor`: find out why a node cannot be reached."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import (
    MOST_SECONDS,
    DialOptions,
    Json,
    PeerNode,
    Quiet,
    Timeout,
    Verbose,
    looked_up,
    peer_of,
)
from quicdist.cli.sanitize import sanitized


@takes_groups
def doctor(
    node: PeerNode,
    timeout: Timeout = 5.0,
    tick: Annotated[
        float,
        typer.Option(
            "--tick",
            min=0.001,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="How long to wait for an answer after the handshake.",
        ),
    ] = 20.0,
    observers: Annotated[
        list[str] | None,
        typer.Option(
            "--observer",
            metavar="NODE",
            help="Another quicdist node or a relay, which tells how it sees this host: this shows "
            "whether a NAT is symmetric. May be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    *,
    options: DialOptions,
) -> None:
    """Connect to NODE step by step, and show which step fails and what to do next.

    The steps are the name, the port, TLS and ALPN, the certificate, the distribution handshake, the
    cookie, an answer of the node, and the NAT in between. Nothing is stored, but with --via the key
    of the relay at its first use.
    """
    from quicdist import doctor as examination
    from quicdist.cli import client
    from quicdist.cli.json_output import Value, print_object
    from quicdist.cluster.via import parse_via

    node = peer_of(node, options.lookups)
    steps: list[Value] = []

    def show(step: str, result: str, text: str) -> None:
        steps.append({"step": step, "result": result, "text": text})
        if not as_json and not quiet:
            print(f"{step:12} {result}  {sanitized(text)}".rstrip(), flush=True)

    cookies = options.cookies.cookies()
    settings = examination.Settings(
        cookie=cookies if cookies is None or isinstance(cookies, str) else cookies[0],
        name=options.name,
        identity=options.tls.identity(),
        trust=options.tls.trusted(),
        lookups=looked_up(options.lookups),
        via=parse_via(options.via) if options.via else (),
        timeout=timeout,
        tick=tick,
        observers=tuple(observers or ()),
    )

    async def main() -> None:
        async for finding in examination.examine(node, settings):
            show(finding.step.value, "ok", finding.text)

    codes = {
        examination.Trouble.NAME: ExitCode.USAGE,
        examination.Trouble.UNREACHABLE: ExitCode.UNREACHABLE,
        examination.Trouble.REFUSED: ExitCode.REFUSED,
        examination.Trouble.SILENT: ExitCode.TIMEOUT,
    }
    try:
        client.run(main(), verbose)
    except examination.Stopped as stopped:
        show(stopped.step.value, "no", f"{stopped}; {stopped.advice}" if as_json else "")
        text = f"{node} fails at the step {stopped.step.value}: {stopped}; {stopped.advice}"
        raise Problem(codes[stopped.trouble], text) from None
    finally:
        if as_json:
            print_object({"node": node, "steps": steps})
