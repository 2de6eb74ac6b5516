"""Connect to Erlang and Elixir nodes over QUIC, run a Python node, or run a gateway."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import Annotated, NoReturn

import typer

from quicdist.cli import (
    bench,
    call,
    cert,
    demo,
    disconnect,
    doctor,
    exports,
    gateway,
    listen,
    names,
    ping,
    relay,
    send,
    shell,
    top,
)
from quicdist.cli.exit_codes import EXIT_CODES, ExitCode, Problem, problem_of
from quicdist.cli.jsonlog import error_line

app = typer.Typer(
    no_args_is_help=True,
    help=__doc__,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ping")(ping.ping)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("call")(call.call)
app.command("send")(send.send)
app.command("disconnect")(disconnect.disconnect)
app.command("listen")(listen.listen)
app.command("run")(listen.run)
app.command("shell")(shell.shell)
app.command("top")(top.top)
app.command("exports")(exports.exports)
app.command("names")(names.names)
app.add_typer(cert.app, name="cert")
app.command("gateway")(gateway.gateway)
app.command("relay")(relay.relay)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"quicdist {version('quicdist')}")
        raise typer.Exit


@app.callback()
def _quicdist(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Runs the command line and ends the process: one line for an error, never a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed, as `>&-` does
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # The encoding of the terminal may lack characters of a term.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run()
    if threading.active_count() > 1:
        # A thread cannot be ended, and the interpreter would wait for it without limit.
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


# What typer raises for a wrong command line. The module of the class differs by version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _run() -> int:
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        return _say(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return ExitCode.LOCAL
    except Exception as error:
        problem = problem_of(error)
        if problem is None and os.environ.get("QUICDIST_DEBUG"):
            raise
        return _say(problem or _bug(error))
    return result if isinstance(result, int) else ExitCode.OK


def _usage(error: Exception) -> Problem:
    context = getattr(error, "ctx", None)
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if not text:  # without arguments the help has been printed
        return Problem(ExitCode.USAGE, "")
    where = context.command_path if context is not None else "quicdist"
    return Problem(ExitCode.USAGE, f"{text.rstrip('.')}; see {where} --help")


def _say(problem: Problem) -> int:
    if problem.line():
        print(error_line(problem.line()), file=sys.stderr)
    return problem.code


def _bug(error: Exception) -> Problem:
    return Problem(
        ExitCode.BUG,
        f"internal error: {type(error).__name__}: {error}; QUICDIST_DEBUG=1 shows where",
    )


def _forget_output() -> None:
    """The reader is gone: prevents an error message of the interpreter at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
