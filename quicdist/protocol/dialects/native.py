"""`quicdist/1`: between our own nodes. One stream, no delays, nothing held back."""

from __future__ import annotations

from quicdist.protocol.dialects.base import DialectTraits
from quicdist.protocol.dialects.single_stream import SingleStreamDialect


class NativeDialect(SingleStreamDialect):
    """The framing of the ERTS manual on stream 0, and nothing else."""

    traits = DialectTraits(name="quicdist", alpn="quicdist/1", binds=True, renews_ids=True)
