"""Samples a node repeatedly, and keeps the last sample, the last error and the connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quicdist.cli.top.python_node import PythonSample
from quicdist.cli.top.sampling import Sample, Sampler, Sort
from quicdist.errors import CallTimeout, NoConnection, NodeError

if TYPE_CHECKING:
    from quicdist.node.info import PeerInfo
    from quicdist.node.node import Node

_FIRST_WINDOW = 0.5
"""Seconds of the first sample, short so that it is shown soon."""

_LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach a node that is gone."""


@dataclass(frozen=True, slots=True)
class ConnectionTraffic:
    """The connection to the node, and its traffic since the last sample."""

    info: PeerInfo
    received: float
    """Bytes per second."""

    sent: float


@dataclass(frozen=True, slots=True)
class View:
    """The data to show."""

    peer: str
    sort: Sort
    interval: float
    sample: Sample | PythonSample | None = None
    connection: ConnectionTraffic | None = None
    problem: str | None = None
    """The reason why the sample is outdated."""

    is_paused: bool = False


class Watch:
    """Samples a node repeatedly. `view` holds the last result."""

    def __init__(self, node: Node, view: View, timeout: float) -> None:
        self.view = view
        self.rows = 20
        """The number of processes that fit on the screen."""

        self._node = node
        self._sampler = Sampler(node, view.peer, timeout)
        self._before: tuple[float, PeerInfo] | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()

    def sort_by(self, sort: Sort) -> None:
        """Sorts the current sample, and the next ones."""
        self.view = replace(self.view, sort=sort)

    def pause_or_go_on(self) -> None:
        """Pauses or resumes sampling."""
        paused = not self.view.is_paused
        self.view = replace(self.view, is_paused=paused)
        if paused:
            self._resumed.clear()
        else:
            self._resumed.set()

    async def look(self, window: float | None = None) -> View:
        """Takes a sample. Raises NoConnection, NoBeam and what else Node.call raises."""
        view = self.view
        wait = view.interval if window is None else window
        if self._before is None:
            self._connection()
        sample = await self._sampler.look(wait, view.sort, self.rows)
        self.view = replace(self.view, sample=sample, connection=self._connection(), problem=None)
        return self.view

    async def look_on(self, changed: Callable[[], None]) -> None:
        """Samples until cancelled, also while the node is down. `changed` is called after each."""
        window: float | None = _FIRST_WINDOW
        pause = 1.0
        while True:
            await self._resumed.wait()
            try:
                await self.look(window)
            except (NoConnection, CallTimeout) as error:
                self._fail(error)
                changed()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                window = _FIRST_WINDOW
            else:
                changed()
                pause, window = 1.0, None

    def _fail(self, error: NodeError) -> None:
        text = str(error).split("\n")[0]
        self.view = replace(self.view, problem=text, connection=None)
        self._before = None

    def _connection(self) -> ConnectionTraffic | None:
        try:
            info = self._node.peer(self.view.peer)
        except NoConnection:
            return None
        now = time.monotonic()
        before, self._before = self._before, (now, info)
        if before is None or before[1].since != info.since or now <= before[0]:
            return ConnectionTraffic(info, 0.0, 0.0)
        old, seconds = before[1].traffic, now - before[0]
        return ConnectionTraffic(
            info,
            (info.traffic.bytes_received - old.bytes_received) / seconds,
            (info.traffic.bytes_sent - old.bytes_sent) / seconds,
        )
