"""Embedded EPMD server."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from quicdist.carriers.epmd.client import close_writer
from quicdist.carriers.epmd.codec import (
    Dump,
    EpmdError,
    EpmdRefused,
    Kill,
    ListNames,
    LookUp,
    NodeInfo,
    Register,
    Request,
    RequestReader,
    encode_dump,
    encode_found,
    encode_names,
    encode_registered,
)
from quicdist.carriers.forking import descriptors_of, keep_from_children
from quicdist.carriers.log_rate_limit import LogRateLimit

_REQUEST_TIMEOUT = 10.0
"""Maximum time in seconds between reads of a request."""

_log = logging.getLogger("quicdist.epmd")
_log.addFilter(LogRateLimit("epmd_full", "epmd_client_dropped", "epmd_refused"))


class Directory(Protocol):
    """The registered nodes of an `EpmdServer`."""

    async def register(self, node: NodeInfo) -> int:
        """Registers the node and returns its creation. Raises EpmdRefused if it is rejected."""

    def unregister(self, node: NodeInfo) -> None:
        """Removes the node. Called when the connection that registered it has ended."""

    async def look_up(self, name: str) -> NodeInfo | None:
        """Returns the node with this name, or None."""

    def nodes(self) -> Sequence[NodeInfo]:
        """Returns all registered nodes."""


class NodeTable:
    """A `Directory` that works as in EPMD: the first node that registers a name keeps it."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._creation = 0

    async def register(self, node: NodeInfo) -> int:
        """Registers the node and returns a creation that recent registrations did not get.

        Raises EpmdRefused if the name is already registered.
        """
        if node.name in self._nodes:
            raise EpmdRefused(f"{node.name} is already registered")
        self._nodes[node.name] = node
        self._creation = self._creation % 0xFFFFFFF0 + 1
        return self._creation + 3  # nodes before OTP 23 used 0 to 3

    def unregister(self, node: NodeInfo) -> None:
        """Removes the node."""
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]

    async def look_up(self, name: str) -> NodeInfo | None:
        """Returns the node with this name, or None."""
        return self._nodes.get(name)

    def nodes(self) -> Sequence[NodeInfo]:
        """Returns all nodes in the order of registration."""
        return list(self._nodes.values())


class EpmdServer:
    """An EPMD server for asyncio.

    Only nodes of this host can register; look-ups from other hosts are allowed. KILL_REQ and
    STOP_REQ are rejected. Each connection can send one request. A request is limited to 2048 bytes,
    and a connection is closed after 10 s without data.
    """

    def __init__(self, directory: Directory, *, max_clients: int = 256) -> None:
        """`max_clients` limits the number of connections, of which each registered node uses one.

        When the limit is reached, the oldest connection without a request is closed.
        """
        self._directory = directory
        self._max_clients = max_clients
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._silent: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Clients that have not sent a request, in the order of their connections."""
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(
        cls,
        host: str | Sequence[str],
        port: int,
        directory: Directory,
        *,
        max_clients: int = 256,
    ) -> EpmdServer:
        """Starts to listen on one or more addresses. Port 0 selects a free port.

        Raises OSError if an address cannot be bound.
        """
        server = cls(directory, max_clients=max_clients)
        server._server = await asyncio.start_server(server._accept, host, port, limit=4096)
        keep_from_children(server)
        return server

    def descriptors(self) -> Sequence[int]:
        """Returns its open file descriptors."""
        sockets = () if self._server is None else self._server.sockets
        clients = [writer.transport for writer in self._clients.values()]
        return [one.fileno() for one in sockets] + [n for t in clients for n in descriptors_of(t)]

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) of the first address."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Stops the server and closes all connections, including those of registered nodes."""
        if self._server is not None:
            self._server.close()
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        if clients:
            await asyncio.wait(clients)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= self._max_clients and not self._make_room():
            count = len(self._clients)
            extra = {"event": "epmd_full", "size": count}
            _log.warning("EPMD client rejected: %d clients are connected", count, extra=extra)
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients[task] = writer
        self._silent[task] = writer
        task.add_done_callback(self._forget)

    def _make_room(self) -> bool:
        """Closes the oldest connection without a request; returns False if there is none."""
        if not self._silent:
            return False
        task, writer = next(iter(self._silent.items()))
        self._forget(task)
        task.cancel()
        writer.close()  # the task may not have started
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task, None)
        self._silent.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(0)  # an eager task may run before `create_task` returns
            async for request in _requests(reader):
                self._silent.pop(task, None)
                if isinstance(request, Register):
                    await self._hold(request.node, reader, writer)
                else:
                    writer.write(await self._answer(request))
                break
        except TimeoutError:
            pass
        except (EpmdError, OSError) as error:
            extra = {"event": "epmd_client_dropped", "reason": str(error)}
            _log.warning("EPMD client dropped: %s", error, extra=extra)
        finally:
            await close_writer(writer)

    async def _answer(self, request: Request) -> bytes:
        match request:
            case LookUp(name):
                return encode_found(await self._directory.look_up(name))
            case ListNames():
                return encode_names(self.local_address[1], self._directory.nodes())
            case Dump():
                return encode_dump(self.local_address[1], self._directory.nodes())
            case Kill():
                return b"NO"
        return b"NOEXIST"

    async def _hold(
        self, node: NodeInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Registers the node and waits until its connection ends."""
        extended = node.highest >= 6
        try:
            _check_local(writer)
            creation = await self._directory.register(node)
        except EpmdRefused as refusal:
            extra = {"event": "epmd_refused", "peer": node.name, "reason": str(refusal)}
            _log.warning("EPMD registration of %s rejected: %s", node.name, refusal, extra=extra)
            writer.write(encode_registered(None, extended=extended))
            return
        try:
            writer.write(encode_registered(creation, extended=extended))
            while await reader.read(1024):
                pass
        finally:
            self._directory.unregister(node)


def _check_local(writer: asyncio.StreamWriter) -> None:
    """Raises EpmdRefused if the client is on another host.

    As in OTP's EPMD, a client is on this host if it connects from a loopback address, or from the
    address that it connects to.
    """
    peer = writer.get_extra_info("peername")
    ours = writer.get_extra_info("sockname")
    if not _is_local(str(peer[0]), str(ours[0])):
        raise EpmdRefused(f"{peer[0]} is another host, which cannot register nodes here")


def _is_local(peer: str, ours: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or peer == ours


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Request]:
    requests = RequestReader()
    while data := await asyncio.wait_for(reader.read(1024), _REQUEST_TIMEOUT):
        for request in requests.feed(data):
            yield request
