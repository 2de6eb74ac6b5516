"""`quicdist gateway`: lend a stock BEAM node the way over QUIC."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.metrics import served
from quicdist.cli.options import (
    Accept,
    AuditLog,
    Certificate,
    Crl,
    Dial,
    Key,
    KeyLogFile,
    KeyPassphraseFile,
    LetIn,
    Listen,
    LogJson,
    PolicyFile,
    Prometheus,
    QlogFiles,
    Trusted,
    Verbose,
    access,
    identity,
    start_logging,
    trusted_by,
)
from quicdist.cli.options import policy as read_policy_file

if TYPE_CHECKING:
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.carriers.trust import Identity, Trust
    from quicdist.cluster.access import Access
    from quicdist.gateway import Gateway


def gateway(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The BEAM node that it stands for: PORT@IP, where others reach it over QUIC, or "
            "any name with --listen.",
            show_default=False,
        ),
    ] = None,
    emit_module: Annotated[
        bool,
        typer.Option(
            "--emit-module",
            help="Write the Erlang module that the BEAM node is given, compiled by the erl of "
            "--erl, and end unless NAME is given.",
        ),
    ] = False,
    module_dir: Annotated[
        Path, typer.Option("--module-dir", metavar="DIR", help="Where --emit-module writes.")
    ] = Path("."),
    erl: Annotated[
        str,
        typer.Option(
            "--erl",
            metavar="PROGRAM",
            help="The erl that is to run the node: it compiles the module, which only nodes of "
            "the same OTP release are sure to load.",
        ),
    ] = "erl",
    epmd_port: Annotated[
        int | None,
        typer.Option(
            "--epmd-port",
            min=0,
            max=65535,
            help="The loopback TCP port where the BEAM node asks; by default the port in NAME, or "
            "4369. Another one is told to the BEAM node with ERL_EPMD_PORT.",
            show_default=False,
        ),
    ] = None,
    listen: Listen = None,
    routes: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="NODE=IP:PORT",
            help="Where a node is whose name does not say it, or with *@HOST the gateway of all "
            "nodes of a host. May be repeated.",
            show_default=False,
        ),
    ] = None,
    default_port: Annotated[
        int | None,
        typer.Option(
            "--default-port",
            min=1,
            max=65535,
            help="The UDP port of other hosts' gateways, for nodes whose names do not say one: "
            "their hosts are looked up by the resolver. By default that of --listen, where NAME "
            "says no port.",
            show_default=False,
        ),
    ] = None,
    policy: PolicyFile = None,
    audit: AuditLog = False,
    cert: Certificate = None,
    key: Key = None,
    key_passphrase_file: KeyPassphraseFile = None,
    trust: Trusted = "first-use",
    let_in: LetIn = None,
    crl: Crl = None,
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
        emitted = emit(module_dir, erl=erl)
        print(*filter(None, (emitted.source, emitted.beam)), sep=", ")
        if emitted.beam is None:
            compile_it = f"erlc -o {emitted.directory} {emitted.source}"
            print(f"no {erl} here to compile it: where Erlang is, run {compile_it}")
        else:
            print(
                f"compiled by OTP {emitted.otp}, for nodes of OTP {emitted.otp}: for another "
                "release, emit it again with --erl PROGRAM"
            )
    if name is None:
        if not emit_module:
            raise Problem(ExitCode.USAGE, "NAME is missing, such as 5555@10.0.0.7; see --help")
        return
    start_logging(verbose, quiet=False, as_json=log_json, audit=audit)
    tracing = Tracing(key_log, qlog)
    _run(
        name,
        module_dir,
        epmd_port,
        listen,
        routes or [],
        default_port,
        policy,
        audit,
        identity(cert, key, key_passphrase_file),
        trusted_by(trust, let_in or [], crl),
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
    default_port: int | None,
    policy: Path | None,
    audit: bool,
    shown: Identity | None,
    trust: Trust,
    may: Access,
    prometheus: str | None,
    tracing: Tracing,
) -> None:
    import asyncio
    import contextlib

    from quicdist.cluster.names import parse_listen
    from quicdist.gateway import GatewaySettings, erl_arguments, gateway_port, run

    settings = GatewaySettings(
        name,
        listen=parse_listen(listen) if listen else None,
        epmd_port=epmd_port,
        routes=dict(_route(text) for text in routes),
        policy=read_policy_file(policy),
        audit=audit,
        identity=shown,
        default_port=default_port,
        trust=trust,
        access=may,
        tracing=tracing,
    )

    stack = contextlib.ExitStack()

    def started(gateway: Gateway) -> None:
        if prometheus is not None:
            stack.enter_context(served(gateway, prometheus))
        environment = ""
        if gateway.epmd_port != gateway_port(name):
            environment = f"ERL_EPMD_PORT={gateway.epmd_port} "
        words = " ".join(_shell_word(word) for word in erl_arguments(module_dir))
        print(f"gateway for {name} is up", flush=True)
        form = "-name" if "." in settings.node.host else "-sname"
        print(f"start the node with: {environment}erl {form} {name} {words}")
        print(
            "its cookie is then that of its user's ~/.erlang.cookie; with -setcookie COOKIE it "
            "takes another, which the other users of this machine can see",
            flush=True,
        )

    with stack:
        asyncio.run(run(settings, started=started, policy_file=policy))


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
