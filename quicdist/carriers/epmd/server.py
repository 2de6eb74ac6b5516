"""An EPMD to embed."""

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
"""Seconds a client may take over one request."""

_log = logging.getLogger("quicdist.epmd")
_log.addFilter(LogRateLimit("epmd_full", "epmd_client_dropped", "epmd_refused"))


class Directory(Protocol):
    """What a server answers from."""

    async def register(self, node: NodeInfo) -> int:
        """Takes the node in; its creation. Raises EpmdRefused."""

    def unregister(self, node: NodeInfo) -> None:
        """The connection that registered it is gone."""

    async def look_up(self, name: str) -> NodeInfo | None:
        """The node of this name, None when there is none."""

    def nodes(self) -> Sequence[NodeInfo]:
        """All that are registered."""


class NodeTable:
    """The directory that EPMD itself has: a name belongs to the first that takes it."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._creation = 0

    async def register(self, node: NodeInfo) -> int:
        """A creation that the last registrations did not have. Raises EpmdRefused."""
        if node.name in self._nodes:
            raise EpmdRefused(f"{node.name} is registered already")
        self._nodes[node.name] = node
        self._creation = self._creation % 0xFFFFFFF0 + 1
        return self._creation + 3  # 0 to 3 are what nodes had before OTP 23

    def unregister(self, node: NodeInfo) -> None:
        """Forgets it."""
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]

    async def look_up(self, name: str) -> NodeInfo | None:
        """The node of this name."""
        return self._nodes.get(name)

    def nodes(self) -> Sequence[NodeInfo]:
        """All, in the order they came."""
        return list(self._nodes.values())


class EpmdServer:
    """An EPMD on asyncio. KILL and STOP are refused: it ends with the program it is part of.

    Nodes of this host alone are registered; others may look up. A connection has one request, of
    `_MAX_REQUEST` bytes and `_REQUEST_TIMEOUT` seconds at most.
    """

    def __init__(self, directory: Directory, *, max_clients: int = 256) -> None:
        """`max_clients` bounds connections at one time; registered nodes hold one each. When all
        are taken, who has waited longest without asking anything makes room."""
        self._directory = directory
        self._max_clients = max_clients
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._silent: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Clients that have not asked yet, in the order they came."""
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
        """Listens at one address or several; port 0 takes a free one. Raises OSError."""
        server = cls(directory, max_clients=max_clients)
        server._server = await asyncio.start_server(server._accept, host, port, limit=4096)
        keep_from_children(server)
        return server

    def descriptors(self) -> Sequence[int]:
        """Its open files."""
        sockets = () if self._server is None else self._server.sockets
        clients = [writer.transport for writer in self._clients.values()]
        return [one.fileno() for one in sockets] + [n for t in clients for n in descriptors_of(t)]

    @property
    def local_address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Ends it; the nodes that were registered notice."""
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
            _log.warning("EPMD refuses a client: %d are connected", count, extra=extra)
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients[task] = writer
        self._silent[task] = writer
        task.add_done_callback(self._forget)

    def _make_room(self) -> bool:
        """Drops the client that has been silent longest; False when none is."""
        if not self._silent:
            return False
        task, writer = next(iter(self._silent.items()))
        self._forget(task)
        task.cancel()
        writer.close()  # the task may not have begun
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task, None)
        self._silent.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(0)  # a task may run before `create_task` has returned it
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
        """Registers the node and waits for its connection to end."""
        extended = node.highest >= 6
        try:
            _check_local(writer)
            creation = await self._directory.register(node)
        except EpmdRefused as refusal:
            extra = {"event": "epmd_refused", "peer": node.name, "reason": str(refusal)}
            _log.warning("EPMD refuses %s: %s", node.name, refusal, extra=extra)
            writer.write(encode_registered(None, extended=extended))
            return
        try:
            writer.write(encode_registered(creation, extended=extended))
            while await reader.read(1024):
                pass
        finally:
            self._directory.unregister(node)


def _check_local(writer: asyncio.StreamWriter) -> None:
    """Raises EpmdRefused for a registration from another host: as OTP's EPMD, only connections from
    loopback, or from the address that they were made to, are this host's."""
    peer = writer.get_extra_info("peername")
    ours = writer.get_extra_info("sockname")
    if not _is_local(str(peer[0]), str(ours[0])):
        raise EpmdRefused(f"{peer[0]} is another host, and registers nobody here")


def _is_local(peer: str, ours: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or peer == ours


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Request]:
    cutter = RequestReader()
    while data := await asyncio.wait_for(reader.read(1024), _REQUEST_TIMEOUT):
        for request in cutter.feed(data):
            yield request
