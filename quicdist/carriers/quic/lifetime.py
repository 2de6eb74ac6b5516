"""How long a connection may be unused or silent: no clock and no timer."""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What the connection must do next."""

    NOTHING = "nothing"
    PING = "ping"
    """Send a PING: nothing was received for a whole interval."""
    UNUSED = "unused"
    """Close the connection: the dialer has sent no packet in time."""


class Lifetime:
    """The time limit of an unused connection, and then the keep-alive of a used one.

    PINGs keep the bindings of a NAT, and show soon whether the peer's process has ended. Times are
    event loop times in seconds.
    """

    def __init__(self, expires: float | None = None) -> None:
        """`expires` is when a listener closes an unused connection.

        It is None for a dialer, which has its own time limit.
        """
        self.due = expires
        """When to call `look`; None if nothing is due."""
        self._is_used = False

    def used(self, now: float) -> None:
        """Starts the keep-alive."""
        self._is_used = True
        self.due = now

    def look(self, now: float, last_received: float, interval: float) -> Verdict:
        """Decides at the time `due`.

        `interval` is the longest silence in seconds. Returns `Verdict.NOTHING` if called early.
        """
        if self.due is None or now < self.due:
            return Verdict.NOTHING
        if not self._is_used:
            self.due = None
            return Verdict.UNUSED
        is_silent = now >= last_received + interval
        self.due = interval + (now if is_silent else last_received)
        return Verdict.PING if is_silent else Verdict.NOTHING
