"""The addresses of this machine's interfaces."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence

from quicdist.carriers.quic.local_address import address_towards

_FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849). Nothing is sent to them."""


def host_addresses() -> Sequence[str]:
    """Returns the addresses of the interfaces.

    Needs the package ifaddr (the extra `nat`); without it only those of the default routes.
    """
    try:
        ifaddr = importlib.import_module("ifaddr")
    except ImportError:
        found = [address_towards((host, 9), family) for family, host in _FAR.items()]
        return [host for host in found if host is not None]
    # An IPv6 address of ifaddr is a tuple of address, flow and scope.
    ips = [one.ip for adapter in ifaddr.get_adapters() for one in adapter.ips]
    return [one if isinstance(one, str) else str(one[0]) for one in ips]


def has_global_ipv6() -> bool:
    """Returns whether this machine has a route to IPv6 addresses outside."""
    return address_towards((_FAR[socket.AF_INET6], 9), socket.AF_INET6) is not None
