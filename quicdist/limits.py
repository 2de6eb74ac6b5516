"""The limits of a node, a mailbox, a connection and a QUIC endpoint, with defaults and units.

All classes are frozen dataclasses. Pass the fields that differ from the defaults to the
constructor. The limits of terms are in `quicdist.etf.Limits`.
"""

from __future__ import annotations

import enum
import warnings
from dataclasses import InitVar, dataclass, field

from quicdist.errors import SettingError
from quicdist.setting_types import (
    Duration,
    NotNegative,
    Positive,
    PositiveDuration,
    PositiveRate,
    Rate,
    check_fields,
)

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one distribution connection. Sizes are in bytes."""

    max_message: Positive = 128 * 1024 * 1024
    """Maximum size of all frames of one message. Larger messages are rejected in both directions.
    """
    max_sequences: Positive = 4096
    """Maximum number of incomplete fragmented messages at a time."""
    max_sequence_bytes: Positive = 192 * 1024 * 1024
    """Maximum total size of incomplete messages. The default holds one message of the maximum size
    and smaller ones."""
    fragment_size: Positive = 64 * 1024
    """Payload size of an outgoing fragment."""

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class CarrierLimits:
    """Limits of one connection of any carrier. Sizes are in bytes, times in seconds."""

    high_water: Positive = 512 * 1024
    """Queued and not sent, at most; over QUIC no more than leaves in some milliseconds."""
    low_water: NotNegative = 256 * 1024
    max_unacknowledged: Positive = 32 * 1024 * 1024
    """Queued or sent and not acknowledged, over QUIC: kept for retransmission."""
    receive_window: Positive = 1024 * 1024
    """Received and not consumed, at first."""
    max_receive_window: Positive = 24 * 1024 * 1024
    """The same, at most: over QUIC it follows what the path holds while data is consumed."""
    window_budget: NotNegative = 96 * 1024 * 1024
    """Receive windows of all QUIC connections of an endpoint together, beyond the first size of
    each."""
    max_frame: Positive = 128 * 1024 * 1024
    max_handshake: Positive = 4096
    handshake_timeout: PositiveDuration = 7.0
    idle_timeout: PositiveDuration = 60.0
    keep_alive: Duration = 20.0
    """Silence after which a dialed connection sends a packet without data, so that a NAT keeps its
    mapping: common ones forget it after 30 s. 0 disables it. Over QUIC a PING is sent after a third
    of the idle timeout in any case, over TCP a tick after a quarter of `net_ticktime`."""

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits of a QUIC endpoint on incoming connections."""

    max_connections: Positive = 4096
    """Maximum number of open connections, incoming and outgoing. The endpoint does not answer
    dialers above this number."""

    max_half_open: Positive = 512
    """Maximum number of half-open connections: incoming connections whose distribution handshake
    is not complete, so that the peer has not proved the cookie. Each new connection above this
    number closes the oldest one from the address that has the most."""

    prove_above: NotNegative = 64
    """Number of half-open connections above which a dialer must validate its address with a Retry
    packet (RFC 9000, 8.1.2). This adds one round trip. The endpoint keeps no state for forged
    addresses."""

    unproved_per_second: Rate = 100.0
    """Rate and burst of new connections without address validation, per second. Dialers above this
    rate must validate their address."""

    max_per_address: Positive = 1024
    """Maximum number of incoming connections from one IPv4 address or IPv6 /64 network."""

    max_half_open_per_address: Positive = 128
    """Maximum number of half-open connections from one IPv4 address or IPv6 /64 network, and from
    one IPv6 /48 network."""

    handshakes_per_second_per_address: PositiveRate = 128.0
    """Rate and burst of new connections from one IPv4 address or IPv6 /64 network, per second. It
    also applies to validated addresses. Initial datagrams above this rate are dropped. QUIC
    libraries retransmit them after about one second."""

    resets_per_second: Rate = 50.0
    """Maximum rate and burst of stateless resets (RFC 9000, 10.3) that the endpoint sends, per
    second."""

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Limits of each QUIC connection.

    The endpoint closes a connection that exceeds a limit and counts it under the `RejectReason` of
    that limit.
    """

    max_tls_message: Positive = 64 * 1024
    """Maximum size in bytes of an incomplete TLS message, and of CRYPTO data received beyond a gap.
    A chain of eight certificates takes a quarter of the default."""

    max_client_hello: Positive = 16 * 1024
    """Maximum size in bytes of an incomplete TLS message in Initial packets. These packets are not
    authenticated, and their source address can be forged."""

    max_tls_items: Positive = 1024
    """Maximum number of integers, lengths and byte strings in one TLS message. The ClientHello of a
    browser contains about 200."""

    max_tls_messages: Positive = 64
    """Maximum number of TLS messages on a connection. A handshake with client certificates takes
    eight. The rest allows for session tickets, which are ignored."""

    max_transport_parameters: Positive = 1024
    """Maximum size in bytes of the transport parameters of the peer (RFC 9000, 18)."""

    max_tls_ranges: Positive = 32
    """Maximum number of ranges of CRYPTO data beyond a gap, per encryption level."""

    max_stream_ranges: Positive = 1024
    """Maximum number of ranges of stream data beyond a gap. A window of 32 MiB in datagrams of
    16,000 bytes, a third of them lost, has 700."""

    max_stream_ranges_unproved: Positive = 32
    """Value of `max_stream_ranges` until the peer has proved the cookie."""

    max_data_unproved: Positive = 128 * 1024
    """Maximum number of bytes that a dialer may send on all streams until it has proved the cookie.
    After that the receive window of its dialect applies."""

    max_ack_ranges: Positive = 256
    """Maximum number of ranges in one ACK frame. aioquic sends at most 64."""

    max_frames: Positive = 64
    """Maximum weight of the frames in one packet. STREAM and CRYPTO frames weigh two, ACK frames
    four plus a quarter per range, PATH_CHALLENGE frames eight, all other frames one."""

    bytes_per_frame: Positive = 8
    """Once the peer has proved the cookie, `max_frames` grows by one for this number of bytes in
    the packet."""

    max_frames_unproved: Positive = 640
    """Maximum total weight of the frames on a connection until the peer has proved the cookie. A
    handshake takes 50 to 150."""

    max_packets_per_datagram: Positive = 8
    """Maximum number of coalesced packets in one datagram (RFC 9000, 12.2). A datagram with more is
    discarded. The connection stays open, because a datagram is not authenticated as a whole."""

    min_packets_per_key: Positive = 16
    """Minimum number of packets that this endpoint sends between two key updates of the peer.
    RFC 9001, 6.2, requires one. A key update costs as much as ten packets."""

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Limits of a relay (`quicdist relay`). Sizes are in bytes, times in seconds."""

    max_nodes: Positive = 4096
    """Maximum number of connected nodes."""

    ports_per_key: Positive = 16
    """Maximum number of ports that one key has."""

    new_ports_per_address: PositiveRate = 4.0
    """Rate and burst of new ports for nodes at one IPv4 address or IPv6 /64 network, per second. A
    port that is kept for a key is not new."""

    keep_ports: Duration = 30.0
    """Days for which the port of a node that does not connect is not given to another node. After
    that it is, if no other port is free."""

    clients_per_port: Positive = 4096
    """Maximum number of addresses that may exchange datagrams with one port at a time. A new one
    replaces the oldest one that has not sent again after an answer of the node."""

    permission: PositiveDuration = 60.0
    """Time for which a node may send to an address that has sent to its port."""

    bytes_per_second: PositiveRate = 1024 * MIB
    """Rate of all forwarded datagrams. Datagrams above a rate are dropped."""

    bytes_per_second_per_key: PositiveRate = 256 * MIB
    """Rate of all datagrams of the nodes with one key."""

    bytes_per_second_per_client: PositiveRate = 128 * MIB
    """Rate between a port and one address."""

    max_stream_backlog: Positive = MIB
    """Maximum size of the data frames that wait for a TLS connection. Further ones are dropped."""

    linger: Duration = 30.0
    """Time for which the port of a node stays open after its control connection is lost."""

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


class WhenFull(enum.Enum):
    """What happens to a message for a mailbox that has reached its hard limit."""

    HOLD = "hold"
    """The message is stored, and the node stops reading from the connection that delivered it until
    the mailbox has room. Remote senders wait, and no message is lost. Local senders do not wait."""

    DROP = "drop"
    """The message is discarded. Messages that result from signals (`DOWN`, `EXIT`, `nodedown`) are
    stored."""

    KILL = "kill"
    """The process is killed. Its links and monitors receive the reason `killed`."""


@dataclass(frozen=True, slots=True)
class MailboxLimits:
    """Limits of one mailbox, in bytes of memory that its messages occupy.

    Above `high` the node stops reading from the connections that fill the mailbox until it is below
    `low`, unless its owner waits for a message or a call to that peer is outstanding. At `hard` the
    node always stops reading from them, and these waits and calls fail with MailboxFull.
    `when_full` selects another behavior at `hard`.

    Raises TypeError, and SettingError also if the limits are out of order.
    """

    high: Positive = 8 * MIB
    low: Positive = 4 * MIB
    hard: Positive = 24 * MIB

    messages: Positive = 200_000
    """Number of messages that counts as `hard`. Each message counts for at least `hard / messages`
    bytes."""

    when_full: WhenFull = WhenFull.HOLD

    @property
    def least(self) -> int:
        """The number of bytes that the smallest message counts for."""
        return max(112, self.hard // self.messages)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.low <= self.high <= self.hard:
            raise SettingError(f"mailbox limits out of order: low <= high <= hard, got {self}")


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Limits of a node. Times are in seconds, sizes in bytes.

    Raises TypeError, and SettingError also if `send_low` is above `send_high`.
    """

    mailbox: MailboxLimits = field(default_factory=MailboxLimits)

    session: SessionLimits = field(default_factory=SessionLimits)
    """Limits on the incomplete messages of a peer."""

    send_high: Positive = MIB
    """`await send` waits while more than this is queued for a peer, until no more than `send_low`
    is queued. A sender with only a few small messages in the queue does not wait."""

    send_low: Positive = MIB // 2
    """Queue size at which a waiting `await send` continues."""

    unread_answers: NotNegative = 32 * MIB
    """The node stops reading from a peer while more than this is queued for it in answers and in
    notifications about links and monitors. If the peer reads none of it for `net_ticktime`, the
    connection is closed, because the peer may wait for this node in the same way."""

    links_and_monitors: NotNegative = 100_000
    """Maximum number of links and monitors between processes of one peer and processes of this
    node. A connection that exceeds it is closed, which ends all of them."""

    net_ticktime: PositiveDuration = 60.0
    """A peer that sends nothing for this time is down. The default is the one of OTP. The node
    sends a tick every quarter of this time."""

    connect_timeout: PositiveDuration = 7.0
    """Timeout for opening a connection, including retries, like `net_setuptime` of OTP."""

    closed_port_dials: Positive = 3
    """Number of successive attempts, within 0.2 s, that must report a closed port, or that there is
    no way to the address, before the connection fails. A single report may be forged, or the peer
    may be restarting (RFC 8085, section 5.2). Use `Retry` to wait longer for a node to start."""

    handshake_timeout: PositiveDuration = 7.0
    """Timeout for the distribution handshake of an incoming connection."""

    handshakes_at_once: Positive = 512
    """Maximum number of incoming connections that have not proved the cookie. Each new connection
    above this number closes the oldest one from the address that has the most."""

    handshakes_per_address: Positive = 128
    """Maximum number of incoming connections that have not proved the cookie from one IPv4 address,
    one IPv6 /64 network or one IPv6 /48 network."""

    handshakes_per_second: PositiveRate = 128.0
    """Rate and burst of incoming connections from one IPv4 address or IPv6 /64 network, per second.
    Connections above this rate are refused before the distribution handshake."""

    messages_per_second: PositiveRate | None = None
    """Average rate and burst of messages and signals from one peer, per second. Above this rate the
    node stops reading from the peer, so its senders wait and no message is lost. None means no
    limit."""

    calls_per_second: PositiveRate | None = None
    """Average rate and burst of calls of exported functions by one peer, with the same effect as
    `messages_per_second`."""

    stop_timeout: Duration = 5.0
    """Time to wait for the acknowledgement of accepted sends when the node stops."""

    calls_at_once: Positive = 1000
    """Maximum number of running calls of exported functions per peer. Above this number the node
    stops reading from the peer. Also the maximum number of its streams: a further one fails with
    `system_limit`."""

    threads: Positive = 16
    """Maximum number of synchronous exported functions that run at once. Further calls wait for a
    thread."""

    processes: Positive | None = None
    """Maximum number of worker processes for functions with `Run.PROCESS`. None means one for each
    processor. Further calls wait for a worker."""

    ties: InitVar[int | None] = None
    """The deprecated name of `links_and_monitors`."""

    def __post_init__(self, ties: int | None) -> None:
        if ties is not None:
            text = "NodeLimits(ties=) is now NodeLimits(links_and_monitors=)"
            warnings.warn(text, DeprecationWarning, 3)
            object.__setattr__(self, "links_and_monitors", ties)
        check_fields(self)
        if self.send_low > self.send_high:
            raise SettingError(f"send limits out of order: send_low <= send_high, got {self}")
