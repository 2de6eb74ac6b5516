"""The fast path of a relay: flows that the compiled core forwards by itself.

Every decision is made in Python, for one batch of datagrams. For a busy client, the decision then
holds for the next `BUDGET` bytes, at most `LIFE` seconds, which the core forwards. The bytes are
taken from the rate limits beforehand. Without the core (`QUICDIST_PURE_PYTHON`, or
another system than Linux) each batch is decided on, with the same result.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from quicdist.carriers.quic.engine import Batch, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket

if TYPE_CHECKING:
    from quicdist.carriers.relay._forward import Flows

BUDGET = 2 * 1024 * 1024
"""Bytes that a flow may forward before the next decision."""

LIFE = 0.25
"""Seconds until the next decision."""

SMALL_BUDGET = 64 * 1024
"""The same for a client that sends many small datagrams."""

BUSY = 64 * 1024
BUSY_BATCHES = 8
"""Bytes, or batches, of a client within `LIFE` after which it counts as busy."""


class FastPath:
    """The flows of one relay."""

    def __init__(self) -> None:
        self._flows = _flows()

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiled core."""
        return self._flows is not None

    def receive(self, udp: UdpSocket, limit: int, *, frames: bool) -> tuple[list[Batch], int, int]:
        """Reads a socket and forwards what belongs to flows.

        `frames` tells whether data frames arrive there. Returns the other batches, and the numbers
        of datagrams and bytes that were forwarded.
        """
        if self._flows is None:
            return udp.receive_batches(limit), 0, 0
        found = self._flows.receive(udp.fileno(), limit, frames)
        if not found[0] and not found[1]:
            udp.read_errors()
        return found

    def put(
        self,
        source: UdpSocket,
        sender: SocketAddress,
        match: bytes,
        out: UdpSocket,
        to: SocketAddress,
        head: bytes,
        budget: int,
    ) -> None:
        """Makes a flow for datagrams that come to `source` from `sender` and begin with `match`.

        They lose that, get `head`, and leave from `out`, up to `budget` bytes.
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
                    LIFE,
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
