"""Who may open a connection, while strangers may try: bounds on what is not known yet."""

from __future__ import annotations

import logging
from collections import Counter

from quicdist.carriers.address_group import place_of
from quicdist.carriers.half_open import HalfOpen
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.token_bucket import TokenBucket, TokenBuckets
from quicdist.limits import AdmissionLimits

_log = logging.getLogger("quicdist.quic")

_REPORT_PAUSE = 5.0
"""Seconds between two lines of the log about connections refused."""


class Admission:
    """The connections that others opened, counted in all and by where they come from.

    A connection is half-open until its distribution handshake is done.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._half_open: HalfOpen[object] = HalfOpen(
            limits.max_half_open, limits.max_half_open_per_address
        )
        self._unused: set[object] = set()
        self._place_of: dict[object, str] = {}
        self._by_place: Counter[str] = Counter()
        self._unproved = TokenBucket(limits.unproved_per_second)
        # Not one for both: datagrams in the name of an address must not use up its own.
        self._unproved_of = TokenBuckets(limits.handshakes_per_second_per_address)
        self._proved_of = TokenBuckets(limits.handshakes_per_second_per_address)
        self._next_report = 0.0

    def judge(
        self, address: SocketAddress, connections: int, *, has_proved: bool, now: float
    ) -> RejectReason | None:
        """Why no connection is made for a first datagram from `address`, with so many open;
        UNPROVED asks for a proof that datagrams sent there arrive.

        An address is refused for what it holds only after it has given that proof: anybody can
        send datagrams in its name.
        """
        limits, host = self._limits, address[0]
        if connections >= limits.max_connections:
            return self._refuse(RejectReason.CONNECTIONS_FULL, address, now)
        is_full = self._by_place[place_of(host)] >= limits.max_per_address
        if not has_proved:
            is_busy = len(self._half_open) >= min(limits.prove_above, limits.max_half_open)
            must_prove = is_full or is_busy or self._half_open.is_full(host)
            may_begin = (
                not must_prove
                and self._unproved_of.take(place_of(host), now)
                and self._unproved.take(now)
            )
            return None if may_begin else RejectReason.UNPROVED
        if is_full or self._half_open.refuses(host):
            return self._refuse(RejectReason.ADDRESS_FULL, address, now)
        if not self._proved_of.take(place_of(host), now):
            return self._refuse(RejectReason.ADDRESS_RATE, address, now)
        return None

    def in_the_way(self, address: SocketAddress) -> object | None:
        """The half-open connection that has to end before one from `address` is opened, where
        `judge` has found nothing against it; None where there is room."""
        return self._half_open.in_the_way(address[0])

    def opened(self, connection: object, address: SocketAddress) -> None:
        """It was accepted."""
        self._half_open.add(connection, address[0])
        self._unused.add(connection)
        place = self._place_of[connection] = place_of(address[0])
        self._by_place[place] += 1

    def used(self, connection: object) -> None:
        """It has brought a first packet, as anybody's may."""
        self._unused.discard(connection)

    def proved(self, connection: object) -> None:
        """Its distribution handshake is done."""
        self._half_open.discard(connection)

    def ended(self, connection: object) -> bool:
        """It is over. Whether it had brought nothing."""
        place = self._place_of.pop(connection, None)
        if place is not None:
            self._by_place[place] -= 1
            if not self._by_place[place]:
                del self._by_place[place]
        self._half_open.discard(connection)
        was_unused = connection in self._unused
        self._unused.discard(connection)
        return was_unused

    def _refuse(self, refusal: RejectReason, address: SocketAddress, now: float) -> RejectReason:
        if now >= self._next_report:
            self._next_report = now + _REPORT_PAUSE
            host, port = address[:2]
            extra = {"event": "refused", "address": f"{host}:{port}", "reason": refusal.value}
            text = "a connection from %s:%d is not taken: %s"
            _log.warning(text, host, port, refusal.value, extra=extra)
        return refusal
