"""What a carrier turns away of those who dial it, and how often."""

from __future__ import annotations

import enum
from collections import Counter
from typing import TypeAlias


class RejectReason(enum.Enum):
    """Why. The value is its name in statistics and metrics."""

    STRAY = "stray"
    """A datagram for no connection that is not the first of one either."""

    VERSION = "version"
    """A version of QUIC that is not spoken here; it was told which are."""

    CONNECTIONS_FULL = "connections_full"
    """As many connections are open as may be."""

    ADDRESS_FULL = "address_full"
    """As many come from its address as may, or no fewer half-open ones than from any other; IPv6
    addresses of one /48 count together."""

    ADDRESS_RATE = "address_rate"
    """More were begun in a second from its address than may be."""

    PUSHED_OUT = "pushed_out"
    """A half-open connection that was ended for another one's sake, as the oldest from where most
    of them come from."""

    UNPROVED = "unproved"
    """It was asked to show that it receives at its address (Retry), and may come again."""

    BAD_PROOF = "bad_proof"
    """What it brought to show that is not ours, too old, or was given to another address."""

    RESET = "reset"
    """It went on with a connection that is not known, and was told so (stateless reset)."""

    BROKEN = "broken"
    """A first datagram that no QUIC library has made."""

    TLS = "tls"
    """It ended within the TLS handshake: no ALPN in common, a certificate, or a dialer gone."""

    UNUSED = "unused"
    """The TLS handshake was done, and nothing came in time."""

    NOT_TAKEN = "not_taken"
    """The node did not take it."""

    # A connection that exceeded one of `quicdist.limits.ConnectionBounds`:

    TLS_SIZE = "tls_size"
    """More bytes of a TLS message, or ahead of one, than `max_tls_message`."""

    TLS_ITEMS = "tls_items"
    """A TLS message of more parts than `max_tls_items`, or more messages than
    `max_tls_messages`."""

    TLS_RANGES = "tls_ranges"
    """More gaps in the CRYPTO data of one encryption level than `max_tls_ranges`."""

    STREAM_RANGES = "stream_ranges"
    """More gaps in a stream's data than `max_stream_ranges`."""

    ACK_RANGES = "ack_ranges"
    """An ACK frame of more ranges than `max_ack_ranges`."""

    FRAMES = "frames"
    """More frames in a packet than its size allows, or in all than a peer may send before it has
    shown that it has the cookie."""

    CONNECTION_IDS = "connection_ids"
    """It retired a connection id that it was never told (RFC 9000, 19.16)."""

    ACKNOWLEDGEMENTS = "acknowledgements"
    """It acknowledged a packet that was never sent (RFC 9000, 13.1)."""

    KEY_UPDATES = "key_updates"
    """It changed keys again after fewer of our packets than `min_packets_per_key`."""


Refusals: TypeAlias = "Counter[RejectReason]"
"""How often each has happened since the endpoint was opened."""
