"""Which addresses are counted together: whose owner can have all of them at once."""

from __future__ import annotations

import ipaddress


def place_of(host: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address, which one host has to itself. What is not an
    address stands for itself."""
    return _network_of(host, 64)


def site_of(host: str) -> str:
    """An IPv4 address, or the /48 of an IPv6 address: providers give a customer a /56 or a
    /48, with 256 or 65,536 places in it (RFC 6177)."""
    return _network_of(host, 48)


def _network_of(host: str, bits: int) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # ip_network costs ten times as much, for each datagram of a stranger.
            return f"{address.packed[: bits // 8].hex(':', 2)}::/{bits}"
        return str(address.ipv4_mapped)
    return str(address)
