"""`macula-dist`: the carrier of macula 0.14 (quicer, msquic).

As shipped it never leaves the handshake: its acceptor's ticks keep u16 lengths (`0000`), two of
which read as one tick here, and no message of it ever comes. Its dialer drops what comes in one
event with the message it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from quicdist.protocol.dialects.base import DialectTraits, Gap, Step
from quicdist.protocol.dialects.single_stream import SingleStreamDialect
from quicdist.protocol.role import Role

_NAME_GAP = 0.1
"""Seconds between the end of the TLS handshake and the dialer's name."""


class MaculaDistDialect(SingleStreamDialect):
    """The framing of the ERTS manual on stream 0, as macula meant it."""

    traits = DialectTraits(name="macula_dist", alpn="macula-dist")
    keeps_apart = True

    def opened(self) -> Sequence[Step]:
        """Protects the name: a stream that opens before the acceptor waits for it is lost."""
        return (Gap(_NAME_GAP, ends_on_receive=False),) if self.role is Role.DIALER else ()
