"""How full a receiver is, and which connections it holds back because of that.

The rule: above the high watermark a receiver holds the connections that fill it, but only while
its owner is not waiting and no call to that peer is outstanding; else a flooded process that
asks its flooder would wait for ever for an answer queued behind its own backlog. At the hard
bound it holds them regardless. Below the low watermark it lets them go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quicdist.etf import Atom


class Source(Protocol):
    """Where messages and signals come from: the connection to a peer, or this node itself."""

    @property
    def name(self) -> Atom | None:
        """The peer's; None for this node."""

    @property
    def fingerprint(self) -> str:
        """Of the key that the peer has shown in TLS; empty where it has shown none."""

    def pause(self, level: Backpressure) -> None:
        """This source has just filled a receiver above its high watermark: it may be paused."""

    def resume(self, level: Backpressure) -> None:
        """A receiver that paused this source has room again."""

    def throttle(self, seconds: float) -> None:
        """This source has exceeded its rate limit: it is paused for so long."""

    def link_added(self, count: Callable[[str], int]) -> None:
        """It has just linked one of its processes to one here, or has one monitored from there;
        `count` tells how many such links and monitors a node has."""


class _Here:
    """This node as a source: senders here are not held back by a full mailbox."""

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


HERE: Source = _Here()


class Backpressure:
    """The fill level of one receiver, in bytes (or in calls, where calls are what is held)."""

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
        """`str(owner)` is what logs and errors call the receiver."""
        self.owner = owner
        self.unit = unit
        self.low = low
        self.high = high
        self.hard = hard
        self.size = 0
        self.is_waited_on = False
        """The owner waits for something that has not come yet."""
        self.held: set[Source] = set()
        self.next_report = 0.0
        """Event loop time from when on a hold is worth a line in the log again."""

    def __str__(self) -> str:
        return f"{self.owner} holds {self.size} {self.unit}"

    def take(self, amount: int) -> None:
        """`amount` is gone from the receiver."""
        self.size -= amount
        if self.held and self.size <= self.low:
            self.let_all_go()

    def let_all_go(self) -> None:
        """Whoever is held back because of this receiver goes on."""
        held, self.held = self.held, set()
        for source in held:
            source.resume(self)

    def must_hold(self, calls_outstanding: int) -> bool:
        """Whether a source with so many calls in flight to it is to be held back."""
        if self.size <= self.high:
            return False
        return self.is_at_bound or not (self.is_waited_on or calls_outstanding)

    @property
    def is_at_bound(self) -> bool:
        """At the hard bound."""
        return self.size >= self.hard
