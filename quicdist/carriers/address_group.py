"""Groups of addresses that one host or one customer can use, for limits per address."""

from __future__ import annotations

import functools
import ipaddress


def host_prefix(host: str) -> str:
    """Returns the IPv4 address, or the /64 of an IPv6 address, which one host can use alone.

    A string that is not an address is returned unchanged.
    """
    return _network_of(host, 64)


def site_prefix(host: str) -> str:
    """Returns the IPv4 address, or the /48 of an IPv6 address.

    Providers assign a /56 or a /48 to a customer, which has 256 or 65,536 /64s (RFC 6177). A string
    that is not an address is returned unchanged.
    """
    return _network_of(host, 48)


def _network_of(host: str, bits: int) -> str:
    # This runs for each datagram of an unknown peer.
    return _parsed(host, bits) if ":" in host or "%" in host else host


@functools.lru_cache(maxsize=256)
def _parsed(host: str, bits: int) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # ip_network is ten times slower.
            return f"{address.packed[: bits // 8].hex(':', 2)}::/{bits}"
        return str(address.ipv4_mapped)
    return str(address)
