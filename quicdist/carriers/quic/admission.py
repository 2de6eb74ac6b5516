"""Admission control: limits on the connections that unauthenticated peers open."""

from __future__ import annotations

import logging
from collections import Counter

from quicdist.carriers.address_group import host_prefix
from quicdist.carriers.half_open import HalfOpen
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.token_bucket import TokenBucket, TokenBuckets
from quicdist.limits import AdmissionLimits

_log = logging.getLogger("quicdist.quic")

_REPORT_PAUSE = 5.0
"""Minimum time in seconds between two log lines about rejected connections."""


class Admission:
    """Counts the incoming connections of an endpoint, in total and by source address.

    A connection is half-open until its distribution handshake is complete.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._half_open: HalfOpen[object] = HalfOpen(
            limits.max_half_open, limits.max_half_open_per_address
        )
        self._unused: set[object] = set()
        self._prefix_of: dict[object, str] = {}
        self._by_prefix: Counter[str] = Counter()
        self._unproved = TokenBucket(limits.unproved_per_second)
        # Separate buckets: datagrams with a forged source must not use up the address's own rate.
        self._unproved_of = TokenBuckets(limits.handshakes_per_second_per_address)
        self._proved_of = TokenBuckets(limits.handshakes_per_second_per_address)
        self._next_report = 0.0

    def check(
        self, address: SocketAddress, connections: int, *, has_proved: bool, now: float
    ) -> RejectReason | None:
        """Decides about the first datagram of a connection from `address`.

        `connections` is the number of open connections, and `now` the time in seconds. Returns None
        if the connection is accepted, else the reason to reject it. `UNPROVED` requires address
        validation with Retry. The limits for an address only apply after address validation,
        because source addresses can be forged.
        """
        limits, host = self._limits, address[0]
        if connections >= limits.max_connections:
            return self._refuse(RejectReason.CONNECTIONS_FULL, address, now)
        is_full = self._by_prefix[host_prefix(host)] >= limits.max_per_address
        if not has_proved:
            is_busy = len(self._half_open) >= min(limits.prove_above, limits.max_half_open)
            must_prove = is_full or is_busy or self._half_open.is_full(host)
            may_begin = (
                not must_prove
                and self._unproved_of.take(host_prefix(host), now)
                and self._unproved.take(now)
            )
            return None if may_begin else RejectReason.UNPROVED
        if is_full or self._half_open.refuses(host):
            return self._refuse(RejectReason.ADDRESS_FULL, address, now)
        if not self._proved_of.take(host_prefix(host), now):
            return self._refuse(RejectReason.ADDRESS_RATE, address, now)
        return None

    def to_evict(self, address: SocketAddress) -> object | None:
        """Returns the half-open connection to close before one from `address` is opened.

        Returns None if there is room. Only valid after `check` has returned None.
        """
        return self._half_open.to_evict(address[0])

    def opened(self, connection: object, address: SocketAddress) -> None:
        """Reports that a connection from `address` was accepted."""
        self._half_open.add(connection, address[0])
        self._unused.add(connection)
        prefix = self._prefix_of[connection] = host_prefix(address[0])
        self._by_prefix[prefix] += 1

    def used(self, connection: object) -> None:
        """Reports the first packet of a connection."""
        self._unused.discard(connection)

    def proved(self, connection: object) -> None:
        """Reports that the distribution handshake of a connection is complete."""
        self._half_open.discard(connection)

    def ended(self, connection: object) -> bool:
        """Reports the end of a connection; returns whether it ended without any packet."""
        prefix = self._prefix_of.pop(connection, None)
        if prefix is not None:
            self._by_prefix[prefix] -= 1
            if not self._by_prefix[prefix]:
                del self._by_prefix[prefix]
        self._half_open.discard(connection)
        was_unused = connection in self._unused
        self._unused.discard(connection)
        return was_unused

    def _refuse(self, refusal: RejectReason, address: SocketAddress, now: float) -> RejectReason:
        if now >= self._next_report:
            self._next_report = now + _REPORT_PAUSE
            host, port = address[:2]
            extra = {"event": "refused", "address": f"{host}:{port}", "reason": refusal.value}
            text = "connection from %s:%d rejected: %s"
            _log.warning(text, host, port, refusal.value, extra=extra)
        return refusal
