"""Requests to the Erlang port mapper and its answers, to and from bytes.

ERTS manual, Distribution Protocol, "EPMD Protocol". Requests travel behind a u16 length, answers
without one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.errors import Cause, QuicdistError

_MAX_REQUEST = 2048
"""Bytes of one request; a node name has at most 255 characters."""


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
