"""The framing of `inet_tcp_dist`, on a socket's one byte stream."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class TcpDialect(SingleStreamDialect):
    """The framing of the ERTS manual, and nothing else."""

    traits = DialectTraits(name="tcp", alpn="", is_encrypted=False)
