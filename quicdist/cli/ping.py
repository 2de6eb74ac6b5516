"""`quicdist ping`: whether a node answers."""

from __future__ import annotations

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, Json, PeerNode, Quiet, Timeout, peer_of


@takes_groups
def ping(
    node: PeerNode,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: ClientOptions,
) -> None:
    """Print pong if NODE answers, else pang, as net_adm:ping/1 does.

    The reason for pang goes to standard error. The exit code is 0 for pong.
    """
    import time

    from quicdist.cli import client
    from quicdist.cli.json_output import print_object
    from quicdist.errors import NoConnection

    node = peer_of(node, options.dial.lookups)

    async def main() -> float | None:
        async with client.connected(node, options, timeout) as ours:
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
        trip = client.run(main(), options.verbose)
    except NoConnection as error:
        show(None, error.reason)
        raise
    if trip is None:
        reason = "it is connected, but its net_kernel does not answer"
        show(None, reason)
        raise Problem(ExitCode.NO, f"{node}: {reason}")
    show(trip)
