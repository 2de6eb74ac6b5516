"""The carrier interface: connections, and the callbacks that their owner receives.

The layers above the carriers depend only on this module, and their tests use fakes of it. The
dialect interface is in `quicdist.protocol.dialects.base`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from quicdist.errors import Cause, QuicdistError
from quicdist.protocol.dialects.base import Buffer, DialectTraits
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role

FirstMessage: TypeAlias = Callable[[bytes, DialectTraits], bytes | None]
"""Returns the first handshake message of a dialer, or None if it is not known yet. The arguments
are `Connection.binding` and `Connection.traits`.

With it, a carrier may send the message together with the last one of its own handshake, which saves
a round trip. The owner sends the same message as usual.
"""


class DialError(QuicdistError, ConnectionError):
    """A connection attempt failed. The text is one line; programs use `cause`."""

    def __init__(self, text: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause


class CertificateRejected(DialError):
    """One side rejected the other side's certificate. A retry cannot succeed."""


class CloseKind(enum.Enum):
    """How a connection ended."""

    LOCAL = "closed by this node"
    PEER = "closed by the peer"
    IDLE = "no data from the peer within the idle timeout"
    BROKEN = "the peer violated the protocol of the carrier"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection ended. `text` is one line for the log; programs use `cause`."""

    kind: CloseKind
    text: str
    cause: Cause = Cause.LOST
    is_orderly: bool = False
    """Whether the peer closed the connection without an error. Over QUIC this is an application
    close with code 0, over TCP the end of the stream between two frames."""


class PathKind(enum.Enum):
    """How the datagrams of a connection travel. The values are those of tables and metrics."""

    PLAIN = "plain"
    """To the address that was dialed; no relay is known of."""
    RELAYED = "relayed"
    """Through a relay."""
    DIRECT = "direct"
    """Directly, to a node that was dialed at a relay."""


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A snapshot of a connection's counters.

    Byte counts are stream bytes. `round_trip` is in seconds, or None before the first measurement.
    """

    bytes_sent: int
    bytes_received: int
    bytes_unacknowledged: int
    round_trip: float | None = None
    datagrams_sent: int = 0
    datagrams_lost: int = 0
    datagram_size: int = 0
    """Maximum UDP payload in bytes of sent datagrams; 0 for a carrier without datagrams."""
    pacing_rate: float = 0.0
    """Bytes per second at which congestion control sends; 0 if it is unknown."""
    flow_blocked: float = 0.0
    """Seconds in which data waited for the peer's credit and for nothing else (RFC 9000, 4.1)."""
    migrations: int = 0
    """How often the peer's address changed."""
    path: PathKind = PathKind.PLAIN
    path_switches: int = 0
    """How often the path changed between the relay and a direct one."""


class ConnectionHandler(Protocol):
    """The owner of a connection. All calls come from the event loop; none is re-entrant."""

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Handles a batch of packets in the order received; returns the bytes already consumed.

        For packet data that is consumed later, the owner calls `Connection.consumed` at that time,
        but never from inside this method. An exception raised here closes the connection.
        """

    def writable_again(self) -> None:
        """Called when the unacknowledged bytes have fallen from the high to the low watermark."""

    def connection_lost(self, reason: CloseReason) -> None:
        """Called exactly once, as the last call, when the connection has ended."""


class Connection(Protocol):
    """One live connection that transfers packets in order in both directions."""

    role: Role
    traits: DialectTraits
    handler: ConnectionHandler | None
    """The owner sets this before control returns to the event loop."""

    last_received: float
    """Event loop time of the last packet of any kind, in seconds."""

    binding: bytes
    """The exporter value of the TLS session (RFC 8446, 7.5), to which cookie proofs are bound.

    Empty if there is no TLS session, or if the peer may be a stock node. Set before the
    distribution handshake begins.
    """

    @property
    def peer_address(self) -> tuple[str, int]:
        """(host, port) of the peer at this moment."""

    @property
    def local_address(self) -> tuple[str, int]:
        """(host, port) of this end of the connection."""

    @property
    def peer_fingerprint(self) -> str:
        """The fingerprint of the peer's TLS key, as `quicdist cert show` prints it.

        Empty if the peer presented no certificate.
        """

    @property
    def is_writable(self) -> bool:
        """Whether the owner should send more.

        False after the unacknowledged bytes reach the high watermark, until they fall to the low
        watermark.
        """

    def send_handshake(self, message: bytes) -> None:
        """Queues one handshake message."""

    def handshake_done(self) -> None:
        """Switches both directions from handshake messages to frames."""

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        """Queues one frame.

        Frames queued in one event loop iteration are sent together. An empty `parts` is a tick
        (ERTS, Distribution Protocol). `stream` is a stream of quicdist.protocol.streams: 0, or the
        data stream of the sending process if the traits have data streams.
        """

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        """Queues frames of messages that begin with their u32 length, like `send_frame` each."""

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        """Sends a frame that begins with its length, without waiting for others.

        Returns False, and does nothing, if it should wait for those of this event loop iteration:
        shortly after others.
        """

    def consumed(self, count: int) -> None:
        """Reports `count` consumed bytes, in addition to those that `packets_received` returned.

        The peer's window grows only by consumed bytes.
        """

    def ping(self) -> None:
        """Requests an acknowledgement from the peer's transport, if the transport supports it."""

    def statistics(self) -> ConnectionStatistics:
        """Returns a snapshot of the counters. It remains available after the end."""

    async def flush(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds; returns whether all queued data was acknowledged."""

    def check_name(self, node: str) -> None:
        """Checks the node name that the peer claims.

        Raises PeerRefused if its certificate, or a known key for that name, contradicts it.
        """

    def check_again(self, node: str) -> None:
        """Verifies a connected node again. Raises PeerRefused if it would be rejected now."""

    def must_bind(self, node: str) -> bool:
        """Returns whether that node's cookie proof must be bound to the TLS session."""

    def remember(self, node: str, *, bound: bool = False) -> None:
        """Stores the peer's key for this node, after the node has proved that it has the cookie.

        `bound` states whether the proof was bound to the TLS session. Raises PeerRefused if
        another key is stored for the node.
        """

    def close(self, reason: str) -> None:
        """Closes the connection immediately. Queued and unacknowledged data is lost."""
