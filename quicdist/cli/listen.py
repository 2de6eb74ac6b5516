"""`quicdist listen` and `quicdist run`: a node that runs until it is stopped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.jsonlog import error_line
from quicdist.cli.operations import operated
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import MOST_SECONDS, Calls, Json, NodeOptions, access

if TYPE_CHECKING:
    from quicdist.cluster.access import Access
    from quicdist.limits import NodeLimits
    from quicdist.node.node import Node

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The name of this node: PORT@IP for QUIC, where port 0 selects a free port, or "
        "NAME@HOST for TCP with EPMD. With --via it is omitted, or PORT@RELAY asks for that port.",
        show_default=False,
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        metavar="SECONDS",
        min=0,
        max=MOST_SECONDS,
        help="Before it stops, the node refuses new calls and waits up to SECONDS for running "
        "calls. A second signal stops it at once.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Threads for exported functions that are not async; by default 16.",
        show_default=False,
    ),
]
NetTicktime = Annotated[
    float | None,
    typer.Option(
        "--net-ticktime",
        metavar="SECONDS",
        min=0.1,
        max=MOST_SECONDS,
        help="A peer that is silent for SECONDS is down, as net_ticktime in Erlang; by default 60. "
        "Use the same value on all nodes.",
        show_default=False,
    ),
]
ExitWithStdin = Annotated[
    bool,
    typer.Option(
        "--exit-with-stdin",
        help="Drain and stop when standard input is closed, for supervision by an Erlang port.",
    ),
]
Reload = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="Drain and restart when a source file changes. For development.",
    ),
]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the node."""

    name: str | None
    options: NodeOptions
    exports: Sequence[object] = ()
    calls: Sequence[str] = ()
    threads: int | None = None
    net_ticktime: float | None = None

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Node]:
        """Runs the node, and the HTTP server if --http is given.

        Raises what Node raises, and CertificateError and Problem.
        """
        async with self._node() as node:
            self._reread_at_hangup(node)
            async with operated(node, self.options.server.http):
                yield node

    def _reread_at_hangup(self, node: Node) -> None:
        """With a file of cookies or a policy SIGHUP does not stop the node."""
        import asyncio
        import signal

        if self.options.cookies.cookie_file is None and self.options.server.policy is None:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reread, node)

    def _reread(self, node: Node) -> None:
        import logging

        from quicdist.cluster.cookie import read_cookies
        from quicdist.cluster.policy_file import PolicyError, read_policy
        from quicdist.errors import CookieError

        log = logging.getLogger("quicdist.cli")
        if (cookies := self.options.cookies.cookie_file) is not None:
            try:
                node.change_cookies(read_cookies(cookies))
            except CookieError as error:
                extra = {"event": "cookies_failed", "reason": str(error)}
                log.error("%s; the previous cookies remain in use", error, extra=extra)
        if (policy := self.options.server.policy) is not None:
            try:
                changed = replace(self._access(), policy=read_policy(policy))
                node.change_access(changed)
            except PolicyError as error:
                extra = {"event": "policy_failed", "node": node.name, "path": str(policy)}
                log.error("the policy was not replaced: %s", error, extra=extra)

    def _access(self, policy: Path | None = None) -> Access:
        server = self.options.server
        return access(server.accept, server.dial, self.calls, policy)

    def _limits(self) -> NodeLimits:
        from quicdist.limits import NodeLimits

        limits = replace(NodeLimits(), **self.options.server.bounds.rates())
        if self.threads is not None:
            limits = replace(limits, threads=self.threads)
        if self.net_ticktime is not None:
            limits = replace(limits, net_ticktime=self.net_ticktime)
        return limits

    def _node(self) -> Node:
        from quicdist.cluster.quic import Quic
        from quicdist.cluster.tls import tcp_or_tls
        from quicdist.node.node import Node

        options, server = self.options, self.options.server
        trust = options.require.of(server.trusted())
        return Node(
            self.name,
            via=server.via or None,
            carriers=[
                Quic(
                    path=server.path_mode(),
                    map_port=server.maps_port(),
                    tracing=server.tracing(),
                    **server.bounds.tls(),
                ),
                tcp_or_tls(trust),
            ],
            cookie=options.cookies.cookies(),
            listen=server.listen,
            visible=options.visible,
            exports=self.exports,
            identity=server.tls.identity(),
            trust=trust,
            limits=self._limits(),
            access=self._access(server.policy),
            audit=server.audit,
            lan=server.announcement(),
        )


@takes_groups
def listen(
    name: Name = None,
    register: Annotated[
        str,
        typer.Option(
            "--register", "-r", metavar="NAME", help="The registered name of the receiving process."
        ),
    ] = "quicdist",
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=1, metavar="N", help="End after N messages.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    *,
    options: NodeOptions,
) -> None:
    """Run a node that prints the messages it receives, one per line in Erlang notation.

    Other nodes send them to the registered name quicdist, or to the name of --register:

        quicdist send 4433@127.0.0.1 quicdist '{hello, 1}'
    """
    import asyncio

    from quicdist.cli import client
    from quicdist.cli.running import until_signal
    from quicdist.cli.serving import Output, print_messages

    register = client.atom("--register", register)
    server = options.server
    if name is None and not server.via:
        raise Problem(ExitCode.USAGE, "Missing argument 'NAME'; see quicdist listen --help")
    settings = Settings(name, options)
    server.start_logging(quiet=server.key_log is None or server.quiet)
    output = Output(is_json=as_json or server.log_json, is_quiet=server.quiet)
    asyncio.run(until_signal(print_messages(settings.up(), output, register, count)))


@takes_groups
def run(
    name: Name = None,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODULE",
            help="Python modules, as names or files. Their functions with the decorator "
            "@quicdist.export are exported.",
            show_default=False,
        ),
    ] = None,
    calls: Calls = None,
    drain: Drain = 5.0,
    threads: Threads = None,
    net_ticktime: NetTicktime = None,
    exit_with_stdin: ExitWithStdin = False,
    reload: Reload = False,
    *,
    options: NodeOptions,
) -> None:
    """Run a node whose Python functions other nodes can call.

    With @quicdist.export above def add(a, b) in calc.py, a call from Erlang is:

        erpc:call('4433@127.0.0.1', calc, add, [1, 2])
    """
    import asyncio

    from quicdist.cli import reloading
    from quicdist.cli.running import until_signal
    from quicdist.cli.serving import Output, StopConditions, serve

    server = options.server
    server.start_logging()
    given: list[str] = modules or []
    if server.via and name is not None and "@" not in name:  # NAME is omitted
        given = [name, *given]
        name = None
    if not given:
        raise Problem(ExitCode.USAGE, "Missing argument 'MODULE...'; see quicdist run --help")
    exports = _imported_or_reloaded(given) if reload else [_imported(one) for one in given]
    settings = Settings(name, options, exports, calls or [], threads, net_ticktime)
    watched = reloading.times(reloading.loaded_sources()) if reload else None
    conditions = StopConditions(drain, ends_with_stdin=exit_with_stdin, watched=watched)
    asyncio.run(
        until_signal(serve(settings.up(), Output(server.log_json, server.quiet), conditions))
    )
    if conditions.changed is not None:
        reloading.restart(conditions.changed)


def _imported_or_reloaded(texts: Sequence[str]) -> list[object]:
    """The modules.

    After an error in one of them, waits until a source file has changed and restarts. Raises
    Problem if there is no file to watch.
    """
    import asyncio

    from quicdist.cli import reloading

    try:
        return [_imported(text) for text in texts]
    except Problem as problem:
        paths = reloading.failed_sources(problem) | reloading.loaded_sources()
        if not paths:
            raise
        # Before the message: a change may follow it at once.
        before = reloading.times(paths)
        print(error_line(f"{problem.line()}; waiting for a change"), file=sys.stderr, flush=True)
    reloading.restart(asyncio.run(reloading.changed(before)))
    raise AssertionError("not reached")


def _imported(text: str) -> object:
    """The module of that name or in that file. Raises Problem."""
    import importlib
    import importlib.util

    sys.path.insert(0, str(Path.cwd()))
    try:
        if not text.endswith(".py"):
            return importlib.import_module(text)
        path = Path(text)
        if not path.is_file():
            raise Problem(ExitCode.LOCAL, f"{text}: no such file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except Problem:
        raise
    except Exception as error:
        is_unknown = isinstance(error, ModuleNotFoundError) and error.name == text
        code = ExitCode.USAGE if is_unknown else ExitCode.LOCAL
        raise Problem(code, f"{text} cannot be imported: {_where(error)}") from error
    else:
        return module


def _where(error: Exception) -> str:
    """The error in one line, with the place in the user's file, if there is one."""
    import traceback

    text = f"{type(error).__name__}: {error}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename != __file__
    ]
    outside = [frame for frame in frames if "importlib" not in frame.filename]
    return f"{text} ({outside[-1].filename}:{outside[-1].lineno})" if outside else text
