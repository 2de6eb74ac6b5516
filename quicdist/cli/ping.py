"""`quicdist ping`: is a node there, and does it take us?"""

from __future__ import annotations

from quicdist.cli.exit_codes import ExitCode, Problem
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


def ping(
    node: PeerNode,
    cookie: Cookie = None,
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
    """Say pong if NODE answers, else pang and why, as net_adm:ping/1 does."""
    from quicdist.cli import client
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

    async def main() -> bool:
        async with client.connected(settings) as ours:
            return await ours.ping(node, timeout=timeout)

    try:
        answered = client.run(main(), verbose)
    except NoConnection:
        print("pang")
        raise
    print("pong" if answered else "pang")
    if not answered:
        raise Problem(ExitCode.NO, f"{node} is connected, but its net_kernel does not say yes")
