"""The fast path of a relay: flows that the compiled core forwards by itself.

Every decision is made in Python, for one batch of datagrams. For a busy client, the decision then
holds for the next `BUDGET` bytes, at most `LIFE` seconds, which the core forwards. The bytes are
taken from the rate limits beforehand. Without the core (`QUICDIST_PURE_PYTHON`, or
another system than Linux) each batch is decided on, with the same result.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from quicdist.carriers.quic.engine import Batch, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay.statistics import RelayCounters

if TYPE_CHECKING:
    from quicdist.carriers.relay._forward import Flows

BUDGET = 2 * 1024 * 1024
"""Bytes that a flow may forward before the next decision."""

LIFE = 0.25
"""Seconds until the next decision."""

SMALL_BUDGET = 64 * 1024
"""The same for a client that sends many small datagrams."""

BULK = 4 * 1024
"""Bytes of a batch that is not of small datagrams."""

BUSY = 64 * 1024
BUSY_BATCHES = 8
"""Bytes, or batches, of a client within `LIFE` after which it counts as busy."""


STAY = 0.005
"""Maximum time in seconds for which the core serves all sockets before the event loop runs again.
It does so while only flows use them, and while the pauses are shorter than that. Timers and TLS
connections wait that long; in return most datagrams cost no Python."""

Taker = Callable[[Batch], None]
"""Takes a batch of a socket that was read on behalf of another one."""


class FastPath:
    """The flows of one relay."""

    def __init__(self, counters: RelayCounters) -> None:
        """`counters` count what is forwarded."""
        self._flows = _flows()
        self._counters = counters
        self._takers: dict[int, Taker] = {}

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiled core."""
        return self._flows is not None

    def watch(self, udp: UdpSocket, taker: Taker, *, frames: bool) -> None:
        """Serves a socket while another one is read.

        `frames` tells whether data frames arrive there.
        """
        if self._flows is not None:
            self._takers[udp.fileno()] = taker
            with contextlib.suppress(OSError):  # too many: it is served by the event loop alone
                self._flows.watch(udp.fileno(), frames)

    def unwatch(self, udp: UdpSocket) -> None:
        """Ends `watch`, before the socket is closed."""
        if self._flows is not None and self._takers.pop(udp.fileno(), None) is not None:
            self._flows.unwatch(udp.fileno())

    def receive(self, udp: UdpSocket, limit: int, *, frames: bool) -> list[Batch]:
        """Reads a socket and forwards what belongs to flows. Returns the other batches.

        While only busy flows use the sockets, all of them are served for up to `STAY` seconds.
        """
        if self._flows is None:
            return udp.receive_batches(limit)
        batches, others, counts = self._flows.receive(udp.fileno(), limit, frames, STAY)
        counters = self._counters
        counters.datagrams_in += counts[0]
        counters.bytes_in += counts[1]
        counters.datagrams_out += counts[2]
        counters.bytes_out += counts[3]
        if not batches:
            udp.read_errors()
        # A taker may close a socket, whose descriptor another one gets.
        for taker, batch in [(self._takers.get(fd), batch) for fd, batch in others]:
            if taker is not None:
                taker(batch)
        return batches

    def put(
        self,
        source: UdpSocket,
        sender: SocketAddress,
        match: bytes,
        out: UdpSocket,
        to: SocketAddress,
        head: bytes,
        budget: int,
        life: float = LIFE,
    ) -> None:
        """Makes a flow for datagrams that come to `source` from `sender` and begin with `match`.

        They lose that, get `head`, and leave from `out`, up to `budget` bytes in `life`
        seconds.
        """
        if self._flows is not None:
            with contextlib.suppress(ValueError):  # an address with a scope
                self._flows.put(
                    source.fileno(),
                    (sender[0], sender[1]),
                    match,
                    out.fileno(),
                    (to[0], to[1]),
                    head,
                    budget,
                    life,
                )

    def clear(self) -> None:
        """Forgets all flows: a node has another address, or a socket is closed."""
        if self._flows is not None:
            self._flows.clear()


def _flows() -> Flows | None:
    if os.environ.get("QUICDIST_PURE_PYTHON"):
        return None
    try:
        from quicdist.carriers.relay._forward import Flows
    except ImportError:
        return None
    return Flows()
