"""`quicdist exports`: the functions that a Python node serves."""

from __future__ import annotations

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
    RequireBinding,
    RequireTls,
    Security,
    Timeout,
    Trusted,
    Verbose,
    peer_of,
)


def exports(
    node: PeerNode,
    cookie: Cookie = None,
    name: OwnName = None,
    timeout: Timeout = 5.0,
    lookups: Lookups = None,
    trust: Trusted = "first-use",
    cert: Certificate = None,
    key: Key = None,
    as_json: Json = False,
    key_passphrase_file: KeyPassphraseFile = None,
    cookie_file: CookieFile = None,
    crl: Crl = None,
    require_tls: RequireTls = False,
    require_binding: RequireBinding = False,
    verbose: Verbose = 0,
) -> None:
    """List the functions that the Python node NODE exports.

    Each line has a function with its arity and the first line of its docstring. Only functions
    that this node may call are listed. The exit code is 1 if NODE is not a Python node, or does
    not permit the list.
    """
    node = peer_of(node, lookups)
    from quicdist.cli import client
    from quicdist.cli.exported_functions import Function, functions_of
    from quicdist.cli.json_output import print_object

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

    async def main() -> list[Function]:
        async with client.connected(settings) as ours:
            return await functions_of(ours, node, timeout)

    found = client.run(main(), verbose)
    if as_json:
        print_object({"node": node, "exports": [one.as_json() for one in found]})
        return
    width = max((len(one.shown) for one in found), default=0)
    for one in found:
        print(f"{one.shown:{width}}  {one.summary}".rstrip())
