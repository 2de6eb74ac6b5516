"""Node names: `port@ip`, where a node says itself how it is reached over QUIC, and `name@host`,
which has to be looked up (see `lookup`)."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from quicdist.errors import NodeNameError

_ALIVE = re.compile(r"[!-?A-~]{1,255}")
"""Printable ASCII but '@' and blanks: what EPMD's list of names can hold."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
"""What a resolver may be asked for. Underscores are no part of host names (RFC 1123), but of the
names of containers, and OTP takes them."""


@dataclass(frozen=True, slots=True)
class Address:
    """The two halves of a `port@host` name."""

    host: str
    port: int

    @classmethod
    def parse(cls, name: str) -> Address:
        """Reads a node name such as `4433@127.0.0.1`. Raises NodeNameError."""
        port, at, host = name.partition("@")
        if not at or not _is_port(port) or not _is_host(host):
            raise NodeNameError(
                f"{str(name)!r} is no node name: a UDP port, '@' and an IP address are expected, "
                f"as in '4433@127.0.0.1'"
            )
        return cls(host, int(port))

    def name(self) -> str:
        """The node name that says this address."""
        return f"{self.port}@{self.host}"


@dataclass(frozen=True, slots=True)
class NodeName:
    """The two halves of any node's name. Before it is given one, a node has but a host."""

    alive: str
    host: str

    @classmethod
    def parse(cls, name: str) -> NodeName:
        """Reads the name of a peer: any `something@host`. Raises NodeNameError."""
        alive, at, host = name.partition("@")
        if host.startswith("["):
            raise NodeNameError(
                f"{str(name)!r} is no node name: an address has no brackets there, as in '4433@::1'"
            )
        if not (alive and at and host) or len(name) > 255 or "@" in host:
            raise NodeNameError(
                f"{str(name)!r} is no node name: 'name@host' is expected, as in 'rabbit@host1' or "
                f"'4433@127.0.0.1'"
            )
        return cls(alive, host)

    @classmethod
    def own(cls, name: str) -> NodeName:
        """Reads a name to take for ourselves. Raises NodeNameError."""
        alive, at, host = name.partition("@")
        # Digits alone are a port, or nothing.
        is_name = _is_port(alive) if alive.isdigit() else bool(_ALIVE.fullmatch(alive))
        if not at or not is_name or not _is_host(host) or len(name) > 255:
            raise NodeNameError(
                f"{str(name)!r} is no node name: a UDP port, '@' and an IP address are expected, "
                f"as in '4433@127.0.0.1', or for TCP a name, '@' and a host, as in 'py@host1'"
            )
        return cls(alive, host)

    @classmethod
    def unnamed(cls, name: str) -> NodeName:
        """The host alone of a name: `@site7`. Raises NodeNameError."""
        host = name.partition("@")[2]
        if not _is_host(host):
            raise NodeNameError(f"{name!r} says no host: '@' and a host are expected, as '@site7'")
        return cls("", host)

    @property
    def address(self) -> Address | None:
        """Where `port@ip` says that the node is; None for any other name."""
        if _is_port(self.alive) and _is_host(self.host):
            return Address(self.host, int(self.alive))
        return None

    def __str__(self) -> str:
        return f"{self.alive}@{self.host}"


def parse_listen(text: str | tuple[str, int]) -> tuple[str, int]:
    """An address to bind: `"0.0.0.0:4433"`, `("::", 4433)`. Raises NodeNameError."""
    if isinstance(text, tuple):
        host, port = text
        return host, port
    host, colon, digits = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not _is_port(digits) or not _is_host(host):
        raise NodeNameError(
            f"{text!r} is no address to listen on: 'ip:port' is expected, as in '0.0.0.0:4433'"
        )
    return host, int(digits)


def facing(node: str) -> str:
    """A name for us: any free port of the address from which this node's host is reached."""
    host = node.rpartition("@")[2]
    try:
        where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(where[0], socket.SOCK_DGRAM) as probe:
            probe.connect(where[4])  # sends nothing
            return f"0@{probe.getsockname()[0]}"
    except OSError:
        return "0@127.0.0.1"  # connecting will say what is wrong


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 65535


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # A last label of digits is an IPv4 address gone wrong, never a host name (RFC 1123).
        return bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()
    return True
