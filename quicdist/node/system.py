"""All processes of a node, and the signals between them and the rest of the world.

A signal is a control message of the distribution, whether its receiver is here or elsewhere:
one that stays takes the same handlers as one that came over a connection.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from quicdist.dist import control as ctl
from quicdist.dist.control import Control
from quicdist.dist.session import NO_PAYLOAD, Head, NoPayload
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.node.counters import Overflows
from quicdist.node.errors import NameTaken, NoProcess
from quicdist.node.ids import Identifiers
from quicdist.node.level import HERE, Source
from quicdist.node.process import NOPROC, Process, Watched, Watcher
from quicdist.runtime.affinity import LoopAffinity

Destination: TypeAlias = "Pid | Reference | str | tuple[str, str]"
"""A pid, an alias, a name registered here, or a (name, node)."""

Payload: TypeAlias = "Term | NoPayload"
Handler: TypeAlias = Callable[[Any, Term, Source], None]

logger = logging.getLogger("quicdist.node")


_NODE_TYPE = Atom("node_type")
_VISIBLE = Atom("visible")
_HIDDEN = Atom("hidden")
_NODEDOWN_REASON = Atom("nodedown_reason")


@dataclass(frozen=True, slots=True)
class NodeMonitor:
    """What somebody wants to know of nodes coming and going."""

    hidden: bool
    """Of hidden ones too."""
    info: bool
    """With a map that says more."""


@dataclass(slots=True, eq=False)
class Route:
    """The way of one process's messages to one receiver, found once for many of them."""

    to: Destination | None
    """As it was given, where a process gave it."""
    node: Atom
    sender: Pid
    control: Control
    """What brings each."""
    head: Head | None = None
    """The same as the link in use has encoded it."""


class Network(Protocol):
    """The way to other nodes."""

    def post(
        self, node: Atom, sender: Pid, control: Control, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends without waiting; connects first where there is no connection."""

    def post_if_connected(
        self, node: Atom, sender: Pid, control: Control, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends without waiting; without a connection the signal has no meaning and is dropped."""

    def watch(self, node: Atom) -> None:
        """Connects where there is no connection; `System.node_lost` tells when that fails."""

    def send(self, route: Route, payload: Term) -> Awaitable[None] | None:
        """Sends; what is to be awaited until there is a link, or while the backlog is high. Both
        raise NoConnection, EtfEncodeError."""


class System:
    """Who is who on this node."""

    def __init__(self, identifiers: Identifiers, network: Network) -> None:
        self.name = identifiers.node
        self.identifiers = identifiers
        self.network = network
        self.affinity = LoopAffinity(str(self.name))
        self.processes: dict[Pid, Process] = {}
        self.names: dict[Atom, Process] = {}
        self.aliases: dict[Reference, Process] = {}
        self.watched_names: dict[Reference, Process] = {}
        """Who is watched by a monitor of a name: the name may pass to another process."""
        self._tied: dict[Atom, dict[Process, None]] = {}
        """Who may have something to lose when the connection to a node is lost."""
        self.node_monitors: dict[Pid, NodeMonitor] = {}
        """Who is told of nodes coming and going."""
        self.group_leader: Pid | None = None
        """That of processes which are not given another."""
        self.reply_sink: Pid | None = None
        """Where answers go that nobody waits for."""
        self.overflows = Overflows()
        self._signals: deque[tuple[Control, Payload]] = deque()
        self._is_draining = False
        self.handlers: dict[type[Control], Handler] = {
            ctl.Send: self._on_send,
            ctl.SendTT: self._on_send,
            ctl.SendSender: self._on_send,
            ctl.SendSenderTT: self._on_send,
            ctl.RegSend: self._on_reg_send,
            ctl.RegSendTT: self._on_reg_send,
            ctl.AliasSend: self._on_alias_send,
            ctl.AliasSendTT: self._on_alias_send,
            ctl.AltactSigSend: self._on_altact,
            ctl.Link: self._on_link,
            ctl.Unlink: self._on_unlink,
            ctl.UnlinkId: self._on_unlink_id,
            ctl.UnlinkIdAck: self._on_unlink_ack,
            ctl.Exit: self._on_exit,
            ctl.ExitTT: self._on_exit,
            ctl.PayloadExit: self._on_payload_exit,
            ctl.PayloadExitTT: self._on_payload_exit,
            ctl.Exit2: self._on_exit2,
            ctl.Exit2TT: self._on_exit2,
            ctl.PayloadExit2: self._on_payload_exit2,
            ctl.PayloadExit2TT: self._on_payload_exit2,
            ctl.MonitorP: self._on_monitor,
            ctl.DemonitorP: self._on_demonitor,
            ctl.MonitorPExit: self._on_monitor_exit,
            ctl.PayloadMonitorPExit: self._on_payload_monitor_exit,
            ctl.SpawnReply: self._on_spawn_reply,
            ctl.SpawnReplyTT: self._on_spawn_reply,
            ctl.GroupLeader: self._on_group_leader,
        }
        """What is done with each control message; other modules add theirs."""

    # -- who is here --

    def enrol(self, process: Process) -> Pid:
        """A new process gets its pid."""
        pid = self.identifiers.pid(self.processes)
        self.processes[pid] = process
        return pid

    def dismiss(self, process: Process) -> None:
        """A process has ended: its pid, name and aliases reach nobody any more."""
        self.processes.pop(process.pid, None)
        for node in process.tied_to:
            self._untie(process, node)
        process.tied_to.clear()
        self.node_monitors.pop(process.pid, None)
        if process.name is not None and self.names.get(process.name) is process:
            del self.names[process.name]
        for alias in process.aliases:
            self.aliases.pop(alias, None)
        process.aliases.clear()

    def register(self, name: str, process: Process) -> None:
        """Gives a process a name, its only one. Raises NameTaken."""
        atom = Atom(name)
        if atom in ("undefined", "true", "false", ""):
            raise NameTaken(f"{name!r} cannot be a registered name: Erlang keeps it for itself")
        holder = self.names.get(atom)
        if holder is not None:
            raise NameTaken(f"the name {name!r} is taken here, by {holder.pid}")
        if process.name is not None:
            raise NameTaken(f"{process} has a name already; a process has one at most")
        process.name = atom
        self.names[atom] = process

    def unregister(self, name: str) -> None:
        """Takes a name away. Raises NoProcess."""
        process = self.names.pop(Atom(name), None)
        if process is None:
            raise NoProcess(f"no process here is registered as {name!r}")
        process.name = None

    def tie(self, process: Process, node: Atom) -> None:
        """A link, a monitor, a request: `process` is told when the connection to `node` is lost,
        once. So that a node lost costs what was tied to it, and not all that there is."""
        if node is self.name:
            return
        tied = self._tied.setdefault(node, {})
        if process not in tied:
            tied[process] = None
            process.tied_to.append(node)

    def _untie(self, process: Process, node: Atom) -> None:
        tied = self._tied.get(node)
        if tied is not None:
            tied.pop(process, None)
            if not tied:
                del self._tied[node]

    def node_lost(self, node: Atom) -> None:
        """The connection to a node is gone: whoever is tied to a process there is told."""
        for process in self._tied.pop(node, ()):
            if process.is_alive:
                process.tied_to.remove(node)
                process.node_lost(node)

    def ties_of(self, node: str) -> int:
        """Links and monitors that processes of a node have with processes here."""
        return sum(
            process.links.count(node)
            + sum(watcher.pid.node == node for watcher in process.watchers.values())
            for process in self._tied.get(Atom(node), ())
        )

    def monitor_nodes(self, process: Process, *, hidden: bool, info: bool) -> None:
        """A process wants to be told of nodes that come and go."""
        self.node_monitors[process.pid] = NodeMonitor(hidden, info)

    def node_changed(
        self, kind: Atom, node: Atom, is_hidden: bool, reason: Atom | None = None
    ) -> None:
        """A node has come or gone: `kind` is nodeup, or nodedown for a reason."""
        info = {_NODE_TYPE: _HIDDEN if is_hidden else _VISIBLE}
        if reason is not None:
            info[_NODEDOWN_REASON] = reason
        for pid, wanted in list(self.node_monitors.items()):
            process = self.processes.get(pid)
            if process is not None and (wanted.hidden or not is_hidden):
                message = (kind, node, dict(info)) if wanted.info else (kind, node)
                process.signalled(message, HERE)

    # -- messages out --

    def route(self, sender: Pid, to: Destination) -> Route:
        """The way of messages from a process here."""
        if isinstance(to, Pid):
            return Route(to, to.node, sender, ctl.SendSender(sender, to))
        if isinstance(to, Reference):
            return Route(to, to.node, sender, ctl.AliasSend(sender, to))
        if isinstance(to, str):
            return Route(to, self.name, sender, ctl.RegSend(sender, Atom(to)))
        name, node = to
        return Route((name, node), Atom(node), sender, ctl.RegSend(sender, Atom(name)))

    def send(self, route: Route, message: Term) -> Awaitable[None] | None:
        """Sends a message; what is to be awaited where it has to wait. Both raise NoProcess for a
        name that nobody here has, NoConnection for another node, EtfEncodeError."""
        if route.node is not self.name:
            return self.network.send(route, message)
        if isinstance(route.to, str) and route.to not in self.names:
            raise NoProcess(f"no process here is registered as {route.to!r}")
        self._signal(route.control, message)
        return None

    def post(self, sender: Pid, to: Pid | Reference, message: Term) -> None:
        """Sends without waiting, and without connecting: for answers."""
        control = ctl.SendSender(sender, to) if isinstance(to, Pid) else ctl.AliasSend(sender, to)
        self.emit_if_connected(to.node, sender, control, message)

    # -- signals out --

    def send_link(self, sender: Pid, to: Pid) -> None:
        self.emit(to.node, sender, ctl.Link(sender, to))

    def send_unlink(self, sender: Pid, to: Pid, identifier: int) -> None:
        self.emit_if_connected(to.node, sender, ctl.UnlinkId(identifier, sender, to))

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None:
        self.emit_if_connected(to.node, sender, ctl.PayloadExit(sender, to), reason)

    def send_exit2(self, sender: Pid, to: Pid, reason: Term) -> None:
        self.emit(to.node, sender, ctl.PayloadExit2(sender, to), reason)

    def send_monitor(self, sender: Pid, watched: Watched, reference: Reference) -> None:
        node, target = _target(watched)
        self.emit(node, sender, ctl.MonitorP(sender, target, reference))

    def send_demonitor(self, sender: Pid, watched: Watched, reference: Reference) -> None:
        node, target = _target(watched)
        self.emit_if_connected(node, sender, ctl.DemonitorP(sender, target, reference))

    def send_down(self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term) -> None:
        control = ctl.PayloadMonitorPExit(watcher.known_as, watcher.pid, reference)
        self.emit_if_connected(watcher.pid.node, sender, control, reason)

    def emit(
        self, node: Atom, sender: Pid, control: Control, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends a signal, connecting first where needed."""
        if node is self.name:
            self._signal(control, payload)
        else:
            self.network.post(node, sender, control, payload)

    def emit_if_connected(
        self, node: Atom, sender: Pid, control: Control, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends a signal that means nothing without the connection there is."""
        if node is self.name:
            self._signal(control, payload)
        else:
            self.network.post_if_connected(node, sender, control, payload)

    def _signal(self, control: Control, payload: Payload) -> None:
        """One signal after the other, so that a chain of exits is no chain of Python calls."""
        self._signals.append((control, payload))
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._signals:
                control, payload = self._signals.popleft()
                self.handlers[type(control)](control, payload, HERE)
        finally:
            self._is_draining = False

    # -- messages in --

    def _on_send(self, control: ctl.SendSender, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.deliver(payload, source)

    def _on_reg_send(self, control: ctl.RegSend, payload: Term, source: Source) -> None:
        process = self.names.get(control.to_name)
        if process is not None:
            process.deliver(payload, source)

    def _on_alias_send(self, control: ctl.AliasSend, payload: Term, source: Source) -> None:
        process = self.aliases.get(control.alias)
        if process is not None:
            process.alias_used(control.alias)
            process.deliver(payload, source)

    def _on_altact(self, control: ctl.AltactSigSend, payload: Term, source: Source) -> None:
        # Its priority counts where it comes by an alias made for such messages; elsewhere it is an
        # ordinary one (EEP 76). No process here makes such aliases.
        to = control.to
        if isinstance(to, Reference):
            process = self.aliases.get(to)
            if process is not None:
                process.alias_used(to)
        elif isinstance(to, Pid):
            process = self.processes.get(to)
        else:
            process = self.names.get(to)
        if process is None:
            return
        if control.flags & ctl.ALTACT_EXIT:
            process.exit_signalled(control.from_pid, payload, source)
        else:
            process.deliver(payload, source)

    # -- links in --

    def _on_link(self, control: ctl.Link, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.links.link_received(control.from_pid)
            self.tie(process, control.from_pid.node)
            source.tied(self.ties_of)
        else:
            self.send_exit(control.to_pid, control.from_pid, NOPROC)

    def _on_unlink(self, control: ctl.Unlink, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.links.unlink_received(control.from_pid)

    def _on_unlink_id(self, control: ctl.UnlinkId, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.links.unlink_received(control.from_pid)
        # Acknowledged for a process that is gone, too: the other end waits for it.
        self.emit_if_connected(
            control.from_pid.node,
            control.to_pid,
            ctl.UnlinkIdAck(control.id, control.to_pid, control.from_pid),
        )

    def _on_unlink_ack(self, control: ctl.UnlinkIdAck, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.links.unlink_acknowledged(control.from_pid, control.id)

    def _on_exit(self, control: ctl.Exit, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.link_broken(control.from_pid, control.reason, source)

    def _on_payload_exit(self, control: ctl.PayloadExit, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.link_broken(control.from_pid, payload, source)

    def _on_exit2(self, control: ctl.Exit2, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.exit_signalled(control.from_pid, control.reason, source)

    def _on_payload_exit2(self, control: ctl.PayloadExit2, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.exit_signalled(control.from_pid, payload, source)

    # -- monitors in --

    def _on_monitor(self, control: ctl.MonitorP, payload: Term, source: Source) -> None:
        target = control.to_proc
        process = self.processes.get(target) if isinstance(target, Pid) else self.names.get(target)
        watcher = Watcher(control.from_pid, target)
        if process is not None:
            process.watchers[control.ref] = watcher
            self.tie(process, control.from_pid.node)
            source.tied(self.ties_of)
            if not isinstance(target, Pid):
                self.watched_names[control.ref] = process
        else:
            # A name that nobody has is nobody's: the watcher itself keeps the order.
            self.send_down(watcher, control.from_pid, control.ref, NOPROC)

    def _on_demonitor(self, control: ctl.DemonitorP, payload: Term, source: Source) -> None:
        target = control.to_proc
        if isinstance(target, Pid):
            process = self.processes.get(target)
        else:
            process = self.watched_names.pop(control.ref, None)
        if process is not None:
            process.watchers.pop(control.ref, None)

    def _on_monitor_exit(self, control: ctl.MonitorPExit, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.monitor_fired(control.ref, control.reason, source)

    def _on_payload_monitor_exit(
        self, control: ctl.PayloadMonitorPExit, payload: Term, source: Source
    ) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.monitor_fired(control.ref, payload, source)

    # -- spawning, group leaders --

    def _on_spawn_reply(self, control: ctl.SpawnReply, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.spawn_replied(control, source)
        elif isinstance(control.result, Pid):
            self.let_spawned_go(control, control.result, NOPROC)

    def let_spawned_go(self, control: ctl.SpawnReply, child: Pid, reason: Term) -> None:
        """A process was spawned for one that does not want it any more: what tied them ends."""
        if control.flags & ctl.SPAWN_MONITORED:
            self.send_demonitor(control.to_pid, child, control.req_id)
        if control.flags & ctl.SPAWN_LINKED:
            self.send_exit(control.to_pid, child, reason)

    def _on_group_leader(self, control: ctl.GroupLeader, payload: Term, source: Source) -> None:
        process = self.processes.get(control.to_pid)
        if process is not None:
            process.group_leader = control.from_pid


def _target(watched: Watched) -> tuple[Atom, Pid | Atom]:
    if isinstance(watched, Pid):
        return watched.node, watched
    return watched[1], watched[0]
