"""A bounded queue of the datagrams that belong to no connection.

Their senders have proved nothing, so established connections come first: a turn of the event loop
handles a few of them after the datagrams of connections, and the next such turn comes later. A
flood fills the queue, and what it has no room for is dropped.
"""

from __future__ import annotations

from collections import deque

from quicdist.carriers.quic.engine import Path

STRAYS_PER_TURN = 16
"""Maximum number of strays handled in one turn. Most cost 5 to 15 microseconds; one that opens a
connection costs about a millisecond with aioquic, and `AdmissionLimits` bounds their rate."""

STRAYS_PER_SECOND = 8000
"""Maximum average rate of handled strays."""

MAX_STRAYS = 512
"""Maximum number of queued strays."""

MAX_STRAY_BYTES = 1024 * 1024
"""Maximum total size of queued strays in bytes."""


class Strays:
    """The queue of one endpoint. It holds (datagram, path, ECN codepoint) in order of arrival."""

    __slots__ = ("_bytes", "_queue")

    def __init__(self) -> None:
        self._queue: deque[tuple[bytes, Path, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, data: bytes, path: Path, ecn: int) -> bool:
        """Queues a datagram; returns False if there is no room for it."""
        if len(self._queue) >= MAX_STRAYS or self._bytes + len(data) > MAX_STRAY_BYTES:
            return False
        self._queue.append((data, path, ecn))
        self._bytes += len(data)
        return True

    def take_turn(self) -> list[tuple[bytes, Path, int]]:
        """Removes and returns the oldest datagrams, as many as one turn handles."""
        count = min(STRAYS_PER_TURN, len(self._queue))
        taken = [self._queue.popleft() for _ in range(count)]
        self._bytes -= sum(len(data) for data, _, _ in taken)
        return taken

    def clear(self) -> None:
        """Removes all datagrams."""
        self._queue.clear()
        self._bytes = 0
