"""The output of `quicdist bench`, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from quicdist.cli.bench.verdict import Direction, Limit, RoundTrips, Transfer, explained, limit_of
from quicdist.cli.json_output import Value
from quicdist.cli.sanitize import sanitized
from quicdist.node.info import PeerInfo

_MIB = 1024 * 1024
_WIDTH = 8


@dataclass
class Report:
    """What was measured so far on the path to one node."""

    node: str
    carrier: str
    idle: RoundTrips
    transfers: list[Transfer] = field(default_factory=list)

    @classmethod
    def of(cls, connection: PeerInfo, idle: RoundTrips) -> Report:
        """Returns a report with the round trips of the idle connection."""
        carrier = connection.alpn or connection.carrier
        return cls(connection.name, carrier, idle)

    def add(self, transfer: Transfer) -> None:
        """Adds a transfer."""
        self.transfers.append(transfer)

    def idle_lines(self) -> list[str]:
        """Returns the lines about the idle connection."""
        trips = f"round trip {_trips(self.idle)} ({self.idle.count} requests)"
        return [
            sanitized(f"{self.node} over {self.carrier}"),
            f"{'idle':{_WIDTH}}{trips}",
        ]

    def last_lines(self) -> list[str]:
        """Returns the lines about the last transfer."""
        last = self.transfers[-1]
        figures = [
            f"{last.rate / _MIB:.1f} MiB/s ({last.bytes / _MIB:.0f} MiB in {last.seconds:.1f} s)",
            f"round trip {_trips(last.trips)}",
            "loss unknown" if last.loss is None else f"{last.loss:.2%} lost",
            f"CPU {last.cpu_here:.0%} here",
        ]
        if last.cpu_there is not None:
            figures[-1] += f", {last.cpu_there:.0%} there"
        if last.datagram_size and last.direction is Direction.TO:
            figures.append(f"datagrams of {last.datagram_size} bytes")
        text = explained(last, limit_of(last, self.idle), self.idle, self.node)
        return [
            f"{last.direction.value:{_WIDTH}}{'; '.join(figures)}",
            sanitized(f"{'':{_WIDTH}}limited by {text}"),
        ]

    def fields(self) -> dict[str, Value]:
        """Returns the report as JSON fields."""
        shown: dict[str, Value] = {
            "node": self.node,
            "carrier": self.carrier,
            "datagram_size": self.transfers[-1].datagram_size if self.transfers else 0,
            "idle": _trip_fields(self.idle),
        }
        by_direction = {one.direction: one for one in self.transfers}
        for direction in Direction:
            transfer = by_direction.get(direction)
            shown[direction.value] = None if transfer is None else self._fields(transfer)
        return shown

    def _fields(self, transfer: Transfer) -> dict[str, Value]:
        limit: Limit = limit_of(transfer, self.idle)
        return {
            "bytes": transfer.bytes,
            "seconds": round(transfer.seconds, 3),
            "bytes_per_s": round(transfer.rate),
            "round_trip": _trip_fields(transfer.trips),
            "loss": _rounded(transfer.loss),
            "blocked": _rounded(transfer.blocked),
            "cpu_here": _rounded(transfer.cpu_here),
            "machine_here": _rounded(transfer.machine_here),
            "cpu_there": _rounded(transfer.cpu_there),
            "limit": limit.value,
            "verdict": explained(transfer, limit, self.idle, self.node),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _trips(trips: RoundTrips) -> str:
    if trips.p50 is None or trips.p99 is None:
        return "unknown"
    return f"{trips.p50 * 1000:.1f} ms, {trips.p99 * 1000:.1f} ms at p99"


def _trip_fields(trips: RoundTrips) -> dict[str, Value]:
    return {
        "count": trips.count,
        "p50_ms": None if trips.p50 is None else round(trips.p50 * 1000, 3),
        "p99_ms": None if trips.p99 is None else round(trips.p99 * 1000, 3),
    }
