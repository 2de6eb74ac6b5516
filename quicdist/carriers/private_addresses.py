"""Addresses that several hosts can have, each in its own network.

A node name with such an address is not unique: two nodes behind different NATs can both be
`4433@192.168.1.5`, and neither can be dialed from outside its network.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Scope(enum.Enum):
    """Why an address is not unique. The value describes it in error texts."""

    LOOPBACK = "a loopback address"
    """127.0.0.0/8, ::1 (RFC 1122, 3.2.1.3), and the host name `localhost`."""

    LINK_LOCAL = "a link-local address"
    """169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291, 2.5.6)."""

    PRIVATE = "a private address"
    """10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918)."""

    SHARED = "a shared address of a carrier's NAT"
    """100.64.0.0/10 (RFC 6598)."""

    UNIQUE_LOCAL = "a unique local address"
    """fc00::/7 (RFC 4193)."""


_NETWORKS: tuple[tuple[Scope, _Network], ...] = (
    (Scope.LOOPBACK, ipaddress.IPv4Network("127.0.0.0/8")),
    (Scope.LOOPBACK, ipaddress.IPv6Network("::1/128")),
    (Scope.LINK_LOCAL, ipaddress.IPv4Network("169.254.0.0/16")),
    (Scope.LINK_LOCAL, ipaddress.IPv6Network("fe80::/10")),
    (Scope.PRIVATE, ipaddress.IPv4Network("10.0.0.0/8")),
    (Scope.PRIVATE, ipaddress.IPv4Network("172.16.0.0/12")),
    (Scope.PRIVATE, ipaddress.IPv4Network("192.168.0.0/16")),
    (Scope.SHARED, ipaddress.IPv4Network("100.64.0.0/10")),
    (Scope.UNIQUE_LOCAL, ipaddress.IPv6Network("fc00::/7")),
)


def scope_of(host: str) -> Scope | None:
    """Returns why the address is not unique; None for a global address or a host name."""
    if host == "localhost":
        return Scope.LOOPBACK
    address = address_of(host)
    if address is None:
        return None
    return next((scope for scope, network in _NETWORKS if address in network), None)


def address_of(host: str) -> _Address | None:
    """Parses an address, without its zone and as IPv4 if it is IPv4-mapped; None for a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_seen_elsewhere(node: str, observed: str) -> bool:
    """Returns whether a node whose name has an address of `Scope` was observed at another address.

    `observed` is the host from which it connected, or at which it was dialed. Then a NAT is between
    the two nodes, and another node can have the same name.
    """
    host = node.rpartition("@")[2]
    scope, seen = scope_of(host), address_of(observed)
    if scope is None or seen is None:
        return False
    if scope is Scope.LOOPBACK:
        return scope_of(observed) is not Scope.LOOPBACK
    return seen != address_of(host)
