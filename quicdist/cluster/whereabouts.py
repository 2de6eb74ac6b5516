"""Whether a node with a private address in its name can be dialed from this host.

A datagram to a private address of another network is usually dropped without an error, so only the
timeout of a dial ends it. `Whereabouts` knows before the dial that this is likely, and `dial`
then gives up early, with `Cause.BEHIND_NAT`, unless the host shows a sign of life.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from quicdist.carriers import causes
from quicdist.carriers.base import CertificateRejected, DialError
from quicdist.carriers.private_addresses import is_seen_elsewhere, scope_of
from quicdist.carriers.route import prefix_towards
from quicdist.carriers.trust.names import written
from quicdist.errors import Cause

_MOST: Final = 1024
"""The maximum number of nodes, and of hosts, to remember."""

_PATIENCE: Final = 0.8
"""Seconds for which a doubtful address is dialed without a sign of life."""

_PROBES: Final = (0.0, 0.25, 0.5)
"""Seconds at which the host is probed."""

_PROBE_PORTS: Final = (33434, 33523)
"""UDP ports that are usually closed, as traceroute(8) uses them."""

_SILENT: Final = frozenset({Cause.NO_ANSWER, Cause.UNREACHABLE, Cause.EPMD_UNREACHABLE})

_WHAT_HELPS: Final = (
    "It can dial others; to be dialed it needs a name at a relay, Node(via=...) or --via"
)

T = TypeVar("T")


class Whereabouts:
    """Where the peers of one node were observed."""

    def __init__(self, prefix_of: Callable[[str], int | None] = prefix_towards) -> None:
        """`prefix_of` returns the prefix length of the route to a host (see `prefix_towards`)."""
        self._prefix_of = prefix_of
        self._elsewhere: dict[str, str] = {}
        """The hosts from which nodes connected, where that is not the host of their names."""
        self._reached: dict[str, None] = {}
        """The hosts at which a node was dialed."""

    def connected_from(self, node: str, host: str) -> None:
        """Records that a node has connected from `host` and has proved the cookie."""
        self._elsewhere.pop(node, None)
        if is_seen_elsewhere(node, host):
            _remember(self._elsewhere, node, host)

    def reached(self, host: str) -> None:
        """Records that a dial to `host` has succeeded."""
        if scope_of(host) is not None:
            _remember(self._reached, host, None)

    def doubt(self, node: str, host: str) -> str | None:
        """Returns why a dial of the node at `host` will probably get no answer, or None.

        That is likely for a private address if the node was observed elsewhere, or if the only
        route to it is the default route. A host that was reached before is not doubted.
        """
        scope = scope_of(host)
        if scope is None or host in self._reached:
            return None
        seen = self._elsewhere.get(node) if node.rpartition("@")[2] == host else None
        if seen is not None:
            return (
                f"{host} is {scope.value}, and the node connected from {seen}: it is behind a NAT. "
                f"{_WHAT_HELPS}"
            )
        if self._prefix_of(host) != 0:
            return None
        return (
            f"{host} is {scope.value} outside the networks of this host: the node is behind a NAT "
            f"or in another network. {_WHAT_HELPS}"
        )

    def explained(self, node: str, host: str, error: CertificateRejected) -> CertificateRejected:
        """Returns the error of a dial of the node at `host`.

        A host of this network can have the same private address as a node behind a NAT, which
        connected before. Its key then differs, which is not a changed key.
        """
        seen = self._elsewhere.get(node)
        if error.cause is not Cause.KEY_CHANGED or seen is None:
            return error
        text = (
            f"the key of the node at {host} is not that of {written(node)}, which connected from "
            f"{seen}: another node has the same private address. {_WHAT_HELPS}"
        )
        return CertificateRejected(text, Cause.NAME_AMBIGUOUS)


async def dial(dialing: Coroutine[Any, Any, T], host: str, doubt: str | None) -> T:
    """Awaits a dial to a host.

    With a doubt (see `Whereabouts.doubt`) the dial ends early if neither it nor the host answers.

    Raises DialError with `Cause.BEHIND_NAT` then, or if there is no route, and the errors of
    `dialing`.
    """
    if doubt is None:
        return await dialing
    task = asyncio.ensure_future(dialing)
    try:
        if not await _answers(task, host):
            raise DialError(f"nothing answers: {doubt}", Cause.BEHIND_NAT)
        return await task
    except BaseException as error:
        task.cancel()
        if causes.of_error(error) in _SILENT:
            raise DialError(f"{error}: {doubt}", Cause.BEHIND_NAT) from None
        raise


async def _answers(dialing: asyncio.Future[T], host: str) -> bool:
    """Waits until the dial has ended. Returns False if it has not in time and the host is silent.

    An ICMP message for a closed port is a sign of life of the host: the node may then be busy.
    """
    loop = asyncio.get_running_loop()
    sign = _ProbeProtocol()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: sign, remote_addr=(host, random.randint(*_PROBE_PORTS))
        )
    except OSError:  # no route; the dial finds that out too
        transport = None
    begun = loop.time()
    try:
        for at in (*_PROBES, _PATIENCE):
            await asyncio.wait({dialing}, timeout=max(begun + at - loop.time(), 0))
            if dialing.done() or sign.is_seen:
                return True
            if transport is not None:
                transport.sendto(b"\0")
        return False
    finally:
        if transport is not None:
            transport.close()


class _ProbeProtocol(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.is_seen = False

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.is_seen = True

    def error_received(self, exc: Exception) -> None:
        self.is_seen |= isinstance(exc, ConnectionRefusedError)


_V = TypeVar("_V")


def _remember(table: dict[str, _V], key: str, value: _V) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > _MOST:
        del table[next(iter(table))]
