"""Pids and references of one node incarnation, in the layout of OTP.

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
"""28 bits, which peers without 32-bit pids (DFLAG_V4_NC) accept."""

REFERENCE_BITS = 82
"""18 + 32 + 32 bits: the first word of NEWER_REFERENCE_EXT has 18 significant bits."""


def new_creation(source: random.Random | None = None) -> int:
    """Returns a new creation: 32 bits, above 3, since smaller values are old-style creations."""
    return (source or random.SystemRandom()).randrange(4, 1 << 32)


class Identifiers:
    """Creates pids and references that are unique for this node and creation."""

    def __init__(
        self,
        node: Atom,
        creation: int,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """`random_bits(n)` returns n cryptographically random bits."""
        self.node = node
        self.creation = creation
        self._next_pid = 0
        self._random_bits = random_bits

    def pid(self, in_use: Container[Pid]) -> Pid:
        """Returns the next free pid. The numbers wrap around after 2^28."""
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
        """Returns a new random reference, so that aliases and pending calls cannot be guessed."""
        number = self._random_bits(REFERENCE_BITS)
        words = (number & 0x3FFFF, (number >> 18) & 0xFFFFFFFF, number >> 50)
        return Reference(self.node, words, self.creation)
