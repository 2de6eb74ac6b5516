"""`quicdist ping`: is a node there, and does it take us?"""

from __future__ import annotations

from quicdist.cli.exits import ExitCode, Problem
from quicdist.cli.options import Authority, Cookie, OwnName, PeerNode, Timeout, Verbose


def ping(
    node: PeerNode,
    cookie: Cookie = None,
    name: OwnName = None,
    timeout: Timeout = 5.0,
    ca: Authority = None,
    verbose: Verbose = 0,
) -> None:
    """Say pong if NODE answers, else pang and why, as net_adm:ping/1 does."""
    from quicdist.cli import client
    from quicdist.node.errors import NoConnection

    settings = client.Settings(node, cookie, name, ca, timeout, verbose)

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
