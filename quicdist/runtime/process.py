"""`Process`: the pid, links, monitors and aliases that every process of this node has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from quicdist.errors import ProcessExited
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.protocol.signals import GroupLeader
from quicdist.runtime.aliases import AliasMode
from quicdist.runtime.backpressure import HERE, Backpressure, Source
from quicdist.runtime.links import Links

if TYPE_CHECKING:
    from quicdist.runtime.calls import PendingCall
    from quicdist.runtime.process_table import ProcessTable

NORMAL = Atom("normal")
KILL = Atom("kill")
KILLED = Atom("killed")
NOPROC = Atom("noproc")
NOCONNECTION = Atom("noconnection")
SHUTDOWN = Atom("shutdown")

_EXIT = Atom("EXIT")
_DOWN = Atom("DOWN")
_NODEDOWN = Atom("nodedown")
_PROCESS = Atom("process")

Watched: TypeAlias = "Pid | tuple[Atom, Atom]"
"""The target of a monitor: a pid, or a registered name and a node."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """A process that monitors a process of this node.

    `known_as` is the pid or name that it monitors.
    """

    pid: Pid
    known_as: Pid | Atom


class Process:
    """The base class of everything that has a pid on this node."""

    def __init__(self, system: ProcessTable, level: Backpressure | None = None) -> None:
        """`level` measures the queue. A process without one handles each message at once."""
        self.system = system
        self.level = level if level is not None else Backpressure(self, 0, 0, 0)
        self.pid: Pid = system.add_process(self)
        self.name: Atom | None = None
        self.links = Links()
        self.monitoring: dict[Reference, Watched] = {}
        self.watchers: dict[Reference, Watcher] = {}
        self.aliases: dict[Reference, AliasMode] = {}
        self.calls: dict[Reference, PendingCall] = {}
        """Pending calls and spawn requests of this process."""
        self.monitored_nodes: dict[Atom, int] = {}
        self.tied_to: list[Atom] = []
        """Nodes with links, monitors or calls of this process; see `ProcessTable.tie`."""
        self.is_alive = True
        self.exit_reason: Term = None
        self.group_leader: Pid | None = system.group_leader
        """Receives the output of this process and of those that it spawns. None discards it."""
        self.is_refusing_calls_in_drain = False
        """Whether gen calls from other nodes fail while the node drains."""
        self.run_overhead = 0
        """Bytes that a message of a run counts in addition to its own size."""
        self.trap_exit = False
        """True: exit signals arrive as ('EXIT', pid, reason) messages and do not end the process.
        """

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})" if self.name else str(self.pid)

    def fields(self, event: str) -> dict[str, object]:
        """Returns the fields of a log record about this process."""
        return {
            "event": event,
            "node": str(self.system.name),
            "pid": str(self.pid),
            "registered": str(self.name or ""),
        }

    # -- overridden by subclasses --

    def deliver(self, message: Term, source: Source) -> None:
        """Handles a message. `source` is paused if this receiver is full."""
        raise NotImplementedError

    @property
    def run_room(self) -> int:
        """Bytes of messages that `deliver_run` accepts.

        Negative if messages must be delivered one by one.
        """
        return -1

    def deliver_run(self, messages: Sequence[tuple[Term, int]], size: int, source: Source) -> None:
        """Handles messages in order, each given with its size. `size` is their sum.

        Has the effect of `deliver` for each, if only the last one exceeds `run_room`.
        """
        raise NotImplementedError

    def signalled(self, message: Term, source: Source) -> None:
        """Handles a message that a link, monitor or call makes. It is never dropped."""
        self.deliver(message, source)

    def stopped(self) -> None:
        """Called once, when the process has ended."""

    # -- links and exits --

    def link(self, other: Pid) -> None:
        """Links this process to another one, as `erlang:link/1`.

        When one of them exits with another reason than `normal`, the other gets an exit signal. It
        ends as well, unless its `trap_exit` is True.
        """
        self._check_alive()
        if other != self.pid and self.links.link(other):
            self.system.tie(self, other.node)
            self.system.send_link(self.pid, other)

    def unlink(self, other: Pid) -> None:
        """Removes a link, as `erlang:unlink/1`.

        Exit signals of the link that arrive later are ignored.
        """
        self._check_alive()
        identifier = self.links.unlink(other)
        if identifier is not None:
            self.system.send_unlink(self.pid, other, identifier)

    def exit(self, other: Pid, reason: Term) -> None:
        """Sends an exit signal, as `erlang:exit/2`."""
        self._check_alive()
        self.system.send_exit2(self.pid, other, reason)

    def link_broken(self, other: Pid, reason: Term, source: Source = HERE) -> None:
        """Called when the process at the other end of a link has ended."""
        if not self.links.exit_received(other):
            return
        if self.trap_exit:
            self.signalled((_EXIT, other, reason), source)
        elif reason is not NORMAL:
            self.die(reason)

    def exit_signalled(self, sender: Pid, reason: Term, source: Source = HERE) -> None:
        """Called for an exit signal of another process."""
        if reason is KILL:
            self.die(KILLED)
        elif self.trap_exit:
            self.deliver((_EXIT, sender, reason), source)
        elif reason is not NORMAL or sender == self.pid:
            self.die(reason)

    def die(self, reason: Term) -> None:
        """Ends the process and informs all linked and monitoring processes."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.exit_reason = reason
        self.system.remove_process(self)
        for other in self.links:
            self.system.send_exit(self.pid, other, reason)
        for reference, watcher in self.watchers.items():
            self.system.watched_names.pop(reference, None)
            self.system.send_down(watcher, self.pid, reference, reason)
        for reference, watched in self.monitoring.items():
            self.system.send_demonitor(self.pid, watched, reference)
        self.links = Links()
        self.watchers.clear()
        self.monitoring.clear()
        for call in list(self.calls.values()):
            call.caller_ended()
        self.stopped()

    # -- monitors --

    def monitor(
        self, what: Pid | str | tuple[str, str], *, alias: AliasMode | None = None
    ) -> Reference:
        """Monitors a pid, a registered name of this node, or a (name, node) tuple.

        When the process ends, or if it does not exist, one message ('DOWN', reference, 'process',
        what, reason) arrives. `alias` makes the reference an alias as well, for as long as the mode
        says.
        """
        self._check_alive()
        watched = self._watched(what)
        reference = self.system.identifiers.reference()
        if alias is not None:
            self.alias(reference, mode=alias)
        self.monitoring[reference] = watched
        self.system.tie(self, watched.node if isinstance(watched, Pid) else watched[1])
        self.system.send_monitor(self.pid, watched, reference)
        return reference

    def demonitor(self, reference: Reference) -> bool:
        """Removes a monitor. Returns True if it was active, so no 'DOWN' message has been sent."""
        self.system.affinity.check()
        watched = self.monitoring.pop(reference, None)
        if watched is None:
            return False
        self._monitor_over(reference)
        self.system.send_demonitor(self.pid, watched, reference)
        return True

    def monitor_fired(self, reference: Reference, reason: Term, source: Source = HERE) -> None:
        """Called when the target of a monitor of this process has ended."""
        watched = self.monitoring.pop(reference, None)
        if watched is not None:
            self._monitor_over(reference)
            self.signalled((_DOWN, reference, _PROCESS, watched, reason), source)

    def _watched(self, what: Pid | str | tuple[str, str]) -> Watched:
        if isinstance(what, Pid):
            return what
        if isinstance(what, str):
            return Atom(what), self.system.name
        name, node = what
        return Atom(name), Atom(node)

    # -- aliases --

    def alias(
        self,
        reference: Reference | None = None,
        *,
        mode: AliasMode = AliasMode.EXPLICIT_UNALIAS,
    ) -> Reference:
        """Creates a reference that other processes can send messages to, until `unalias`.

        `reference` reuses an existing reference, such as that of a monitor. With the mode
        REPLY_DEMONITOR the alias ends with its first message, as `erlang:alias([reply])`.
        """
        self._check_alive()
        chosen = reference or self.system.identifiers.reference()
        self.aliases[chosen] = mode
        self.system.aliases[chosen] = self
        return chosen

    def unalias(self, alias: Reference) -> bool:
        """Deactivates an alias: later messages to it are dropped. Returns True if it was active."""
        self.system.affinity.check()
        if self.aliases.pop(alias, None) is None:
            return False
        self.system.aliases.pop(alias, None)
        return True

    def alias_used(self, alias: Reference) -> None:
        """Called when a message has arrived through an alias."""
        if self.aliases.get(alias) is AliasMode.REPLY_DEMONITOR:
            self.unalias(alias)
            self.demonitor(alias)

    def _monitor_over(self, reference: Reference) -> None:
        if self.aliases.get(reference, AliasMode.EXPLICIT_UNALIAS) is not (
            AliasMode.EXPLICIT_UNALIAS
        ):
            self.unalias(reference)

    # -- group leaders --

    def set_group_leader(self, leader: Pid, of: Pid) -> None:
        """Sets the group leader of the process `of`, as `erlang:group_leader/2`.

        Output of that process, and of processes that it spawns later, goes to `leader`.
        """
        self._check_alive()
        self.system.emit(of.node, self.pid, GroupLeader(leader, of))

    # -- nodes --

    def monitor_node(self, node: str) -> None:
        """Monitors the connection to a node, as `erlang:monitor_node/2`. Connects if necessary.

        When the connection is lost or cannot be made, a message ('nodedown', node) arrives, one for
        each call of this method.
        """
        self._check_alive()
        atom = Atom(node)
        self.monitored_nodes[atom] = self.monitored_nodes.get(atom, 0) + 1
        self.system.tie(self, atom)
        if atom is not self.system.name:
            self.system.network.watch(atom)

    def demonitor_node(self, node: str) -> bool:
        """Cancels one `monitor_node`. Returns True if there was one."""
        self.system.affinity.check()
        atom = Atom(node)
        count = self.monitored_nodes.pop(atom, 0)
        if count > 1:
            self.monitored_nodes[atom] = count - 1
        return count > 0

    def monitor_nodes(self, *, hidden: bool = False, info: bool = False) -> None:
        """Requests messages about nodes, as `net_kernel:monitor_nodes/2`.

        The messages are ('nodeup', node) and ('nodedown', node). A nodeup message arrives before
        any other message from that node, a nodedown message after all of them. Hidden nodes are
        included if `hidden` is True. With `info` the messages have a map as third element, with
        `node_type` and, for nodedown, `nodedown_reason`.
        """
        self._check_alive()
        self.system.monitor_nodes(self, hidden=hidden, info=info)

    def demonitor_nodes(self) -> None:
        """Cancels `monitor_nodes`."""
        self.system.affinity.check()
        self.system.node_monitors.pop(self.pid, None)

    def ended_error(self) -> Exception:
        """Returns the exception for calls of a process that has ended."""
        return ProcessExited(self.pid, self.exit_reason)

    def node_lost(self, node: Atom) -> None:
        """Called when the connection to `node` is lost: all processes there count as ended."""
        for _ in range(self.monitored_nodes.pop(node, 0)):
            self.signalled((_NODEDOWN, node), HERE)
        if self.watchers:
            for reference in [r for r, w in self.watchers.items() if w.pid.node is node]:
                del self.watchers[reference]
                self.system.unwatched(reference)
        if self.monitoring:
            for reference, watched in list(self.monitoring.items()):
                if (watched.node if isinstance(watched, Pid) else watched[1]) is node:
                    self.monitor_fired(reference, NOCONNECTION)
        if self.links:
            for other in self.links.forget_node(node):
                self._link_lost(other)

    def _link_lost(self, other: Pid) -> None:
        if self.trap_exit:
            self.signalled((_EXIT, other, NOCONNECTION), HERE)
        else:
            self.die(NOCONNECTION)

    def _check_alive(self) -> None:
        self.system.affinity.check()
        if not self.is_alive:
            raise ProcessExited(self.pid, self.exit_reason)
