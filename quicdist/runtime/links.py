"""The links of one process, with the unlink ID protocol.

Both ends of a link have their own state, and signals can cross. An end is absent, LINKED, or
unlinking: it has sent UNLINK_ID and waits for the acknowledgement. Signals of the link that arrive
before the acknowledgement are dropped, since the peer sent them before it received UNLINK_ID. A new
link during unlinking sets LINKED at once; the late acknowledgement then has an ID that does not
match.

ERTS manual, Distribution Protocol, "Link Protocol".
"""

from __future__ import annotations

from collections.abc import Iterator

from quicdist.etf import Pid

_LINKED = 0
"""Unlink IDs are above 0."""


class Links:
    """The links of one process, by the pid of the other end."""

    __slots__ = ("_next_id", "_state")

    def __init__(self) -> None:
        self._state: dict[Pid, int] = {}
        self._next_id = 1

    def link(self, other: Pid) -> bool:
        """Adds a link. Returns True if a LINK signal must be sent."""
        if self._state.get(other) == _LINKED:
            return False
        self._state[other] = _LINKED
        return True

    def unlink(self, other: Pid) -> int | None:
        """Removes a link.

        Returns the ID of the UNLINK_ID signal to send, or None if there is no link.
        """
        if self._state.get(other) != _LINKED:
            return None
        identifier = self._next_id
        # 64 bits on the wire, never 0.
        self._next_id = identifier + 1 if identifier < (1 << 64) - 1 else 1
        self._state[other] = identifier
        return identifier

    def link_received(self, other: Pid) -> None:
        """Handles a LINK signal."""
        self._state.setdefault(other, _LINKED)

    def unlink_received(self, other: Pid) -> None:
        """Handles an UNLINK_ID signal. It is acknowledged in every state."""
        if self._state.get(other) == _LINKED:
            del self._state[other]

    def unlink_acknowledged(self, other: Pid, identifier: int) -> None:
        """Handles an UNLINK_ID_ACK signal."""
        if self._state.get(other) == identifier:
            del self._state[other]

    def exit_received(self, other: Pid) -> bool:
        """Handles an EXIT signal of a link. Returns True if the link was active."""
        if self._state.get(other) != _LINKED:
            return False
        del self._state[other]
        return True

    def forget_node(self, node: str) -> list[Pid]:
        """Removes all links to a node. Returns the pids that were linked."""
        gone = [pid for pid in self._state if pid.node == node]
        return [pid for pid in gone if self._state.pop(pid) == _LINKED]

    def count(self, node: str) -> int:
        """Returns the number of links to processes of a node, including those being removed."""
        return sum(pid.node == node for pid in self._state)

    def __iter__(self) -> Iterator[Pid]:
        return iter([pid for pid, state in self._state.items() if state == _LINKED])

    def __bool__(self) -> bool:
        return bool(self._state)
