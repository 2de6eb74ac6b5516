"""`quicdist gateway`: lend a stock BEAM node the way over QUIC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.metrics import served
from quicdist.cli.options import (
    Accept,
    AllowUncertified,
    Certificate,
    Dial,
    Key,
    KeyLogFile,
    Listen,
    LogJson,
    Prometheus,
    QlogFiles,
    Trusted,
    Verbose,
    access,
    identity,
    start_logging,
    trusted_by,
)

if TYPE_CHECKING:
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.carriers.trust import Trust
    from quicdist.cluster.access import Access
    from quicdist.gateway import Gateway, Policy


def gateway(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The BEAM node that it stands for: PORT@IP, where others reach it over QUIC.",
            show_default=False,
        ),
    ] = None,
    emit_module: Annotated[
        bool,
        typer.Option(
            "--emit-module",
            help="Write the Erlang module that the BEAM node is given, compiled where erlc is "
            "there, and end unless NAME is given.",
        ),
    ] = False,
    module_dir: Annotated[
        Path, typer.Option("--module-dir", metavar="DIR", help="Where --emit-module writes.")
    ] = Path("."),
    epmd_port: Annotated[
        int | None,
        typer.Option(
            "--epmd-port",
            min=0,
            max=65535,
            help="The loopback TCP port where the BEAM node asks; by default the port in NAME. "
            "Another one is told to the BEAM node with ERL_EPMD_PORT.",
            show_default=False,
        ),
    ] = None,
    listen: Listen = None,
    routes: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="NODE=IP:PORT",
            help="Where a node is whose name does not say it. May be repeated.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="What peers may do to the node, in TOML; without it whoever has the cookie may "
            "run anything there. At SIGHUP it is read again.",
            show_default=False,
        ),
    ] = None,
    cert: Certificate = None,
    key: Key = None,
    trust: Trusted = "first-use",
    uncertified: AllowUncertified = None,
    accept: Accept = None,
    dial: Dial = None,
    prometheus: Prometheus = None,
    key_log: KeyLogFile = None,
    qlog: QlogFiles = None,
    log_json: LogJson = False,
    verbose: Verbose = 0,
) -> None:
    """Let an unmodified Erlang, Elixir or RabbitMQ node be reached, and reach others, over QUIC.

    It runs next to that node until it is told to stop, and never knows the cookie:

        quicdist gateway --emit-module
        quicdist gateway 5555@10.0.0.7

    and then starts the node with the command that this prints.
    """
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.gateway import emit_module as emit

    if emit_module:
        emitted = emit(module_dir)
        print(*filter(None, (emitted.source, emitted.beam)), sep=", ")
        if emitted.beam is None:
            compile_it = f"erlc -o {emitted.directory} {emitted.source}"
            print(f"no erlc here to compile it: where Erlang is, run {compile_it}")
    if name is None:
        if not emit_module:
            raise Problem(ExitCode.USAGE, "NAME is missing, such as 5555@10.0.0.7; see --help")
        return
    start_logging(verbose, quiet=False, as_json=log_json)
    tracing = Tracing(key_log, qlog)
    _run(
        name,
        module_dir,
        epmd_port,
        listen,
        routes or [],
        policy,
        cert,
        key,
        trusted_by(trust, uncertified or []),
        access(accept, dial),
        prometheus,
        tracing,
    )


def _run(
    name: str,
    module_dir: Path,
    epmd_port: int | None,
    listen: str | None,
    routes: list[str],
    policy: Path | None,
    cert: Path | None,
    key: Path | None,
    trust: Trust,
    may: Access,
    prometheus: str | None,
    tracing: Tracing,
) -> None:
    import asyncio
    import contextlib

    from quicdist.cluster.names import parse_listen
    from quicdist.gateway import GatewaySettings, erl_arguments, run

    settings = GatewaySettings(
        name,
        listen=parse_listen(listen) if listen else None,
        epmd_port=epmd_port,
        routes=dict(_route(text) for text in routes),
        policy=_policy(policy),
        identity=identity(cert, key),
        trust=trust,
        access=may,
        tracing=tracing,
    )

    stack = contextlib.ExitStack()

    def started(gateway: Gateway) -> None:
        if prometheus is not None:
            stack.enter_context(served(gateway, prometheus))
        environment = ""
        if gateway.epmd_port != settings.address.port:
            environment = f"ERL_EPMD_PORT={gateway.epmd_port} "
        words = " ".join(_shell_word(word) for word in erl_arguments(module_dir))
        print(f"gateway for {name} is up", flush=True)
        print(f"start the node with: {environment}erl -name {name} {words}")
        print(
            "its cookie is then that of its user's ~/.erlang.cookie; with -setcookie COOKIE it "
            "takes another, which the other users of this machine can see",
            flush=True,
        )

    with stack:
        asyncio.run(run(settings, started=started, policy_file=policy))


def _policy(path: Path | None) -> Policy | None:
    """Raises Problem."""
    from quicdist.gateway import PolicyError, read_policy

    try:
        return None if path is None else read_policy(path)
    except PolicyError as error:
        raise Problem(ExitCode.USAGE, f"--policy {error}") from None


def _shell_word(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _route(text: str) -> tuple[str, tuple[str, int]]:
    """`NODE=IP:PORT`. Raises Problem."""
    from quicdist.cluster.names import NodeName, parse_listen
    from quicdist.errors import NodeNameError

    node, equals, where = text.partition("=")
    try:
        NodeName.parse(node)
        address = parse_listen(where)
    except NodeNameError:
        equals = ""
    if not equals or address[1] == 0:
        raise Problem(
            ExitCode.USAGE, f"--route {text!r}: expected NODE=IP:PORT, as in a@b=10.0.0.7:5555"
        )
    return node, address
