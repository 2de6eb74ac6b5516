"""A bounded cache of what the beginnings of frames contain.

The messages of one process to another have the same bytes before the payload, which are then parsed
only once.
"""

from __future__ import annotations

from typing import Generic, TypeVar

_OPENINGS, _OPENING_LENGTHS, _LONGEST_OPENING = 256, 4, 256
"""Maximum number of stored frame beginnings, of their different lengths, and of their bytes."""

Value = TypeVar("Value")


class Openings(Generic[Value]):
    """The values of known frame beginnings on one stream.

    `changes` is the number of changes of the atom cache of the stream. Each change invalidates the
    cache.
    """

    __slots__ = ("_changes", "_known", "_lengths")

    def __init__(self) -> None:
        self._known: dict[bytes, Value] = {}
        self._lengths: list[int] = []
        self._changes = 0

    def find(self, frame: bytes, changes: int) -> Value | None:
        """Returns the value of a known frame beginning, or None."""
        if changes != self._changes:
            self._forget(changes)
            return None
        for length in self._lengths:
            known = self._known.get(frame[:length])
            if known is not None:
                return known
        return None

    def keep(self, frame: bytes, length: int, value: Value, changes: int) -> None:
        """Stores a value for the first `length` bytes of `frame`.

        A frame that changed the atom cache is not stored.
        """
        if changes != self._changes:
            self._forget(changes)
            return
        if length > _LONGEST_OPENING:
            return
        is_new = length not in self._lengths
        if len(self._known) >= _OPENINGS or (is_new and len(self._lengths) >= _OPENING_LENGTHS):
            self._forget(changes)
            is_new = True
        if is_new:
            self._lengths.append(length)
        self._known[frame[:length]] = value

    def _forget(self, changes: int) -> None:
        self._changes = changes
        self._known.clear()
        self._lengths.clear()
