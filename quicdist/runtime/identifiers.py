"""Pids and references of one node's life, laid out as OTP does.

ERTS manual, External Term Format: NEW_PID_EXT, NEWER_REFERENCE_EXT.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Container

from quicdist.etf import Atom, Pid, Reference

_ID_BITS = 15
_SERIAL_BITS = 13
_NUMBERS = 1 << (_ID_BITS + _SERIAL_BITS)
"""28 bits: what a peer without 32-bit pids (DFLAG_V4_NC) can also take."""

REFERENCE_BITS = 82
"""18 + 32 + 32 bits: the first word of NEWER_REFERENCE_EXT has 18 significant bits."""


def new_creation(source: random.Random | None = None) -> int:
    """A new incarnation of a node: 32 bits, above 3 (the small ones are the old kind's)."""
    return (source or random.SystemRandom()).randrange(4, 1 << 32)


class Identifiers:
    """Hands out pids and references that no other of this node and creation equals."""

    def __init__(
        self,
        node: Atom,
        creation: int,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`random_bits(n)` returns n random bits that nobody can predict."""
        self.node = node
        self.creation = creation
        self._next_pid = 0
        self._random_bits = random_bits

    def pid(self, in_use: Container[Pid]) -> Pid:
        """The next pid; the numbers come round after 2^28, past those in use."""
        while True:
            number = self._next_pid
            self._next_pid = (number + 1) % _NUMBERS
            pid = Pid(
                self.node,
                number & ((1 << _ID_BITS) - 1),
                number >> _ID_BITS,
                self.creation,
            )
            if pid not in in_use:
                return pid

    def reference(self) -> Reference:
        """A new random reference: one that was seen does not tell the next, so an alias or a
        pending call cannot be guessed."""
        number = self._random_bits(REFERENCE_BITS)
        words = (number & 0x3FFFF, (number >> 18) & 0xFFFFFFFF, number >> 50)
        return Reference(self.node, words, self.creation)
