"""Process groups, topics and global names for code without asyncio; see `quicdist.blocking`."""

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
    """The way to a node's event loop from other threads."""

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T: ...

    def do(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T: ...


class HasProcess(Protocol):
    """A process as a thread has it."""

    @property
    def process(self) -> Process: ...


class BlockingGroups:
    """A scope of process groups; see `pg.Groups`."""

    def __init__(self, groups: Groups, thread: LoopThread) -> None:
        self._groups = groups
        self._thread = thread

    @property
    def pid(self) -> Pid:
        """The process of the scope."""
        return self._groups.pid

    def join(self, group: Term, *pids: Pid) -> None:
        """Makes processes of this node members. See `pg.Groups.join`."""
        self._thread.do(self._groups.join, group, *pids)

    def leave(self, group: Term, *pids: Pid) -> bool:
        """Takes processes of this node out. See `pg.Groups.leave`."""
        return self._thread.do(self._groups.leave, group, *pids)

    def members(self, group: Term) -> list[Pid]:
        """All members, on all nodes."""
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
        """The members now, and messages to `watcher`. See `pg.Groups.monitor_group`."""
        return self._thread.do(self._groups.monitor_group, watcher.process, group)

    def monitor_scope(self, watcher: HasProcess) -> tuple[Reference, list[tuple[Term, list[Pid]]]]:
        """The same for all groups."""
        return self._thread.do(self._groups.monitor_scope, watcher.process)

    def demonitor_groups(self, reference: Reference) -> bool:
        """Ends either. True when there was one."""
        return self._thread.do(self._groups.demonitor_groups, reference)

    def discover_all(self, nodes: Iterable[str]) -> None:
        """Asks nodes whether they have this scope."""
        self._thread.do(self._groups.discover_all, nodes)


class BlockingTopics:
    """The topics of an Elixir application; see `pubsub.Topics`."""

    def __init__(self, topics: Topics, thread: LoopThread) -> None:
        self._topics = topics
        self._thread = thread

    def subscribe(self, topic: str, process: HasProcess) -> None:
        """From now on the process is sent what is broadcast. See `pubsub.Topics.subscribe`."""
        self._thread.do(self._topics.subscribe, topic, process.process)

    def unsubscribe(self, topic: str, process: HasProcess) -> bool:
        """Takes all subscriptions of a process to a topic back. True when there was one."""
        return self._thread.do(self._topics.unsubscribe, topic, process.process)

    def broadcast(self, topic: str, message: Term, *, sender: HasProcess | None = None) -> None:
        """Sends a message to all subscribers on all nodes. See `pubsub.Topics.broadcast`."""
        process = None if sender is None else sender.process
        self._thread.do(self._topics.broadcast, topic, message, sender=process)

    def local_broadcast(
        self, topic: str, message: Term, *, sender: HasProcess | None = None
    ) -> None:
        """The same for the subscribers on this node alone."""
        process = None if sender is None else sender.process
        self._thread.do(self._topics.local_broadcast, topic, message, sender=process)


class BlockingGlobalNames:
    """The names of the cluster; see `Node.global_names`."""

    def __init__(self, names: GlobalNames, thread: LoopThread) -> None:
        self._names = names
        self._thread = thread

    def whereis(self, name: Term) -> Pid | None:
        """Who has a name."""
        return self._thread.do(self._names.whereis, name)

    def names(self) -> list[Term]:
        """All names."""
        return self._thread.do(self._names.names)

    def register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Gives a process a name in the cluster, its only one. Raises NameTaken."""
        self._thread.run(self._names.register, name, pid, on_conflict=on_conflict)

    def re_register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Gives a process a name, whoever has it."""
        self._thread.run(self._names.re_register, name, pid, on_conflict=on_conflict)

    def unregister(self, name: Term) -> None:
        """Takes a name away, whoever has it."""
        self._thread.run(self._names.unregister, name)

    def sync(self, nodes: Iterable[str] | None = None) -> None:
        """Waits until the names of these nodes are known here, by default of all visible ones."""
        self._thread.run(self._names.sync, nodes)
