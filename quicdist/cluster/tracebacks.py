"""Removes tracebacks of Python errors from messages to peers (`Access.tracebacks`).

An error reason, `{python_error, Type, Text, Traceback}` (`quicdist.runtime.exit_reasons`), is sent
in many forms: the answer of `erpc`, `{badrpc, ...}`, and the exit reason of a process or server in
DOWN and exit signals. It is therefore searched for in every outgoing term, near the top.
"""

from __future__ import annotations

import ipaddress

from quicdist.cluster.access import Tracebacks
from quicdist.etf import Term
from quicdist.runtime.exit_reasons import PYTHON_ERROR

HIDDEN = b"(hidden from other machines: see the log of the node, or Access.tracebacks)"
"""Replaces the text of the error, which may contain the same data as the traceback."""

_DEPTH = 8
_LONGEST = 6
"""The maximum size of the tuples around a reason: `{error, Reason, Stack}`, `{badrpc, {'EXIT',
...}}`."""


def are_for(tracebacks: Tracebacks, host: str) -> bool:
    """Returns whether a peer at `host` receives tracebacks."""
    if tracebacks is Tracebacks.LOOPBACK:
        return _is_loopback(host)
    return tracebacks is Tracebacks.ALL


def without_tracebacks(term: Term, depth: int = _DEPTH) -> Term:
    """Returns the term with each Python error reduced to its type.

    Returns the same object if it has none.
    """
    if type(term) is not tuple or not depth or len(term) > _LONGEST:
        return term
    if len(term) == 4 and term[0] is PYTHON_ERROR:
        return PYTHON_ERROR, term[1], HIDDEN, b""
    parts = [without_tracebacks(one, depth - 1) for one in term]
    changed = [part is not one for part, one in zip(parts, term, strict=True)]
    if not any(changed):
        return term
    # The stack follows the reason and contains lines and files of the same traceback.
    return tuple(
        [] if place and changed[place - 1] and isinstance(part, list) else part
        for place, part in enumerate(parts)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
