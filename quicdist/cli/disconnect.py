"""`quicdist disconnect`: end a live connection of a node."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, PeerNode, Quiet, Timeout, peer_of


@takes_groups
def disconnect(
    node: PeerNode,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="PEER",
            help="The node to disconnect NODE from.",
            show_default=False,
        ),
    ],
    timeout: Timeout = 5.0,
    quiet: Quiet = False,
    *,
    options: ClientOptions,
) -> None:
    """Close the connection of NODE to PEER, as erlang:disconnect_node/1 on NODE does.

    An Erlang or Elixir node permits this to every node in its cluster; a gateway must permit the
    call in its policy. A Python node permits it to nodes whose `calls` contain
    erlang:disconnect_node in full. PEER can connect again: to prevent that, remove its pin, revoke
    its certificate or change the policy first.
    """
    from quicdist.cli import client
    from quicdist.cli.call import called, problem
    from quicdist.cli.exported_functions import is_undefined
    from quicdist.cluster.names import NodeName
    from quicdist.errors import CallError
    from quicdist.etf import Atom, Term

    node = peer_of(node, options.dial.lookups)
    NodeName.parse(peer)

    async def main() -> object:
        async with client.connected(node, options, timeout) as ours:
            args: list[Term] = [Atom(peer)]
            return await called(ours, node, ("erlang", "disconnect_node", args), timeout)

    try:
        was_connected = client.run(main(), options.verbose)
    except CallError as error:
        if is_undefined(error):
            text = f"{node} does not permit erlang:disconnect_node to this node"
            raise Problem(ExitCode.NO, text) from None
        raise problem(error) from None
    if was_connected is not True:
        raise Problem(ExitCode.NO, f"{node} is not connected to {peer}")
    if not quiet:
        print(f"{node} has closed its connection to {peer}")
