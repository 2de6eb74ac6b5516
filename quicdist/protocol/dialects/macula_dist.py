"""`macula-dist`: the carrier of macula 0.14 (quicer, msquic).

macula 0.14 does not complete the handshake: the ticks of its acceptor keep u16 lengths (`0000`), so
that two of them are read as one tick, and it sends no messages. Its dialer discards data that
arrives in the same event as the message it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.protocol.dialects.base import DialectTraits, Gap, Step
from quicdist.protocol.dialects.single_stream import SingleStreamDialect
from quicdist.protocol.role import Role

_NAME_GAP = 0.1
"""Seconds between the end of the TLS handshake and the name of the dialer."""


class MaculaDistDialect(SingleStreamDialect):
    """The framing of the ERTS manual on stream 0."""

    traits = DialectTraits(name="macula_dist", alpn="macula-dist")
    keeps_apart = True

    def opened(self) -> Sequence[Step]:
        """Returns a gap before the name.

        A stream that opens before the acceptor waits for it is lost.
        """
        return (Gap(_NAME_GAP, ends_on_receive=False),) if self.role is Role.DIALER else ()
