"""Reasons for which a carrier rejects datagrams and connections, and their counters."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TypeAlias


class RejectReason(enum.Enum):
    """Why a datagram or a connection was rejected. Values are names in statistics and metrics."""

    STRAY = "stray"
    """A datagram that belongs to no connection and does not start one."""

    OVERLOAD = "overload"
    """A datagram that belongs to no connection, dropped because too many of them wait."""

    VERSION = "version"
    """An unsupported QUIC version; answered with Version Negotiation (RFC 9000, 6)."""

    CONNECTIONS_FULL = "connections_full"
    """The limit of open connections is reached."""

    ADDRESS_FULL = "address_full"
    """The limit of connections from one address is reached, or the set of half-open connections is
    full and no address has more of them. IPv6 addresses of one /48 count as one address."""

    ADDRESS_RATE = "address_rate"
    """The rate limit of new connections from one address is exceeded."""

    PUSHED_OUT = "pushed_out"
    """A half-open connection was closed to make room: the oldest one from the address with the most
    half-open connections."""

    UNPROVED = "unproved"
    """Answered with Retry (RFC 9000, 8.1.2), which asks the dialer to validate its address."""

    BAD_PROOF = "bad_proof"
    """The Retry token is invalid, expired, or was issued for another address."""

    RESET = "reset"
    """A datagram for an unknown connection; answered with a stateless reset (RFC 9000, 10.3)."""

    BROKEN = "broken"
    """A malformed first datagram."""

    TLS = "tls"
    """The TLS handshake failed: no common ALPN protocol, a rejected certificate, or a timeout."""

    UNUSED = "unused"
    """The TLS handshake completed, but no packet followed within the time limit."""

    NOT_TAKEN = "not_taken"
    """The node rejected the connection."""

    PING = "ping"
    """A ping or pong of a direct path that is forged, repeated or of another session."""

    # The connection exceeded one of the limits in `quicdist.limits.ConnectionBounds`:

    TLS_SIZE = "tls_size"
    """A TLS message, or the CRYPTO data buffered for it, is larger than `max_tls_message`."""

    TLS_ITEMS = "tls_items"
    """A TLS message has more elements than `max_tls_items`, or there were more TLS messages than
    `max_tls_messages`."""

    TLS_RANGES = "tls_ranges"
    """More gaps in the CRYPTO data of one encryption level than `max_tls_ranges`."""

    STREAM_RANGES = "stream_ranges"
    """More gaps in a stream's data than `max_stream_ranges`."""

    ACK_RANGES = "ack_ranges"
    """An ACK frame has more ranges than `max_ack_ranges`."""

    FRAMES = "frames"
    """A packet has more frames than its size allows, or the peer sent more frames than are allowed
    before it proves that it has the cookie."""

    CONNECTION_IDS = "connection_ids"
    """The peer retired a connection ID that was never issued (RFC 9000, 19.16)."""

    ACKNOWLEDGEMENTS = "acknowledgements"
    """The peer acknowledged a packet that was never sent (RFC 9000, 13.1)."""

    KEY_UPDATES = "key_updates"
    """The peer updated keys again before this node had sent `min_packets_per_key` packets."""


RejectCounts: TypeAlias = "Counter[RejectReason]"
"""Number of rejections by reason since the endpoint was opened."""
