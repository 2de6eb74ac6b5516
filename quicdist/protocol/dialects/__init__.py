"""The wire habits of each carrier, one module each, and which ALPN chooses which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Dialect
from quicdist.protocol.dialects.erlang_dist import ErlangDistDialect
from quicdist.protocol.dialects.macula_dist import MaculaDistDialect
from quicdist.protocol.dialects.native import NativeDialect
from quicdist.protocol.dialects.quic_dist import QuicDistDialect
from quicdist.protocol.role import Role


class QuicDialect(Dialect, Protocol):
    """A dialect on QUIC streams."""

    receive_window: int
    """The least, in bytes, that it takes for the peer's sender to work."""

    @property
    def is_open(self) -> bool:
        """Whether the peer has answered what goes before the handshake."""

    def carries(self, stream: int) -> bool:
        """Whether the connection is over when the peer ends this stream."""


QUIC_DIALECTS: dict[str, Callable[[Role, CarrierLimits], QuicDialect]] = {
    NativeDialect.traits.alpn: NativeDialect,
    ErlangDistDialect.traits.alpn: ErlangDistDialect,
    QuicDistDialect.traits.alpn: QuicDistDialect,
    MaculaDistDialect.traits.alpn: MaculaDistDialect,
}
"""By ALPN, in the order that a listener prefers them."""

ALL_ALPNS = tuple(QUIC_DIALECTS)

LARGEST_WINDOW = max(
    NativeDialect.receive_window,
    ErlangDistDialect.receive_window,
    QuicDistDialect.receive_window,
    MaculaDistDialect.receive_window,
)
"""The most that any of them asks for, in bytes."""
