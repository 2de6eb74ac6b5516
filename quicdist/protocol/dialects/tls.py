"""The framing of `inet_tls_dist`, on a TLS connection's one byte stream."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class TlsDialect(SingleStreamDialect):
    """Lengths have four bytes from the first handshake message on."""

    traits = DialectTraits(name="tls", alpn="")

    handshake_width = 4
