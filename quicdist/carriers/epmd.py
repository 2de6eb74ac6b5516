"""The Erlang port mapper's protocol: codec, client, and a server to embed.

ERTS manual, Distribution Protocol, "EPMD Protocol". Requests travel behind a u16 length,
answers bare. The codec is pure; client and server are asyncio around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from quicdist.carriers.forking import descriptors_of, keep_from_children
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.errors import Cause, QuicdistError

DEFAULT_PORT = 4369
_MAX_REQUEST = 2048
"""Bytes of one request; a node name has at most 255 characters."""
_MAX_ANSWER = 1024 * 1024
"""Bytes of one answer: NAMES lists every node of a host."""
_REQUEST_TIMEOUT = 10.0
"""Seconds a client may take over one request."""
_RECONNECT = 2.0
"""Seconds between attempts to register again, as OTP's erl_epmd has them."""

_log = logging.getLogger("quicdist.epmd")
_log.addFilter(LogRateLimit("epmd_full", "epmd_client_dropped", "epmd_refused"))


class EpmdError(QuicdistError):
    """Bytes that no EPMD and no node sends, or no answer at all."""

    cause: Cause = Cause.EPMD_PROTOCOL


class EpmdRefused(EpmdError):
    """EPMD does not register this name; the text is its reason."""

    cause = Cause.NAME_TAKEN


class NodeType(enum.IntEnum):
    """What kind of node registers."""

    NORMAL = 77
    HIDDEN = 72


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as EPMD knows it. `name` is the part before the @; `port` takes its connections.

    `highest` and `lowest` are versions of the distribution protocol: 6 since OTP 23.
    """

    name: str
    port: int
    node_type: NodeType = NodeType.NORMAL
    highest: int = 6
    lowest: int = 5
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Register:
    """ALIVE2_REQ (120): keep this node for as long as the connection lives."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class LookUp:
    """PORT_PLEASE2_REQ (122): where does this node listen?"""

    name: str


@dataclass(frozen=True, slots=True)
class ListNames:
    """NAMES_REQ (110): who is registered?"""


@dataclass(frozen=True, slots=True)
class Dump:
    """DUMP_REQ (100): who is registered, for people who debug EPMD."""


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL_REQ (107): end EPMD."""


@dataclass(frozen=True, slots=True)
class Stop:
    """STOP_REQ (115): forget this node."""

    name: str


Request: TypeAlias = Register | LookUp | ListNames | Dump | Kill | Stop


# -- codec: requests ----------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """One request with its length. Raises EpmdError for a name or port that does not fit."""
    match request:
        case Register(node):
            body = b"\x78" + _encode_node(node)
        case LookUp(name):
            body = b"\x7a" + _encode_name(name)
        case ListNames():
            body = b"\x6e"
        case Dump():
            body = b"\x64"
        case Kill():
            body = b"\x6b"
        case Stop(name):
            body = b"\x73" + _encode_name(name)
    return len(body).to_bytes(2, "big") + body


def decode_request(body: bytes) -> Request:
    """The request in these bytes, length taken off. Raises EpmdError."""
    match body[:1]:
        case b"\x78":
            node, end = _decode_node(body, 1)
            # OTP sends nothing behind it; older nodes padded.
            del end
            return Register(node)
        case b"\x7a":
            return LookUp(_decode_name(body[1:]))
        case b"\x6e":
            return ListNames()
        case b"\x64":
            return Dump()
        case b"\x6b":
            return Kill()
        case b"\x73":
            return Stop(_decode_name(body[1:]))
    raise EpmdError(f"no EPMD request: {body[:16]!r}")


class RequestReader:
    """Cuts a byte stream into requests, however it arrives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are whole by now. Raises EpmdError for what is none."""
        self._data += data
        requests: list[Request] = []
        while len(self._data) >= 2:
            length = int.from_bytes(self._data[:2], "big")
            if not 0 < length <= _MAX_REQUEST:
                raise EpmdError(f"an EPMD request of {length} bytes; at most {_MAX_REQUEST}")
            if len(self._data) < 2 + length:
                break
            requests.append(decode_request(bytes(self._data[2 : 2 + length])))
            del self._data[: 2 + length]
        return requests


# -- codec: answers -----------------------------------------------------------------------------


def encode_registered(creation: int | None, *, extended: bool) -> bytes:
    """ALIVE2_X_RESP (118) with 32 bits of creation, or ALIVE2_RESP (121) with 16; None refuses."""
    tag, size, bits = (b"\x76", 4, 0xFFFFFFFF) if extended else (b"\x79", 2, 0xFFFF)
    result = b"\x01" if creation is None else b"\x00"
    return tag + result + ((creation or 0) & bits).to_bytes(size, "big")


def decode_registered(data: bytes) -> tuple[bool, int] | None:
    """(accepted, creation), or None while bytes are missing. Raises EpmdError."""
    size = {b"\x76": 6, b"\x79": 4}.get(data[:1])
    if not data:
        return None
    if size is None:
        raise EpmdError(f"no answer to a registration: {data[:16]!r}")
    if len(data) < size:
        return None
    return data[1] == 0, int.from_bytes(data[2:size], "big")


def encode_found(node: NodeInfo | None) -> bytes:
    """PORT2_RESP (119): the node, or that there is none."""
    return b"\x77\x01" if node is None else b"\x77\x00" + _encode_node(node)


def decode_found(data: bytes) -> NodeInfo | None:
    """The node, or None when EPMD knows none of that name. `data` is the whole answer.

    Raises EpmdError.
    """
    if len(data) < 2 or data[0] != 0x77:
        raise EpmdError(f"no answer to a look-up: {data[:16]!r}")
    if data[1] != 0:
        return None
    return _decode_node(data, 2)[0]


def encode_names(epmd_port: int, nodes: Sequence[NodeInfo]) -> bytes:
    """NAMES_RESP: EPMD's own port and one line a node."""
    lines = "".join(f"name {node.name} at port {node.port}\n" for node in nodes)
    return epmd_port.to_bytes(4, "big") + lines.encode()


def decode_names(data: bytes) -> list[tuple[str, int]]:
    """(name, port) of every node in the whole answer. Raises EpmdError."""
    if len(data) < 4:
        raise EpmdError("no answer to a question for names")
    found: list[tuple[str, int]] = []
    try:
        for line in data[4:].decode().splitlines():
            kind, name, at, port_word, port = line.split(" ")
            if (kind, at, port_word) != ("name", "at", "port"):
                raise ValueError(line)
            found.append((name, int(port)))
    except ValueError as error:
        raise EpmdError(f"no list of names: {error}") from None
    return found


def encode_dump(epmd_port: int, nodes: Sequence[NodeInfo]) -> bytes:
    """DUMP_RESP: as NAMES_RESP, in the words that EPMD uses there."""
    lines = "".join(
        f"active name     <{node.name}> at port {node.port}, fd = 0\n" for node in nodes
    )
    return epmd_port.to_bytes(4, "big") + lines.encode()


def _encode_node(node: NodeInfo) -> bytes:
    if not 0 <= node.port <= 65535:
        raise EpmdError(f"{node.port} is no port")
    name = _encode_name(node.name)
    return b"".join(
        (
            node.port.to_bytes(2, "big"),
            bytes((node.node_type, 0)),  # protocol 0: TCP over IPv4
            node.highest.to_bytes(2, "big"),
            node.lowest.to_bytes(2, "big"),
            len(name).to_bytes(2, "big"),
            name,
            len(node.extra).to_bytes(2, "big"),
            node.extra,
        )
    )


def _decode_node(data: bytes, at: int) -> tuple[NodeInfo, int]:
    """The node and where it ends: port, type, protocol, versions, name, extra."""
    try:
        port = _u16(data, at)
        node_type = NodeType.HIDDEN if data[at + 2] == NodeType.HIDDEN else NodeType.NORMAL
        highest, lowest, name_size = (_u16(data, at + offset) for offset in (4, 6, 8))
        name_end = at + 10 + name_size
        extra_end = name_end + 2 + _u16(data, name_end)
    except IndexError:
        raise EpmdError(f"a node cut short: {data[:32]!r}") from None
    if extra_end > len(data):
        raise EpmdError(f"a node cut short: {data[:32]!r}")
    name = _decode_name(data[at + 10 : name_end])
    extra = data[name_end + 2 : extra_end]
    return NodeInfo(name, port, node_type, highest, lowest, extra), extra_end


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _encode_name(name: str) -> bytes:
    _check_name(name)
    return name.encode()


def _decode_name(data: bytes) -> str:
    try:
        name = data.decode()
    except UnicodeDecodeError:
        raise EpmdError(f"a node name that is not UTF-8: {data[:64]!r}") from None
    _check_name(name)
    return name


def _check_name(name: str) -> None:
    # A line of NAMES_RESP is split at blanks and line ends.
    if not 0 < len(name) <= 255 or not name.isprintable() or " " in name:
        raise EpmdError(f"no node name: {name[:64]!r}")


# -- client -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpmdAddress:
    """Where an EPMD listens."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def default_port() -> int:
    """Where this host's programs look for an EPMD: ERL_EPMD_PORT, as Erlang has it, or 4369."""
    text = os.environ.get("ERL_EPMD_PORT", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) <= 65535 else DEFAULT_PORT


def why(error: Exception) -> str:
    """In the words of the system: asyncio's own, of a refusal, are a call and its arguments."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "no answer in time"


async def look_up(
    name: str, epmd: EpmdAddress | None = None, *, timeout: float = 5.0
) -> NodeInfo | None:
    """The node of that name (its part before the @), None when EPMD does not know it.

    Raises OSError when no EPMD answers at the address, EpmdError when it is none.
    """
    return decode_found(await _ask(LookUp(name), epmd or EpmdAddress(), timeout))


async def names(epmd: EpmdAddress | None = None, *, timeout: float = 5.0) -> list[tuple[str, int]]:
    """Every node of the host: (name, port). Raises as `look_up`."""
    return decode_names(await _ask(ListNames(), epmd or EpmdAddress(), timeout))


Absent: TypeAlias = Callable[[], Awaitable[None]]
"""Told that no EPMD is there to register in, it may start one. Raises OSError."""


class Registration:
    """A node's entry in an EPMD, kept until closed: made again when EPMD comes back."""

    def __init__(self, node: NodeInfo, epmd: EpmdAddress, absent: Absent | None) -> None:
        self.node = node
        self.epmd = epmd
        self._absent = absent
        self.creation = 0
        """What EPMD gave at the first registration."""
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        node: NodeInfo,
        epmd: EpmdAddress | None = None,
        *,
        timeout: float = 5.0,
        absent: Absent | None = None,
    ) -> Registration:
        """Registers the node. Raises EpmdRefused when the name is taken, OSError, EpmdError.

        `absent` is called, now and later, when there is no EPMD.
        """
        registration = cls(node, epmd or EpmdAddress(), absent)
        keep_from_children(registration)
        reader = await registration._register(timeout)
        registration._keeper = asyncio.create_task(registration._keep(reader, timeout))
        return registration

    def descriptors(self) -> Sequence[int]:
        """Its open files."""
        return [] if self._writer is None else descriptors_of(self._writer.transport)

    async def close(self) -> None:
        """EPMD forgets the node."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._writer is not None:
            await _shut(self._writer)

    async def _register(self, timeout: float) -> asyncio.StreamReader:
        try:
            reader, writer = await _connect(self.epmd, timeout)
        except ConnectionRefusedError:
            if self._absent is None:
                raise
            await self._absent()
            reader, writer = await _connect(self.epmd, timeout)
        try:
            writer.write(encode_request(Register(self.node)))
            answer, data = None, b""
            while answer is None:
                piece = await asyncio.wait_for(reader.read(64), timeout)
                data += piece
                answer = decode_registered(data)
                if not piece and answer is None:
                    raise EpmdError(f"EPMD at {self.epmd} closed without an answer")
            accepted, creation = answer
            if not accepted:
                raise EpmdRefused(f"EPMD at {self.epmd} has a node {self.node.name} already")
        except BaseException as error:
            writer.close()
            raise _no_answer(self.epmd, error) from None
        self._writer = writer
        self.creation = self.creation or creation
        return reader

    async def _keep(self, reader: asyncio.StreamReader, timeout: float) -> None:
        while True:
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
            text = "EPMD at %s is gone; registering again when it is back"
            _log.warning(text, self.epmd, extra={"event": "epmd_gone", "address": str(self.epmd)})
            writer, self._writer = self._writer, None
            if writer is not None:
                await _shut(writer)
            while self._writer is None:
                await asyncio.sleep(_RECONNECT)
                with contextlib.suppress(OSError, EpmdError):
                    reader = await self._register(timeout)


async def _connect(
    epmd: EpmdAddress, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.wait_for(asyncio.open_connection(epmd.host, epmd.port), timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(f"no EPMD answers at {epmd}") from None


async def _ask(request: Request, epmd: EpmdAddress, timeout: float) -> bytes:
    """The whole answer: EPMD closes behind it."""
    reader, writer = await _connect(epmd, timeout)
    try:
        writer.write(encode_request(request))
        return await asyncio.wait_for(_read_all(reader), timeout)
    except (asyncio.TimeoutError, OSError) as error:
        raise _no_answer(epmd, error) from None
    finally:
        await _shut(writer)


def _no_answer(epmd: EpmdAddress, error: BaseException) -> BaseException:
    """What is raised for an error behind the connect: something is there, and not an EPMD."""
    if isinstance(error, asyncio.TimeoutError):
        return EpmdError(f"EPMD at {epmd} does not answer")
    if isinstance(error, OSError):
        return EpmdError(f"EPMD at {epmd} does not answer: {error.strerror or error}")
    return error


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while piece := await reader.read(65536):
        data += piece
        if len(data) > _MAX_ANSWER:
            raise EpmdError(f"an EPMD answer above {_MAX_ANSWER} bytes")
    return bytes(data)


async def _shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# -- server -------------------------------------------------------------------------------------


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
        except asyncio.TimeoutError:
            pass
        except (EpmdError, OSError) as error:
            extra = {"event": "epmd_client_dropped", "reason": str(error)}
            _log.warning("EPMD client dropped: %s", error, extra=extra)
        finally:
            await _shut(writer)

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
