"""Keeps tracebacks of Python errors from peers that are not to have them (`Access.tracebacks`).

A reason of an error, `{python_error, Type, Text, Traceback}` (`quicdist.runtime.exit_reasons`),
leaves a node in many forms: the answer of `erpc`, `{badrpc, ...}`, the exit reason of a process or
server, in DOWN and in exit signals. So it is looked for where all of them leave, near the top of
the term.
"""

from __future__ import annotations

import ipaddress

from quicdist.cluster.access import Tracebacks
from quicdist.etf import Term
from quicdist.runtime.exit_reasons import PYTHON_ERROR

HIDDEN = b"(not for other machines: see the log of the node, or Access.tracebacks)"
"""In place of the text of the error, which may hold what the traceback does."""

_DEPTH = 8
_LONGEST = 6
"""Elements of the tuples around a reason: `{error, Reason, Stack}`, `{badrpc, {'EXIT', ...}}`."""


def are_for(tracebacks: Tracebacks, host: str) -> bool:
    """Whether a peer at that address is sent tracebacks."""
    if tracebacks is Tracebacks.LOOPBACK:
        return _is_loopback(host)
    return tracebacks is Tracebacks.ALL


def without_tracebacks(term: Term, depth: int = _DEPTH) -> Term:
    """The same term, in which a Python error is its type alone. The very same where there is
    none."""
    if type(term) is not tuple or not depth or len(term) > _LONGEST:
        return term
    if len(term) == 4 and term[0] is PYTHON_ERROR:
        return PYTHON_ERROR, term[1], HIDDEN, b""
    parts = [without_tracebacks(one, depth - 1) for one in term]
    changed = [part is not one for part, one in zip(parts, term, strict=True)]
    if not any(changed):
        return term
    # The stack stands behind the reason: lines and files of the same traceback.
    return tuple(
        [] if place and changed[place - 1] and isinstance(part, list) else part
        for place, part in enumerate(parts)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
