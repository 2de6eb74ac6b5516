"""The closing and draining states of a connection (RFC 9000, 10.2): no clock and no timer."""

from __future__ import annotations

import enum

_REPEATS = 64
"""Maximum number of received datagrams of which some are answered with the close."""

_AMPLIFICATION = 3
"""Amplification limit for addresses that are not validated (RFC 9000, 8.1)."""


class Verdict(enum.Enum):
    """What the connection must do next."""

    NOTHING = "nothing"
    REPEAT = "repeat"
    """Send the close again, within `may_send`: an idle peer would not show that it was lost."""
    FORGET = "forget"
    """The state has ended: discard the connection."""


class Closing:
    """The end of one connection. Times are event loop times in seconds."""

    def __init__(self, now: float, linger: float, size: int, allowance: float) -> None:
        """The state ends after `linger` seconds.

        `size` is the number of bytes of a close, 0 while draining. `allowance` is the number of
        bytes that may be sent to the peer's address; infinite once it is validated.
        """
        self.due: float | None = now + linger / 3
        """When to call `look`; None after the end."""
        self._over = now + linger
        self._size = size
        self._allowance = allowance
        self._received = 0

    def may_send(self) -> bool:
        """Returns whether the close may be sent now, and counts it."""
        if self._size > self._allowance:
            return False
        self._allowance -= self._size
        return True

    def received(self, size: int) -> bool:
        """Reports a datagram, with `size` bytes from the peer's address and 0 from another one.

        Returns whether to send the close again, within `may_send`: after the first, second, fourth
        and so on, as RFC 9000, 10.2.1 asks for fewer and fewer.
        """
        self._allowance += _AMPLIFICATION * size
        self._received += 1
        count = self._received
        return count <= _REPEATS and count & (count - 1) == 0

    def look(self, now: float) -> Verdict:
        """Decides at the time `due`. Returns `Verdict.NOTHING` if called early."""
        if self.due is None or now < self.due:
            return Verdict.NOTHING
        if now >= self._over:
            self.due = None
            return Verdict.FORGET
        self.due = self._over
        return Verdict.REPEAT
