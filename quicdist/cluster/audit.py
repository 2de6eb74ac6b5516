"""The audit log: which peer called what, what was refused, and how long it took.

It is off by default. It has its own logger, `quicdist.audit`, so that it can be written to a
separate file. Every call and refusal is logged; unlike the other logs it has no rate limit.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

logger = logging.getLogger("quicdist.audit")

_LONGEST = 500
"""The maximum number of characters of a function name or a cause."""


class Outcome(enum.Enum):
    """The outcome of a call. The value is the field `outcome`."""

    RETURNED = "returned"
    RAISED = "raised"
    """It raised, threw, exited, or was ended."""
    PASSED = "passed"
    """A gateway forwarded the request. It does not see the result."""
    REFUSED = "refused"
    WOULD_BE_REFUSED = "would_be_refused"
    """The rules do not allow it, but the policy has `mode = "log"`."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The peer of an audit entry."""

    name: str
    fingerprint: str = ""
    """The fingerprint of the key that it presented; empty without one."""


class Audit:
    """Writes the audit entries of one node or gateway."""

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
        """Logs a call. `duration` is in seconds; `cause` is the reason why it did not return."""
        fields = self._fields("audit_call", caller, function, outcome)
        _write({**fields, "duration": round(duration, 6), "cause": cause[:_LONGEST]})

    def refused(self, caller: PeerIdentity, what: str, outcome: Outcome = Outcome.REFUSED) -> None:
        """Logs a refused message or signal, described by `what`."""
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
