"""The figures of `quicdist bench`, and what they say about the limit of a transfer.

This module does no I/O. Sizes are in bytes, times in seconds, rates in bytes per second.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY
from quicdist.limits import CarrierLimits

_BUSY = 0.85
"""Fraction of one CPU above which an event loop has no time left."""
_ALL_BUSY = 0.95
"""Busy fraction of all CPUs above which processes wait for each other."""
_WINDOW = 0.8
"""Fraction of the receive window above which the window is the limit."""
_TOLERATED = 0.02
"""Loss that BBR tolerates (draft-ietf-ccwg-bbr, 2.6)."""
_NOTICED_BY_CUBIC = 0.0005
"""Loss at which CUBIC and Reno send less than fast paths carry (RFC 9438, 5.1)."""
_PACED = 0.7
"""A transfer at this fraction of the pacing rate uses what the controller found."""
_QUEUE = 0.25
_LEAST_QUEUE = 0.005
"""Growth of the round trip, relative and in seconds, that a queue on the path explains."""


class Direction(enum.Enum):
    """The direction of a transfer. The values are keys of the JSON output."""

    TO = "to"
    FROM = "from"


class Limit(enum.Enum):
    """What limits a transfer. The values are those of the JSON output."""

    CPU_HERE = "cpu_here"
    CPU_THERE = "cpu_there"
    MACHINE_HERE = "machine_here"
    WINDOW = "window"
    LOSS = "loss"
    PATH = "path"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Round trips of small requests. The times are None if none was answered."""

    count: int
    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, times: Sequence[float]) -> RoundTrips:
        """Returns the percentiles of measured times."""
        if not times:
            return cls(0, None, None)
        ordered = sorted(times)
        last = len(ordered) - 1
        return cls(len(ordered), ordered[last // 2], ordered[min(int(len(ordered) * 0.99), last)])


@dataclass(frozen=True, slots=True)
class Transfer:
    """The figures of a transfer in one direction."""

    direction: Direction
    bytes: int
    seconds: float
    rate: float
    """After start-up."""
    trips: RoundTrips
    """Round trips during the transfer."""
    loss: float | None
    """The fraction of datagrams of the sender that were lost; None if it is unknown."""
    cpu_here: float
    """CPU time of this process as a fraction of one CPU."""
    machine_here: float | None
    """The busy fraction of all CPUs of this machine; None if it is unknown."""
    cpu_there: float | None
    """The same of a Python node; None if it is unknown."""
    pacing_rate: float
    """The pacing rate of the sender; 0 if it is unknown."""
    datagram_size: int = 0
    """Maximum UDP payload of the datagrams that this node sends at the end; 0 without datagrams."""


def limit_of(transfer: Transfer, idle: RoundTrips) -> Limit:
    """Returns the most likely limit of a transfer. `idle` is measured without other traffic."""
    trip = transfer.trips.p50 or idle.p50 or 0.0
    if transfer.cpu_here >= _BUSY:
        return Limit.CPU_HERE
    if transfer.cpu_there is not None and transfer.cpu_there >= _BUSY:
        return Limit.CPU_THERE
    if transfer.rate * trip >= _WINDOW * CarrierLimits().max_receive_window:
        return Limit.WINDOW
    if transfer.loss is not None and transfer.loss > _TOLERATED:
        return Limit.LOSS
    is_busy = transfer.machine_here is not None and transfer.machine_here >= _ALL_BUSY
    is_short = idle.p50 is not None and idle.p50 < HOST_DELAY
    # Busy hosts delay the datagrams of a short path as well.
    if _uses_path(transfer, idle) and not (is_short and is_busy):
        return Limit.PATH
    return Limit.MACHINE_HERE if is_busy else Limit.PEER


def _uses_path(transfer: Transfer, idle: RoundTrips) -> bool:
    """Whether the controller sends what it may, or a queue has grown on the path."""
    if 0 < transfer.pacing_rate <= transfer.rate / _PACED:
        return True
    before, now = idle.p50 or 0.0, transfer.trips.p50 or 0.0
    return now - before > max(_LEAST_QUEUE, _QUEUE * before)


def explained(transfer: Transfer, limit: Limit, node: str) -> str:
    """Returns a sentence about the limit of a transfer to or from `node`."""
    match limit:
        case Limit.CPU_HERE:
            return (
                f"the CPU of this process, which takes {transfer.cpu_here:.0%} of a core; the "
                "native engine and larger datagrams need less"
            )
        case Limit.CPU_THERE:
            return f"the CPU of {node}, which takes {transfer.cpu_there:.0%} of a core"
        case Limit.MACHINE_HERE:
            return (
                f"the CPUs of this machine, {transfer.machine_here:.0%} busy with this process and "
                "others"
            )
        case Limit.WINDOW:
            return (
                "the receive window; raise max_receive_window and window_budget of CarrierLimits "
                "on the receiver"
            )
        case Limit.LOSS:
            return (
                f"the loss of {transfer.loss:.1%} on the path, more than congestion control "
                f"tolerates ({_TOLERATED:.0%})"
            )
        case Limit.PATH:
            return _path(transfer, node)
        case Limit.PEER:
            return _waiting(transfer.direction, node)


def _path(transfer: Transfer, node: str) -> str:
    """Returns what a full path looks like, and what looks like one.

    `quicdist bench` sends with BBR; the congestion control of the other node is unknown.
    """
    if transfer.direction is Direction.FROM and (transfer.loss or 0.0) >= _NOTICED_BY_CUBIC:
        return f"the path, or its loss of {transfer.loss:.1%} if {node} sends with CUBIC or Reno"
    return "the path; neither CPU, loss nor a receive window of the default size explains it"


def _waiting(direction: Direction, node: str) -> str:
    """Returns the limits that only the other side of a transfer sees.

    The sender knows its pacing rate and the receiver its window. A sender that is below its rate
    waits for credit (RFC 9000, 4.1).
    """
    if direction is Direction.TO:
        return (
            f"{node} or its gateway, which grants no more credit: it reads slowly, or its "
            "max_receive_window is small for this round trip"
        )
    return f"the path, or {node} or its gateway, which sends the data; measure from there to know"
