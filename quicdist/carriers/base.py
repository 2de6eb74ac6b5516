"""The contract of a carrier: connections, and what their owner is told.

Everything above the carriers is written against these names, and tested against fakes of them. The
contract of a dialect is in `quicdist.protocol.dialects.base`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from quicdist.errors import Cause, QuicdistError
from quicdist.protocol.dialects.base import Buffer, DialectTraits
from quicdist.protocol.packet import Packet
from quicdist.protocol.role import Role


class DialError(QuicdistError, ConnectionError):
    """No connection came up; the text says why, in one line, and `cause` for programs."""

    def __init__(self, text: str, cause: Cause) -> None:
        super().__init__(text)
        self.cause = cause


class CertificateRejected(DialError):
    """One of the two sides does not believe the other's certificate: to try again is no use."""


class CloseKind(enum.Enum):
    """How a connection ended."""

    LOCAL = "closed by us"
    PEER = "closed by the peer"
    IDLE = "nothing heard from the peer for too long"
    BROKEN = "the peer sent what its carrier does not allow"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection is gone; `text` is one line for the log, `cause` for programs."""

    kind: CloseKind
    text: str
    cause: Cause = Cause.LOST
    is_orderly: bool = False
    """Whether the peer closed it without an error: application close with code 0 over QUIC, end of
    stream between two frames over TCP."""


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A snapshot. Bytes are stream bytes; round trip in seconds, None while unmeasured."""

    bytes_sent: int
    bytes_received: int
    bytes_unacknowledged: int
    round_trip: float | None = None
    datagrams_lost: int = 0
    migrations: int = 0
    """How often the peer was found at another address."""


class ConnectionHandler(Protocol):
    """Owner of a connection. All calls come from the event loop, none re-entrantly."""

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """A batch, in the order received. Bytes of packet data that are dealt with by now.

        For what is dealt with later, `Connection.consumed` is called then, and never from inside
        this. An exception raised here closes the connection.
        """

    def writable_again(self) -> None:
        """Unacknowledged bytes fell below the low watermark after having been above the high."""

    def connection_lost(self, reason: CloseReason) -> None:
        """It is gone. Called exactly once, and last."""


class Connection(Protocol):
    """One live connection: packets in order, both ways."""

    role: Role
    traits: DialectTraits
    handler: ConnectionHandler | None
    """Set by the owner before control returns to the event loop."""

    last_received: float
    """Event loop time of the last packet of any kind, in seconds."""

    binding: bytes
    """The exporter value of its TLS session, to bind the proofs of the cookie to. Empty where
    there is none, or where the peer may be a stock node. Set once the handshake may begin."""

    @property
    def peer_address(self) -> tuple[str, int]: ...

    @property
    def local_address(self) -> tuple[str, int]: ...

    @property
    def peer_fingerprint(self) -> str:
        """Of the key that the peer has shown in TLS, as `quicdist cert show` prints it; empty where
        it has shown none."""

    @property
    def is_writable(self) -> bool:
        """False from the high watermark of unacknowledged bytes down to the low one."""

    def send_handshake(self, message: bytes) -> None:
        """Queues one handshake message."""

    def handshake_done(self) -> None:
        """The session is connected: frames from here on, both ways."""

    def send_frame(self, parts: Sequence[Buffer]) -> None:
        """Queues one frame; frames of one loop tick leave together. No parts is a tick."""

    def consumed(self, count: int) -> None:
        """`count` more bytes of packet data are dealt with, of those that `packets_received` did
        not return. The peer's window grows by no more."""

    def ping(self) -> None:
        """Asks the peer's transport for a sign of life, where the transport can."""

    def statistics(self) -> ConnectionStatistics: ...

    async def flush(self, timeout: float) -> bool:
        """Waits until all queued is acknowledged, at most `timeout` seconds; True when it is."""

    def check_name(self, node: str) -> None:
        """The peer says that it is this node; raises PeerRefused where TLS knows better."""

    def check_again(self, node: str) -> None:
        """The peer is this node: raises PeerRefused where that would not be believed now."""

    def must_bind(self, node: str) -> bool:
        """Whether that node's proof of the cookie must be bound to the TLS session."""

    def remember(self, node: str, *, bound: bool = False) -> None:
        """The peer is this node, and has proved the cookie: what TLS knows of it may be kept.

        `bound` says that its proof was bound to the TLS session. Raises PeerRefused.
        """

    def close(self, reason: str) -> None:
        """Ends it now; the peer sees it at once. What is queued and unacknowledged is lost."""
