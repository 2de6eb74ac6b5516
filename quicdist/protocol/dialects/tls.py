"""The framing of `inet_tls_dist` on the byte stream of a TLS connection."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class TlsDialect(SingleStreamDialect):
    """The framing of the ERTS manual with u32 lengths for handshake messages, too."""

    traits = DialectTraits(name="tls", alpn="")

    handshake_width = 4
