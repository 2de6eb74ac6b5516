"""Node names: `port@ip`, where a node says itself how it is reached."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from quicdist.node.errors import NodeNameError

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Address:
    """The two halves of a `port@host` name."""

    host: str
    port: int

    @classmethod
    def parse(cls, name: str) -> Address:
        """Reads a node name such as `4433@127.0.0.1`. Raises NodeNameError."""
        port, at, host = name.partition("@")
        if not at or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise _not_a_name(name)
        if not _is_host(host):
            raise _not_a_name(name)
        return cls(host, int(port))

    def name(self) -> str:
        """The node name that says this address."""
        return f"{self.port}@{self.host}"


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # A last label of digits is an IPv4 address gone wrong, never a host name (RFC 1123).
        return bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()
    return True


def _not_a_name(name: str) -> NodeNameError:
    return NodeNameError(
        f"{name!r} is no node name: a UDP port, '@' and an IP address are expected, "
        f"as in '4433@127.0.0.1'"
    )


def check_peer_name(name: str) -> None:
    """Any `something@host` may be a peer. Raises NodeNameError."""
    left, at, right = name.partition("@")
    if not (left and at and right) or len(name) > 255 or "@" in right:
        raise NodeNameError(
            f"{name!r} is no node name: 'name@host' is expected, as in '4433@127.0.0.1'"
        )


def parse_listen(text: str | tuple[str, int] | None, address: Address) -> tuple[str, int]:
    """Where to bind: `listen` when it is given (`"0.0.0.0:4433"`, `("::", 4433)`), else the name's.

    Raises NodeNameError.
    """
    if text is None:
        return address.host, address.port
    if isinstance(text, tuple):
        host, port = text
        return host, port
    host, colon, digits = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not digits.isdigit() or int(digits) > 65535 or not _is_host(host):
        raise NodeNameError(
            f"{text!r} is no address to listen on: 'ip:port' is expected, as in '0.0.0.0:4433'"
        )
    return host, int(digits)
