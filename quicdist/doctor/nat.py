"""What the observed addresses of one socket tell about the NAT in front of it.

Terms are those of RFC 4787: the mapping of a NAT is endpoint-independent if every peer observes the
same address, otherwise it depends on the peer ("symmetric NAT").
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from quicdist.carriers.private_addresses import address_of

Address: TypeAlias = tuple[str, int]


class Kind(enum.Enum):
    """The kind of a NAT, as far as the observed addresses tell. The value describes it."""

    NONE = "no NAT in between"
    PORT_KEPT = "a NAT that keeps the port"
    PORT_CHANGED = "a NAT that changes the port"
    INDEPENDENT = "a NAT with endpoint-independent mapping"
    DEPENDENT = "a NAT whose mapping depends on the peer (symmetric)"


_HELP = {
    Kind.NONE: "",
    Kind.PORT_KEPT: "; --observer, with another node or a relay, tells whether it is symmetric",
    Kind.PORT_CHANGED: "; --observer, with another node or a relay, tells whether it is symmetric",
    Kind.INDEPENDENT: "; direct paths to most nodes behind other NATs are possible",
    Kind.DEPENDENT: "; direct paths only to nodes without a NAT that filters by port",
}

_TO_BE_DIALED = (
    ". This host can dial; a node on it that others dial needs a name at a relay (--via)"
)


def kind_of(own: Address, observed: Sequence[Address]) -> Kind:
    """Returns the kind of the NAT between an own address and peers that observed it."""
    seen = {_plain(one) for one in observed}
    if len(seen) > 1:
        return Kind.DEPENDENT
    if seen == {_plain(own)}:
        return Kind.NONE
    if len(observed) > 1:
        return Kind.INDEPENDENT
    return Kind.PORT_KEPT if observed[0][1] == own[1] else Kind.PORT_CHANGED


def describe(own: Address, observed: Mapping[str, Address | None]) -> str:
    """Describes the path in one line.

    `observed` has the address that each node has observed, or None if it did not tell one.
    """
    told = {node: address for node, address in observed.items() if address is not None}
    parts = [f"from {_text(own)}"]
    parts += [f"{node} sees {_text(address)}" for node, address in told.items()]
    parts += [f"{node} does not tell what it sees" for node in observed if node not in told]
    text = ", ".join(parts)
    if not told:
        return text
    kind = kind_of(own, list(told.values()))
    end = "" if kind is Kind.NONE else _TO_BE_DIALED
    return f"{text}: {kind.value}{_HELP[kind]}{end}"


def _plain(address: Address) -> tuple[object, int]:
    return address_of(address[0]) or address[0], address[1]


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
