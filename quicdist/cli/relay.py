"""`quicdist relay`: a relay for nodes behind NATs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.json_output import print_object
from quicdist.cli.operations import operated
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import Http, Json, LogJson, Quiet, TlsOptions, Verbose, start_logging

if TYPE_CHECKING:
    from quicdist.carriers.relay.server import Relay

_FIRST, _LAST = 20_000, 29_999
"""The default ports. They are below the ports that Linux gives to outgoing connections."""


@takes_groups
def relay(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            help="The public UDP address of the relay, or the address to bind, such as "
            "0.0.0.0:4433.",
            show_default=False,
        ),
    ],
    tcp: Annotated[
        int,
        typer.Option(
            "--tcp",
            metavar="PORT",
            min=0,
            max=65535,
            help="The TCP port for nodes whose networks block UDP, which use TLS; 443 passes most "
            "firewalls. 0: none.",
        ),
    ] = 0,
    ports: Annotated[
        str,
        typer.Option(
            "--ports", metavar="FIRST-LAST", help="The UDP ports that are given to nodes."
        ),
    ] = f"{_FIRST}-{_LAST}",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="KEY|FILE",
            help="Keys of nodes that may use the relay: a fingerprint, as `quicdist cert show` "
            "prints it, or a file with one in each line, which is read again when it changes. May "
            "be repeated; by default all nodes may.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--port-file",
            metavar="FILE",
            help="Where the ports of nodes are kept; by default relay-ports.json in the state "
            "directory.",
            show_default=False,
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            help="A host name or address of the relay for its certificate, if it differs from "
            "HOST. May be repeated.",
            show_default=False,
        ),
    ] = None,
    key_rate: Annotated[
        float | None,
        typer.Option(
            "--key-rate",
            metavar="MIB",
            min=0.001,
            max=1_000_000,
            help="MiB per second for all nodes with one key; by default 256.",
            show_default=False,
        ),
    ] = None,
    total_rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="MIB",
            min=0.001,
            max=1_000_000,
            help="MiB per second in all; by default 1024.",
            show_default=False,
        ),
    ] = None,
    max_nodes: Annotated[
        int | None,
        typer.Option(
            "--max-nodes",
            metavar="N",
            min=1,
            help="Connected nodes, at most; by default 4096.",
            show_default=False,
        ),
    ] = None,
    http: Http = None,
    as_json: Json = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    *,
    tls: TlsOptions,
) -> None:
    """Run a relay on a public host, for nodes behind NATs.

    A node with --via gets a UDP port of the relay, and is called PORT@HOST. Every node can dial
    that name. The relay forwards datagrams and cannot decrypt them:

        quicdist relay 203.0.113.10:4433 --tcp 443
        quicdist run --via 4433@203.0.113.10 calc.py
    """
    import asyncio

    from quicdist.carriers.relay.allowed_keys import AllowedKeys
    from quicdist.carriers.relay.server import Relay
    from quicdist.carriers.trust import Credentials, state_directory
    from quicdist.cli.running import raise_file_limit, run_fast, until_signal
    from quicdist.cluster.names import parse_listen
    from quicdist.limits import MIB, RelayLimits

    start_logging(verbose, quiet=quiet, as_json=log_json)
    host, port = parse_listen(address)
    hosts = [host, *(names or [])] if host not in ("0.0.0.0", "::") else names or []
    usual = RelayLimits()
    limits = RelayLimits(
        max_nodes=max_nodes or usual.max_nodes,
        bytes_per_second=(total_rate or 0) * MIB or usual.bytes_per_second,
        bytes_per_second_per_key=(key_rate or 0) * MIB or usual.bytes_per_second_per_key,
    )
    credentials = Credentials(tls.identity(), tls.trusted(), hosts)
    allowed = AllowedKeys.of(allow) if allow else None

    raise_file_limit(limits.max_nodes * 4 + 256)

    async def serve() -> None:
        one = Relay(
            host,
            port,
            credentials=credentials,
            ports=_port_range(ports),
            port_file=state or state_directory() / "relay-ports.json",
            tcp_port=tcp,
            may_use=allowed,
            limits=limits,
        )
        async with one, operated(one, http):
            if not quiet:
                _say_up(one, is_json=as_json or log_json)
            await asyncio.get_running_loop().create_future()

    run_fast(until_signal(serve()))


def _say_up(one: Relay, *, is_json: bool) -> None:
    host, port = one.address
    if is_json:
        print_object(
            {"status": "up", "address": f"{host}:{port}", "tcp": one.tcp_port, "key": one.key}
        )
        return
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"relay at {where} is up", flush=True)
    print(f"its key is {one.key}", flush=True)


def _port_range(text: str) -> range:
    """The ports of --ports. Raises Problem."""
    first, dash, last = text.partition("-")
    is_range = dash and first.isdecimal() and last.isdecimal()
    if not is_range or not 1 <= int(first) <= int(last) <= 65535:
        raise Problem(ExitCode.USAGE, f"--ports {text!r}: expected FIRST-LAST, as in 20000-29999")
    return range(int(first), int(last) + 1)
