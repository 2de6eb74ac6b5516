"""The framing of `inet_tcp_dist` on the byte stream of a TCP socket."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class TcpDialect(SingleStreamDialect):
    """The framing of the ERTS manual, without changes."""

    traits = DialectTraits(name="tcp", alpn="", is_encrypted=False)
