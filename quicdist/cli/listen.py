"""`quicdist listen` and `quicdist run`: a node that stays, for others to talk to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.metrics import served
from quicdist.cli.options import (
    Accept,
    AllowUncertified,
    Calls,
    Certificate,
    Cookie,
    CookieFile,
    Crl,
    Dial,
    Key,
    KeyLogFile,
    Listen,
    LogJson,
    Prometheus,
    QlogFiles,
    RequireBinding,
    RequireTls,
    Trusted,
    Verbose,
    access,
    identity,
    start_logging,
    trusted_by,
)
from quicdist.cli.sanitize import harmless_term

if TYPE_CHECKING:
    from quicdist.node.node import Node

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="This node's name: PORT@IP, where others reach it over QUIC (port 0 takes a free "
        "one), or NAME@HOST, for TCP and EPMD.",
        show_default=False,
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        metavar="SECONDS",
        min=0,
        help="When told to stop, refuse new calls and wait so long for those that run. A second "
        "signal stops at once.",
    ),
]
Visible = Annotated[
    bool,
    typer.Option(
        "--visible", help="Show up in the nodes() of others; by default in nodes(hidden)."
    ),
]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says about the node to be."""

    name: str
    cookie: str | None
    cookie_file: Path | None
    listen: str | None
    visible: bool
    certificate: Path | None
    key: Path | None
    trust: str
    uncertified: Sequence[str]
    crl: Path | None
    require_tls: bool
    require_binding: bool
    accept: Sequence[str]
    dial: Sequence[str]
    calls: Sequence[str]
    prometheus: str | None
    key_log: Path | None
    qlog: Path | None
    exports: Sequence[object] = ()

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Node]:
        """The node, up, and its metrics where they are wanted. Raises what Node raises,
        CertificateError, MissingExtra and OSError among it."""
        async with self._node() as node:
            self._reread_cookies_at_hangup(node)
            if self.prometheus is None:
                yield node
                return
            with served(node, self.prometheus):
                yield node

    def _reread_cookies_at_hangup(self, node: Node) -> None:
        """With a cookie file SIGHUP does not stop the node."""
        import asyncio
        import logging
        import signal

        from quicdist.cluster.cookie import read_cookies
        from quicdist.errors import CookieError

        path = self.cookie_file
        if path is None:
            return
        log = logging.getLogger("quicdist.cli")

        def reread() -> None:
            try:
                node.change_cookies(read_cookies(path))
            except CookieError as error:
                extra = {"event": "cookies_failed", "reason": str(error)}
                log.error("%s; the cookies used before stay in use", error, extra=extra)

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reread)

    def _node(self) -> Node:
        from quicdist.carriers.quic.tracing import Tracing
        from quicdist.cluster.cookie import read_cookies
        from quicdist.cluster.quic import Quic
        from quicdist.cluster.tls import tcp_or_tls
        from quicdist.node.node import Node

        believing = trusted_by(self.trust, self.uncertified, self.crl).requiring(
            tls=self.require_tls, binding=self.require_binding
        )
        return Node(
            self.name,
            carriers=[Quic(tracing=Tracing(self.key_log, self.qlog)), tcp_or_tls(believing)],
            cookie=self.cookie if self.cookie_file is None else read_cookies(self.cookie_file),
            listen=self.listen,
            visible=self.visible,
            exports=self.exports,
            identity=identity(self.certificate, self.key),
            trust=believing,
            access=access(self.accept, self.dial, self.calls),
        )


def listen(
    name: Name,
    register: Annotated[
        str,
        typer.Option(
            "--register", "-r", metavar="NAME", help="The name that messages are to be sent to."
        ),
    ] = "quicdist",
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=1, metavar="N", help="End after N messages.", show_default=False
        ),
    ] = None,
    cookie: Cookie = None,
    cookie_file: CookieFile = None,
    listen: Listen = None,
    visible: Visible = False,
    cert: Certificate = None,
    key: Key = None,
    trust: Trusted = "first-use",
    uncertified: AllowUncertified = None,
    crl: Crl = None,
    require_tls: RequireTls = False,
    require_binding: RequireBinding = False,
    accept: Accept = None,
    dial: Dial = None,
    prometheus: Prometheus = None,
    key_log: KeyLogFile = None,
    qlog: QlogFiles = None,
    log_json: LogJson = False,
    verbose: Verbose = 0,
) -> None:
    """Be a node that prints the messages it gets, one line of Erlang notation each.

    Others send them to the process called quicdist, or as --register says:

        quicdist send 4433@127.0.0.1 quicdist '{hello, 1}'
    """
    import asyncio

    from quicdist.cli import client
    from quicdist.cli.running import until_signal

    register = client.atom("--register", register)
    settings = Settings(
        name,
        cookie,
        cookie_file,
        listen,
        visible,
        cert,
        key,
        trust,
        uncertified or [],
        crl,
        require_tls,
        require_binding,
        accept or [],
        dial or [],
        [],
        prometheus,
        key_log,
        qlog,
    )
    start_logging(verbose, quiet=key_log is None, as_json=log_json)
    asyncio.run(until_signal(_print_messages(settings, register, count)))


def run(
    name: Name,
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE",
            help="Python modules, by name or as files, whose functions marked with "
            "@quicdist.export are served.",
            show_default=False,
        ),
    ],
    cookie: Cookie = None,
    cookie_file: CookieFile = None,
    listen: Listen = None,
    visible: Visible = False,
    cert: Certificate = None,
    key: Key = None,
    trust: Trusted = "first-use",
    uncertified: AllowUncertified = None,
    crl: Crl = None,
    require_tls: RequireTls = False,
    require_binding: RequireBinding = False,
    accept: Accept = None,
    dial: Dial = None,
    calls: Calls = None,
    drain: Drain = 5.0,
    prometheus: Prometheus = None,
    key_log: KeyLogFile = None,
    qlog: QlogFiles = None,
    log_json: LogJson = False,
    verbose: Verbose = 0,
) -> None:
    """Be a node whose Python functions other nodes can call.

    In calc.py: @quicdist.export above def add(a, b). Then, from Erlang:

        erpc:call('4433@127.0.0.1', calc, add, [1, 2])
    """
    import asyncio

    from quicdist.cli.running import until_signal

    exports = [_imported(module) for module in modules]
    settings = Settings(
        name,
        cookie,
        cookie_file,
        listen,
        visible,
        cert,
        key,
        trust,
        uncertified or [],
        crl,
        require_tls,
        require_binding,
        accept or [],
        dial or [],
        calls or [],
        prometheus,
        key_log,
        qlog,
        exports,
    )
    start_logging(verbose, quiet=False, as_json=log_json)
    asyncio.run(until_signal(_serve(settings, drain)))


async def _print_messages(settings: Settings, register: str, count: int | None) -> None:
    from quicdist.etf.notation import format_term

    async with settings.up() as node, node.mailbox(register) as me:
        _say_up(node)
        while count is None or count > 0:
            message = await me.receive()
            print(harmless_term(format_term(message, node=node.name)), flush=True)
            count = count - 1 if count is not None else None


async def _serve(settings: Settings, drain: float) -> None:
    import asyncio

    async with settings.up() as node:
        _say_up(node)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            # Told to stop; a second signal cancels the drain too.
            if drain > 0:
                await node.drain(drain)
            raise


def _say_up(node: Node) -> None:
    """The first line on standard output, for scripts that wait for it."""
    print(f"{node.name} is up", flush=True)


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
            raise Problem(ExitCode.USAGE, f"{text}: there is no such file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except Problem:
        raise
    except Exception as error:
        raise Problem(ExitCode.USAGE, f"{text} cannot be imported: {_where(error)}") from error
    else:
        return module


def _where(error: Exception) -> str:
    """The error in one line, with the place in the user's file where there is one."""
    import traceback

    text = f"{type(error).__name__}: {error}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename != __file__
    ]
    outside = [frame for frame in frames if "importlib" not in frame.filename]
    return f"{text} ({outside[-1].filename}:{outside[-1].lineno})" if outside else text
