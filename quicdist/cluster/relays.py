"""The relay of a node or gateway: the first of `via` that answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.carriers import causes
from quicdist.carriers.base import DialError
from quicdist.carriers.host_lookup import look_up_host
from quicdist.carriers.quic.endpoint import Bind, Endpoint
from quicdist.carriers.quic.settings import QuicOptions
from quicdist.carriers.relay import port_mapping, slots
from quicdist.carriers.relay.client import RelayAddress, RelayClient
from quicdist.carriers.relay.direct import DirectPaths, Observe
from quicdist.carriers.relay.frames import Lease
from quicdist.carriers.relay.host_addresses import has_global_ipv6
from quicdist.carriers.relay.paths import path_mode
from quicdist.carriers.trust import Credentials
from quicdist.cluster.dns import ServiceRecord, service_records
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.names import Address
from quicdist.cluster.via import Relays
from quicdist.errors import Cause

SERVICE = "_quicdist-relay._udp"
"""The SRV records of a fleet (RFC 2782)."""

_DNS_TIME = 5.0
"""Seconds to wait for the answer of DNS."""

_TIMEOUT = 5.0
"""Seconds for a relay, from the look-up of its host to the port, before the next one is tried."""


class NoRelay(DialError):
    """No relay gives this node a port. `cause` is that of the most telling failure."""


Open: TypeAlias = Callable[[str, int, Bind], Awaitable[Endpoint]]
"""Opens an endpoint on a host and port, with sockets that `Bind` makes."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """An endpoint with a port at a relay."""

    endpoint: Endpoint
    client: RelayClient
    address: Address
    """The address of the port at the relay, as the name of the node has it."""


async def open_via(
    relays: Relays,
    credentials: Credentials,
    *,
    asked: Address | None,
    listen: tuple[str, int] | None,
    options: QuicOptions,
    open_endpoint: Open,
    timeout: float = _TIMEOUT,
) -> Relayed:
    """Opens an endpoint and gets a port at the first relay that gives one.

    `asked` is the address in the name of this node: its port is one of the relay, or 0 for a
    temporary port. None asks for the port that is kept for this node. `listen` is the local address
    to bind; None takes a free port of the wildcard address. The last relay has
    `timeout` seconds, from the look-up of its host to the port, and one before it at most 5 s.

    Raises NoRelay if no relay gives a
    port, OSError if no socket can be bound, CertificateError, and MissingExtra.
    """
    if options.map_port:
        port_mapping.check()
    await credentials.prepare()
    key = credentials.identity.fingerprint
    wanted = 0 if asked is None else asked.port
    lease = Lease.KEPT if asked is None or asked.port else Lease.TEMPORARY
    failures: list[DialError] = []
    loop = asyncio.get_running_loop()
    addresses = await addresses_of(relays, key)
    for relay in addresses:
        patience = timeout if relay is addresses[-1] else min(timeout, _TIMEOUT)
        deadline = loop.time() + patience
        try:
            wildcard = await _wildcard_for(relay.host, patience)
        except OSError as error:
            text = f"relay {relay.name}: {error.strerror or error}"
            failures.append(DialError(text, causes.of_error(error)))
            continue
        slot = slots.temporary() if lease is Lease.TEMPORARY else slots.take(key, wanted)
        client = RelayClient(relay, credentials, slot=slot, wanted=wanted, lease=lease)
        try:
            if listen is not None:
                endpoint = await open_endpoint(*listen, client.bind)
            else:
                endpoint = await _open(open_endpoint, client, wildcard, slot.local_port)
        except BaseException:
            client.close()
            raise
        slot.keep(endpoint.local_address[1])
        try:
            number = await client.register(endpoint, deadline - loop.time())
        except DialError as error:
            failures.append(error)
            client.close()
            await endpoint.close(0)
            continue
        except BaseException:
            client.close()
            await endpoint.close(0)
            raise
        direct = DirectPaths(endpoint, client.paths, path_mode(options.path), _observer(client))
        client.on_change = direct.addresses_changed
        if options.map_port:
            direct.map_port()
        return Relayed(endpoint, client, Address(relay.host, number))
    text = "; ".join(map(str, failures)) or "no relay is configured"
    found = max((one.cause for one in failures), key=causes.rank, default=Cause.NOT_FOUND)
    raise NoRelay(text, found)


def _observer(client: RelayClient) -> Observe:
    """Returns a function that returns the address of this node as the relay sees it."""
    return lambda: [] if client.observed is None else [client.observed]


async def _open(
    open_endpoint: Open, client: RelayClient, wildcard: str, last_port: int
) -> Endpoint:
    """Opens the endpoint, on the last port of this node if it is free. Raises OSError."""
    if last_port:
        with contextlib.suppress(OSError):
            return await open_endpoint(wildcard, last_port, client.bind)
    return await open_endpoint(wildcard, 0, client.bind)


async def addresses_of(relays: Relays, key: str) -> Sequence[RelayAddress]:
    """Returns the relays in the order in which they are tried.

    Relays of a fleet with one priority are ordered by a hash of their names and `key` (the
    fingerprint of the node), so that a node gets the same one after a restart, and different nodes
    different ones. Raises NoRelay, MissingExtra.
    """
    found: list[RelayAddress] = []
    for one in relays:
        if isinstance(one, RelayAddress):
            found.append(one)
            continue
        try:
            records = await service_records(f"{SERVICE}.{one.domain}", _DNS_TIME)
        except NotFound as error:
            raise NoRelay(str(error), error.cause) from None
        ordered = sorted(records, key=lambda each: (each.priority, _rank(key, each)))
        found += [RelayAddress(each.host, each.port) for each in ordered]
    return found


def _rank(key: str, record: ServiceRecord) -> bytes:
    return hashlib.sha256(f"{key} {record.host}:{record.port}".encode()).digest()


async def _wildcard_for(host: str, timeout: float) -> str:
    """Returns the wildcard address to bind for a relay at `host`.

    It is that of both families if this machine has IPv6, for direct paths over it. Raises OSError
    if the host is unknown.
    """
    found = await look_up_host(host, 0, kind=socket.SOCK_DGRAM, timeout=timeout)
    return "::" if has_global_ipv6() or found[0][0] == socket.AF_INET6 else "0.0.0.0"
