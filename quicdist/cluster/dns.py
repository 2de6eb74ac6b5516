"""Node lookup in DNS: `_erlang-dist._quic.HOST` SRV records (RFC 2782).

Requires the extra `dns`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.names import NodeName
from quicdist.extras import optional
from quicdist.setting_types import RemotePort, check_fields

_SERVICE = "_erlang-dist._quic"


@dataclass(frozen=True, slots=True)
class DnsSrv:
    """Asks the resolvers of this machine, or `nameservers` (IP addresses) at `port`.

    Several records are tried in order of priority, and in random order by weight within a priority.
    Raises MissingExtra.
    """

    nameservers: Sequence[str] = ()
    port: RemotePort = 53

    def __post_init__(self) -> None:
        """Raises TypeError and MissingExtra."""
        check_fields(self)
        _library()

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the QUIC addresses in the SRV records of the host, in order of priority.

        Raises NotFound if the host is an IP address or has no such record.
        """
        if _is_address(name.host):
            raise NotFound("an IP address is not looked up in DNS")
        records = await service_records(f"{_SERVICE}.{name.host}", timeout, self._resolver())
        return [TransportAddress(Transport.QUIC, one.host, one.port) for one in records]

    def _resolver(self) -> Any:
        resolver = _library().asyncresolver.Resolver(configure=not self.nameservers)
        if self.nameservers:
            resolver.nameservers = list(self.nameservers)
            resolver.port = self.port
        return resolver


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """An SRV record (RFC 2782)."""

    host: str
    port: int
    priority: int


async def service_records(
    question: str, timeout: float, resolver: Any = None
) -> Sequence[ServiceRecord]:
    """Returns the SRV records of a service, in order of priority.

    Within a priority the order is random by weight. Raises NotFound, MissingExtra.
    """
    dns = _library()
    resolver = resolver or dns.asyncresolver.Resolver()
    try:
        answer = await resolver.resolve(question, "SRV", lifetime=timeout)
    except dns.exception.Timeout as error:
        raise NotFound(f"no answer from DNS for {question} in time") from error
    except dns.exception.DNSException as error:
        raise NotFound(f"DNS has no {question}: {error}") from error
    records = [
        ServiceRecord(one.target.to_text(omit_final_dot=True), one.port, one.priority)
        for one in answer.rrset.processing_order()
    ]
    found = [one for one in records if one.host not in ("", ".")]
    if not found:
        raise NotFound(f"DNS has no service for {question}")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _library() -> Any:
    for module in ("dns.asyncresolver", "dns.exception"):
        optional(module, what="looking nodes up in DNS", library="dnspython", extra="dns")
    return optional("dns", what="looking nodes up in DNS", library="dnspython", extra="dns")
