"""Terms as text: printed as the Erlang shell prints them, and read back.

`format_term` prints what `io_lib:format("~0tp", [Term])` of an Erlang started with `+pc unicode`
prints: one line, lists of printable characters as strings. `parse_term` reads Erlang's literal
notation: everything that can be written without a variable, a call or an operator.

Neither recurses, and both take time in proportion to their input. A fun has no notation that
Erlang could read either: it prints as `#Fun<...>` and is refused by the reader. Pids, ports and
references print as in the shell of the node they belong to, `<0.94.0>`, or with that node's name,
`<'5555@127.0.0.1'.94.0>`; the latter are read anywhere, the former where the reader is told
which node is meant. The creation (which life of its node an identifier belongs to) is not printed.

Source: erl_scan, erl_parse, io_lib and io_lib_pretty of OTP; Reference Manual, "Data Types".
"""

from __future__ import annotations

from quicdist.etf.notation.errors import NotationError
from quicdist.etf.notation.printing import SHOWN, format_atom, format_bounded, format_term
from quicdist.etf.notation.reading import MAX_DEPTH, parse_call, parse_term

__all__ = [
    "MAX_DEPTH",
    "SHOWN",
    "NotationError",
    "format_atom",
    "format_bounded",
    "format_term",
    "parse_call",
    "parse_term",
]
