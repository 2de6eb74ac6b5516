"""The measurements of `quicdist bench`, by calls that the node answers.

A Python node answers `quicdist:bench/2`, a BEAM node `erlang:byte_size/1` and `binary:copy/2`.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quicdist.cli.bench.load import Load, shortest_steady
from quicdist.cli.bench.verdict import Direction, RoundTrips, Transfer
from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.top.python_node import NodeConnection, Status, TermError, read_status
from quicdist.errors import CallError, CallNotPossible, CallTimeout, NoProcess
from quicdist.etf import Atom, Term

if TYPE_CHECKING:
    from quicdist.node.info import PeerInfo
    from quicdist.node.node import Node
    from quicdist.runtime.mailbox import Mailbox

_SAMPLES = 0.05
"""Seconds between two samples of a transfer."""
_MOST_PINGS = 200
_LEAST_PINGS = 3
_PAUSE = 0.02
"""Seconds between two round trips during a transfer."""

Progress = Callable[[str], None]
"""Shows the state of a measurement in one line."""


class NotAllowed(Problem):
    """The node does not permit the calls of a measurement."""

    def __init__(self, text: str) -> None:
        super().__init__(ExitCode.NO, text)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.text,), dict(self.__dict__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The duration in seconds and the size in bytes of one transfer."""

    seconds: float
    bytes: int


@dataclass
class _Course:
    """What is seen during a transfer."""

    round_trips: list[float] = field(default_factory=list)
    infos: list[tuple[float, PeerInfo]] = field(default_factory=list)
    """The connection at the times of the samples."""
    status: Status | None = None
    """The state of the node after start-up, if it sends."""

    def path_trip(self) -> float | None:
        """Returns the median round trip of the connection; None if it is unknown."""
        trips = [info.round_trip for _, info in self.infos if info.round_trip]
        return statistics.median(trips) if trips else None

    def info_at(self, time: float, before: PeerInfo) -> PeerInfo:
        """Returns the connection at that time, but before the last sample, or `before`."""
        return next((info for at, info in self.infos[:-1] if at >= time), before)


class Bench:
    """Measures the path to one connected node."""

    def __init__(self, node: Node, peer: str, timeout: float, progress: Progress) -> None:
        """`timeout` is the limit in seconds for the answer to a small request."""
        self._node = node
        self._peer = peer
        self._timeout = timeout
        self._progress = progress
        self._is_python = False
        self._idle = RoundTrips.of([])

    @property
    def connection(self) -> PeerInfo:
        """The connection to the node. Raises NoConnection if it was lost."""
        return self._node.peer(self._peer)

    async def round_trips(self, seconds: float) -> RoundTrips:
        """Measures round trips on the idle connection. Raises Problem if the node is silent."""
        times: list[float] = []
        ends = time.monotonic() + seconds
        async with self._node.mailbox() as me:
            while len(times) < _LEAST_PINGS or (
                len(times) < _MOST_PINGS and time.monotonic() < ends
            ):
                times.append(await self._round_trip(me))
                self._progress(f"round trip {times[-1] * 1000:.1f} ms")
        self._idle = RoundTrips.of(times)
        return self._idle

    async def find_kind(self) -> None:
        """Finds out which calls the node answers. Raises NotAllowed."""
        if await self._answers("quicdist", "bench", b"", 0):
            self._is_python = True
        elif not await self._answers("erlang", "byte_size", b""):
            raise NotAllowed(
                f"{self._peer} permits neither quicdist:bench nor erlang:byte_size to this node, "
                "so only round trips were measured"
            )

    async def transfer(self, direction: Direction, bounds: Bounds) -> Transfer:
        """Measures one direction. Raises NotAllowed, Problem, and what Node.call raises."""
        needs_copy = direction is Direction.FROM and not self._is_python
        if needs_copy and not await self._answers("binary", "copy", b"\0", 0):
            raise NotAllowed(f"{self._peer} does not permit binary:copy to this node")
        there, before = await self._status(), self.connection
        machine, used, began = cpu_times(), time.process_time(), time.monotonic()
        course = _Course()
        load = await self._carry(direction, bounds, course)
        used = time.process_time() - used
        elapsed = max(time.monotonic() - began, 1e-6)
        after, there_after = self.connection, await self._status()
        is_to = direction is Direction.TO
        if is_to:
            loss = _lost_to(course.info_at(load.steady_since(), before), after)
        else:
            loss = self._lost_from(course.status or there, there_after)
        return Transfer(
            direction,
            load.moved,
            load.elapsed,
            load.steady_rate(),
            RoundTrips.of(course.round_trips),
            loss,
            used / elapsed,
            busy_share(machine, cpu_times()),
            _cpu_share(there, there_after),
            after.pacing_rate if is_to else 0.0,
            _blocked_to(before, after, elapsed) if is_to else None,
            course.path_trip() if is_to else None,
            after.datagram_size,
            shortest_steady(self._idle.p50 or 0.0),
        )

    # -- the load --

    async def _carry(self, direction: Direction, bounds: Bounds, course: _Course) -> Load:
        """Runs calls until the transfer is over, and adds to its course meanwhile."""
        times = course.round_trips
        trip = self._idle.p50 or 0.0
        load = Load(bounds.seconds, bounds.bytes, self._moved(direction), time.monotonic(), trip)
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(self._ping_on(times))]
                if direction is Direction.FROM:
                    others.append(group.create_task(self._look_after(load.start_up, course)))
                calls = _Calls(group, load, lambda size: self._call_for(direction, size))
                while not load.is_over(time.monotonic()):
                    calls.begin(self.connection.round_trip or (times[-1] if times else 0.0))
                    await asyncio.sleep(_SAMPLES)
                    # The last acknowledgement is counted a little after the last answer.
                    at = calls.last_ended if load.is_done else time.monotonic()
                    load.sample(self._moved(direction), at)
                    course.infos.append((at, self.connection))
                    self._check_progress(load, at)
                    self._progress(f"{direction.value} {self._peer}: {load.rate / 2**20:.1f} MiB/s")
                for other in others:
                    other.cancel()
                await calls.finish(self._timeout)
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return load

    async def _look_after(self, start_up: float, course: _Course) -> None:
        """Reads the counters of the node, which sends, when its start-up has ended."""
        await asyncio.sleep(start_up)
        course.status = await self._status()

    def _check_progress(self, load: Load, now: float) -> None:
        """Raises Problem if nothing has moved for the time of a small request."""
        if load.stalled_for(now) > self._timeout:
            why = (
                f"{self._peer}: no data has moved for {self._timeout:g} s; --timeout sets the limit"
            )
            raise Problem(ExitCode.TIMEOUT, why)

    def _moved(self, direction: Direction) -> int:
        """Returns the bytes that the peer acknowledged, or that arrived from it."""
        connection = self.connection
        if direction is Direction.FROM:
            return connection.traffic.bytes_received
        return connection.traffic.bytes_sent - connection.bytes_unacknowledged

    async def _call_for(self, direction: Direction, size: int) -> None:
        payload, answer = (bytes(size), 0) if direction is Direction.TO else (b"", size)
        if self._is_python:
            await self._call("quicdist", "bench", payload, answer, timeout=None)
        elif direction is Direction.TO:
            await self._call("erlang", "byte_size", payload, timeout=None)
        else:
            await self._call("binary", "copy", b"\0", answer, timeout=None)

    # -- small requests --

    async def _ping_on(self, times: list[float]) -> None:
        async with self._node.mailbox() as me:  # a sender of its own does not wait for the load
            while True:
                with contextlib.suppress(CallTimeout):
                    times.append(await self._ping(me))
                await asyncio.sleep(_PAUSE)

    async def _round_trip(self, me: Mailbox) -> float:
        """Returns the seconds that `net_kernel` takes to answer. Raises Problem."""
        try:
            return await self._ping(me)
        except (CallTimeout, CallError, NoProcess):
            why = f"{self._peer}: it is connected, but its net_kernel does not answer"
            raise Problem(ExitCode.NO, why) from None

    async def _ping(self, me: Mailbox) -> float:
        began = time.monotonic()
        request = (Atom("is_auth"), Atom(self._node.name))
        await me.gen_call(("net_kernel", self._peer), request, timeout=self._timeout)
        return time.monotonic() - began

    async def _call(self, module: str, function: str, *args: Term, timeout: float | None) -> Term:
        can_spawn = self.connection.can_spawn
        call = self._node.call if can_spawn else self._node.rpc
        return await call(self._peer, module, function, args, timeout=timeout)

    async def _answers(self, module: str, function: str, *args: Term) -> bool:
        """Returns whether the node has the function and permits it."""
        try:
            await self._call(module, function, *args, timeout=self._timeout)
        except CallNotPossible:
            return False
        except CallError as error:
            match error.reason:
                case "undef" | ("exception", "undef", *_):
                    return False
            raise
        return True

    # -- what a Python node knows --

    async def _status(self) -> Status | None:
        """Returns the state of a Python node; None of others, or if it is not permitted."""
        if not self._is_python:
            return None
        try:
            return read_status(await self._call("quicdist", "status", timeout=self._timeout))
        except (CallError, CallNotPossible, TermError):
            return None

    def _lost_from(self, before: Status | None, after: Status | None) -> float | None:
        """Returns the loss of what the node sent; the number of datagrams is estimated."""
        here, there = self._seen_in(before), self._seen_in(after)
        datagram = self.connection.datagram_size
        if here is None or there is None or not datagram:
            return None
        lost = there.datagrams_lost - here.datagrams_lost
        size = there.bytes_sent - here.bytes_sent
        return lost / max(lost + size // datagram, 1)

    def _seen_in(self, status: Status | None) -> NodeConnection | None:
        """Returns the connection to this node as the other node sees it."""
        found = () if status is None else status.connections
        return next((one for one in found if one.node == self._node.name), None)


class _Calls:
    """The open calls of a transfer. An ended one is followed by the next."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        load: Load,
        call: Callable[[int], Coroutine[object, object, None]],
    ) -> None:
        self._group = group
        self._load = load
        self._call = call
        self._open: dict[asyncio.Task[None], int] = {}
        self._round_trip = 0.0
        self.last_ended = 0.0
        """When the last call ended, by the monotonic clock."""

    def begin(self, round_trip: float) -> None:
        """Begins the calls that the load permits."""
        self._round_trip = round_trip
        while size := self._load.next_chunk(round_trip, time.monotonic()):
            task = self._group.create_task(self._call(size))
            self._open[task] = size
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._load.ended(self._open.pop(task))
        self.last_ended = time.monotonic()
        if not task.cancelled() and task.exception() is None:
            self.begin(self._round_trip)

    async def finish(self, timeout: float) -> None:
        """Waits for the open calls, and cancels them after `timeout` seconds."""
        if self._open:
            _, pending = await asyncio.wait(self._open, timeout=timeout)
            for task in pending:
                task.cancel()


def cpu_times() -> tuple[int, int] | None:
    """Returns the busy and the idle time of all CPUs (proc(5), /proc/stat); None elsewhere."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            numbers = file.readline().split()[1:]
        user, nice, system, idle, waiting, *others = map(int, numbers[:8])
    except (OSError, ValueError):
        return None
    return user + nice + system + sum(others), idle + waiting


def busy_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Returns the busy fraction of all CPUs between two times; None if it is unknown."""
    if before is None or after is None:
        return None
    busy, idle = after[0] - before[0], after[1] - before[1]
    return busy / (busy + idle) if busy + idle > 0 else None


def _lost_to(before: PeerInfo, after: PeerInfo) -> float | None:
    sent = after.datagrams_sent - before.datagrams_sent
    if not after.datagram_size or not sent:
        return None
    return (after.traffic.datagrams_lost - before.traffic.datagrams_lost) / sent


def _blocked_to(before: PeerInfo, after: PeerInfo, elapsed: float) -> float | None:
    """Returns the fraction of the time in which data waited for credit; None without QUIC."""
    if not after.datagram_size:
        return None
    return (after.flow_blocked - before.flow_blocked) / elapsed


def _cpu_share(before: Status | None, after: Status | None) -> float | None:
    if before is None or after is None:
        return None
    return max(after.cpu_time - before.cpu_time, 0) / max(after.uptime - before.uptime, 1)
