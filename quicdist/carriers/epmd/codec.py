"""Encoder and decoder of EPMD requests and responses.

Source: ERTS, Distribution Protocol, "EPMD Protocol". A request has a 16-bit length prefix, a
response has none.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.errors import Cause, QuicdistError

_MAX_REQUEST = 2048
"""Maximum size of a request in bytes; a node name has at most 255 characters."""


class EpmdError(QuicdistError):
    """An EPMD request or response is invalid or missing."""

    cause: Cause = Cause.EPMD_PROTOCOL


class EpmdRefused(EpmdError):
    """EPMD rejected a registration. The text is the reason."""

    cause = Cause.NAME_TAKEN


class NodeType(enum.IntEnum):
    """Node type in a registration."""

    NORMAL = 77
    HIDDEN = 72


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The EPMD entry of a node.

    `name` is the part of the node name before the `@`, and `port` the node's distribution port.
    `highest` and `lowest` are the supported versions of the distribution protocol, 6 since OTP 23.
    """

    name: str
    port: int
    node_type: NodeType = NodeType.NORMAL
    highest: int = 6
    lowest: int = 5
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Register:
    """ALIVE2_REQ (120): registers a node until the connection is closed."""

    node: NodeInfo


@dataclass(frozen=True, slots=True)
class LookUp:
    """PORT_PLEASE2_REQ (122): requests the distribution port of a node."""

    name: str


@dataclass(frozen=True, slots=True)
class ListNames:
    """NAMES_REQ (110): requests all registered names."""


@dataclass(frozen=True, slots=True)
class Dump:
    """DUMP_REQ (100): requests all data of EPMD, for debugging."""


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL_REQ (107): stops EPMD."""


@dataclass(frozen=True, slots=True)
class Stop:
    """STOP_REQ (115): unregisters a node."""

    name: str


Request: TypeAlias = Register | LookUp | ListNames | Dump | Kill | Stop


# -- codec: requests ----------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """Encodes a request with its length prefix.

    Raises EpmdError if the node name or the port is invalid.
    """
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
    """Decodes a request without its length prefix. Raises EpmdError if it is invalid."""
    match body[:1]:
        case b"\x78":
            node, end = _decode_node(body, 1)
            # OTP sends no data after the node; older nodes sent padding.
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
    raise EpmdError(f"invalid EPMD request: {body[:16]!r}")


class RequestReader:
    """Splits a byte stream into requests."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Request]:
        """Adds received data and returns the complete requests.

        Raises EpmdError if one is invalid.
        """
        self._data += data
        requests: list[Request] = []
        while len(self._data) >= 2:
            length = int.from_bytes(self._data[:2], "big")
            if not 0 < length <= _MAX_REQUEST:
                raise EpmdError(
                    f"invalid EPMD request length {length}: expected 1 to {_MAX_REQUEST}"
                )
            if len(self._data) < 2 + length:
                break
            requests.append(decode_request(bytes(self._data[2 : 2 + length])))
            del self._data[: 2 + length]
        return requests


# -- codec: responses ---------------------------------------------------------------------------


def encode_registered(creation: int | None, *, extended: bool) -> bytes:
    """Encodes ALIVE2_X_RESP (118, 32-bit creation) if `extended`, else ALIVE2_RESP (121, 16-bit).

    A `creation` of None rejects the registration.
    """
    tag, size, bits = (b"\x76", 4, 0xFFFFFFFF) if extended else (b"\x79", 2, 0xFFFF)
    result = b"\x01" if creation is None else b"\x00"
    return tag + result + ((creation or 0) & bits).to_bytes(size, "big")


def decode_registered(data: bytes) -> tuple[bool, int] | None:
    """Decodes ALIVE2_X_RESP or ALIVE2_RESP; returns (accepted, creation).

    Returns None if `data` is incomplete. Raises EpmdError if it is invalid.
    """
    size = {b"\x76": 6, b"\x79": 4}.get(data[:1])
    if not data:
        return None
    if size is None:
        raise EpmdError(f"invalid response to ALIVE2_REQ: {data[:16]!r}")
    if len(data) < size:
        return None
    return data[1] == 0, int.from_bytes(data[2:size], "big")


def encode_found(node: NodeInfo | None) -> bytes:
    """Encodes PORT2_RESP (119); None means that the node is not registered."""
    return b"\x77\x01" if node is None else b"\x77\x00" + _encode_node(node)


def decode_found(data: bytes) -> NodeInfo | None:
    """Decodes a complete PORT2_RESP; returns None if the node is not registered.

    Raises EpmdError if the response is invalid.
    """
    if len(data) < 2 or data[0] != 0x77:
        raise EpmdError(f"invalid response to PORT_PLEASE2_REQ: {data[:16]!r}")
    if data[1] != 0:
        return None
    return _decode_node(data, 2)[0]


def encode_names(epmd_port: int, nodes: Sequence[NodeInfo]) -> bytes:
    """Encodes NAMES_RESP: the port of EPMD and one line for each node."""
    lines = "".join(f"name {node.name} at port {node.port}\n" for node in nodes)
    return epmd_port.to_bytes(4, "big") + lines.encode()


def decode_names(data: bytes) -> list[tuple[str, int]]:
    """Decodes a complete NAMES_RESP; returns (name, port) of every node.

    Raises EpmdError if the response is invalid.
    """
    if len(data) < 4:
        raise EpmdError("invalid response to NAMES_REQ: shorter than 4 bytes")
    found: list[tuple[str, int]] = []
    try:
        for line in data[4:].decode().splitlines():
            kind, name, at, port_word, port = line.split(" ")
            if (kind, at, port_word) != ("name", "at", "port"):
                raise ValueError(line)
            found.append((name, int(port)))
    except ValueError as error:
        raise EpmdError(f"invalid response to NAMES_REQ: {error}") from None
    return found


def encode_dump(epmd_port: int, nodes: Sequence[NodeInfo]) -> bytes:
    """Encodes DUMP_RESP: the port of EPMD and one line for each node, in EPMD's format."""
    lines = "".join(
        f"active name     <{node.name}> at port {node.port}, fd = 0\n" for node in nodes
    )
    return epmd_port.to_bytes(4, "big") + lines.encode()


def _encode_node(node: NodeInfo) -> bytes:
    if not 0 <= node.port <= 65535:
        raise EpmdError(f"invalid port {node.port}: expected 0 to 65535")
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
    """Decodes the fields port, type, protocol, versions, name and extra at the offset `at`.

    Returns the node and the offset of its end.
    """
    try:
        port = _u16(data, at)
        node_type = NodeType.HIDDEN if data[at + 2] == NodeType.HIDDEN else NodeType.NORMAL
        highest, lowest, name_size = (_u16(data, at + offset) for offset in (4, 6, 8))
        name_end = at + 10 + name_size
        extra_end = name_end + 2 + _u16(data, name_end)
    except IndexError:
        raise EpmdError(f"truncated node entry: {data[:32]!r}") from None
    if extra_end > len(data):
        raise EpmdError(f"truncated node entry: {data[:32]!r}")
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
        raise EpmdError(f"invalid node name: not UTF-8: {data[:64]!r}") from None
    _check_name(name)
    return name


def _check_name(name: str) -> None:
    # Spaces and line breaks separate the fields of NAMES_RESP.
    if not 0 < len(name) <= 255 or not name.isprintable() or " " in name:
        raise EpmdError(f"invalid node name: {name[:64]!r}")
