"""Selects the codec: the compiled core if it is installed, otherwise pure Python.

A non-empty environment variable QUICDIST_PURE_PYTHON selects pure Python. Both have the same
behavior.
"""

from __future__ import annotations

import os

__all__ = [
    "CORE",
    "decode",
    "decode_bare",
    "decode_prefix",
    "decode_run",
    "encode",
    "encode_bare",
    "encode_bare_parts",
    "encode_frame",
    "encode_parts",
    "split_frames",
]

CORE: str
"""The selected core: "compiled" or "python"."""

try:
    if os.environ.get("QUICDIST_PURE_PYTHON"):
        raise ImportError("QUICDIST_PURE_PYTHON is set")
    from quicdist.etf._compiled import (
        decode,
        decode_bare,
        decode_prefix,
        decode_run,
        encode,
        encode_bare,
        encode_bare_parts,
        encode_frame,
        encode_parts,
        split_frames,
    )

    CORE = "compiled"
except ImportError:
    from quicdist.etf.decode import decode, decode_bare, decode_prefix, decode_run, split_frames
    from quicdist.etf.encode import (
        encode,
        encode_bare,
        encode_bare_parts,
        encode_frame,
        encode_parts,
    )

    CORE = "python"
