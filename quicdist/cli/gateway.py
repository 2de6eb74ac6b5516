"""`quicdist gateway`: connect a stock BEAM node to others over QUIC."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.json_output import print_object
from quicdist.cli.metrics import served
from quicdist.cli.options import (
    Accept,
    Certificate,
    Dial,
    Json,
    Key,
    KeyLogFile,
    LetIn,
    Listen,
    LogJson,
    Prometheus,
    QlogFiles,
    Quiet,
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
            help="The name of the BEAM node: PORT@IP, the address of the gateway for QUIC.",
            show_default=False,
        ),
    ] = None,
    emit_module: Annotated[
        bool,
        typer.Option(
            "--emit-module",
            help="Write the Erlang module for the BEAM node, compiled if erlc is installed. "
            "Without NAME the command then ends.",
        ),
    ] = False,
    module_dir: Annotated[
        Path, typer.Option("--module-dir", metavar="DIR", help="The directory for --emit-module.")
    ] = Path("."),
    epmd_port: Annotated[
        int | None,
        typer.Option(
            "--epmd-port",
            min=0,
            max=65535,
            help="The TCP port on loopback for the BEAM node; by default the port in NAME. With "
            "another port, the BEAM node needs ERL_EPMD_PORT.",
            show_default=False,
        ),
    ] = None,
    listen: Listen = None,
    routes: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="NODE=IP:PORT",
            help="The address of a node whose name does not contain it. May be repeated.",
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
    let_in: LetIn = None,
    accept: Accept = None,
    dial: Dial = None,
    prometheus: Prometheus = None,
    key_log: KeyLogFile = None,
    qlog: QlogFiles = None,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Connect an unmodified Erlang, Elixir or RabbitMQ node to other nodes over QUIC.

    The gateway runs next to the node until a signal stops it. It does not know the cookie:

        quicdist gateway --emit-module
        quicdist gateway 5555@10.0.0.7

    Start the node with the command that the gateway prints.
    """
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.gateway import emit_module as emit

    if emit_module:
        emitted = emit(module_dir)
        if as_json or log_json:
            beam = None if emitted.beam is None else str(emitted.beam)
            print_object({"status": "module", "source": str(emitted.source), "beam": beam})
        elif not quiet:
            print(*filter(None, (emitted.source, emitted.beam)), sep=", ")
        if emitted.beam is None and not (as_json or log_json or quiet):
            compile_it = f"erlc -o {emitted.directory} {emitted.source}"
            print(f"erlc was not found; compile the module with: {compile_it}")
    if name is None:
        if not emit_module:
            raise Problem(ExitCode.USAGE, "NAME is missing, such as 5555@10.0.0.7; see --help")
        return
    start_logging(verbose, quiet=quiet, as_json=log_json)
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
        trusted_by(trust, let_in or []),
        access(accept, dial),
        prometheus,
        tracing,
        None if quiet else Form.JSON if as_json or log_json else Form.TEXT,
    )


class Form(enum.Enum):
    """How the status is printed."""

    TEXT = "text"
    JSON = "json"


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
    form: Form | None,
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
        command = f"{environment}erl -name {name} {words}"
        if form is Form.JSON:
            print_object(
                {
                    "status": "up",
                    "gateway": name,
                    "epmd_port": gateway.epmd_port,
                    "start": command,
                }
            )
        elif form is Form.TEXT:
            print(f"gateway for {name} is up", flush=True)
            print(f"start the node with: {command}")
            print(
                "the node takes its cookie from ~/.erlang.cookie of its user, or from -setcookie "
                "COOKIE, which other users of this machine can see",
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
