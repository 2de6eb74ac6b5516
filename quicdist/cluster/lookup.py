"""Lookups: sources that resolve a node name to an address.

    Node("py@host1", lookups=[Table({"old@host2": "tcp:10.0.0.8:9100"}), PortInName(), Epmd()])

They are asked in this order for every dialed node; the first answer is used.
"""

from __future__ import annotations

import contextlib
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from quicdist.carriers import causes, epmd
from quicdist.carriers.host_lookup import look_up_host
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.names import NodeName, facing_address, parse_listen
from quicdist.errors import Cause, NodeNameError, QuicdistError
from quicdist.setting_types import RemotePort, check_fields


class NotFound(QuicdistError):
    """A lookup has no address of the node. The text gives the reason."""

    def __init__(self, text: str, cause: Cause = Cause.NOT_FOUND) -> None:
        super().__init__(text)
        self.cause = cause


@runtime_checkable
class Lookup(Protocol):
    """A source of node addresses."""

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the addresses of a node, to be tried in order, within `timeout` seconds.

        Raises NotFound.
        """


@dataclass(frozen=True, slots=True)
class PortInName:
    """Takes the address from the name: `port@ip` is a UDP port of an address."""

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the UDP address in the name. Raises NotFound if the name contains no port."""
        address = name.address
        if address is None or not address.port:
            raise NotFound("the name has no port: expected port@ip for QUIC")
        return [TransportAddress(Transport.QUIC, address.host, address.port)]


@dataclass(frozen=True, slots=True)
class Table:
    """A fixed table of node addresses: `{"rabbit@host1": "tcp:10.0.0.8:25672"}`, or `quic:...`.

    Raises NodeNameError.
    """

    addresses: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    _parsed: Mapping[str, TransportAddress] = field(init=False, repr=False, compare=False)
    places: InitVar[Mapping[str, str] | None] = None
    """The deprecated name of `addresses`."""

    def __post_init__(self, places: Mapping[str, str] | None) -> None:
        if places is not None:
            text = "Table(places=) is now Table(addresses=)"
            warnings.warn(text, DeprecationWarning, 3)
            object.__setattr__(self, "addresses", places)
        check_fields(self)
        parsed = {str(NodeName.parse(node)): _parse(text) for node, text in self.addresses.items()}
        object.__setattr__(self, "_parsed", parsed)

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the address in the table. Raises NotFound if the table lacks the name."""
        address = self._parsed.get(str(name))
        if address is None:
            raise NotFound("the table does not contain the node")
        return [address]


@dataclass(frozen=True, slots=True)
class Epmd:
    """Asks the EPMD of the host in the name, at ERL_EPMD_PORT or 4369.

    EPMD knows nodes on TCP and TLS.
    """

    port: RemotePort | None = None

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the TCP address in EPMD. Raises NotFound if EPMD does not know the name."""
        address = epmd.EpmdAddress(name.host, self.port or epmd.default_port())
        try:
            found = await epmd.look_up(name.alive, address, timeout=timeout)
        except epmd.EpmdError as error:
            raise NotFound(str(error), error.cause) from error
        except OSError as error:
            text = f"no EPMD answers at {address} ({epmd.why(error)})"
            raise NotFound(text, _no_epmd(error)) from error
        if found is None:
            text = f"the EPMD at {address} does not know {name.alive!r}"
            raise NotFound(text, Cause.NOT_IN_EPMD)
        return [TransportAddress(Transport.TCP, name.host, found.port)]


async def facing_found(node: str, lookups: Sequence[Lookup], timeout: float) -> str:
    """Returns a name for a node that dials `node`: port 0 of the local address that routes to it.

    If the host in the name is unknown, the lookups are asked for the address of the node.
    """
    name = NodeName.parse(node)
    own = await _facing_host(name.host, timeout)
    for lookup in lookups if own is None else ():
        with contextlib.suppress(NotFound):
            found = await lookup.find(name, timeout / len(lookups))
            if own is None and found[0].host != name.host:
                own = await _facing_host(found[0].host, timeout)
    return own or "0@127.0.0.1"


async def _facing_host(host: str, timeout: float) -> str | None:
    """Returns what `names.facing_host` returns, or None after `timeout` seconds."""
    try:
        found = await look_up_host(host, 9, kind=socket.SOCK_DGRAM, timeout=timeout)
    except OSError:
        return None
    return facing_address(found[0][0], found[0][4])


def _no_epmd(error: Exception) -> Cause:
    cause = causes.of_error(error)
    return cause if cause is Cause.HOST_UNKNOWN else Cause.EPMD_UNREACHABLE


def cause_of(answers: Sequence[NotFound]) -> Cause:
    """Returns the most specific cause of failed lookups.

    It is that of the last lookup that could have known the node.
    """
    told = [one.cause for one in answers if one.cause is not Cause.NOT_FOUND]
    return told[-1] if told else Cause.NOT_FOUND


DEFAULT_LOOKUPS: tuple[Lookup, ...] = (PortInName(), Epmd())


def _parse(text: str) -> TransportAddress:
    transport, _, address = text.partition(":")
    try:
        return TransportAddress(Transport(transport), *parse_listen(address))
    except (ValueError, NodeNameError):
        raise NodeNameError(
            f"invalid node address {text!r}: expected tcp:HOST:PORT or quic:HOST:PORT"
        ) from None
