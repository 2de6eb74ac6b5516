"""Bounds of a node: bytes held, seconds waited. Frozen; replace what you want different."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from quicdist.errors import NodeError
from quicdist.protocol.session import SessionLimits

MIB = 1024 * 1024


class WhenFull(enum.Enum):
    """What becomes of a message for a mailbox that is at its hard bound."""

    HOLD = "hold"
    """It is taken, and the connection that brought it held back until there is room: who sends
    waits, nothing is lost. Senders of this node do not wait."""

    DROP = "drop"
    """It is thrown away, whoever sent it. What signals bring (`DOWN`, `EXIT`, `nodedown`) is
    not."""

    KILL = "kill"
    """The process is killed: its links and monitors see `killed`."""


@dataclass(frozen=True, slots=True)
class MailboxLimits:
    """Bounds of one mailbox, in bytes of memory that its messages take up.

    Above `high` the connections that fill it are held back until it is below `low`, unless its
    owner waits for a message or a call to that peer is outstanding. At `hard` they are held back
    regardless, and such waits and calls fail with MailboxFull; `when_full` may say otherwise.
    """

    high: int = 8 * MIB
    low: int = 4 * MIB
    hard: int = 24 * MIB

    messages: int = 200_000
    """Length at which it is as full as at `hard`: a message counts for `hard / messages` bytes at
    least."""

    when_full: WhenFull = WhenFull.HOLD

    @property
    def least(self) -> int:
        """Bytes that the smallest message counts for."""
        return max(112, self.hard // self.messages)

    def __post_init__(self) -> None:
        if self.messages < 1:
            raise NodeError(f"mailbox limits: messages must be above 0, got {self}")
        if not 0 < self.low <= self.high <= self.hard:
            raise NodeError(f"mailbox limits out of order: 0 < low <= high <= hard, got {self}")


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Bounds of a node. Times in seconds, sizes in bytes."""

    mailbox: MailboxLimits = field(default_factory=MailboxLimits)

    session: SessionLimits = field(default_factory=SessionLimits)
    """What a peer's messages may come to before they are whole."""

    send_high: int = MIB
    """`await send` waits while more than this is queued for a peer, unless the sender has but a
    few small messages there ..."""

    send_low: int = MIB // 2
    """... until no more than this is."""

    unread_answers: int = 32 * MIB
    """A peer is held back while answers to what it asks, and news of what it links to and
    monitors, take up more than this because it does not read them. After net_ticktime without
    any progress the connection ends: the peer may wait for us in the same way."""

    ties: int = 100_000
    """Links and monitors that a peer's processes may have with processes here. Beyond that its
    connection ends, and with it all of them."""

    net_ticktime: float = 60.0
    """A peer not heard of for so long is down. OTP's default; a tick every quarter of it."""

    connect_timeout: float = 7.0
    """For a connection to come up, retries included. OTP's net_setuptime."""

    handshake_timeout: float = 7.0
    """For the distribution handshake of a connection made to us."""

    handshakes_at_once: int = 512
    """Connections made to us that have not proved the cookie yet. Beyond that, each new one ends
    the oldest from the address that most come from."""

    handshakes_per_address: int = 128
    """Of those, the ones from one IPv4 address, one IPv6 /64, and all of one IPv6 /48."""

    handshakes_per_second: float = 128.0
    """Connections made to us in a second from one IPv4 address or IPv6 /64, and as many at once.
    Others are refused before their distribution handshake begins."""

    messages_per_second: float | None = None
    """Messages and signals of one peer in a second, on the average, and as many at once. Beyond
    that the peer is held back: nothing is lost, and its senders wait. None is no limit."""

    calls_per_second: float | None = None
    """Calls of exported functions by one peer, as `messages_per_second`."""

    stop_timeout: float = 5.0
    """For accepted sends to be acknowledged when the node stops."""

    calls_at_once: int = 1000
    """Calls of exported functions running for one peer; above, its connection is held back."""

    threads: int = 16
    """Plain (not async) exported functions running at once; more wait for a thread."""

    def __post_init__(self) -> None:
        if not 0 < self.send_low <= self.send_high:
            raise NodeError(f"send limits out of order: 0 < send_low <= send_high, got {self}")
        for name in ("messages_per_second", "calls_per_second", "handshakes_per_second"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise NodeError(f"{name} must be above 0, got {rate}")
        if self.net_ticktime <= 0:
            raise NodeError(f"net_ticktime must be above 0 s, got {self.net_ticktime}")
