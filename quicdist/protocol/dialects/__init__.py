"""The dialects of the carriers, one module each, and the ALPN identifiers that select them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Dialect
from quicdist.protocol.dialects.erlang_dist import ErlangDistDialect
from quicdist.protocol.dialects.macula_dist import MaculaDistDialect
from quicdist.protocol.dialects.native import NativeDialect
from quicdist.protocol.dialects.native_streams import NativeStreamsDialect
from quicdist.protocol.dialects.quic_dist import QuicDistDialect
from quicdist.protocol.dialects.relay import RelayDialect
from quicdist.protocol.role import Role
from quicdist.protocol.streams import DATA_STREAMS, MAX_DATA_FRAME


class QuicDialect(Dialect, Protocol):
    """A dialect on QUIC streams."""

    receive_window: int
    """The minimum receive window in bytes that the sender of the peer requires."""

    @property
    def is_open(self) -> bool:
        """Whether the peer has answered the preamble of the handshake."""

    def carries(self, stream: int) -> bool:
        """Whether the end of this stream by the peer ends the connection."""


QUIC_DIALECTS: dict[str, Callable[[Role, CarrierLimits], QuicDialect]] = {
    NativeStreamsDialect.traits.alpn: NativeStreamsDialect,
    NativeDialect.traits.alpn: NativeDialect,
    ErlangDistDialect.traits.alpn: ErlangDistDialect,
    QuicDistDialect.traits.alpn: QuicDistDialect,
    MaculaDistDialect.traits.alpn: MaculaDistDialect,
}
"""The dialects by ALPN identifier, in the order of preference of a listener."""

NATIVE_ALPNS = (NativeStreamsDialect.traits.alpn, NativeDialect.traits.alpn)
"""The ALPN identifiers of the dialects between quicdist nodes and gateways, the newest first."""

ALL_ALPNS = tuple(QUIC_DIALECTS)
"""The ALPN identifiers of nodes. That of relays is used only between a node and its relay."""

GATEWAY_ALPNS = tuple(alpn for alpn in ALL_ALPNS if alpn != NativeStreamsDialect.traits.alpn)
"""The default of gateways, for which data streams cost a fifth of the rate of small messages."""


_LEAST_MAX_FRAME = 2 * DATA_STREAMS * MAX_DATA_FRAME
"""The smallest `CarrierLimits.max_frame` for data streams. A peer that behaves well may have an
incomplete frame on each of them."""


def alpns_within(alpns: Sequence[str], limits: CarrierLimits) -> Sequence[str]:
    """Returns those ALPN identifiers whose dialects these limits allow, or all if there are none.

    Data streams need `max_frame` for all incomplete frames together. With a smaller one the nodes
    use one stream.
    """
    if limits.max_frame >= _LEAST_MAX_FRAME:
        return alpns
    streams = NativeStreamsDialect.traits.alpn
    return [alpn for alpn in alpns if alpn != streams] or alpns


def dialect_for(alpn: str) -> Callable[[Role, CarrierLimits], QuicDialect] | None:
    """Returns what makes the dialect of this ALPN identifier; None if there is none."""
    if alpn == RelayDialect.traits.alpn:
        return RelayDialect
    return QUIC_DIALECTS.get(alpn)


LARGEST_WINDOW = max(
    NativeDialect.receive_window,
    ErlangDistDialect.receive_window,
    QuicDistDialect.receive_window,
    MaculaDistDialect.receive_window,
)
"""The maximum receive window in bytes of all dialects."""
