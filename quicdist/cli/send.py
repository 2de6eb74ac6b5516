"""`quicdist send`: send a message to a process on a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.option_groups import takes_groups
from quicdist.cli.options import ClientOptions, PeerNode, Timeout, peer_of

if TYPE_CHECKING:
    from quicdist.etf import Pid
    from quicdist.runtime.mailbox import Mailbox

_NOBODY = "quicdist_send_nobody"
"""A name that no process has."""


@takes_groups
def send(
    node: PeerNode,
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            help="The receiver: a registered name, or a pid as the shell of NODE prints it, such "
            "as '<0.94.0>'.",
            show_default=False,
        ),
    ],
    message: Annotated[
        str,
        typer.Argument(
            metavar="MESSAGE", help="An Erlang term, such as '{hello, 1}'.", show_default=False
        ),
    ],
    timeout: Timeout = 5.0,
    *,
    options: ClientOptions,
) -> None:
    """Send MESSAGE to a process on NODE, and end when NODE has acknowledged it.

    Unlike in Erlang, it is an error if the process does not exist.
    """
    from quicdist.cli import client

    node = peer_of(node, options.dial.lookups)
    client.parse("MESSAGE", message, node=node)
    _receiver(node, to, 0)

    async def main() -> None:
        async with client.connected(node, options, timeout) as ours, ours.mailbox() as me:
            creation = ours.peer(node).creation
            receiver = _receiver(node, to, creation)
            term = client.parse("MESSAGE", message, node=node, creation=creation)
            await _check_exists(me, node, receiver, timeout)
            await me.send(receiver, term)

    client.run(main(), options.verbose)


def _receiver(node: str, text: str, creation: int) -> Pid | tuple[str, str]:
    """The process that TO denotes. Raises Problem."""
    from quicdist.cli import client
    from quicdist.etf import Pid

    if not text.startswith("<"):
        return client.atom("TO", text), node
    pid = client.parse("TO", text, node=node, creation=creation)
    if not isinstance(pid, Pid):
        raise Problem(ExitCode.USAGE, f"TO must be a name or a pid, got {text}")
    if pid.node != node:
        raise Problem(ExitCode.USAGE, f"{text} is a process of {pid.node}, not of {node}")
    return pid


async def _check_exists(
    me: Mailbox, node: str, receiver: Pid | tuple[str, str], timeout: float
) -> None:
    """Raises Problem if there is no such process.

    A second monitor, of a name that no process has, tells when that is known. Its DOWN follows that
    of the first one, since signals of one process to a node keep their order, and a DOWN of a
    monitor by name follows what was sent before it. An answer of another process would not.
    """
    from quicdist.errors import ReceiveTimeout

    monitor, known = me.monitor(receiver), me.monitor((_NOBODY, node))
    try:
        _, ended, _, _, reason = await me.receive(
            lambda message: message[:2] in (("DOWN", monitor), ("DOWN", known)), timeout=timeout
        )
    except ReceiveTimeout:
        reason = "noconnection"
    if reason == "noconnection":
        raise Problem(ExitCode.TIMEOUT, f"{node} does not answer; nothing was sent")
    if ended == known:
        me.demonitor(monitor)
        return
    who = receiver[0] if isinstance(receiver, tuple) else str(receiver)
    raise Problem(ExitCode.NO, f"there is no process {who} on {node}; nothing was sent")
