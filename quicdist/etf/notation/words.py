"""Reserved words and limits that the printer and the reader share.

Source: erl_scan of OTP; Reference Manual, "Reserved Words".
"""

from __future__ import annotations

import re

_RESERVED = """
after and andalso band begin bnot bor bsl bsr bxor case catch cond div else end fun if let maybe
not of or orelse receive rem try when xor
"""
RESERVED = frozenset(_RESERVED.split())
"""Words that must be quoted as atoms. `else` and `maybe` are reserved since OTP 25 and 27. All
releases accept them in quotes."""

WORD = "a-zA-Z0-9_@\xc0-\xd6\xd8-\xf6\xf8-\xff"
BARE_ATOM = re.compile(f"[a-z\xdf-\xf6\xf8-\xff][{WORD}]*")

MAX_DIGITS = 4300
"""Maximum number of decimal digits of an integer that is printed or read. Longer ones take
quadratic time, and Python rejects them by default. They are printed and read in base 16."""
