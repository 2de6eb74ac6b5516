"""What every process has, whatever runs it: a pid, links, monitors, and an end.

Signals come in through `ProcessTable`, which knows who is who; a process decides what they mean to
it. The rules are those of the reference manual, chapter Processes.
"""

from __future__ import annotations

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
"""What a monitor looks at: a pid, or a registered name on a node."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Somebody who monitors a process here, and by which name it knows it."""

    pid: Pid
    known_as: Pid | Atom


class Process:
    """The base of everything that has a pid here."""

    def __init__(self, system: ProcessTable, level: Backpressure | None = None) -> None:
        """`level` tells how full it is; without one it takes everything at once."""
        self.system = system
        self.level = level if level is not None else Backpressure(self, 0, 0, 0)
        self.pid: Pid = system.add_process(self)
        self.name: Atom | None = None
        self.links = Links()
        self.monitoring: dict[Reference, Watched] = {}
        self.watchers: dict[Reference, Watcher] = {}
        self.aliases: dict[Reference, AliasMode] = {}
        self.calls: dict[Reference, PendingCall] = {}
        """Its requests that are not answered yet."""
        self.monitored_nodes: dict[Atom, int] = {}
        self.tied_to: list[Atom] = []
        """Nodes where something may matter to it; see `ProcessTable.tie`."""
        self.is_alive = True
        self.exit_reason: Term = None
        self.group_leader: Pid | None = system.group_leader
        """Where what it prints goes, also that of what it spawns; None where it goes nowhere."""
        self.is_refusing_calls_in_drain = False
        """Whether gen calls from other nodes fail while the node drains."""
        self.trap_exit = False
        """True: exit signals arrive as ('EXIT', pid, reason) messages and do not kill."""

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})" if self.name else str(self.pid)

    def fields(self, event: str) -> dict[str, object]:
        """What a line in the log has besides its text, for programs that read it."""
        return {
            "event": event,
            "node": str(self.system.name),
            "pid": str(self.pid),
            "registered": str(self.name or ""),
        }

    # -- what its kind decides --

    def deliver(self, message: Term, source: Source) -> None:
        """A message. The source is told when it has filled this receiver."""
        raise NotImplementedError

    def signalled(self, message: Term, source: Source) -> None:
        """A message that a link, a monitor or a request of ours makes: it is never thrown away."""
        self.deliver(message, source)

    def stopped(self) -> None:
        """It has just died; called once."""

    # -- links and exits --

    def link(self, other: Pid) -> None:
        """Links to another process: when one ends abnormally, the other is told."""
        self._check_alive()
        if other != self.pid and self.links.link(other):
            self.system.tie(self, other.node)
            self.system.send_link(self.pid, other)

    def unlink(self, other: Pid) -> None:
        """Ends a link. No exit signal of it is acted on any more, whatever was on its way."""
        self._check_alive()
        identifier = self.links.unlink(other)
        if identifier is not None:
            self.system.send_unlink(self.pid, other, identifier)

    def exit(self, other: Pid, reason: Term) -> None:
        """Sends an exit signal, as `exit(Pid, Reason)` does."""
        self._check_alive()
        self.system.send_exit2(self.pid, other, reason)

    def link_broken(self, other: Pid, reason: Term, source: Source = HERE) -> None:
        """The process at the other end of a link ended."""
        if not self.links.exit_received(other):
            return
        if self.trap_exit:
            self.signalled((_EXIT, other, reason), source)
        elif reason is not NORMAL:
            self.die(reason)

    def exit_signalled(self, sender: Pid, reason: Term, source: Source = HERE) -> None:
        """Somebody sent an exit signal."""
        if reason is KILL:
            self.die(KILLED)
        elif self.trap_exit:
            self.deliver((_EXIT, sender, reason), source)
        elif reason is not NORMAL or sender == self.pid:
            self.die(reason)

    def die(self, reason: Term) -> None:
        """Ends it: everybody linked and everybody watching is told. At most once."""
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
        """Watches a pid, a name here, or a (name, node): when it ends or was never there, a
        ('DOWN', reference, 'process', what, reason) message comes, once.

        With `alias` the reference is one too, for as long as the mode says.
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
        """Stops watching. True when the monitor was active, thus no message has come of it."""
        self.system.affinity.check()
        watched = self.monitoring.pop(reference, None)
        if watched is None:
            return False
        self._monitor_over(reference)
        self.system.send_demonitor(self.pid, watched, reference)
        return True

    def monitor_fired(self, reference: Reference, reason: Term, source: Source = HERE) -> None:
        """What a monitor of ours looked at is gone."""
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
        """A reference that messages can be sent to, until `unalias`. A new one by default.

        With REPLY_DEMONITOR, until the first message: `alias([reply])`.
        """
        self._check_alive()
        chosen = reference or self.system.identifiers.reference()
        self.aliases[chosen] = mode
        self.system.aliases[chosen] = self
        return chosen

    def unalias(self, alias: Reference) -> bool:
        """What is sent to the alias from now on is dropped. True when it was active."""
        self.system.affinity.check()
        if self.aliases.pop(alias, None) is None:
            return False
        self.system.aliases.pop(alias, None)
        return True

    def alias_used(self, alias: Reference) -> None:
        """A message came by way of an alias."""
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
        """What `of` and whatever it spawns from now on print goes to `leader`, as
        `erlang:group_leader/2`."""
        self._check_alive()
        self.system.emit(of.node, self.pid, GroupLeader(leader, of))

    # -- nodes --

    def monitor_node(self, node: str) -> None:
        """Watches the connection to a node, made if there is none: when it is lost, or cannot be
        made, a ('nodedown', node) message comes, once for each call."""
        self._check_alive()
        atom = Atom(node)
        self.monitored_nodes[atom] = self.monitored_nodes.get(atom, 0) + 1
        self.system.tie(self, atom)
        if atom is not self.system.name:
            self.system.network.watch(atom)

    def demonitor_node(self, node: str) -> bool:
        """Takes one `monitor_node` back. True when there was one."""
        self.system.affinity.check()
        atom = Atom(node)
        count = self.monitored_nodes.pop(atom, 0)
        if count > 1:
            self.monitored_nodes[atom] = count - 1
        return count > 0

    def monitor_nodes(self, *, hidden: bool = False, info: bool = False) -> None:
        """From now on ('nodeup', node) and ('nodedown', node) messages come, as of
        `net_kernel:monitor_nodes/2`: before anything else of a node, and after everything.
        Of visible nodes only, unless `hidden`. With `info` they have a map as third element:
        `node_type`, and of those that went `nodedown_reason`."""
        self._check_alive()
        self.system.monitor_nodes(self, hidden=hidden, info=info)

    def demonitor_nodes(self) -> None:
        """They come no more."""
        self.system.affinity.check()
        self.system.node_monitors.pop(self.pid, None)

    def ended_error(self) -> Exception:
        """What its calls raise when it has ended."""
        return ProcessExited(self.pid, self.exit_reason)

    def node_lost(self, node: Atom) -> None:
        """The connection to `node` is gone: so is everything there, as far as we can tell."""
        for _ in range(self.monitored_nodes.pop(node, 0)):
            self.signalled((_NODEDOWN, node), HERE)
        if self.watchers:
            for reference in [r for r, w in self.watchers.items() if w.pid.node is node]:
                del self.watchers[reference]
                self.system.watched_names.pop(reference, None)
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
