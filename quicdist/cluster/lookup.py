"""Where a node is, from its name: the places that can be asked, each alone.

    Node("py@host1", lookups=[Table({"old@host2": "tcp:10.0.0.8:9100"}), PortInName(), Epmd()])

They are asked in the order given, for every node that is to be dialed; the first answer counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from quicdist.carriers import causes, epmd
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.names import NodeName, parse_listen
from quicdist.errors import Cause, NodeNameError, QuicdistError


class NotFound(QuicdistError):
    """This place does not say where the node is; the text says what it said instead."""

    def __init__(self, text: str, cause: Cause = Cause.NOT_FOUND) -> None:
        super().__init__(text)
        self.cause = cause


class Lookup(Protocol):
    """One place to ask."""

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Where the node is, told in at most `timeout` seconds: the places to be tried, one after
        another. Raises NotFound."""


@dataclass(frozen=True, slots=True)
class PortInName:
    """`port@ip` says itself that the node is at this UDP port of this address."""

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        address = name.address
        if address is None or not address.port:
            raise NotFound("the name says no port, as 'port@ip' does for QUIC")
        return [TransportAddress(Transport.QUIC, address.host, address.port)]


@dataclass(frozen=True, slots=True)
class Table:
    """Nodes whose places are known: `{"rabbit@host1": "tcp:10.0.0.8:25672"}`, or `quic:...`.

    Raises NodeNameError.
    """

    places: Mapping[str, str]
    _places: Mapping[str, TransportAddress] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        read = {str(NodeName.parse(node)): _place(text) for node, text in self.places.items()}
        object.__setattr__(self, "_places", read)

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        place = self._places.get(str(name))
        if place is None:
            raise NotFound("the table does not have it")
        return [place]


@dataclass(frozen=True, slots=True)
class Epmd:
    """The EPMD of the host in the name, at ERL_EPMD_PORT or 4369. It knows nodes on TCP and TLS."""

    port: int | None = None

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
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


def _no_epmd(error: Exception) -> Cause:
    cause = causes.of_error(error)
    return cause if cause is Cause.HOST_UNKNOWN else Cause.EPMD_UNREACHABLE


def cause_of(answers: Sequence[NotFound]) -> Cause:
    """Why no place says where the node is: the last that could have known says more than those
    that such a name is not for."""
    told = [one.cause for one in answers if one.cause is not Cause.NOT_FOUND]
    return told[-1] if told else Cause.NOT_FOUND


DEFAULT_LOOKUPS: tuple[Lookup, ...] = (PortInName(), Epmd())


def _place(text: str) -> TransportAddress:
    transport, _, address = text.partition(":")
    try:
        return TransportAddress(Transport(transport), *parse_listen(address))
    except (ValueError, NodeNameError):
        raise NodeNameError(
            f"{text!r} is no place of a node: 'tcp:HOST:PORT' or 'quic:HOST:PORT' is expected"
        ) from None
