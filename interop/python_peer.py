"""A Python node as a peer: `python -m interop.python_peer NAME COOKIE CONTROL_PORT TICKTIME`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from interop import actor, control
from quicdist import Atom, Identity, NoConnection, Node, NodeLimits, Trust
from quicdist.etf import Term

_PLAYED = {
    "ping": actor.ping,
    "rpc": actor.rpc,
    "erpc": actor.erpc,
    "gen_call": actor.gen_call,
    "echo": actor.echo,
    "spawned": actor.spawned,
    "links": actor.links,
    "monitors": actor.monitors,
}


class PythonPeer:
    """Functions for the control connection; the names are those of erlang/quicdist_interop.erl."""

    def __init__(self, node: Node, limits: NodeLimits) -> None:
        self._node = node
        self._limits = limits

    async def answer(self, function: str, args: Sequence[Term]) -> Term:
        """Calls a function. Raises its error."""
        node = self._node
        played = _PLAYED.get(function)
        if played is not None:
            return await played(node, *args)
        match function, args:
            case "binary", (str(peer), int(size)):
                return await actor.binary(node, peer, size)
            case "ordered", (str(peer), int(count)):
                return await actor.ordered(node, peer, count)
            case "connected", ():
                return [Atom(name) for name in node.nodes()]
            case "connect", (str(peer),):
                return await self._connect(node, peer)
            case "disconnect", (str(peer),):
                return node.disconnect(peer)
            case "await_gone", (str(peer), int(milliseconds)):
                return await self._await_gone(peer, milliseconds / 1000)
            case "wrong_cookie", (str(peer), str(wrong)):
                host = node.name.partition("@")[2]
                other = Node(f"0@{host}", cookie=wrong, limits=self._limits)
                async with other:
                    return await self._connect(other, peer)
            case "release", ():
                return Atom(".".join(map(str, sys.version_info[:3])))
        raise LookupError(f"undefined function on a Python peer: {function}/{len(args)}")

    async def _connect(self, node: Node, peer: str) -> bool:
        with contextlib.suppress(NoConnection):
            await node.connect(peer)
            return True
        return False

    async def _await_gone(self, peer: str, timeout: float) -> int:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while peer in self._node.nodes():
            if loop.time() - start > timeout:
                raise TimeoutError(f"{peer} is still connected")
            await asyncio.sleep(0.01)
        return round((loop.time() - start) * 1000)


async def main(
    name: str, cookie: str, port: int, ticktime: float, certificate: str, key: str
) -> None:
    """Runs a node until the harness disconnects."""
    calls = actor.Calls()
    limits = NodeLimits(net_ticktime=ticktime)
    identity = Identity.load(certificate, key)
    # Third-party carriers present no client certificate.
    trust = Trust.first_use(Path(certificate).with_name(f"known-to-{name}"), uncertified=["*"])
    node = Node(name, cookie=cookie, exports=[calls], identity=identity, trust=trust, limits=limits)
    async with node:
        calls.node = node
        node.spawn(actor.serve, name=actor.SERVER)
        await control.serve(port, node.name, PythonPeer(node, limits).answer)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _, name, cookie, port, ticktime, certificate, key = sys.argv
    asyncio.run(main(name, cookie, int(port), float(ticktime), certificate, key))
