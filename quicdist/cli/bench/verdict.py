"""The figures of `quicdist bench`, and what they say about the limit of a transfer.

This module does no I/O. Sizes are in bytes, times in seconds, rates in bytes per second.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY
from quicdist.limits import CarrierLimits

_BUSY = 0.85
"""Fraction of one CPU above which an event loop has no time left."""
_ALL_BUSY = 0.95
"""Busy fraction of all CPUs above which processes wait for each other."""
_WINDOW = 0.8
"""Fraction of the receive window of this process above which it is the limit."""
_BLOCKED = 0.3
"""Fraction of the time in which data waits for credit above which credit is the limit."""
_SMALLEST_WINDOW = 64 * 1024
"""A peer that grants less credit than this in a round trip reads slowly."""
_SUFFICES = 1.5
"""Receive window as a multiple of the bandwidth-delay product that a sender does not notice. Credit
arrives a round trip after the data for which it is granted, and in steps."""
_GOALS = (100e6, 1e9)
"""Rates in bits per second for which a verdict says which window suffices."""
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
    START_UP = "start_up"
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
    """The fraction of datagrams of the sender that were lost, after start-up; None if unknown."""
    cpu_here: float
    """CPU time of this process as a fraction of one CPU."""
    machine_here: float | None
    """The busy fraction of all CPUs of this machine; None if it is unknown."""
    cpu_there: float | None
    """The same of a Python node; None if it is unknown."""
    pacing_rate: float
    """The pacing rate of the sender; 0 if it is unknown."""
    blocked: float | None = None
    """The fraction of the time in which data of the sender waited for credit of the receiver and
    for nothing else; None if it is unknown."""
    path_trip: float | None = None
    """The round trip of the path during the transfer, without waiting in a host; None if it is
    unknown."""
    datagram_size: int = 0
    """Maximum UDP payload of the datagrams that this node sends at the end; 0 without datagrams."""
    least_seconds: float = 0.0
    """A shorter transfer shows the start-up of congestion control, and nothing about the path."""


def limit_of(transfer: Transfer, idle: RoundTrips) -> Limit:
    """Returns the most likely limit of a transfer. `idle` is measured without other traffic."""
    if transfer.cpu_here >= _BUSY:
        return Limit.CPU_HERE
    if transfer.cpu_there is not None and transfer.cpu_there >= _BUSY:
        return Limit.CPU_THERE
    is_busy = transfer.machine_here is not None and transfer.machine_here >= _ALL_BUSY
    is_short = idle.p50 is not None and idle.p50 < HOST_DELAY
    # Busy hosts delay the datagrams of a short path, and read slowly.
    explains = is_short and is_busy
    if _fills_window(transfer, idle) and not explains:
        return Limit.WINDOW
    if transfer.seconds < transfer.least_seconds:
        return Limit.START_UP
    if _loses(transfer):
        is_queued = _is_queued(transfer.path_trip or transfer.trips.p50, idle)
        return Limit.PATH if is_queued and not explains else Limit.LOSS
    if _uses_path(transfer, idle) and not explains:
        return Limit.PATH
    return Limit.MACHINE_HERE if is_busy else Limit.PEER


def _loses(transfer: Transfer) -> bool:
    """Whether more is lost than congestion control tolerates. A full queue drops as much."""
    return transfer.loss is not None and transfer.loss > _TOLERATED


def _is_blocked(transfer: Transfer) -> bool:
    return transfer.blocked is not None and transfer.blocked >= _BLOCKED


def _fills_window(transfer: Transfer, idle: RoundTrips) -> bool:
    """Whether the receive window is the limit.

    The sender knows when it waits for credit. If a queue has grown on the path nevertheless, the
    window is larger than the path needs. Of data that arrives here, only the window of this process
    is known, which has the default limits.
    """
    if transfer.direction is Direction.TO:
        is_small = transfer.rate * (idle.p50 or 0.0) < _SMALLEST_WINDOW
        return _is_blocked(transfer) and not is_small and not _is_queued(transfer.path_trip, idle)
    trip = transfer.trips.p50 or idle.p50 or 0.0
    return transfer.rate * trip >= _WINDOW * CarrierLimits().max_receive_window


def _uses_path(transfer: Transfer, idle: RoundTrips) -> bool:
    """Whether the controller sends what it may, or a queue has grown on the path."""
    if _is_blocked(transfer):
        return _is_queued(transfer.path_trip, idle)
    if 0 < transfer.pacing_rate <= transfer.rate / _PACED:
        return True
    return _is_queued(transfer.trips.p50, idle)


def _is_queued(trip: float | None, idle: RoundTrips) -> bool:
    before, now = idle.p50 or 0.0, trip or 0.0
    return now - before > max(_LEAST_QUEUE, _QUEUE * before)


def explained(transfer: Transfer, limit: Limit, idle: RoundTrips, node: str) -> str:
    """Returns a sentence about the limit of a transfer to or from `node`.

    `idle` is measured without other traffic.
    """
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
            return _window(transfer, idle.p50 or 0.0, node)
        case Limit.START_UP:
            return (
                "the start-up of congestion control; a transfer over this path must last "
                f"{math.ceil(transfer.least_seconds * 10) / 10:.1f} s to show more: raise "
                "--seconds, or --mib"
            )
        case Limit.LOSS:
            return (
                f"the loss of {transfer.loss:.1%} on the path, more than congestion control "
                f"tolerates ({_TOLERATED:.0%})"
            )
        case Limit.PATH:
            return _path(transfer, node)
        case Limit.PEER:
            return _waiting(transfer, node)


def _window(transfer: Transfer, trip: float, node: str) -> str:
    """Returns the setting to raise, and the values that suffice at a round trip of `trip`."""
    is_to = transfer.direction is Direction.TO
    where = f"of {node}" if is_to else "of `quicdist bench`, which is the default one"
    suffice = " and ".join(
        f"{_amount(_SUFFICES * goal / 8 * trip)} for {goal / 1e6:.0f} Mbit/s" for goal in _GOALS
    )
    seen = f", which grants {_amount(transfer.rate * trip)} in a round trip" if is_to else ""
    text = (
        f"the receive window {where}{seen}; raise max_receive_window and window_budget of "
        f"CarrierLimits {'there' if is_to else 'in the node that receives here'}: at "
        f"{trip * 1000:.0f} ms, {suffice} suffice"
    )
    if is_to and transfer.cpu_there is None:
        text += "; a receiver that reads slowly looks the same"
    return text


def _amount(size: float) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _path(transfer: Transfer, node: str) -> str:
    """Returns what a full path looks like, and what looks like one.

    `quicdist bench` sends with BBR; the congestion control of the other node is unknown.
    """
    if _loses(transfer):
        return f"the path, whose queue is full and drops {transfer.loss:.1%} of the datagrams"
    if transfer.direction is Direction.TO:
        return "the path; neither CPU, loss nor a receive window explains it"
    if (transfer.loss or 0.0) >= _NOTICED_BY_CUBIC:
        return f"the path, or its loss of {transfer.loss:.1%} if {node} sends with CUBIC or Reno"
    return "the path; neither CPU, loss nor the receive window of this process explains it"


def _waiting(transfer: Transfer, node: str) -> str:
    """Returns the limits that only the other side of a transfer sees.

    A sender knows its pacing rate and whether it waits for credit (RFC 9000, 4.1).
    """
    if transfer.direction is Direction.FROM:
        return (
            f"the path, or {node} or its gateway, which sends the data; measure from there to know"
        )
    if _is_blocked(transfer):
        return (
            f"{node} or its gateway, which grants little credit: it reads slowly, or its "
            "max_receive_window is tiny"
        )
    if transfer.blocked is None:
        return f"{node} or its gateway, which reads slowly, or the path"
    return (
        f"{node} or its gateway, which answers slowly, or this machine; neither the path nor a "
        "receive window is used up"
    )
