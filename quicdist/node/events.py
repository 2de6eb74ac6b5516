"""Events about connected nodes: `NodeUp`, `NodeDown` and subscriptions to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from quicdist.runtime.affinity import LoopAffinity


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A connection to `node` has been established."""

    node: str
    hidden: bool
    carrier: str


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The connection to `node` was lost. `reason` is one line of text."""

    node: str
    reason: str


NodeEvent: TypeAlias = NodeUp | NodeDown


class Subscription:
    """An asynchronous iterator over node events. Use it inside `with`; see `Node.events`."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: deque[NodeEvent] = deque(maxlen=10_000)
        self._arrived = asyncio.Event()
        self._affinity = LoopAffinity("a subscription to a node's events")

    def __enter__(self) -> Subscription:
        self._events.subscriptions.append(self)
        self._affinity.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._events.subscriptions.remove(self)

    def __aiter__(self) -> AsyncIterator[NodeEvent]:
        return self

    async def __anext__(self) -> NodeEvent:
        self._affinity.check()
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    def add(self, event: NodeEvent) -> None:
        """Queues an event for the iterator. The queue has no limit."""
        self._queue.append(event)
        self._arrived.set()


class Events:
    """The subscriptions of one node."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []

    def publish(self, event: NodeEvent) -> None:
        """Queues an event for every subscription."""
        for subscription in self.subscriptions:
            subscription.add(event)
