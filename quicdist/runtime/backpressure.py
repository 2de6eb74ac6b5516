"""Backpressure: the fill level of a receiver, and the connections that it pauses.

Above the high watermark a receiver pauses the connections that fill it, unless its owner is waiting
for a message or a call to that peer is pending: the awaited message could be queued behind the
backlog. At the hard bound it always pauses them. Below the low watermark it resumes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quicdist.etf import Atom


class Source(Protocol):
    """The source of messages and signals: the connection to a peer, or this node itself."""

    @property
    def name(self) -> Atom | None:
        """The name of the peer; None for this node."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key that the peer presented in TLS; empty without one."""

    def pause(self, level: Backpressure) -> None:
        """Pauses this source if necessary: it has filled a receiver above its high watermark."""

    def resume(self, level: Backpressure) -> None:
        """Called when a receiver that paused this source has room again."""

    def throttle(self, seconds: float) -> None:
        """Pauses this source for `seconds`, since it has exceeded its rate limit."""

    def link_added(self, count: Callable[[str], int]) -> None:
        """Called when this source has added a link or monitor.

        `count` returns the number of links and monitors of a node.
        """


class _ThisNode:
    """This node as a source. A full mailbox does not pause local senders."""

    name = None
    fingerprint = ""

    def pause(self, level: Backpressure) -> None:
        pass

    def resume(self, level: Backpressure) -> None:
        pass

    def throttle(self, seconds: float) -> None:
        pass

    def link_added(self, count: Callable[[str], int]) -> None:
        pass


HERE: Source = _ThisNode()


class Backpressure:
    """The fill level of one receiver, in bytes, or in calls."""

    __slots__ = (
        "hard",
        "held",
        "high",
        "is_waited_on",
        "low",
        "next_report",
        "owner",
        "size",
        "unit",
    )

    def __init__(self, owner: object, low: int, high: int, hard: int, unit: str = "bytes") -> None:
        """`str(owner)` names the receiver in logs and errors."""
        self.owner = owner
        self.unit = unit
        self.low = low
        self.high = high
        self.hard = hard
        self.size = 0
        self.is_waited_on = False
        """Whether the owner waits for a message that has not arrived."""
        self.held: set[Source] = set()
        self.next_report = 0.0
        """Event loop time from which a pause is logged again."""

    def __str__(self) -> str:
        return f"{self.owner} holds {self.size} {self.unit}"

    def take(self, amount: int) -> None:
        """Subtracts `amount`. Resumes paused sources below the low watermark."""
        self.size -= amount
        if self.held and self.size <= self.low:
            self.resume_all()

    def resume_all(self) -> None:
        """Resumes all sources that this receiver pauses."""
        held, self.held = self.held, set()
        for source in held:
            source.resume(self)

    def must_pause(self, calls_outstanding: int) -> bool:
        """Returns whether a source with `calls_outstanding` pending calls must be paused."""
        if self.size <= self.high:
            return False
        return self.is_at_bound or not (self.is_waited_on or calls_outstanding)

    @property
    def is_at_bound(self) -> bool:
        """Whether the receiver is at its hard bound."""
        return self.size >= self.hard
