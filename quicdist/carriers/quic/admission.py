"""Who may open a connection, while strangers may try: bounds on what is not known yet."""

from __future__ import annotations

import logging
from collections import Counter

from quicdist.carriers.places import place_of
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.quic.settings import AdmissionLimits
from quicdist.carriers.refusals import Refusal

_log = logging.getLogger("quicdist.quic")

_REPORT_PAUSE = 5.0
"""Seconds between two lines of the log about connections refused."""


class Admission:
    """The connections that others opened, counted as a whole and by where they come from."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._half_open: dict[object, str] = {}
        self._half_open_by_source: Counter[str] = Counter()
        self._unused: set[object] = set()
        self._source_of: dict[object, str] = {}
        self._by_source: Counter[str] = Counter()
        self._next_report = 0.0

    def judge(
        self, address: SocketAddress, connections: int, *, has_proved: bool, now: float
    ) -> Refusal | None:
        """Why no connection is made for a first datagram from `address`, with so many open;
        UNPROVED asks for a proof that datagrams sent there arrive.

        Only who has given it is turned away for what its address holds: anybody may send in the
        name of another.
        """
        limits = self._limits
        source = place_of(address[0])
        half_open = len(self._half_open)
        half_open_here = self._half_open_by_source[source]
        if connections >= limits.max_connections:
            return self._refuse(Refusal.CONNECTIONS_FULL, address, now)
        if half_open >= limits.max_half_open:
            return self._refuse(Refusal.HALF_OPEN_FULL, address, now)
        is_full = (
            self._by_source[source] >= limits.max_per_address
            or half_open_here >= limits.max_half_open_per_address
        )
        if not has_proved and (is_full or half_open >= limits.prove_above):
            return Refusal.UNPROVED
        if is_full:
            return self._refuse(Refusal.ADDRESS_FULL, address, now)
        return None

    def opened(self, connection: object, address: SocketAddress) -> None:
        """It was accepted."""
        source = place_of(address[0])
        self._half_open[connection] = self._source_of[connection] = source
        self._unused.add(connection)
        self._half_open_by_source[source] += 1
        self._by_source[source] += 1

    def used(self, connection: object) -> None:
        """It has brought a first packet, as anybody's may."""
        self._unused.discard(connection)

    def proved(self, connection: object) -> None:
        """Its distribution handshake is done."""
        source = self._half_open.pop(connection, None)
        if source is not None:
            _count_down(self._half_open_by_source, source)

    def ended(self, connection: object) -> bool:
        """It is over. Whether it had brought nothing."""
        source = self._source_of.pop(connection, None)
        if source is not None:
            _count_down(self._by_source, source)
        self.proved(connection)
        was_unused = connection in self._unused
        self._unused.discard(connection)
        return was_unused

    def _refuse(self, refusal: Refusal, address: SocketAddress, now: float) -> Refusal:
        if now >= self._next_report:
            self._next_report = now + _REPORT_PAUSE
            host, port = address[:2]
            extra = {"event": "refused", "address": f"{host}:{port}", "reason": refusal.value}
            text = "a connection from %s:%d is not taken: %s"
            _log.warning(text, host, port, refusal.value, extra=extra)
        return refusal


def _count_down(counts: Counter[str], source: str) -> None:
    counts[source] -= 1
    if counts[source] <= 0:
        del counts[source]
