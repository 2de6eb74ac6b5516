"""The Erlang external term format: lossless encoding and decoding of all terms.

>>> from quicdist.etf import Atom, decode, encode
>>> decode(encode((Atom("ok"), {"n": 1})))
(Atom('ok'), {b'n': 1})
"""

from __future__ import annotations

from quicdist.etf.codec import (
    decode,
    decode_bare,
    decode_prefix,
    encode,
    encode_bare,
    encode_bare_parts,
    encode_parts,
)
from quicdist.etf.errors import EtfDecodeError, EtfEncodeError, EtfError
from quicdist.etf.footprint import footprint
from quicdist.etf.maps import ErlMap
from quicdist.etf.settings import DEFAULT, Limits, Options
from quicdist.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)

__all__ = [
    "DEFAULT",
    "Atom",
    "BitString",
    "ErlMap",
    "EtfDecodeError",
    "EtfEncodeError",
    "EtfError",
    "Export",
    "Fun",
    "ImproperList",
    "Limits",
    "NativeRecord",
    "Options",
    "Pid",
    "Port",
    "Reference",
    "Term",
    "decode",
    "decode_bare",
    "decode_prefix",
    "encode",
    "encode_bare",
    "encode_bare_parts",
    "encode_parts",
    "footprint",
]
