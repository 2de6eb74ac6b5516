"""A port of the router that is mapped to this node: UPnP Internet Gateway Device.

Needs the extra `nat`, the package async-upnp-client. The mapping has a lease, which is renewed
while the node runs. The node deletes the mapping when it stops. A router without UPnP costs nothing
but one multicast datagram at each attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from quicdist.carriers.quic.local_address import address_towards
from quicdist.carriers.relay.candidates import Address
from quicdist.extras import optional

_log = logging.getLogger("quicdist.relay")

LEASE = 3600.0
"""Seconds for which the router keeps the mapping. It is renewed after half of that."""

_SEARCH = 2
"""Seconds to wait for routers to answer."""

_RETRY = 5.0
"""Seconds until another attempt if no router maps the port. Doubles up to `_LONGEST_RETRY`."""

_LONGEST_RETRY = 300.0
"""Maximum time in seconds between two attempts."""

_TIME = 15.0
"""Maximum time in seconds of one attempt."""


def check() -> None:
    """Raises MissingExtra if async-upnp-client is not installed."""
    _library("aiohttp")


class PortMapping:
    """Keeps one UDP port mapped. `address` is the outside address, None while there is none."""

    def __init__(self, port: int, on_change: Callable[[], None]) -> None:
        """`port` is that of the node's socket."""
        self.address: Address | None = None
        self._port = port
        self._on_change = on_change
        self._location = ""
        """The description of the router that was asked last."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def leave(self, timeout: float) -> None:
        """Has the router delete the mapping, within `timeout` seconds, and stops renewing it.

        If the router does not answer, the mapping ends with its lease.
        """
        self.close()
        location, self._location = self._location, ""
        if not location:
            return
        try:
            async with asyncio.timeout(timeout):
                await unmap_port(location, self._port)
        except Exception as error:  # as in `_try`
            extra = {"event": "port_not_unmapped", "reason": type(error).__name__}
            text = "the router does not delete the mapping of port %d: %s"
            _log.info(text, self._port, type(error).__name__, extra=extra)

    def close(self) -> None:
        """Stops renewing the mapping, which ends with its lease."""
        self._task.cancel()

    async def _keep(self) -> None:
        retry = _RETRY
        while True:
            found = await self._try()
            if found != self.address:
                self.address = found
                self._on_change()
            await asyncio.sleep(retry if found is None else LEASE / 2)
            retry = _RETRY if found is not None else min(2 * retry, _LONGEST_RETRY)

    async def _try(self) -> Address | None:
        try:
            async with asyncio.timeout(_TIME):
                location = await find_router()
                if location is None:
                    return None
                self._location = location
                address = await map_port(location, self._port)
        except Exception as error:  # of several libraries, about a device that may send anything
            extra = {"event": "port_not_mapped", "reason": type(error).__name__}
            _log.info("the router maps no port: %s", type(error).__name__, extra=extra)
            return None
        extra = {"event": "port_mapped", "address": f"{address[0]}:{address[1]}"}
        _log.info("the router maps %s:%d to this node", *address, extra=extra)
        return address


async def find_router() -> str | None:
    """Returns the URL of the description of a router in this network, None if none answers."""
    igd = _library("profiles.igd").IgdDevice
    return location_of(await igd.async_search(timeout=_SEARCH))


def location_of(answers: Iterable[Mapping[str, str]]) -> str | None:
    """Returns the first URL that is on the host that sent the answer, None if there is none.

    Any host of the network can answer. It must not have this node send requests to others.
    """
    for answer in answers:
        location = answer.get("location") or ""
        with contextlib.suppress(ValueError):
            if urlsplit(location).hostname == answer.get("_host"):
                return location
    return None


async def map_port(location: str, port: int) -> Address:
    """Has the router with this description map a UDP port, with the same number outside.

    Returns the outside address. Raises exceptions of async-upnp-client and aiohttp, OSError if the
    router cannot be reached, and ValueError if it tells no address.
    """
    igd = await _router(location)
    outside = ipaddress.IPv4Address(await igd.async_get_external_ip_address() or "")
    await igd.async_add_port_mapping(
        remote_host=ipaddress.IPv4Address("0.0.0.0"),
        external_port=port,
        protocol="UDP",
        internal_port=port,
        internal_client=ipaddress.IPv4Address(_own_address(location)),
        enabled=True,
        description="quicdist",
        lease_duration=datetime.timedelta(seconds=LEASE),
    )
    return str(outside), port


async def unmap_port(location: str, port: int) -> None:
    """Has the router with this description delete the mapping of a UDP port.

    Raises exceptions as `map_port` does.
    """
    igd = await _router(location)
    await igd.async_delete_port_mapping(
        remote_host=ipaddress.IPv4Address("0.0.0.0"), external_port=port, protocol="UDP"
    )


async def _router(location: str) -> Any:
    requester = _library("aiohttp").AiohttpRequester(timeout=5)
    device = await _library("client_factory").UpnpFactory(requester).async_create_device(location)
    return _library("profiles.igd").IgdDevice(device, None)


def _own_address(location: str) -> str:
    """Returns the address of this machine in the network of the router."""
    url = urlsplit(location)
    host = address_towards((url.hostname or "", url.port or 80), socket.AF_INET)
    if host is None:
        raise ValueError("no route to the router")
    return host


def _library(name: str) -> Any:
    module = f"async_upnp_client.{name}"
    return optional(module, what="map_port", library="async-upnp-client", extra="nat")
