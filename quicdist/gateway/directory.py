"""The registry of nodes that the gateway serves to BEAM nodes in place of an EPMD."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from quicdist.carriers.base import ConnectionHandler
from quicdist.carriers.epmd import EpmdRefused, NodeInfo
from quicdist.carriers.tcp import TcpConnection, TcpListener
from quicdist.cluster.names import NodeName
from quicdist.errors import NodeNameError
from quicdist.gateway.routes import Routes
from quicdist.limits import CarrierLimits

_log = logging.getLogger("quicdist.gateway")

LOOPBACK = "127.0.0.1"

Connect = Callable[[str, TcpConnection], ConnectionHandler]
"""Called with the name of a remote node and the TCP connection from the BEAM node."""


class GatewayDirectory:
    """Local nodes with their ports, and remote nodes with the loopback ports that lead to them."""

    def __init__(
        self,
        own_name: str,
        *,
        routes: Routes,
        max_remotes: int,
        limits: CarrierLimits,
        connect: Connect,
        is_open: bool = False,
    ) -> None:
        """`max_remotes` limits the open ports. The least recently requested one is closed first.

        With `is_open`, names without a route may be found when they are dialed.
        """
        self._own_name = own_name
        self._routes = routes
        self._max_remotes = max_remotes
        self._limits = limits
        self._connect = connect
        self._is_open = is_open
        self._local: dict[str, NodeInfo] = {}
        self._remotes: dict[str, TcpListener] = {}
        self._opening = asyncio.Lock()

    @property
    def beam_port(self) -> int | None:
        """The distribution port of the gateway's node, or None if it is not registered."""
        return self.port_of(self._own_name)

    def port_of(self, name: str) -> int | None:
        """The distribution port of a local node, or None if it is not registered."""
        node = self._local.get(name)
        return None if node is None else node.port

    async def close(self) -> None:
        """Closes all ports."""
        for listener in self._remotes.values():
            await listener.close()
        self._remotes.clear()

    # -- requests of the EPMD protocol --

    async def register(self, node: NodeInfo) -> int:
        """Registers a local node. Raises EpmdRefused if the name is registered already."""
        whole = self._whole(node.name)
        if whole in self._local:
            raise EpmdRefused(f"{whole} is registered already")
        self._local[whole] = node
        extra = {"event": "beam_registered", "peer": whole}
        _log.info("%s is registered at port %d", whole, node.port, extra=extra)
        return 1  # ignored: the Erlang module lets OTP choose the creation

    def unregister(self, node: NodeInfo) -> None:
        """Removes a local node."""
        whole = self._whole(node.name)
        if self._local.get(whole) is node:
            del self._local[whole]
            _log.info("%s is unregistered", whole, extra={"event": "beam_gone", "peer": whole})

    async def look_up(self, name: str) -> NodeInfo | None:
        """Returns the address to connect to for a node, or None (logged) if there is none."""
        found = self._local.get(self._whole(name))
        if found is not None:
            return found
        if self._whole(name) == self._own_name:
            return None
        try:
            if self._is_open:
                NodeName.parse(name)
            else:
                self._routes.ways(name)
            async with self._opening:
                listener = await self._listener(name)
        except (NodeNameError, OSError) as error:
            extra = {"event": "not_looked_for", "peer": name, "reason": str(error)}
            _log.warning("cannot look up %s: %s", name, error, extra=extra)
            return None
        return NodeInfo(name, listener.local_address[1])

    def nodes(self) -> Sequence[NodeInfo]:
        """Returns the local nodes, with full names."""
        return [replace(node, name=whole) for whole, node in self._local.items()]

    # -- internal --

    def _whole(self, name: str) -> str:
        """Adds the host to a name without one. The EPMD client of OTP omits it for local nodes."""
        return name if "@" in name else f"{name}@{self._own_name.partition('@')[2]}"

    async def _listener(self, name: str) -> TcpListener:
        """Returns the port that leads to a remote node. Raises OSError."""
        listener = self._remotes.pop(name, None)
        if listener is None:
            while len(self._remotes) >= self._max_remotes:
                await self._remotes.pop(next(iter(self._remotes))).close()
            listener = await TcpListener.open(
                LOOPBACK,
                0,
                accept=lambda connection: self._connect(name, connection),
                limits=self._limits,
            )
        self._remotes[name] = listener  # at the end: the most recently requested
        return listener
