"""`quicdist gateway`: connect a stock BEAM node to others over QUIC."""

from __future__ import annotations

import enum
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.json_output import print_object
from quicdist.cli.operations import operated
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import Json, ServerOptions, access, read_policy

if TYPE_CHECKING:
    from quicdist.gateway import Emitted, Gateway, GatewaySettings


@takes_groups
def gateway(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The name of the BEAM node: PORT@IP, the address of the gateway for QUIC, or any "
            "name with --listen.",
            show_default=False,
        ),
    ] = None,
    emit_module: Annotated[
        bool,
        typer.Option(
            "--emit-module",
            help="Write the Erlang module for the BEAM node, compiled by the erl of --erl. Without "
            "NAME the command then ends.",
        ),
    ] = False,
    module_dir: Annotated[
        Path, typer.Option("--module-dir", metavar="DIR", help="The directory for --emit-module.")
    ] = Path("."),
    erl: Annotated[
        str,
        typer.Option(
            "--erl",
            metavar="PROGRAM",
            help="The erl that runs the node. It compiles the module, and nodes of other OTP "
            "releases may not load it.",
        ),
    ] = "erl",
    epmd_port: Annotated[
        int | None,
        typer.Option(
            "--epmd-port",
            min=0,
            max=65535,
            help="The loopback TCP port for EPMD requests of the BEAM node; by default the port in "
            "NAME, or 4369. For another port, set ERL_EPMD_PORT on the BEAM node.",
            show_default=False,
        ),
    ] = None,
    routes: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="NODE=IP:PORT",
            help="The address of a node whose name does not contain it. May be repeated.",
            show_default=False,
        ),
    ] = None,
    default_port: Annotated[
        int | None,
        typer.Option(
            "--default-port",
            min=1,
            max=65535,
            help="The UDP port of the gateways of other hosts, for node names without a port. The "
            "resolver finds the address of the host. By default the port of --listen if NAME "
            "contains no port.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    *,
    options: ServerOptions,
) -> None:
    """Connect an unmodified Erlang, Elixir or RabbitMQ node to other nodes over QUIC.

    The gateway runs next to the node until a signal stops it. It does not know the cookie:

        quicdist gateway --emit-module
        quicdist gateway 5555@10.0.0.7

    Start the node with the command that the gateway prints.
    """
    from quicdist.cluster.names import parse_listen
    from quicdist.cluster.via import parse_via
    from quicdist.gateway import GatewaySettings
    from quicdist.gateway import emit_module as emit

    is_json = as_json or options.log_json
    if emit_module:
        emitted = emit(module_dir, erl=erl)
        if is_json:
            beam = None if emitted.beam is None else str(emitted.beam)
            print_object(
                {
                    "status": "module",
                    "source": str(emitted.source),
                    "beam": beam,
                    "otp": emitted.otp,
                }
            )
        elif not options.quiet:
            _print_emitted(emitted, erl)
    if name is None and not options.via:
        if not emit_module:
            raise Problem(ExitCode.USAGE, "NAME is missing, such as 5555@10.0.0.7; see --help")
        return
    options.start_logging()
    bounds = options.bounds
    if bounds.calls_per_second is not None and options.policy is None:
        raise Problem(ExitCode.USAGE, "--calls-per-second requires a policy: --policy FILE")
    settings = GatewaySettings(
        name or "",
        via=parse_via(options.via) if options.via else (),
        path=options.path_mode(),
        map_port=options.maps_port(),
        listen=parse_listen(options.listen) if options.listen else None,
        epmd_port=epmd_port,
        routes=dict(_route(text) for text in routes or []),
        policy=read_policy(options.policy),
        audit=options.audit,
        identity=options.tls.identity(),
        default_port=default_port,
        trust=options.trusted(),
        access=access(options.accept, options.dial),
        tracing=options.tracing(),
        lan=options.announcement(),
        **bounds.rates(),
        **bounds.tls(),
    )
    form = None if options.quiet else Form.JSON if is_json else Form.TEXT
    _run(settings, options, module_dir, form)


def _print_emitted(emitted: Emitted, erl: str) -> None:
    print(*filter(None, (emitted.source, emitted.beam)), sep=", ")
    if emitted.beam is None:
        compile_it = f"erlc -o {emitted.directory} {emitted.source}"
        print(f"{erl} was not found; compile the module with: {compile_it}")
    else:
        print(
            f"compiled by OTP {emitted.otp}, for nodes of OTP {emitted.otp}; for another release, "
            "emit it again with --erl PROGRAM"
        )


class Form(enum.Enum):
    """The format of the status output."""

    TEXT = "text"
    JSON = "json"


def _run(
    settings: GatewaySettings, options: ServerOptions, module_dir: Path, form: Form | None
) -> None:
    import asyncio

    from quicdist.gateway import erl_arguments, gateway_port, run

    def started(gateway: Gateway) -> None:
        name = gateway.name
        environment = ""
        if gateway.epmd_port != gateway_port(name):
            environment = f"ERL_EPMD_PORT={gateway.epmd_port} "
        words = " ".join(_shell_word(word) for word in erl_arguments(module_dir))
        option = "-name" if "." in name.partition("@")[2] else "-sname"
        command = f"{environment}erl {option} {name} {words}"
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

    def while_up(gateway: Gateway) -> AbstractAsyncContextManager[None]:
        return operated(gateway, options.http)

    policy = options.policy
    asyncio.run(run(settings, started=started, while_up=while_up, policy_file=policy))


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
