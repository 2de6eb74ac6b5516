"""Node names: `port@ip` contains the QUIC address; `name@host` must be looked up (see `lookup`)."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any

from quicdist.errors import NodeNameError

_ALIVE = re.compile(r"[!-?A-~]{1,255}")
"""Printable ASCII without '@' and spaces, as EPMD names."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
"""Host names, including underscores. RFC 1123 does not allow them, but container names have them
and OTP accepts them."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a `port@host` name."""

    host: str
    port: int

    @classmethod
    def parse(cls, name: str) -> Address:
        """Parses a node name such as `4433@127.0.0.1`. Raises NodeNameError."""
        port, at, host = name.partition("@")
        if not at or not _is_port(port) or not _is_host(host):
            raise NodeNameError(
                f"invalid node name {str(name)!r}: expected port@ip, as in '4433@127.0.0.1'"
            )
        return cls(host, int(port))

    def name(self) -> str:
        """Returns the node name of this address."""
        return f"{self.port}@{self.host}"


@dataclass(frozen=True, slots=True)
class NodeName:
    """The parts of a node name. A node that has no name yet has only a host."""

    alive: str
    host: str

    @classmethod
    def parse(cls, name: str) -> NodeName:
        """Parses the name of a peer: any `name@host`. Raises NodeNameError."""
        alive, at, host = name.partition("@")
        if host.startswith("["):
            raise NodeNameError(
                f"invalid node name {str(name)!r}: expected no brackets, as in '4433@::1'"
            )
        if not (alive and at and host) or len(name) > 255 or "@" in host:
            raise NodeNameError(
                f"invalid node name {str(name)!r}: expected name@host, as in 'rabbit@host1' or "
                f"'4433@127.0.0.1'"
            )
        return cls(alive, host)

    @classmethod
    def own(cls, name: str) -> NodeName:
        """Parses the name of this node. Raises NodeNameError."""
        alive, at, host = name.partition("@")
        # A name of digits only must be a valid port.
        is_name = _is_port(alive) if alive.isdigit() else bool(_ALIVE.fullmatch(alive))
        if not at or not is_name or not _is_host(host) or len(name) > 255:
            raise NodeNameError(
                f"invalid node name {str(name)!r}: expected port@ip for QUIC, as in "
                f"'4433@127.0.0.1', or name@host for TCP, as in 'py@host1'"
            )
        return cls(alive, host)

    @classmethod
    def unnamed(cls, name: str) -> NodeName:
        """Parses a name that gives only the host: `@site7`. Raises NodeNameError."""
        host = name.partition("@")[2]
        if not _is_host(host):
            raise NodeNameError(f"invalid name {name!r}: expected @host, as in '@site7'")
        return cls("", host)

    @property
    def address(self) -> Address | None:
        """The address in a `port@ip` name; None for other names."""
        if _is_port(self.alive) and _is_host(self.host):
            return Address(self.host, int(self.alive))
        return None

    def __str__(self) -> str:
        return f"{self.alive}@{self.host}"


def parse_listen(text: str | tuple[str, int]) -> tuple[str, int]:
    """Parses an address to bind: `"0.0.0.0:4433"`, `("::", 4433)`. Raises NodeNameError."""
    if isinstance(text, tuple):
        host, port = text
        return host, port
    host, colon, digits = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not _is_port(digits) or not _is_host(host):
        raise NodeNameError(
            f"invalid listen address {text!r}: expected ip:port, as in '0.0.0.0:4433'"
        )
    return host, int(digits)


def facing(node: str) -> str:
    """Returns a name for this node: port 0 of the local address that routes to the node's host."""
    # Without a route, dialing reports the error.
    return facing_host(node.rpartition("@")[2]) or "0@127.0.0.1"


def facing_host(host: str) -> str | None:
    """Returns a name for this node: port 0 of the local address that routes to a host.

    Returns None if the host is unknown or there is no route.
    """
    try:
        where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    except OSError:
        return None
    return facing_address(where[0], where[4])


def facing_address(family: int, address: tuple[Any, ...]) -> str | None:
    """Returns a name for this node: port 0 of the local address that routes to a socket address.

    Returns None if there is no route.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            return f"0@{probe.getsockname()[0]}"
    except OSError:
        return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 65535


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # If the last label is numeric, the text is an invalid IPv4 address, not a host name (RFC
        # 1123).
        return bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()
    return True
