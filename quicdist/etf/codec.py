"""The one place that chooses the core: the compiled one where it was built, else pure Python.

QUICDIST_PURE_PYTHON in the environment, if it is not empty, forces the pure one. Both do the same.
"""

from __future__ import annotations

import os

__all__ = [
    "CORE",
    "decode",
    "decode_bare",
    "decode_prefix",
    "encode",
    "encode_bare",
    "encode_bare_parts",
    "encode_parts",
]

CORE: str
"""Which core is at work: "compiled" or "python"."""

try:
    if os.environ.get("QUICDIST_PURE_PYTHON"):
        raise ImportError("the pure core is wanted")
    from quicdist.etf._compiled import (
        decode,
        decode_bare,
        decode_prefix,
        encode,
        encode_bare,
        encode_bare_parts,
        encode_parts,
    )

    CORE = "compiled"
except ImportError:
    from quicdist.etf.decode import decode, decode_bare, decode_prefix
    from quicdist.etf.encode import encode, encode_bare, encode_bare_parts, encode_parts

    CORE = "python"
