"""The one place that chooses the core: pure Python now; a compiled one gives the same names."""

from __future__ import annotations

from quicdist.etf.decode import decode, decode_bare, decode_prefix
from quicdist.etf.encode import encode, encode_bare

CORE = "python"
"""Which core is at work."""

__all__ = ["CORE", "decode", "decode_bare", "decode_prefix", "encode", "encode_bare"]
