"""The network interfaces of this machine for multicast DNS. Requires the extra `lan`."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from quicdist.extras import optional

Interface: TypeAlias = str | int
"""An IPv4 address, or the index of an interface with IPv6."""


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """The addresses of this machine at one moment."""

    interfaces: tuple[Interface, ...]
    """The interfaces that can send multicast over IPv4 (RFC 6762, 3) and over IPv6."""

    addresses: tuple[str, ...]
    """Addresses at which other hosts may reach this machine, loopback addresses if there are no
    others. Link-local IPv6 addresses are left out: a node would need the zone to dial them."""

    def addresses_for(self, bound: str) -> Sequence[str]:
        """Returns the addresses that reach a UDP socket that is bound to `bound`.

        A socket on `::` receives datagrams of both families.
        """
        host = ipaddress.ip_address(bound)
        if not host.is_unspecified:
            return [bound]
        return [one for one in self.addresses if host.version == 6 or ":" not in one]


def local_network() -> LocalNetwork:
    """Reads the addresses of this machine. Raises OSError, MissingExtra."""
    adapters = list(_library().get_adapters())
    v4 = [str(one.ip) for each in adapters for one in each.ips if one.is_IPv4]
    v6 = [each for adapter in adapters for each in _v6(adapter)]
    ready = [each for each in v6 if not _is_loopback(each[0])]
    every = [*v4, *(address for address, _ in ready if not _is_link_local(address))]
    addresses = [one for one in every if not _is_loopback(one)] or every
    return LocalNetwork((*v4, *dict.fromkeys(index for _, index in ready)), tuple(addresses))


def _v6(adapter: Any) -> Iterator[tuple[str, int]]:
    """Yields the IPv6 addresses of an adapter with its index; none before they can be used.

    An address is tentative for about a second, in which duplicates are looked for (RFC 4862, 5.4).
    zeroconf binds the first address of the adapter.
    """
    found = [one.ip for one in adapter.ips if one.is_IPv6]
    if found and all(map(_can_bind, found)):
        for address, _, _ in found:
            yield address, adapter.index


def _can_bind(address: tuple[str, int, int]) -> bool:
    host, flow, scope = address
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0, flow, scope))
    except OSError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _is_link_local(address: str) -> bool:
    return ipaddress.ip_address(address).is_link_local


def _library() -> Any:
    what = "finding nodes in the local network"
    return optional("ifaddr", what=what, library="zeroconf", extra="lan")
