"""The node of client commands, which exists while the command runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, TypeVar

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import ClientOptions, looked_up, start_logging

if TYPE_CHECKING:
    from quicdist.etf import Term
    from quicdist.kernel.group_leader import Write
    from quicdist.node.node import Node

_T = TypeVar("_T")


@contextlib.asynccontextmanager
async def connected(
    peer: str, options: ClientOptions, timeout: float, *, on_output: Write | None = None
) -> AsyncIterator[Node]:
    """A node that is connected to `peer` within `timeout` seconds. `on_output` is that of Node.

    Raises what Node raises, such as NoConnection.
    """
    from quicdist.cluster.names import NodeName
    from quicdist.errors import NoConnection
    from quicdist.limits import NodeLimits
    from quicdist.node.node import Node

    NodeName.parse(peer)
    dial = options.dial
    identity = dial.tls.identity()
    lookups = looked_up(dial.lookups)
    node = Node(
        await dial.own_name(peer, lookups, timeout),
        via=dial.via or None,
        cookie=dial.cookies.cookies(),
        identity=identity,
        trust=options.require.of(dial.tls.trusted()),
        lookups=lookups,
        limits=NodeLimits(connect_timeout=timeout, handshake_timeout=timeout),
        on_output=on_output,
    )
    async with node:
        try:
            await node.connect(peer)
        except NoConnection as error:
            objection = identity and identity.objection(node.name)
            if objection is None or not error.is_refusal:
                raise
            text = f"{error.reason}; {objection}; set the own name with --name"
            raise NoConnection(error.node, text, error.cause) from error
        yield node


def run(main: Coroutine[object, object, _T], verbose: int) -> _T:
    """Runs the command, with the log level of --verbose."""
    start_logging(verbose)
    if not verbose:
        _only_what_the_problem_does_not_say()
    return asyncio.run(main)


def _only_what_the_problem_does_not_say() -> None:
    """Disables log records that repeat the error line, unless --verbose is given."""
    import logging

    for name in ("quicdist", "quic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def parse(what: str, text: str, *, node: str, creation: int = 0) -> Term:
    """A term from the command line; `<0.94.0>` is a process of `node`. Raises Problem.

    `creation` is known after the connection is up. Input is parsed before that to report errors
    early, and again afterwards.
    """
    from quicdist.etf.notation import NotationError, parse_term

    try:
        return parse_term(text, node=node, creation=creation)
    except NotationError as error:
        raise Problem(ExitCode.USAGE, f"{what} is not an Erlang term: {error}") from None


def atom(what: str, text: str) -> str:
    """An atom from the command line. Quotes are optional. Raises Problem."""
    from quicdist.etf import Atom

    if text.startswith("'"):
        term = parse(what, text, node="")
        if isinstance(term, Atom):
            return term
    if not text or len(text) > 255 or not text.isprintable():
        raise Problem(ExitCode.USAGE, f"{what}: {text!r} is not an atom")
    return text
