"""The kinds of NATs of the lab, in the terms of RFC 4787, and which pairs can be punched."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Dependence(enum.Enum):
    """What a mapping or filter depends on (RFC 4787, 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address- and port-dependent"


class Unasked(enum.Enum):
    """What the firewall of a router does with a packet that matches no connection; nftables."""

    DROP = "drop"
    REJECT = "reject with icmpx type port-unreachable"
    ACCEPT = "accept"


_EIM, _EIF = Dependence.ENDPOINT_INDEPENDENT, Dependence.ENDPOINT_INDEPENDENT
_APD = Dependence.ADDRESS_AND_PORT


@dataclass(frozen=True)
class Kind:
    """A kind of network behind which a node is."""

    name: str
    mapping: Dependence = _EIM
    filtering: Dependence = _APD
    keeps_port: bool = True
    unasked: Unasked = Unasked.DROP
    source: str = "masquerade"
    """The nftables statement that translates source addresses."""
    forward: str = ""
    """The nftables statement that translates destination addresses of packets from outside."""
    carrier: str = ""
    """The source statement of a second NAT, that of a carrier; empty if there is none."""
    has_router: bool = True
    passes_udp: bool = True

    @property
    def is_symmetric(self) -> bool:
        return self.mapping is not Dependence.ENDPOINT_INDEPENDENT

    @property
    def has_ipv6(self) -> bool:
        """A carrier's network here has none."""
        return not self.carrier and self.passes_udp

    def __str__(self) -> str:
        return self.name


SHIFT = 36_000
SHIFTED = range(4430, 4450)
"""The kind `shift` adds `SHIFT` to these source ports."""

OPEN = Kind("open", filtering=_EIF, has_router=False)
MASQ = Kind("masq")
MASQ_REJECT = Kind("masqrej", unasked=Unasked.REJECT)
MASQ_ACCEPT = Kind("masqnofw", unasked=Unasked.ACCEPT)
FULL_CONE = Kind("fullcone", filtering=_EIF, forward="dnat to 192.168.1.5")
ADDRESS_CONE = Kind(
    "addrcone",
    filtering=Dependence.ADDRESS,
    forward="udp dport . ip saddr @asked dnat to 192.168.1.5",
)
SHIFTED_CONE = Kind("shift", keeps_port=False, source="shift")
DOUBLE = Kind("cgnat", carrier="masquerade")
SYMMETRIC = Kind("sym", mapping=_APD, keeps_port=False, source="masquerade fully-random")
SYMMETRIC_RANDOM = Kind("symrand", mapping=_APD, keeps_port=False, source="masquerade random")
DOUBLE_SYMMETRIC = Kind("cgnatsym", mapping=_APD, keeps_port=False, carrier="masquerade random")
BLOCKED = Kind("udpblock", passes_udp=False)

KINDS = (
    OPEN,
    FULL_CONE,
    ADDRESS_CONE,
    MASQ,
    MASQ_REJECT,
    SHIFTED_CONE,
    DOUBLE,
    MASQ_ACCEPT,
    SYMMETRIC,
    SYMMETRIC_RANDOM,
    DOUBLE_SYMMETRIC,
    BLOCKED,
)

BY_NAME = {kind.name: kind for kind in KINDS}


class Outcome(enum.Enum):
    """Whether two nodes of these kinds get a direct path."""

    DIRECT = "direct"
    RACE = "race"
    """Only if both nodes start within the one-way delay between them."""
    RELAYED = "relayed"


def outcome(one: Kind, other: Kind) -> Outcome:
    """Returns what two nodes can expect over IPv4."""
    pair = (one, other)
    if not all(kind.passes_udp for kind in pair):
        return Outcome.RELAYED
    is_restricted = [kind.filtering is _APD and not kind.is_symmetric for kind in pair]
    if any(kind.is_symmetric for kind in pair):
        others = [kind for kind in pair if kind.filtering is not _APD]
        return Outcome.DIRECT if others else Outcome.RELAYED
    if MASQ_ACCEPT in pair and all(is_restricted):
        return Outcome.RACE
    return Outcome.DIRECT
