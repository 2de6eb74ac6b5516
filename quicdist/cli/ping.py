"""`quicdist ping`: whether a node answers."""

from __future__ import annotations

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import (
    Certificate,
    Cookie,
    CookieFile,
    Crl,
    Json,
    Key,
    KeyPassphraseFile,
    Lookups,
    OwnName,
    PeerNode,
    Quiet,
    RequireBinding,
    RequireTls,
    Security,
    Timeout,
    Trusted,
    Verbose,
    peer_of,
)


def ping(
    node: PeerNode,
    cookie: Cookie = None,
    name: OwnName = None,
    timeout: Timeout = 5.0,
    lookups: Lookups = None,
    trust: Trusted = "first-use",
    cert: Certificate = None,
    key: Key = None,
    as_json: Json = False,
    quiet: Quiet = False,
    key_passphrase_file: KeyPassphraseFile = None,
    cookie_file: CookieFile = None,
    crl: Crl = None,
    require_tls: RequireTls = False,
    require_binding: RequireBinding = False,
    verbose: Verbose = 0,
) -> None:
    """Print pong if NODE answers, else pang, as net_adm:ping/1 does.

    The reason for pang goes to standard error. The exit code is 0 for pong.
    """
    node = peer_of(node, lookups)
    import time

    from quicdist.cli import client
    from quicdist.cli.json_output import print_object
    from quicdist.errors import NoConnection

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

    async def main() -> float | None:
        async with client.connected(settings) as ours:
            began = time.monotonic()
            answered = await ours.ping(node, timeout=timeout)
            return time.monotonic() - began if answered else None

    def show(trip: float | None, reason: str | None = None) -> None:
        answer = "pang" if trip is None else "pong"
        if as_json:
            milliseconds = None if trip is None else round(trip * 1000, 3)
            print_object(
                {"node": node, "answer": answer, "round_trip_ms": milliseconds, "reason": reason}
            )
        elif not quiet:
            print(answer)

    try:
        trip = client.run(main(), verbose)
    except NoConnection as error:
        show(None, error.reason)
        raise
    if trip is None:
        reason = "it is connected, but its net_kernel does not answer"
        show(None, reason)
        raise Problem(ExitCode.NO, f"{node}: {reason}")
    show(trip)
