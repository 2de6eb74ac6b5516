"""`quicdist names`: the nodes that are registered in an EPMD."""

from __future__ import annotations

from typing import Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import Json, Timeout
from quicdist.cli.sanitize import sanitized


def names(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="The host of the EPMD.")
    ] = "localhost",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            envvar="ERL_EPMD_PORT",
            min=1,
            max=65535,
            help="The TCP port of the EPMD. For a gateway, the value of its --epmd-port.",
        ),
    ] = 4369,
    lan: Annotated[
        bool,
        typer.Option(
            "--lan",
            help="List the nodes that are announced in the local network by multicast DNS instead. "
            "Requires the extra `lan`.",
        ),
    ] = False,
    timeout: Timeout = 5.0,
    as_json: Json = False,
) -> None:
    """List the names and ports of the nodes that are registered in an EPMD.

    Erlang nodes that use TCP register in the EPMD of their host. Nodes that use QUIC do not: their
    name contains the port. A gateway also answers as an EPMD, at the port of its --epmd-port.

    With --lan, the nodes and gateways that were started with --lan are listed, with their addresses
    and short names. Anyone in the local network can announce any name.
    """
    import asyncio

    if lan:
        _list_lan(timeout, as_json=as_json)
        return

    from quicdist.carriers import epmd
    from quicdist.cli.json_output import Value, print_object

    name, colon, digits = host.rpartition(":")
    if colon and ":" not in name:
        raise Problem(
            ExitCode.USAGE,
            f"invalid host {host!r}: --port sets the port, as in `names {name} --port {digits}`",
        )
    address = epmd.EpmdAddress(host, port)
    try:
        found = asyncio.run(epmd.names(address, timeout=timeout))
    except OSError as error:
        raise Problem(
            ExitCode.UNREACHABLE,
            f"no EPMD answers at {address} ({epmd.why(error)}); an Erlang node with a name "
            "starts one, and so does `epmd -daemon`",
        ) from None
    except epmd.EpmdError as error:
        raise Problem(ExitCode.UNREACHABLE, f"{address} is not an EPMD: {error}") from None
    if as_json:
        listed: list[Value] = [{"name": name, "port": node_port} for name, node_port in found]
        print_object({"host": host, "port": port, "names": listed})
        return
    for name, node_port in found:
        print(f"{name} {node_port}")


def _list_lan(timeout: float, *, as_json: bool) -> None:
    """Prints the nodes of the local network. Raises Problem, MissingExtra."""
    import asyncio

    from quicdist.cli.json_output import Value, print_object
    from quicdist.cluster.lan import Lan

    try:
        found = asyncio.run(Lan().nodes(timeout))
    except OSError as error:
        text = f"no answer by multicast DNS: {error}"
        raise Problem(ExitCode.UNREACHABLE, text) from None
    if as_json:
        listed: list[Value] = [
            {
                "node": one.node,
                "name": one.name or None,
                "addresses": list(one.addresses),
                "port": one.port,
            }
            for one in found
        ]
        print_object({"nodes": listed})
        return
    for one in found:
        name = f" {one.name}" if one.name else ""
        print(sanitized(f"{one.node} {','.join(one.addresses)} {one.port}{name}"))
