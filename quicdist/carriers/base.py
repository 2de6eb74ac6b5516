"""The entire contract with the outside: dialects, connections, and what is told to their owner.

Everything above this floor is written against these names, and tested against fakes of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from quicdist.dist.packet import Packet

Buffer: TypeAlias = bytes | bytearray | memoryview


class Role(enum.Enum):
    """Who opened the connection."""

    DIALER = "dialer"
    LISTENER = "listener"


# -- dialects: packets <-> stream bytes, pure ---------------------------------------------------


class Write(NamedTuple):
    """Bytes for one stream. A stream not open yet is opened by its first write."""

    stream: int
    parts: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing after this leaves before the time is over, or, where so said, a packet came.

    Time alone ends it only once all before it is acknowledged: a lost datagram must not bring
    together what was to stay apart.
    """

    seconds: float
    ends_on_receive: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """A stream that the peer opened and nobody reads: it is told to stop, both ways."""

    stream: int
    error_code: int


Step: TypeAlias = Write | Gap | Refuse


@dataclass(frozen=True, slots=True)
class Received:
    """What bytes turned into: packets for the owner, steps that answer the peer."""

    packets: Sequence[Packet] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True)
class DialectTraits:
    """What a connection's owner has to know of its dialect."""

    name: str
    """The carrier's name in tables and logs: `quicdist`, `quic_dist`, `tcp`, ..."""

    alpn: str
    """The TLS application protocol (RFC 7301) that chooses it; empty where there is none."""

    needs_probe: bool = False
    """A peer that disconnected may go on acknowledging: ask it something now and then."""

    parks_frames: bool = False
    """A peer whose frames did not fit the credit sends them only behind its next message: ask it
    something after having held it back."""

    ticks_may_stop: bool = False
    """A live peer may fall silent: any packet of the carrier counts as its tick."""

    renews_ids: bool = False
    """A dialer's QUIC is known to follow when we send to another of its connection ids. The one
    that it began with has no reset token: with it, it could not tell that it has restarted."""


class DialectError(Exception):
    """Bytes that no such carrier sends; costs the connection that brought them."""


class DialError(ConnectionError):
    """No connection came up; the text says why, in one line."""


class NotBelieved(DialError):
    """One of the two sides does not believe the other's certificate: to try again is no use."""


class Dialect(Protocol):
    """The wire habits of one carrier on one connection. Pure: no clock, no socket."""

    traits: DialectTraits

    def opened(self) -> Sequence[Step]:
        """The transport is up: what goes before the first handshake message."""

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """One handshake message, framed."""

    def connected(self) -> Sequence[Step]:
        """The handshake is over, here: frames follow, both ways.

        Packets that came too early to be shown are what `receive(0, b"")` returns next.
        """

    def frame_bytes(self, parts: Sequence[Buffer]) -> Write:
        """One distribution frame, given in parts; no parts is a tick."""

    def receive(self, stream: int, data: Buffer) -> Received:
        """Bytes from the peer, in stream order. Raises DialectError."""


# -- connections --------------------------------------------------------------------------------


class CloseKind(enum.Enum):
    """How a connection ended."""

    LOCAL = "closed by us"
    PEER = "closed by the peer"
    IDLE = "nothing heard from the peer for too long"
    BROKEN = "the peer sent what its carrier does not allow"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection is gone; `text` is one line for the log."""

    kind: CloseKind
    text: str


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

    def packets_received(self, packets: Sequence[Packet]) -> None:
        """A batch, in the order received. An exception raised here closes the connection."""

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

    @property
    def peer_address(self) -> tuple[str, int]: ...

    @property
    def local_address(self) -> tuple[str, int]: ...

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
        """`count` bytes of packet data are dealt with; the peer's window grows by no more."""

    def ping(self) -> None:
        """Asks the peer's transport for a sign of life, where the transport can."""

    def statistics(self) -> ConnectionStatistics: ...

    async def flush(self, timeout: float) -> bool:
        """Waits until all queued is acknowledged, at most `timeout` seconds; True when it is."""

    def check_name(self, node: str) -> None:
        """The peer says that it is this node; raises PeerRefused where TLS knows better."""

    def remember(self, node: str) -> None:
        """The peer is this node, and has proved the cookie: what TLS knows of it may be kept.

        Raises PeerRefused.
        """

    def close(self, reason: str) -> None:
        """Ends it now; the peer sees it at once. What is queued and unacknowledged is lost."""


@dataclass(frozen=True, slots=True)
class CarrierLimits:
    """Bounds on what one connection may hold, in bytes, and on times, in seconds."""

    high_water: int = 512 * 1024
    """Handed over and not sent, at most; over QUIC no more than leaves in some milliseconds."""
    low_water: int = 256 * 1024

    max_unacknowledged: int = 32 * 1024 * 1024
    """Sent or to be sent, and not acknowledged, over QUIC: kept to be sent again."""

    receive_window: int = 1024 * 1024
    """Come and not consumed, at first."""

    max_receive_window: int = 24 * 1024 * 1024
    """The same, at most: over QUIC it follows what a path holds, as long as it is consumed."""

    window_budget: int = 96 * 1024 * 1024
    """What the receive windows of all connections of a node have together beyond the first ones."""

    max_frame: int = 128 * 1024 * 1024
    max_handshake: int = 4096
    handshake_timeout: float = 7.0
    idle_timeout: float = 60.0
