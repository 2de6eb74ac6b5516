"""Pids and references of one node's life, laid out as OTP does.

ERTS manual, External Term Format: NEW_PID_EXT, NEWER_REFERENCE_EXT.
"""

from __future__ import annotations

import random
from collections.abc import Container

from quicdist.etf import Atom, Pid, Reference

_ID_BITS = 15
_SERIAL_BITS = 13
_NUMBERS = 1 << (_ID_BITS + _SERIAL_BITS)
"""28 bits: what a peer without 32-bit pids (DFLAG_V4_NC) can also take."""

_REFERENCES = 1 << 82
"""18 + 32 + 32 bits, the first word being the low 18."""


def new_creation(source: random.Random | None = None) -> int:
    """A new incarnation of a node: 32 bits, above 3 (the small ones are the old kind's)."""
    return (source or random.SystemRandom()).randrange(4, 1 << 32)


class Identifiers:
    """Hands out pids and references that no other of this node and creation equals."""

    def __init__(self, node: Atom, creation: int, first_reference: int) -> None:
        self.node = node
        self.creation = creation
        self._next_pid = 0
        # Begun at a random place, so that an alias cannot be guessed from another node.
        self._next_reference = first_reference % _REFERENCES

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
        """A new reference."""
        number = self._next_reference
        self._next_reference = (number + 1) % _REFERENCES
        words = (number & 0x3FFFF, (number >> 18) & 0xFFFFFFFF, number >> 50)
        return Reference(self.node, words, self.creation)
