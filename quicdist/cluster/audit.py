"""The audit log: which peer called what, what was refused, and how long it took.

It is off unless a node or gateway is told to keep it, and has a logger of its own,
`quicdist.audit`, so that it can go to a file of its own. Every call and refusal is a line: nothing
is left out, unlike in the other logs.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

logger = logging.getLogger("quicdist.audit")

_LONGEST = 500
"""Characters of a function's name or a cause."""


class Outcome(enum.Enum):
    """What became of a call. The value is the field `outcome`."""

    RETURNED = "returned"
    RAISED = "raised"
    """Also: it threw, exited, or was ended."""
    PASSED = "passed"
    """A gateway let the request pass; it does not see the result."""
    REFUSED = "refused"
    WOULD_BE_REFUSED = "would_be_refused"
    """A policy with `mode = "log"`."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The peer that an entry is about."""

    name: str
    fingerprint: str = ""
    """Of the key that it has shown; empty where it has shown none."""


class Audit:
    """Writes the entries of one node or gateway."""

    def __init__(self, node: str) -> None:
        self._node = node

    def call(
        self,
        caller: PeerIdentity,
        function: str,
        outcome: Outcome,
        *,
        duration: float = 0.0,
        cause: str = "",
    ) -> None:
        """One call. `duration` is in seconds; `cause` is why it did not return."""
        fields = self._fields("audit_call", caller, function, outcome)
        _write({**fields, "duration": round(duration, 6), "cause": cause[:_LONGEST]})

    def refused(self, caller: PeerIdentity, what: str, outcome: Outcome = Outcome.REFUSED) -> None:
        """A message or signal that is not allowed; `what` says which."""
        fields = self._fields("audit_refused", caller, what, outcome)
        _write({**fields, "duration": 0.0, "cause": "access"})

    def _fields(
        self, event: str, caller: PeerIdentity, called: str, outcome: Outcome
    ) -> dict[str, object]:
        return {
            "event": event,
            "node": self._node,
            "peer": caller.name,
            "fingerprint": caller.fingerprint,
            "called": called[:_LONGEST],
            "outcome": outcome.value,
        }


def _write(fields: dict[str, object]) -> None:
    values = [fields[name] for name in ("peer", "called", "outcome", "duration", "cause")]
    logger.info("%s %s: %s, %.6f s, cause: %s", *values[:-1], values[-1] or "none", extra=fields)
