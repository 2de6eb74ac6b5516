"""Process groups, topics and global names for code without asyncio. See `quicdist.blocking`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import ParamSpec, Protocol, TypeVar

from quicdist.etf import Pid, Reference, Term
from quicdist.kernel.global_.conflicts import OnConflict
from quicdist.kernel.global_.names import GlobalNames
from quicdist.otp.pg import Groups
from quicdist.otp.pubsub import Topics
from quicdist.runtime.process import Process

P = ParamSpec("P")
T = TypeVar("T")


class LoopThread(Protocol):
    """Runs functions in the event loop of a node, called from other threads."""

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """Awaits `function(...)` in the event loop. Returns its result, or raises its error."""

    def do(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Calls `function(...)` in the event loop. Returns its result, or raises its error."""


class HasProcess(Protocol):
    """An object that has a process, such as a `BlockingMailbox`."""

    @property
    def process(self) -> Process:
        """The process in the event loop of the node. Use it only there."""


class BlockingGroups:
    """A scope of process groups. See `pg.Groups`."""

    def __init__(self, groups: Groups, thread: LoopThread) -> None:
        self._groups = groups
        self._thread = thread

    @property
    def pid(self) -> Pid:
        """The pid of the scope process."""
        return self._groups.pid

    def join(self, group: Term, *pids: Pid) -> None:
        """Adds processes of this node to a group. See `pg.Groups.join`."""
        self._thread.do(self._groups.join, group, *pids)

    def leave(self, group: Term, *pids: Pid) -> bool:
        """Removes processes of this node from a group. See `pg.Groups.leave`."""
        return self._thread.do(self._groups.leave, group, *pids)

    def members(self, group: Term) -> list[Pid]:
        """The members on all nodes."""
        return self._thread.do(self._groups.members, group)

    def local_members(self, group: Term) -> list[Pid]:
        """The members on this node."""
        return self._thread.do(self._groups.local_members, group)

    def groups(self) -> list[Term]:
        """The groups that have members."""
        return self._thread.do(self._groups.groups)

    def local_groups(self) -> list[Term]:
        """The groups that have members on this node."""
        return self._thread.do(self._groups.local_groups)

    def monitor_group(self, watcher: HasProcess, group: Term) -> tuple[Reference, list[Pid]]:
        """Returns a reference and the current members. See `pg.Groups.monitor_group`."""
        return self._thread.do(self._groups.monitor_group, watcher.process, group)

    def monitor_scope(self, watcher: HasProcess) -> tuple[Reference, list[tuple[Term, list[Pid]]]]:
        """Monitors all groups of the scope. See `pg.Groups.monitor_scope`."""
        return self._thread.do(self._groups.monitor_scope, watcher.process)

    def demonitor_groups(self, reference: Reference) -> bool:
        """Removes a monitor. Returns True if it existed."""
        return self._thread.do(self._groups.demonitor_groups, reference)

    def discover_all(self, nodes: Iterable[str]) -> None:
        """Asks nodes whether they run this scope. See `pg.Groups.discover_all`."""
        self._thread.do(self._groups.discover_all, nodes)


class BlockingTopics:
    """The topics of an Elixir application. See `pubsub.Topics`."""

    def __init__(self, topics: Topics, thread: LoopThread) -> None:
        self._topics = topics
        self._thread = thread

    def subscribe(self, topic: str, process: HasProcess) -> None:
        """Subscribes a process to a topic. See `pubsub.Topics.subscribe`."""
        self._thread.do(self._topics.subscribe, topic, process.process)

    def unsubscribe(self, topic: str, process: HasProcess) -> bool:
        """Removes all subscriptions of a process to a topic. Returns True if there were any."""
        return self._thread.do(self._topics.unsubscribe, topic, process.process)

    def broadcast(self, topic: str, message: Term, *, sender: HasProcess | None = None) -> None:
        """Sends a message to the subscribers on all nodes. See `pubsub.Topics.broadcast`."""
        process = None if sender is None else sender.process
        self._thread.do(self._topics.broadcast, topic, message, sender=process)

    def local_broadcast(
        self, topic: str, message: Term, *, sender: HasProcess | None = None
    ) -> None:
        """Sends a message to the subscribers on this node only."""
        process = None if sender is None else sender.process
        self._thread.do(self._topics.local_broadcast, topic, message, sender=process)


class BlockingGlobalNames:
    """The global names of the cluster. See `Node.global_names`."""

    def __init__(self, names: GlobalNames, thread: LoopThread) -> None:
        self._names = names
        self._thread = thread

    def whereis(self, name: Term) -> Pid | None:
        """Returns the process registered under a name, or None."""
        return self._thread.do(self._names.whereis, name)

    def names(self) -> list[Term]:
        """Returns all names."""
        return self._thread.do(self._names.names)

    def register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Registers a process under a global name. Raises NameTaken."""
        self._thread.run(self._names.register, name, pid, on_conflict=on_conflict)

    def re_register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Registers a process under a name and replaces an existing registration."""
        self._thread.run(self._names.re_register, name, pid, on_conflict=on_conflict)

    def unregister(self, name: Term) -> None:
        """Removes a name, regardless of which process has it."""
        self._thread.run(self._names.unregister, name)

    def sync(self, nodes: Iterable[str] | None = None) -> None:
        """Waits until the names of `nodes`, by default all visible ones, are known here."""
        self._thread.run(self._names.sync, nodes)
