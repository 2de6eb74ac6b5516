"""Parses the answers of `quicdist:status()` on a Python node, and compares two of them."""

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
    """`undefined` if the process has no name."""

    kind: Literal["mailbox", "system"]
    messages: int
    """The number of queued messages."""

    bytes: int
    """The size of the queued messages in bytes."""

    monitors: int
    """The number of processes that monitor it."""


@dataclass(frozen=True, slots=True)
class NodeConnection:
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
    """The state of a node. Times are in milliseconds, sizes in bytes."""

    language: str
    uptime: int
    cpu_time: int
    """Of the whole operating system process."""

    processes: int
    mailboxes: int
    messages: int
    message_bytes: int
    calls: int
    """Running calls of exported functions, including this one."""

    rows: Sequence[Row]
    connections: Sequence[NodeConnection]


@dataclass(frozen=True, slots=True)
class PythonSample:
    """A sample of a Python node."""

    status: Status
    window: float
    """Seconds between the two answers."""

    cpu_share: float
    """CPU time in that window, as a fraction of one CPU."""


def read_status(answer: Term) -> Status:
    """Parses an answer. Raises TermError."""
    return from_term(answer, Status)


def compared(before: Status, after: Status) -> PythonSample:
    """Returns the later status with the changes since the earlier one."""
    passed = max(after.uptime - before.uptime, 1)
    used = max(after.cpu_time - before.cpu_time, 0)
    return PythonSample(after, passed / 1000, used / passed)


__all__ = [
    "NodeConnection",
    "PythonSample",
    "Row",
    "Status",
    "TermError",
    "compared",
    "read_status",
]
