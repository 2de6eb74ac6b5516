"""What printer and reader have to agree on: words and long integers.

Source: erl_scan of OTP; Reference Manual, "Reserved Words".
"""

from __future__ import annotations

import re

_RESERVED = """
after and andalso band begin bnot bor bsl bsr bxor case catch cond div else end fun if let maybe
not of or orelse receive rem try when xor
"""
RESERVED = frozenset(_RESERVED.split())
"""Words that are no atoms unless quoted. `else` and `maybe` are since OTP 25 and 27: quoted, every
release reads them."""

WORD = "a-zA-Z0-9_@\xc0-\xd6\xd8-\xf6\xf8-\xff"
BARE_ATOM = re.compile(f"[a-z\xdf-\xf6\xf8-\xff][{WORD}]*")

MAX_DIGITS = 4300
"""Decimal digits of an integer, on the way in and out: longer ones cost quadratic time, and Python
refuses them by default. Longer integers are printed, and can be read, in base 16."""
