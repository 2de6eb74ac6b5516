"""What ping, call and send share: a node of one's own for as long as the command runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.options import identity, looked_up, start_logging, trusted_by

if TYPE_CHECKING:
    from quicdist.etf import Term
    from quicdist.kernel.group_leader import Write
    from quicdist.node.node import Node

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says about the way to the other node."""

    peer: str
    cookie: str | None
    name: str | None
    trust: str
    certificate: Path | None
    key: Path | None
    timeout: float
    verbose: int
    lookups: Sequence[str] | None = None


@contextlib.asynccontextmanager
async def connected(settings: Settings, *, printed: Write | None = None) -> AsyncIterator[Node]:
    """A node of our own that is connected to the peer. `printed` is Node's.

    Raises what Node raises, NoConnection among it.
    """
    from quicdist.cluster.names import NodeName, facing
    from quicdist.errors import NoConnection
    from quicdist.limits import NodeLimits
    from quicdist.node.node import Node

    NodeName.parse(settings.peer)
    name = settings.name or facing(settings.peer)
    shown = identity(settings.certificate, settings.key)
    node = Node(
        name,
        cookie=settings.cookie,
        identity=shown,
        trust=trusted_by(settings.trust),
        lookups=looked_up(settings.lookups),
        limits=NodeLimits(connect_timeout=settings.timeout, handshake_timeout=settings.timeout),
        printed=printed,
    )
    async with node:
        try:
            await node.connect(settings.peer)
        except NoConnection as error:
            objection = shown and shown.objection(node.name)
            if objection is None or not error.is_refusal:
                raise
            text = f"{error.reason}; {objection}; --name says who we are"
            raise NoConnection(error.node, text, error.cause) from error
        yield node


def run(main: Coroutine[object, object, _T], verbose: int) -> _T:
    """Runs it; what it logs is shown as far as was asked for."""
    start_logging(verbose)
    if not verbose:
        _only_what_the_problem_does_not_say()
    return asyncio.run(main)


def _only_what_the_problem_does_not_say() -> None:
    """The node's log would say the same as the line that the command ends with."""
    import logging

    for name in ("quicdist", "quic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def parse(what: str, text: str, *, node: str, creation: int = 0) -> Term:
    """A term from the command line, `<0.94.0>` being a process of `node`. Raises Problem.

    Which life of the node is meant (`creation`) is known only once it is connected: what is
    typed is read before that, to refuse it early, and once more then.
    """
    from quicdist.etf.notation import NotationError, parse_term

    try:
        return parse_term(text, node=node, creation=creation)
    except NotationError as error:
        raise Problem(ExitCode.USAGE, f"{what} is no Erlang term: {error}") from None


def atom(what: str, text: str) -> str:
    """An atom from the command line, where nothing but an atom can stand: quotes may be left out.

    Raises Problem.
    """
    from quicdist.etf import Atom

    if text.startswith("'"):
        term = parse(what, text, node="")
        if isinstance(term, Atom):
            return term
    if not text or len(text) > 255 or not text.isprintable():
        raise Problem(ExitCode.USAGE, f"{what}: {text!r} is no atom")
    return text
