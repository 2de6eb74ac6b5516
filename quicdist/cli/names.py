"""`quicdist names`: who is registered in an EPMD."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import Timeout


def names(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Whose EPMD to ask.")] = "localhost",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            envvar="ERL_EPMD_PORT",
            min=1,
            max=65535,
            help="EPMD's TCP port; a gateway answers at the one that it was given.",
        ),
    ] = 4369,
    timeout: Timeout = 5.0,
) -> None:
    """List the names registered in an EPMD, with their ports.

    Erlang nodes with plain TCP distribution register there; nodes on QUIC do not, their name says
    their port. A gateway is an EPMD too, for the node next to it: --port is its --epmd-port.
    """
    import asyncio

    from quicdist.carriers import epmd

    name, colon, digits = host.rpartition(":")
    if colon and ":" not in name:
        raise Problem(
            ExitCode.USAGE,
            f"{host!r} is no host: the port goes into --port, as in `names {name} --port {digits}`",
        )
    address = epmd.EpmdAddress(host, port)
    try:
        found = asyncio.run(epmd.names(address, timeout=timeout))
    except OSError as error:
        raise Problem(
            ExitCode.UNREACHABLE,
            f"no EPMD answers at {address} ({epmd.why(error)}); it runs where an Erlang "
            "node with a name does, `epmd -daemon` starts one",
        ) from None
    except epmd.EpmdError as error:
        raise Problem(ExitCode.UNREACHABLE, f"{address} is no EPMD: {error}") from None
    for name, node_port in found:
        print(f"{name} {node_port}")
