"""`via`: the relays that give a node behind a NAT its address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.carriers.relay.client import RelayAddress
from quicdist.carriers.trust.names import is_address
from quicdist.cluster.names import Address
from quicdist.errors import NodeNameError

Via: TypeAlias = str | RelayAddress | Sequence[str | RelayAddress]


@dataclass(frozen=True, slots=True)
class RelayDomain:
    """Relays that the SRV records of a domain name list."""

    domain: str

    @property
    def host(self) -> str:
        """The domain."""
        return self.domain


Relays: TypeAlias = tuple[RelayAddress | RelayDomain, ...]


def parse_via(via: Via) -> Relays:
    """Parses the setting.

    `4433@203.0.113.10`, `4433@relay.example.org/8443` with the TCP port for TLS (0: none; by
    default 443), a domain with SRV records, or several. Raises NodeNameError.
    """
    given = [via] if isinstance(via, str | RelayAddress) else list(via)
    if not given:
        raise NodeNameError("via= has no relay: expected port@host")
    return tuple(one if isinstance(one, RelayAddress) else _parse(one) for one in given)


def temporary_name(relays: Relays) -> str:
    """Returns the name with which a node asks for a temporary port of the first relay."""
    return f"0@{relays[0].host}"


def check_via_name(name: str, relays: Relays) -> None:
    """Checks that a name with a port has the host of one of the relays. Raises NodeNameError.

    The hosts of a fleet are not known before it is looked up.
    """
    host = name.rpartition("@")[2]
    if not any(isinstance(one, RelayDomain) or one.host == host for one in relays):
        raise NodeNameError(
            f"invalid name {name!r} with a relay: expected none, or port@{relays[0].host} to ask "
            "for a port of the relay"
        )


def _parse(text: str) -> RelayAddress | RelayDomain:
    name, slash, tcp = text.partition("/")
    is_port = tcp.isascii() and tcp.isdigit() and int(tcp) <= 65535
    wanted = "expected port@host, port@host/tcp-port or a domain"
    if slash and not is_port:
        raise NodeNameError(f"invalid relay {text!r}: {wanted}")
    if "@" not in name:
        try:
            Address.parse(f"1@{name}")
        except NodeNameError:
            raise NodeNameError(f"invalid relay {text!r}: {wanted}") from None
        if is_address(name) or slash:
            raise NodeNameError(f"invalid relay {text!r}: {wanted}")
        return RelayDomain(name)
    address = Address.parse(name)
    if not address.port:
        raise NodeNameError(f"invalid relay {text!r}: {wanted}")
    return RelayAddress(address.host, address.port, int(tcp) if slash else 443)
