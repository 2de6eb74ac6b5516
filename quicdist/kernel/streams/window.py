"""The flow control of a stream: what a producer may send before the consumer acknowledges."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from quicdist.etf import Term
from quicdist.setting_types import Positive, check_fields

MAX_ITEMS = 65_536
MAX_BYTES = 16 * 1024 * 1024
"""Upper bounds of a window, whatever the consumer asks for."""


@dataclass(frozen=True, slots=True)
class StreamWindow:
    """The size of a window: items and bytes sent and not acknowledged."""

    items: Positive = 1024
    bytes: Positive = 1024 * 1024

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)


DEFAULT_WINDOW = StreamWindow()


class Window:
    """Counts the items that are sent and not acknowledged."""

    def __init__(self, size: StreamWindow) -> None:
        self._max_items = min(size.items, MAX_ITEMS)
        self._max_bytes = min(size.bytes, MAX_BYTES)
        self._sent: deque[int] = deque()
        self._bytes = 0

    def take(self, queue: deque[tuple[Term, int]]) -> list[Term]:
        """Takes the items that may be sent out of a queue of (item, bytes)."""
        taken = []
        while queue and self._fits(queue[0][1]):
            item, size = queue.popleft()
            self._sent.append(size)
            self._bytes += size
            taken.append(item)
        return taken

    def acknowledged(self, count: int) -> None:
        """Notes that the consumer has taken `count` items.

        Raises ValueError if fewer have been sent.
        """
        if count > len(self._sent):
            raise ValueError(f"{count} items acknowledged, {len(self._sent)} sent")
        for _ in range(count):
            self._bytes -= self._sent.popleft()

    def _fits(self, size: int) -> bool:
        if not self._sent:
            return True
        return len(self._sent) < self._max_items and self._bytes + size <= self._max_bytes
