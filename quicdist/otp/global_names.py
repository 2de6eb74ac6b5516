"""Names of a whole cluster, as `global` has them.

    await global_names.register(node, "worker", me.pid)
    pid = await global_names.whereis(node, "worker")

A visible node is part of the cluster, and knows all names itself: what it is told is what BEAM
nodes are told. A hidden one goes by way of one that is, `via="5555@10.0.0.7"`; the nodes that know
a name then watch our process and forget it when it ends, or when they cannot reach us.

A name given as str is a binary to a BEAM; give an Atom for an atom.

OTP, global(3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from quicdist.errors import CallTimeout, NameTaken, NoProcess
from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.global_.conflicts import OnConflict
from quicdist.node.node import Node

__all__ = ["OnConflict", "register", "send", "sync", "unregister", "whereis"]

_GLOBAL = "global"


async def register(
    node: Node,
    name: Term,
    pid: Pid,
    *,
    via: str | None = None,
    on_conflict: OnConflict = OnConflict.KILL_ONE,
    timeout: float | None = 5.0,
) -> None:
    """Gives a process a name in the cluster, its only one. When it returns all nodes know it.

    `on_conflict` says what becomes of two that got the same name in two clusters which then meet.
    Waits 5 s by default, None for ever; given up, it may still be done.

    Raises NameTaken, CallTimeout; NotVisible from a hidden node without `via`, and with it what
    `Node.call` raises.
    """
    if via is None:
        names = node.global_names
        await _within(timeout, names.register(name, pid, on_conflict=on_conflict), name)
        return
    args: list[Term] = [name, pid, on_conflict.method]
    answer = await node.call(via, _GLOBAL, "register_name", args, timeout=timeout)
    if answer != Atom("yes"):
        raise NameTaken(f"the global name {format_bounded(name)} is taken, or {pid} has another")


async def unregister(
    node: Node, name: Term, *, via: str | None = None, timeout: float | None = 5.0
) -> None:
    """Takes a name away, whoever has it. Raises as `register` does."""
    if via is None:
        await _within(timeout, node.global_names.unregister(name), name)
    else:
        await node.call(via, _GLOBAL, "unregister_name", [name], timeout=timeout)


async def whereis(
    node: Node, name: Term, *, via: str | None = None, timeout: float | None = 5.0
) -> Pid | None:
    """Who has a name, as this node knows it, or the node `via`. Raises as `register` does."""
    if via is None:
        return node.global_names.whereis(name)
    found = await node.call(via, _GLOBAL, "whereis_name", [name], timeout=timeout)
    return found if isinstance(found, Pid) else None


async def send(
    node: Node,
    name: Term,
    message: Term,
    *,
    via: str | None = None,
    timeout: float | None = 5.0,
) -> None:
    """Sends a message to whoever has a name. Raises NoProcess, and as `register` does."""
    pid = await whereis(node, name, via=via, timeout=timeout)
    if pid is None:
        raise NoProcess(f"nobody has the global name {format_bounded(name)}")
    await node.send(pid, message)


async def sync(node: Node, *, timeout: float | None = 5.0) -> None:
    """Waits until this node has the names of all visible nodes that it is connected to, which
    takes a moment after a connection is made. Raises CallTimeout, NotVisible."""
    await _within(timeout, node.global_names.sync(), None)


async def _within(timeout: float | None, work: Awaitable[None], name: Term) -> None:
    try:
        await asyncio.wait_for(work, timeout)
    except TimeoutError:
        what = (
            "global's sync" if name is None else f"changing the global name {format_bounded(name)}"
        )
        raise CallTimeout(what, timeout or 0) from None
