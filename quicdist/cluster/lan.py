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
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quicdist.carriers.trust.names import written
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.lan_interfaces import LocalNetwork, local_network
from quicdist.cluster.lookup import NotFound, PortInName
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

_PATIENCE: Final = 2.5
"""Maximum time in seconds of a search for one node. A host answers within 0.12 s, or 1.12 s after
it has sent the same record to all (RFC 6762, 6). A lost question is asked again after 1.3 s."""

_HOST_FIRST: Final = 0.5
"""Seconds for which the announcement of a node may follow the address of its host."""

_QUIET: Final = 1.0
"""Seconds without another instance after which a search of all nodes ends."""

_LEAST: Final = _PATIENCE
"""Minimum time in seconds of a search for all nodes."""

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
            return await PortInName().find(name, timeout)
        patience = min(timeout, _PATIENCE)
        port = address.port if address is not None and is_local_name(name.host) else 0
        try:
            async with _multicast(self) as zc:
                asking = _find_announced(zc, str(name), patience)
                hosting = _resolve(zc, name.host, patience if port else 0.0)
                found, host = await _announced_or_host(asking, hosting)
        except OSError as error:
            raise NotFound(f"no answer by multicast DNS: {error}") from error
        if found is not None:
            return _quic_addresses(found.addresses, found.port)
        if host:
            return _quic_addresses(host, port)
        if port:
            text = f"no host of the local network has the name {name.host!r}"
            raise NotFound(text, Cause.HOST_UNKNOWN)
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
                    one = await _ask(zc, label, _PATIENCE)
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


async def _announced_or_host(
    asking: Coroutine[Any, Any, LanNode | None], hosting: Coroutine[Any, Any, Sequence[str]]
) -> tuple[LanNode | None, Sequence[str]]:
    """Waits for the announcement of a node, or for the addresses of its host if there is none."""
    announced = asyncio.ensure_future(asking)
    host = asyncio.ensure_future(hosting)
    try:
        await asyncio.wait((announced, host), return_when=asyncio.FIRST_COMPLETED)
        if not announced.done():
            await asyncio.wait((announced,), timeout=_HOST_FIRST if await host else None)
        found = announced.result() if announced.done() else None
        return found, await host if found is None else ()
    finally:
        await _cancelled(announced, host)


async def _find_announced(zc: Any, node: str, timeout: float) -> LanNode | None:
    """Asks for the announcement of a node, for `timeout` seconds."""
    found = await _ask(zc, label_of(node), timeout)
    return found if found is not None and found.node == node else None


async def _ask(zc: Any, label: str, timeout: float) -> LanNode | None:
    """Asks for the records of one instance, for `timeout` seconds."""
    library = _library()
    try:
        name = f"{label}.{SERVICE}"
        info = await _answer(zc, lambda: library.asyncio.AsyncServiceInfo(SERVICE, name), timeout)
    except library.Error:
        return None
    if info is None:
        return None
    return read_node(info.properties, info.parsed_scoped_addresses(), info.port)


async def _resolve(zc: Any, host: str, timeout: float) -> Sequence[str]:
    """Asks for the addresses of a host, for `timeout` seconds."""
    library = _library()
    try:
        info = await _answer(zc, lambda: library.AddressResolver(f"{host}."), timeout)
    except library.Error:
        return ()
    addresses = () if info is None else info.parsed_scoped_addresses()
    return [one for one in addresses if _is_usable(one)][:_MAX_ADDRESSES]


def _question_types() -> Sequence[Any]:
    """The forms in which each question is asked, in this order.

    The answer to the first one is sent to all, but up to a second later if that was done just
    before (RFC 6762, 6). The answer to the second one comes at once (5.4), but to port 5353 of this
    machine, which its processes share: it may reach another one.
    """
    return _library().DNSQuestionType.QM, None


async def _answer(zc: Any, new_request: Callable[[], Any], timeout: float) -> Any:
    """Returns the first request that is answered, None if none is in `timeout` seconds."""

    async def ask(question_type: Any) -> Any:
        request = new_request()
        is_answered = await request.async_request(zc.zeroconf, 1000 * timeout, question_type)
        return request if is_answered else None

    asking = [asyncio.ensure_future(ask(each)) for each in _question_types()]
    try:
        for one in asyncio.as_completed(asking):
            request = await one
            if request is not None:
                return request
    finally:
        await _cancelled(*asking)
    return None


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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

    browsers = [
        library.asyncio.AsyncServiceBrowser(
            zc.zeroconf, SERVICE, handlers=[changed], question_type=each
        )
        for each in _question_types()
    ]
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
        for browser in browsers:
            await browser.async_cancel()


def _library() -> Any:
    what = "finding nodes in the local network"
    optional("zeroconf.asyncio", what=what, library="zeroconf", extra="lan")
    return optional("zeroconf", what=what, library="zeroconf", extra="lan")
