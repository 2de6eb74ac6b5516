"""`quicdist/1`: the carrier between quicdist nodes. It uses one stream and no delays."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class NativeDialect(SingleStreamDialect):
    """The framing of the ERTS manual on stream 0, without changes."""

    traits = DialectTraits(name="quicdist", alpn="quicdist/1", binds=True, renews_ids=True)
