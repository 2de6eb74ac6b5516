"""Process groups, topics and global names for code without asyncio. See `quicdist.blocking`."""

from __future__ import annotations

from typing import Protocol

from quicdist.etf import Pid, Reference, Term
from quicdist.kernel.global_.names import GlobalNames
from quicdist.otp.blocking_methods import Blocking, does, waits
from quicdist.otp.pg import Groups
from quicdist.otp.pubsub import Topics
from quicdist.runtime.process import Process


class HasProcess(Protocol):
    """An object that has a process, such as a `BlockingMailbox`."""

    @property
    def process(self) -> Process:
        """The process in the event loop of the node. Use it only there."""


class BlockingGroups(Blocking):
    """A scope of process groups. See `pg.Groups`."""

    _inner: Groups

    @property
    def pid(self) -> Pid:
        """The pid of the scope process."""
        return self._inner.pid

    join = does(Groups.join)
    leave = does(Groups.leave)
    members = does(Groups.members)
    local_members = does(Groups.local_members)
    groups = does(Groups.groups)
    local_groups = does(Groups.local_groups)

    def monitor_group(self, watcher: HasProcess, group: Term) -> tuple[Reference, list[Pid]]:
        """Returns a reference and the current members. See `pg.Groups.monitor_group`."""
        return self._thread.do(self._inner.monitor_group, watcher.process, group)

    def monitor_scope(self, watcher: HasProcess) -> tuple[Reference, list[tuple[Term, list[Pid]]]]:
        """Monitors all groups of the scope. See `pg.Groups.monitor_scope`."""
        return self._thread.do(self._inner.monitor_scope, watcher.process)

    demonitor_groups = does(Groups.demonitor_groups)
    discover_all = does(Groups.discover_all)


class BlockingTopics(Blocking):
    """The topics of an Elixir application. See `pubsub.Topics`."""

    _inner: Topics

    def subscribe(self, topic: str, process: HasProcess) -> None:
        """Subscribes a process to a topic. See `pubsub.Topics.subscribe`."""
        self._thread.do(self._inner.subscribe, topic, process.process)

    def unsubscribe(self, topic: str, process: HasProcess) -> bool:
        """Removes all subscriptions of a process to a topic. Returns True if there were any."""
        return self._thread.do(self._inner.unsubscribe, topic, process.process)

    def broadcast(self, topic: str, message: Term, *, sender: HasProcess | None = None) -> None:
        """Sends a message to the subscribers on all nodes. See `pubsub.Topics.broadcast`."""
        process = None if sender is None else sender.process
        self._thread.do(self._inner.broadcast, topic, message, sender=process)

    def local_broadcast(
        self, topic: str, message: Term, *, sender: HasProcess | None = None
    ) -> None:
        """Sends a message to the subscribers on this node only."""
        process = None if sender is None else sender.process
        self._thread.do(self._inner.local_broadcast, topic, message, sender=process)


class BlockingGlobalNames(Blocking):
    """The global names of the cluster. See `Node.global_names`."""

    _inner: GlobalNames

    whereis = does(GlobalNames.whereis)
    names = does(GlobalNames.names)
    register = waits(GlobalNames.register)
    re_register = waits(GlobalNames.re_register)
    unregister = waits(GlobalNames.unregister)
    sync = waits(GlobalNames.sync)
