"""What `quicdist:status()` answers on a Python node, and its change over a window of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quicdist.etf import Atom, Pid, Term
from quicdist.typed import TermError, from_term


@dataclass(frozen=True, slots=True)
class Row:
    """A process."""

    pid: Pid
    name: Atom
    """`undefined` if it has none."""

    kind: Literal["mailbox", "system"]
    messages: int
    """Messages that wait."""

    bytes: int
    """Their size."""

    monitors: int
    """Processes that monitor it."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection of the node."""

    node: Atom
    carrier: str
    since: int
    """Unix time in seconds."""

    round_trip: int | None
    """Microseconds."""

    bytes_received: int
    bytes_sent: int
    datagrams_lost: int
    bytes_queued: int


@dataclass(frozen=True, slots=True)
class Status:
    """The node at one moment. Times are in milliseconds, sizes in bytes."""

    language: str
    uptime: int
    cpu_time: int
    """Of the whole process."""

    processes: int
    mailboxes: int
    messages: int
    message_bytes: int
    calls: int
    """Calls of exported functions that have not ended, this one included."""

    rows: Sequence[Row]
    connections: Sequence[Link]


@dataclass(frozen=True, slots=True)
class PythonSample:
    """One look at a Python node."""

    status: Status
    window: float
    """Seconds between the two answers that it is made from."""

    cpu_share: float
    """CPU time in that window, as a part of one CPU."""


def read_status(answer: Term) -> Status:
    """Raises TermError."""
    return from_term(answer, Status)


def compared(before: Status, after: Status) -> PythonSample:
    """The later status, with what has changed since the earlier one."""
    passed = max(after.uptime - before.uptime, 1)
    used = max(after.cpu_time - before.cpu_time, 0)
    return PythonSample(after, passed / 1000, used / passed)


__all__ = ["Link", "PythonSample", "Row", "Status", "TermError", "compared", "read_status"]
