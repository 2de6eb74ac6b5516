"""Names of a whole cluster, by way of a BEAM node that takes part in `global`.

    await global_names.register(node, "5555@10.0.0.7", "py_worker", me.pid)
    pid = await global_names.whereis(node, "5555@10.0.0.7", "py_worker")

A Python node keeps no names for others; the BEAM nodes that know the name watch our process and
forget it when it ends, or when they cannot reach us.

OTP, global(3).
"""

from __future__ import annotations

from quicdist.etf import Atom, Pid, Term
from quicdist.node.errors import NameTaken, NoProcess
from quicdist.node.node import Node

_GLOBAL = "global"


async def register(
    node: Node, via: str, name: Term, pid: Pid, *, timeout: float | None = 5.0
) -> None:
    """Gives a process a name in the cluster of the BEAM node `via`. A name given as str is a
    binary to a BEAM; give an Atom for an atom.

    Raises NameTaken, and what `Node.call` raises.
    """
    answer = await node.call(via, _GLOBAL, "register_name", [name, pid], timeout=timeout)
    if answer != Atom("yes"):
        raise NameTaken(f"the global name {name!r} is taken")


async def unregister(node: Node, via: str, name: Term, *, timeout: float | None = 5.0) -> None:
    """Takes a name away, whoever has it. Raises what `Node.call` raises."""
    await node.call(via, _GLOBAL, "unregister_name", [name], timeout=timeout)


async def whereis(node: Node, via: str, name: Term, *, timeout: float | None = 5.0) -> Pid | None:
    """Who has a name, as the node `via` knows it. Raises what `Node.call` raises."""
    found = await node.call(via, _GLOBAL, "whereis_name", [name], timeout=timeout)
    return found if isinstance(found, Pid) else None


async def send(
    node: Node, via: str, name: Term, message: Term, *, timeout: float | None = 5.0
) -> None:
    """Sends a message to whoever has a name. Raises NoProcess, and what `Node.call` raises."""
    pid = await whereis(node, via, name, timeout=timeout)
    if pid is None:
        raise NoProcess(f"nobody has the global name {name!r}")
    await node.send(pid, message)
