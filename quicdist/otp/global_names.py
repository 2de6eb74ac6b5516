"""Cluster-wide names, as `global` in OTP.

    await global_names.register(node, "worker", me.pid)
    pid = await global_names.whereis(node, "worker")

A visible node is a full member of the global name service. A hidden node uses a visible node,
`via="5555@10.0.0.7"`. The nodes that know a name monitor its process and remove the name when the
process ends or when the connection to this node is lost.

A name of type str is a binary on a BEAM node. Use an `Atom` for an atom.

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
from quicdist.runtime.calls import check_timeout

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
    """Registers a process under a global name. All nodes know the name when this returns.

    A process has at most one global name. `on_conflict` decides which process keeps the name if
    two clusters that both use it are connected. `timeout` is in seconds; None waits without a
    limit. The name may still be registered after a timeout.

    Raises NameTaken if the name or the process is registered, CallTimeout, NotVisible if this node
    is hidden and `via` is not given, and with `via` the exceptions of `Node.call`.
    """
    check_timeout(timeout)
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
    """Removes a name, regardless of which process has it. Raises the same as `register`."""
    check_timeout(timeout)
    if via is None:
        await _within(timeout, node.global_names.unregister(name), name)
    else:
        await node.call(via, _GLOBAL, "unregister_name", [name], timeout=timeout)


async def whereis(
    node: Node, name: Term, *, via: str | None = None, timeout: float | None = 5.0
) -> Pid | None:
    """Returns the process with a name, as known to this node or to `via`, or None.

    Raises the same as `register`.
    """
    check_timeout(timeout)
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
    """Sends a message to the process with a name.

    Raises NoProcess if the name is not registered, and the same as `register`.
    """
    pid = await whereis(node, name, via=via, timeout=timeout)
    if pid is None:
        raise NoProcess(f"no process has the global name {format_bounded(name)}")
    await node.send(pid, message)


async def sync(node: Node, *, timeout: float | None = 5.0) -> None:
    """Waits until this node has the names of all visible nodes that it is connected to.

    The exchange takes a moment after a connection is established. Raises CallTimeout, NotVisible.
    """
    check_timeout(timeout)
    await _within(timeout, node.global_names.sync(), None)


async def _within(timeout: float | None, work: Awaitable[None], name: Term) -> None:
    try:
        await asyncio.wait_for(work, timeout)
    except TimeoutError:
        what = (
            "global's sync" if name is None else f"changing the global name {format_bounded(name)}"
        )
        raise CallTimeout(what, timeout or 0) from None
