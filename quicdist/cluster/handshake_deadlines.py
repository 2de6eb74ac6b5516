"""When a distribution handshake acts without the peer: no clock and no timer."""

from __future__ import annotations

import enum
import math

_REFUSAL_TIME = 0.5
"""Seconds that a refusal has to reach the peer before the connection is closed."""


class Due(enum.Enum):
    """What the connection must do next."""

    NOTHING = "nothing"
    ANSWER = "answer"
    """Answer the peer's name."""
    TIMEOUT = "timeout"
    """End the handshake: it was not finished in time."""
    CLOSE = "close"
    """Close the connection of a handshake that was refused."""


class HandshakeDeadlines:
    """The deadlines of one handshake. Times are event loop times in seconds."""

    def __init__(self, timeout: float, now: float) -> None:
        """The handshake must be finished `timeout` seconds after `now`."""
        self._deadlines: dict[Due, float] = {Due.TIMEOUT: now + timeout}

    @property
    def due(self) -> float:
        """When to call `look`; infinite if nothing is due."""
        return min(self._deadlines.values(), default=math.inf)

    def delay_answer(self, seconds: float, now: float) -> None:
        """Delays the answer to the peer's name."""
        self._deadlines[Due.ANSWER] = now + seconds

    def finished(self) -> None:
        """The handshake has succeeded or failed: nothing more is due."""
        self._deadlines.clear()

    def refused(self, now: float) -> None:
        """A refusal was sent: only the close is due."""
        self._deadlines = {Due.CLOSE: now + _REFUSAL_TIME}

    def look(self, now: float) -> Due:
        """Returns what is due first, once. Returns `Due.NOTHING` if called early."""
        if not self._deadlines:
            return Due.NOTHING
        first = min(self._deadlines, key=self._deadlines.__getitem__)
        if now < self._deadlines[first]:
            return Due.NOTHING
        del self._deadlines[first]
        return first
