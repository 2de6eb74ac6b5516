"""Who is counted together among those who come from somewhere."""

from __future__ import annotations

import ipaddress


def place_of(host: str) -> str:
    """An IPv4 address, or the /64 that one IPv6 host has to itself; of what is no address, that."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # Not by ip_network: it costs ten times as much, and strangers make us ask.
            return address.packed[:8].hex(":", 2) + "::/64"
        return str(address.ipv4_mapped)
    return str(address)
