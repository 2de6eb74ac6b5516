"""The links of one process, with the unlink-id protocol.

A link has two ends, each with its own idea of it, and signals cross. An end is absent, LINKED, or
unlinking: it has said so under an id and waits for the acknowledgement. Until that comes, whatever
arrives of this link was sent by a peer that did not know yet, and is dropped; that is the whole
point of the ids. Linking again while unlinking makes it LINKED at once: the late acknowledgement
then names an id nobody waits for.

ERTS manual, Distribution Protocol, "Link Protocol".
"""

from __future__ import annotations

from collections.abc import Iterator

from quicdist.etf import Pid

_LINKED = 0
"""Ids of unlinks are above 0."""


class Links:
    """This process's end of each of its links, by the other's pid."""

    __slots__ = ("_next_id", "_state")

    def __init__(self) -> None:
        self._state: dict[Pid, int] = {}
        self._next_id = 1

    def link(self, other: Pid) -> bool:
        """We link. True when a LINK signal has to go out."""
        if self._state.get(other) == _LINKED:
            return False
        self._state[other] = _LINKED
        return True

    def unlink(self, other: Pid) -> int | None:
        """We unlink. The id of the UNLINK_ID signal to send, None when there is none to send."""
        if self._state.get(other) != _LINKED:
            return None
        identifier = self._next_id
        # 64 bits on the wire, never 0.
        self._next_id = identifier + 1 if identifier < (1 << 64) - 1 else 1
        self._state[other] = identifier
        return identifier

    def link_received(self, other: Pid) -> None:
        """A LINK signal came."""
        self._state.setdefault(other, _LINKED)

    def unlink_received(self, other: Pid) -> None:
        """An UNLINK_ID signal came, which is acknowledged whatever the state."""
        if self._state.get(other) == _LINKED:
            del self._state[other]

    def unlink_acknowledged(self, other: Pid, identifier: int) -> None:
        """An UNLINK_ID_ACK signal came."""
        if self._state.get(other) == identifier:
            del self._state[other]

    def exit_received(self, other: Pid) -> bool:
        """An EXIT signal came over the link. True when it counts."""
        if self._state.get(other) != _LINKED:
            return False
        del self._state[other]
        return True

    def forget_node(self, node: str) -> list[Pid]:
        """The connection to `node` is gone: those there that we were linked to."""
        gone = [pid for pid in self._state if pid.node == node]
        return [pid for pid in gone if self._state.pop(pid) == _LINKED]

    def count(self, node: str) -> int:
        """How many ends of links with processes of a node there are, those being undone too."""
        return sum(pid.node == node for pid in self._state)

    def __iter__(self) -> Iterator[Pid]:
        return iter([pid for pid, state in self._state.items() if state == _LINKED])

    def __bool__(self) -> bool:
        return bool(self._state)
