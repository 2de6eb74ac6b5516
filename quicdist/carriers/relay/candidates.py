"""Candidates: the addresses at which a node may be reached directly (RFC 8445, 5.1.1).

A node offers its host addresses, the address that the relay observes, and an address that a router
has mapped for it. The peer sends pings to the candidates that `accepted` returns and to no others.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""An IP address in text form, without a scope, and a UDP port."""

MAX_CANDIDATES = 8
"""Maximum number of candidates of a node. A node sends pings to no more addresses of one peer."""


class CandidateKind(enum.IntEnum):
    """Where a candidate comes from. The numbers are those of an encoded offer."""

    HOST = 0
    """An address of an interface of the node."""
    OBSERVED = 1
    """The source address of the node's datagrams at the relay: server-reflexive in RFC 8445."""
    MAPPED = 2
    """An address that a router forwards to the node: PCP, NAT-PMP or UPnP."""
    SEEN = 3
    """In an offer: the address of the peer that receives the offer, as its sender sees it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address at which a node may be reached."""

    kind: CandidateKind
    address: Address


def normalized(host: str, port: int) -> Address:
    """Returns the address without the form of an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2).

    Raises ValueError if `host` is no IP address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), port


def own_candidates(
    hosts: Iterable[str],
    port: int,
    *,
    observed: Iterable[Address] = (),
    mapped: Iterable[Address] = (),
) -> Sequence[Candidate]:
    """Returns the candidates of this node, at most `MAX_CANDIDATES`, without duplicates.

    `hosts` are the addresses of the interfaces and `port` is the port of the socket. The addresses
    that peers outside can reach most likely come first. A loopback address is a candidate only if
    the relay observes one, that is if everything is on one machine.
    """
    observed = [normalized(*address) for address in observed]
    found: dict[Address, CandidateKind] = {}
    for kind, addresses in (
        (CandidateKind.MAPPED, [normalized(*address) for address in mapped]),
        (CandidateKind.OBSERVED, observed),
        (CandidateKind.HOST, _in_order(normalized(host, port) for host in hosts)),
    ):
        for address in addresses:
            found.setdefault(address, kind)
    with_loopback = any(_is_loopback(address) for address in observed)
    usable = [
        Candidate(kind, address)
        for address, kind in found.items()
        if _is_usable(address, with_loopback=with_loopback)
    ]
    return usable[:MAX_CANDIDATES]


def accepted(offered: Sequence[Candidate], own: Sequence[Candidate]) -> Sequence[Address]:
    """Returns the addresses of a peer's candidates to which pings may be sent.

    Own addresses are removed: in two networks with equal private addresses a node would ping
    itself. So are addresses that are not unicast, and loopback addresses, unless this node is on
    loopback as well.
    """
    ours = {candidate.address for candidate in own}
    with_loopback = any(_is_loopback(address) for address in ours)
    found = dict.fromkeys(
        candidate.address for candidate in offered if candidate.kind is not CandidateKind.SEEN
    )
    usable = [
        address
        for address in found
        if address not in ours and _is_usable(address, with_loopback=with_loopback)
    ]
    return usable[:MAX_CANDIDATES]


def _in_order(addresses: Iterable[Address]) -> Sequence[Address]:
    """Returns global addresses before private ones."""
    return sorted(addresses, key=lambda address: not ipaddress.ip_address(address[0]).is_global)


def _is_loopback(address: Address) -> bool:
    return ipaddress.ip_address(address[0]).is_loopback


def _is_usable(address: Address, *, with_loopback: bool) -> bool:
    """Returns whether the address is unicast.

    A link-local address needs an interface, which an offer does not carry.
    """
    host, port = ipaddress.ip_address(address[0]), address[1]
    if host.is_loopback:
        return with_loopback and port > 0
    is_other = host.is_multicast or host.is_unspecified or host.is_link_local
    is_broadcast = host == ipaddress.IPv4Address(0xFFFFFFFF)
    return not is_other and not is_broadcast and 0 < port < 65536
