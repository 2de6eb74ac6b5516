"""`quicdist exports`: the functions that a Python node serves."""

from __future__ import annotations

from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, Json, PeerNode, Timeout, peer_of


@takes_groups
def exports(
    node: PeerNode,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    *,
    options: ClientOptions,
) -> None:
    """List the functions that the Python node NODE exports.

    Each line has a function with its arity and the first line of its docstring. Only functions
    that this node may call are listed. The exit code is 1 if NODE is not a Python node, or does
    not permit the list.
    """
    from quicdist.cli import client
    from quicdist.cli.exported_functions import Function, functions_of
    from quicdist.cli.json_output import print_object

    node = peer_of(node, options.dial.lookups)

    async def main() -> list[Function]:
        async with client.connected(node, options, timeout) as ours:
            return await functions_of(ours, node, timeout)

    found = client.run(main(), options.verbose)
    if as_json:
        print_object({"node": node, "exports": [one.as_json() for one in found]})
        return
    width = max((len(one.shown) for one in found), default=0)
    for one in found:
        print(f"{one.shown:{width}}  {one.summary}".rstrip())
