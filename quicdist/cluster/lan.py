"""Nodes of the local network, by multicast DNS (RFC 6762) and DNS-SD (RFC 6763).

Requires the extra `lan`. A node on QUIC is announced as an instance of `_quicdist._udp.local.`. Its
TXT record contains `node`, the full node name, and `name`, a short name. Anyone in the network can
send such records. They are only hints where to dial: the peer's key and the cookie decide whether
it is the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quicdist.carriers.trust.names import written
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.lan_interfaces import LocalNetwork, local_network
from quicdist.cluster.lookup import NotFound
from quicdist.cluster.names import NodeName
from quicdist.errors import Cause, NodeNameError
from quicdist.extras import optional
from quicdist.setting_types import Duration, check_fields, check_type

_log = logging.getLogger("quicdist.lan")

SERVICE: Final = "_quicdist._udp.local."

_MAX_NODES: Final = 256
"""Instances that one search asks for."""

_MAX_ADDRESSES: Final = 4
"""Addresses of one instance that are used."""

_MAX_NAME: Final = 240
"""Bytes of a node name: a TXT string holds 255 with its key."""

_MAX_LISTED: Final = 5
"""Nodes that an error names."""

_FIND_TIME: Final = 1.5
"""Seconds for which one node is asked for."""

_QUIET: Final = 1.0
"""Seconds without another instance after which a search of all nodes ends."""

_LEAST: Final = 2.5
"""Minimum time of a search in seconds. A host repeats an answer only after a second (RFC 6762, 6),
and may delay it by half a second more."""

_PAUSE: Final = 0.1
"""Seconds between two checks whether a search has ended."""

_LOOK: Final = 2.0
"""Seconds between two looks at the addresses of this machine."""

_RETRY: Final = 15.0
"""Seconds between two attempts to announce a node."""

_SHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class LanNode:
    """A node that a host of the local network announces. Nothing of it is verified."""

    node: str
    """The node name."""

    name: str
    """The short name; empty if it has none."""

    addresses: tuple[str, ...]
    """IP addresses."""

    port: int
    """The UDP port."""


@dataclass(frozen=True, slots=True)
class Lan:
    """Finds nodes in the local network, as an item of `lookups`, and announces one as `lan=`.

    Finds announced nodes by their names, and the address of `port@host.local`. Raises MissingExtra,
    and NodeNameError if `name` is not a short name.
    """

    name: str = ""
    """The short name with which a node is announced: up to 63 letters, digits, `-`, `_`, `.`."""

    interfaces: tuple[str, ...] = ()
    """The addresses of the network interfaces to use, IPv4 or IPv6; by default all interfaces."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.name and not _SHORT_NAME.fullmatch(self.name):
            raise NodeNameError(
                f"invalid short name {self.name!r}: expected up to 63 letters, digits, '-', '_' "
                "and '.', as in 'app'"
            )
        _library()

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the addresses of a node (see `Lookup.find`). Raises NotFound."""
        address = name.address
        if address is not None and _is_address(name.host):
            raise NotFound("an IP address is not looked up by multicast DNS")
        is_local = is_local_name(name.host)
        try:
            async with asyncio.timeout(min(timeout, 2 * _FIND_TIME)), _multicast(self) as zc:
                patience = _QUIET if is_local else _FIND_TIME
                found = await _ask(zc, label_of(str(name)), patience)
                if found is not None and found.node == str(name):
                    return _quic_addresses(found.addresses, found.port)
                if is_local and address is not None and address.port:
                    return _quic_addresses(await _resolve(zc, name.host), address.port)
        except (TimeoutError, OSError) as error:
            text = str(error) or "no answer in time"
            raise NotFound(f"no answer by multicast DNS: {text}") from error
        raise NotFound("no host of the local network announces the node by multicast DNS")

    async def nodes(self, timeout: float = 5.0) -> Sequence[LanNode]:
        """Returns the nodes that are announced in the local network, in the order of their names.

        The search takes at least 2.5 seconds, ends when no further node is found for a second, and
        takes at most `timeout` seconds. Raises OSError if no interface supports multicast.
        """
        check_type("timeout=", timeout, Duration)
        return await self._search(timeout, lambda node: False)

    async def _search(
        self, timeout: float, is_wanted: Callable[[LanNode], bool]
    ) -> Sequence[LanNode]:
        """Returns the announced nodes. A wanted one ends the search, when no other one follows."""
        found: dict[LanNode, None] = {}
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(timeout),
                _multicast(self) as zc,
                asyncio.TaskGroup() as asking,
            ):

                async def ask(label: str) -> None:
                    one = await _ask(zc, label, _QUIET)
                    if one is not None:
                        found[one] = None

                async for label in _browse(zc, lambda: any(map(is_wanted, found))):
                    asking.create_task(ask(label))
        return sorted(found, key=lambda one: (one.node, one.addresses, one.port))

    async def node_named(self, name: str, timeout: float = 5.0) -> str:
        """Returns the node name of the node that is announced with a short name.

        Raises NotFound if there is none, or several.
        """
        check_type("timeout=", timeout, Duration)
        try:
            found = await self._search(timeout, lambda one: one.name == name)
        except OSError as error:
            raise NotFound(f"no answer by multicast DNS: {error}") from error
        nodes = {one.node for one in found if one.name == name}
        if not nodes:
            raise NotFound(f"no node of the local network is announced with the name {name!r}")
        if len(nodes) > 1:
            listed = ", ".join(map(written, sorted(nodes)[:_MAX_LISTED]))
            listed += ", ..." if len(nodes) > _MAX_LISTED else ""
            raise NotFound(f"several nodes are announced with the name {name!r}: {listed}")
        return nodes.pop()


@dataclass(frozen=True, slots=True)
class LocalHosts:
    """Finds nodes on hosts in `.local`, before a lookup that would resolve these with DNS."""

    lan: Lan

    async def find(self, name: NodeName, timeout: float) -> Sequence[TransportAddress]:
        """Returns the addresses of a node. Raises NotFound."""
        if not is_local_name(name.host):
            raise NotFound("only hosts in .local are looked up by multicast DNS first")
        return await self.lan.find(name, timeout)


class Announcement:
    """Announces one node until it is closed. Failures are logged and tried again."""

    def __init__(self, lan: Lan, node: str, host: str, port: int) -> None:
        """`host` and `port` are bound: the UDP address, or a wildcard address for all."""
        self._lan = lan
        self._node = node
        self._host = host
        self._port = port
        self._task = asyncio.get_running_loop().create_task(self._announce())

    async def close(self) -> None:
        """Withdraws the announcement."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _announce(self) -> None:
        last = ""
        while True:
            try:
                await self._announce_until_changed()
                last = ""
                continue
            except (OSError, _library().Error) as error:
                text = str(error) or type(error).__name__
                if text != last:
                    extra = {"event": "lan_failed", "node": self._node, "reason": text}
                    what = "cannot announce %s in the local network: %s"
                    _log.warning(what, written(self._node), text, extra=extra)
                last = text
            await asyncio.sleep(_RETRY)

    async def _announce_until_changed(self) -> None:
        """Announces the node until the addresses of this machine change."""
        network = local_network()
        async with _multicast(self._lan, network) as zc:
            await self._register(zc, network.addresses_for(self._host)[:_MAX_ADDRESSES])
            while local_network() == network:
                await asyncio.sleep(_LOOK)

    async def _register(self, zc: Any, addresses: Sequence[str]) -> None:
        label = label_of(self._node)
        host = self._node.rpartition("@")[2]
        server = f"{host}." if is_local_name(host) else f"{_digest(self._node)}.local."
        info = _library().asyncio.AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            port=self._port,
            properties={"v": "1", "node": self._node, "name": self._lan.name},
            server=server,
            parsed_addresses=addresses,
        )
        await (await zc.async_register_service(info))
        extra = {"event": "lan_announced", "node": self._node, "address": f"port {self._port}"}
        _log.info("%s is announced in the local network", written(self._node), extra=extra)


def check_announced(node: str) -> None:
    """Checks that a node can be announced. Raises NodeNameError."""
    if NodeName.own(node).address is None:
        raise NodeNameError(
            f"{node!r} cannot be announced in the local network: expected the name of a node on "
            "QUIC, port@ip or port@host"
        )
    if len(node.encode()) > _MAX_NAME:
        raise NodeNameError(f"a node name of over {_MAX_NAME} bytes cannot be announced")


def is_local_name(host: str) -> bool:
    """Returns whether a host name is resolved by multicast DNS (RFC 6762, 3)."""
    return host.lower().endswith(".local")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def label_of(node: str) -> str:
    """Returns the name of the instance of a node: one DNS label of up to 63 bytes."""
    readable = re.sub(r"[^A-Za-z0-9@_-]", "-", node)[:46]
    return f"{readable} {_digest(node)}"


def read_node(
    properties: Mapping[bytes, bytes | None], addresses: Sequence[str], port: int | None
) -> LanNode | None:
    """Parses the records of an instance; None if they are no valid announcement of a node."""
    try:
        node = (properties.get(b"node") or b"").decode()
        name = (properties.get(b"name") or b"").decode()
        NodeName.parse(node)
    except ValueError:  # also UnicodeDecodeError and NodeNameError
        return None
    usable = tuple(one for one in addresses if _is_usable(one))[:_MAX_ADDRESSES]
    if not usable or not port or not 0 < port < 65536:
        return None
    return LanNode(node, name if _SHORT_NAME.fullmatch(name) else "", usable, port)


def _is_usable(address: str) -> bool:
    """Returns whether an announced address can be that of one host."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not (parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved)


def _quic_addresses(addresses: Sequence[str], port: int) -> Sequence[TransportAddress]:
    return [TransportAddress(Transport.QUIC, one, port) for one in addresses]


def _digest(node: str) -> str:
    return hashlib.sha256(node.encode("utf-8", "surrogateescape")).hexdigest()[:16]


# -- multicast DNS -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _multicast(lan: Lan, network: LocalNetwork | None = None) -> AsyncIterator[Any]:
    """Opens the sockets. Raises OSError if no interface supports multicast."""
    interfaces = lan.interfaces or (network or local_network()).interfaces
    if not interfaces:
        raise OSError("no network interface has an address")
    try:
        zc = _library().asyncio.AsyncZeroconf(interfaces=list(interfaces))
    except RuntimeError as error:
        raise OSError(str(error)) from error
    try:
        yield zc
    finally:
        await zc.async_close()


async def _ask(zc: Any, label: str, timeout: float) -> LanNode | None:
    """Asks for the records of one instance, for `timeout` seconds."""
    library = _library()
    try:
        info = library.asyncio.AsyncServiceInfo(SERVICE, f"{label}.{SERVICE}")
        if not await info.async_request(zc.zeroconf, 1000 * timeout):
            return None
    except library.Error:
        return None
    addresses = info.parsed_scoped_addresses()
    return read_node(info.properties, addresses, info.port)


async def _resolve(zc: Any, host: str) -> Sequence[str]:
    """Asks for the addresses of a host. Raises NotFound."""
    resolver = _library().AddressResolver(f"{host}.")
    await resolver.async_request(zc.zeroconf, 1000 * _QUIET)
    found = [one for one in resolver.parsed_scoped_addresses() if _is_usable(one)]
    if not found:
        text = f"no host of the local network has the name {host!r}"
        raise NotFound(text, Cause.HOST_UNKNOWN)
    return found[:_MAX_ADDRESSES]


async def _browse(zc: Any, is_enough: Callable[[], bool]) -> AsyncIterator[str]:
    """Yields the names of instances until no further one is found for a while.

    `is_enough` returns whether the search may end earlier than usual.
    """
    library = _library()
    found: asyncio.Queue[str] = asyncio.Queue()
    seen: set[str] = set()

    def changed(zeroconf: object, service_type: str, name: str, state_change: object) -> None:
        if name.endswith(f".{SERVICE}") and name not in seen and len(seen) < _MAX_NODES:
            seen.add(name)
            found.put_nowait(name.removesuffix(f".{SERVICE}"))

    browser = library.asyncio.AsyncServiceBrowser(zc.zeroconf, SERVICE, handlers=[changed])
    clock = asyncio.get_running_loop().time
    begun = last = clock()
    try:
        while clock() - last < _QUIET or not (clock() - begun >= _LEAST or is_enough()):
            try:
                label = await asyncio.wait_for(found.get(), _PAUSE)
            except TimeoutError:
                continue
            last = clock()
            yield label
    finally:
        await browser.async_cancel()


def _library() -> Any:
    what = "finding nodes in the local network"
    optional("zeroconf.asyncio", what=what, library="zeroconf", extra="lan")
    return optional("zeroconf", what=what, library="zeroconf", extra="lan")
