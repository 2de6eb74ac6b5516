"""Every bound, with its default and unit: of a node, a mailbox, a connection, a QUIC endpoint.

All are frozen dataclasses: make another with the fields that are to differ. The limits of terms are
`quicdist.etf.Limits`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from quicdist.errors import NodeError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one distribution connection. Sizes in bytes."""

    max_message: int = 128 * 1024 * 1024
    """All frames of one message. Larger ones are not taken, and not sent."""
    max_sequences: int = 4096
    """Messages in fragments at a time."""
    max_sequence_bytes: int = 192 * 1024 * 1024
    """What unfinished messages hold together: one of the largest, and others beside it."""
    fragment_size: int = 64 * 1024
    """Payload of an outgoing fragment."""


@dataclass(frozen=True, slots=True)
class CarrierLimits:
    """Bounds of one connection of any carrier. Sizes in bytes, times in seconds."""

    high_water: int = 512 * 1024
    """Queued and not sent, at most; over QUIC no more than leaves in some milliseconds."""
    low_water: int = 256 * 1024
    max_unacknowledged: int = 32 * 1024 * 1024
    """Queued or sent and not acknowledged, over QUIC: kept for retransmission."""
    receive_window: int = 1024 * 1024
    """Received and not consumed, at first."""
    max_receive_window: int = 24 * 1024 * 1024
    """The same, at most: over QUIC it follows what the path holds while data is consumed."""
    window_budget: int = 96 * 1024 * 1024
    """Receive windows of all QUIC connections of an endpoint together, beyond the first size of
    each."""
    max_frame: int = 128 * 1024 * 1024
    max_handshake: int = 4096
    handshake_timeout: float = 7.0
    idle_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds of a QUIC endpoint on connections that others open."""

    max_connections: int = 4096
    """Open at once, both ways; who dials us beyond that is not answered."""

    max_half_open: int = 512
    """Of those, the ones that others opened and whose distribution handshake is not done: nobody
    knows yet whether they have the cookie. Beyond that, the oldest from where most come from is
    ended for each new one."""

    prove_above: int = 64
    """So many half-open ones, and who dials us has to show that it receives at its address
    (Retry, RFC 9000, 8.1.2): one round trip more, and nothing is kept for forged addresses."""

    unproved_per_second: float = 100.0
    """Connections begun in a second by who has not shown that, and as many at once; the others
    have to."""

    max_per_address: int = 1024
    """Connections that others opened from one IPv4 address or IPv6 /64."""

    max_half_open_per_address: int = 128
    """Of those, the ones whose distribution handshake is not done; and as many for all addresses of
    an IPv6 /48 together."""

    handshakes_per_second_per_address: float = 128.0
    """Connections begun in a second from one IPv4 address or IPv6 /64, and as many at once, also by
    dialers that have proved their address. A first datagram beyond that is dropped; QUIC libraries
    send it again after about a second."""

    resets_per_second: float = 50.0
    """Stateless resets (RFC 9000, 10.3) sent, at most; as many at once."""


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Bounds of each QUIC connection. One that exceeds a bound is closed, and the endpoint counts
    it under the `RejectReason` of that bound."""

    max_tls_message: int = 64 * 1024
    """Bytes of a TLS message that is not complete, and of the CRYPTO data that came ahead of a
    gap. A chain of eight certificates is a quarter of this."""

    max_client_hello: int = 16 * 1024
    """The same for Initial packets, which anybody can send from any address."""

    max_tls_items: int = 1024
    """Integers, lengths and byte strings in one TLS message. A browser's ClientHello has about
    200."""

    max_tls_messages: int = 64
    """TLS messages of a connection, over its whole life. A handshake with client certificates
    takes eight; the rest is for session tickets, which are ignored."""

    max_transport_parameters: int = 1024
    """Bytes of the peer's transport parameters (RFC 9000, 18)."""

    max_tls_ranges: int = 32
    """Ranges of CRYPTO data beyond a gap, for each encryption level."""

    max_stream_ranges: int = 1024
    """Ranges of a stream's data beyond a gap. At a window of 32 MiB, a third of which is lost in
    datagrams of 16,000 bytes, there are 700."""

    max_stream_ranges_unproved: int = 32
    """The same before the peer has shown that it has the cookie."""

    max_data_unproved: int = 128 * 1024
    """Bytes of all streams that who dials us may send, in order or not, before it has shown that
    it has the cookie. After that it is the window of its dialect."""

    max_ack_ranges: int = 256
    """Ranges of one ACK frame. aioquic sends 64 at most."""

    max_frames: int = 64
    """Frames of one packet, by weight: STREAM and CRYPTO frames count as two, ACK frames as four
    and their ranges as a quarter each, PATH_CHALLENGE frames as eight."""

    bytes_per_frame: int = 8
    """Once the peer has shown that it has the cookie, a packet may hold one frame more for so many
    of its bytes."""

    max_frames_unproved: int = 640
    """Frames of a connection, by weight and in all, before the peer has shown that it has the
    cookie. A handshake takes 50 to 150."""

    max_packets_per_datagram: int = 8
    """Packets coalesced in one datagram (RFC 9000, 12.2). A datagram with more is discarded: it is
    not authenticated as a whole, so the connection goes on."""

    min_packets_per_key: int = 16
    """Packets that we send between two key updates of the peer (RFC 9001, 6.2, asks for one): new
    keys cost as much as ten packets."""


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

    closed_port_dials: int = 3
    """Dials in a row, within 0.2 s, for which the host of the peer says that no process listens at
    the port. Then the connection fails at once. One such message may be forged, or the peer may be
    restarting (RFC 8085, section 5.2). `Retry` is for programs that wait longer for a node to
    start."""

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
