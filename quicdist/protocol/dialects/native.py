"""`quicdist/1`: the carrier between quicdist nodes. It uses one stream and no delays.

A second stream, which the listener opens, carries messages about direct paths between nodes behind
NATs (`carriers.relay.offers`), each with a u16 length. A dialer without support rejects it.
"""

from __future__ import annotations

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import Buffer, DialectTraits, Received, Write
from quicdist.protocol.dialects.framing import LengthFramer
from quicdist.protocol.dialects.single_stream import SingleStreamDialect
from quicdist.protocol.role import Role

OFFERS = 1
"""The first bidirectional stream of the listener."""

MAX_OFFER = 1024
"""Maximum size in bytes of a message about direct paths."""


class NativeDialect(SingleStreamDialect):
    """The framing of the ERTS manual on stream 0, without changes."""

    traits = DialectTraits(
        name="quicdist", alpn="quicdist/1", binds=True, renews_ids=True, has_offers=True
    )

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        super().__init__(role, limits)
        self._offers = LengthFramer(2, MAX_OFFER, "an offer")

    def offer_bytes(self, offer: bytes) -> Write:
        """Returns the write that sends a message about direct paths."""
        return Write(OFFERS, (len(offer).to_bytes(2, "big") + offer,))

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns complete packets, or complete messages about direct paths."""
        if stream != OFFERS:
            return super().receive(stream, data)
        offers: list[bytes] = []
        rest = data if isinstance(data, bytes) else bytes(data)
        while True:
            offer, rest = self._offers.feed_one(rest)
            if offer is None:
                return Received(offers=offers)
            offers.append(offer)
