"""Terms as text in Erlang notation: printing and reading.

`format_term` prints the same text as `io_lib:format("~0tp", [Term])` in an Erlang started with
`+pc unicode`: one line, with lists of printable characters as strings. `parse_term` reads Erlang
literals, which contain no variable, call or operator.

Neither function is recursive, and both take linear time. Funs have no notation that can be read, as
in Erlang: they are printed as `#Fun<...>` and rejected by the reader. Pids, ports and references
are printed as in the shell of their node, `<0.94.0>`, or with the name of their node,
`<'5555@127.0.0.1'.94.0>`. The reader accepts the first form only if it is given a node. The
creation of an identifier is not printed.

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
