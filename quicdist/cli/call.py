"""`quicdist call`: call a function on a node, in Erlang notation."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli import completion
from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, Json, PeerNode, Quiet, Timeout, peer_of
from quicdist.cli.sanitize import sanitized, sanitized_term

if TYPE_CHECKING:
    from quicdist.errors import CallError
    from quicdist.etf import Term
    from quicdist.node.node import Node


@takes_groups
def call(
    node: PeerNode,
    module: Annotated[
        str,
        typer.Argument(
            metavar="M",
            help="The module, such as lists, or Enum for a module of Elixir. It may include the "
            "function, lists:seq, or be a complete call: 'lists:seq(1, 3)', 'Enum.sum([1, 2])'.",
            show_default=False,
            autocompletion=completion.modules,
        ),
    ],
    function: Annotated[
        str | None,
        typer.Argument(
            metavar="F",
            help="The function.",
            show_default=False,
            autocompletion=completion.functions,
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            help="The arguments as one list, such as '[1, {a, <<\"b\">>}]'; by default [].",
            show_default=False,
        ),
    ] = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    options: ClientOptions,
) -> None:
    """Call M:F with ARGS on NODE and print the result in Erlang notation.

    The output of the function goes to standard error; --quiet drops it. With --json the result is
    printed as `result` in Erlang notation and as `value` in JSON.

    A pid in ARGS is written as the shell of NODE prints it, or with the name of its node:
    <'5555@127.0.0.1'.94.0>. With -v the stack trace of a failed call is printed too.
    """
    from quicdist.cli import client
    from quicdist.cli.json_output import json_value, print_object
    from quicdist.cli.remote_output import RemoteOutput
    from quicdist.errors import CallError
    from quicdist.etf.notation import format_term

    node = peer_of(node, options.dial.lookups)
    words = (module, function, arguments or [])
    _wanted(node, 0, *words)
    printed = RemoteOutput(lambda: sys.stderr)
    write = _drop if quiet else printed

    async def main() -> Term:
        async with client.connected(node, options, timeout, on_output=write) as ours:
            wanted = _wanted(node, ours.peer(node).creation, *words)
            try:
                return await called(ours, node, wanted, timeout)
            finally:
                printed.end_line()

    try:
        result = client.run(main(), options.verbose)
    except CallError as error:
        if options.verbose:
            show_details(error)
        raise problem(error) from None
    text = sanitized_term(format_term(result, node=node))
    if as_json:
        print_object({"node": node, "result": text, "value": json_value(result, node)})
    else:
        print(text)


def _drop(text: str) -> None:
    """The output of a function that is called with --quiet."""


async def called(
    ours: Node, node: str, wanted: tuple[str, str, list[Term]], timeout: float | None
) -> Term:
    """Returns the result of a call on a connected node. Raises as Node.call and Node.rpc."""
    # A node without erpc has rex. If a node with erpc refuses the call, rex is not tried, because a
    # gateway's policy would answer that rex does not exist.
    call = ours.call if ours.peer(node).can_spawn else ours.rpc
    return await call(node, *wanted, timeout=timeout)


def _wanted(
    node: str, creation: int, module: str, function: str | None, arguments: list[str]
) -> tuple[str, str, list[Term]]:
    """Module, function and arguments. Raises Problem."""
    from quicdist.cli import client
    from quicdist.etf.notation import NotationError, parse_call

    typed, module = module, unaliased(module)
    if function is None:
        try:
            return parse_call(module, node=node, creation=creation)
        except NotationError as error:
            if "(" in module:
                raise Problem(ExitCode.USAGE, f"invalid call {module!r}: {error}") from None
            raise Problem(
                ExitCode.USAGE, f"{typed!r} is not a call: expected M F ARGS or 'M:F(...)'"
            ) from None
    if ":" in module and function.lstrip().startswith("["):
        (module, function), arguments = _split_function(module), [function, *arguments]
    if len(arguments) > 1:
        raise Problem(
            ExitCode.USAGE,
            f"expected one list of arguments: '[{', '.join(arguments)}]'",
        )
    text = arguments[0] if arguments else "[]"
    terms = client.parse("ARGS", text, node=node, creation=creation)
    if not isinstance(terms, list):
        raise Problem(ExitCode.USAGE, f"ARGS must be a list: '[{arguments[0]}]'")
    return client.atom("M", module), client.atom("F", function), terms


_ALIAS = re.compile(
    r"\s*(?::(?P<erlang>[a-z]\w*)|(?:Elixir\.)?(?P<module>[A-Z]\w*(?:\.[A-Z]\w*)*))"
    r"(?:[.:](?P<function>[a-z_]\w*[?!]?)(?P<rest>\s*\(.*)?)?\s*",
    re.DOTALL,
)


_QUOTED_CALL = re.compile(r"\s*'Elixir\.[^':(]*:[^']*'\s*")
"""A call whose quotes the shell has not removed."""


def unaliased(text: str) -> str:
    """Returns a module, a function or a call in Erlang notation.

    `Shop.report(1)` becomes 'Elixir.Shop':'report'(1), and `:lists.seq(1, 3)` becomes
    'lists':'seq'(1, 3). Text in neither form of Elixir is returned unchanged.
    """
    if _QUOTED_CALL.fullmatch(text):
        text = text.strip()[1:-1]
    match = _ALIAS.fullmatch(text)
    if match is None:
        return text
    module = f"'{match['erlang']}'" if match["erlang"] else f"'Elixir.{match['module']}'"
    if match["function"] is None:
        return module
    return f"{module}:'{match['function']}'{match['rest'] or ''}"


def _split_function(text: str) -> tuple[str, str]:
    """The halves of M:F. Raises Problem."""
    from quicdist.etf.notation import NotationError, parse_call

    try:
        module, function, _ = parse_call(f"{text}()")
    except NotationError:
        raise Problem(
            ExitCode.USAGE, f"invalid function {text!r}: expected M:F, such as lists:seq"
        ) from None
    return module, function


def problem(error: CallError) -> Problem:
    """The outcome of the call in one line."""
    match error.reason:
        case ("python_error", str(kind), bytes(text), bytes()):
            # The answer of a quicdist node. -v shows its traceback.
            why = text.decode(errors="replace")
            return Problem(ExitCode.NO, f"{error.what} raised {kind}: {why}")
        case ("signal", ("python_error", str(kind), bytes(text), bytes())):
            # The function has returned, but its value could not be sent.
            why = text.decode(errors="replace")
            return Problem(
                ExitCode.NO, f"{error.what} returned a value that cannot be sent: {kind}: {why}"
            )
    return Problem(ExitCode.NO, str(error).split("\n")[0])


def show_details(error: CallError) -> None:
    """Prints the stack frames of Erlang, and the traceback that a Python node sends."""
    for frame in error.stack:
        print(f"  in {sanitized_term(_frame(frame))}", file=sys.stderr)
    match error.reason:
        case ("python_error", _, _, bytes(traceback)) | (
            "signal",
            ("python_error", _, _, bytes(traceback)),
        ):
            text = traceback.decode(errors="replace").rstrip()
            print(sanitized(text, keep="\n\t"), file=sys.stderr)


_MAX_ARITY = 255


def _frame(frame: Term) -> str:
    """`lists:nth/2 (lists.erl, line 178)`, or with its arguments if they are included."""
    from quicdist.etf import Atom
    from quicdist.etf.notation import format_bounded

    match frame:
        case (Atom() as module, Atom() as function, list() | int() as arguments, list(place)):
            name = f"{format_bounded(module)}:{format_bounded(function)}"
            if isinstance(arguments, int):
                return f"{name}/{arguments}{_where(place)}"
            shown = ", ".join(map(format_bounded, arguments[:_MAX_ARITY]))
            return f"{name}({shown}){_where(place)}"
    return format_bounded(frame)


def _where(place: list[Term]) -> str:
    told = {pair[0]: pair[1] for pair in place if isinstance(pair, tuple) and len(pair) == 2}
    match told.get("file"), told.get("line"):
        case list(file), int(line) if all(isinstance(char, int) for char in file):
            with contextlib.suppress(ValueError):
                return f" ({bytes(file).decode(errors='replace')}, line {line})"
    return ""
