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

_SERVICE = "_erlang-dist._quic"


@dataclass(frozen=True, slots=True)
class DnsSrv:
    """Asks the resolvers of this machine, or `nameservers` (IP addresses) at `port`.

    Several records are tried in order of priority, and in random order by weight within a priority.
    Raises MissingExtra.
    """

    nameservers: Sequence[str] = ()
    port: int = 53

    def __post_init__(self) -> None:
        _library()

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the QUIC addresses in the SRV records of the host, in order of priority.

        Raises NotFound if the host is an IP address or has no such record.
        """
        question = f"{_SERVICE}.{name.host}"
        if _is_address(name.host):
            raise NotFound("an IP address is not looked up in DNS")
        dns = _library()
        try:
            answer = await self._resolver().resolve(question, "SRV", lifetime=timeout)
        except dns.exception.Timeout as error:
            raise NotFound(f"no answer from DNS for {question} in time") from error
        except dns.exception.DNSException as error:
            raise NotFound(f"DNS has no {question}: {error}") from error
        places = [
            TransportAddress(Transport.QUIC, one.target.to_text(omit_final_dot=True), one.port)
            for one in answer.rrset.processing_order()
        ]
        found = [place for place in places if place.host not in ("", ".")]
        if not found:
            raise NotFound(f"DNS has no service for {question}")
        return found

    def _resolver(self) -> Any:
        resolver = _library().asyncresolver.Resolver(configure=not self.nameservers)
        if self.nameservers:
            resolver.nameservers = list(self.nameservers)
            resolver.port = self.port
        return resolver


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
