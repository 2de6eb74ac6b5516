"""The processes of a node and the dispatch of signals.

Signals between processes of this node use the same handlers as signals from other nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from quicdist.errors import NameTaken, NoConnection, NoProcess
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.protocol import signals
from quicdist.protocol.channel import Head
from quicdist.protocol.signals import NO_PAYLOAD, Message, Payload, Signal, SpawnRequest
from quicdist.runtime.affinity import LoopAffinity
from quicdist.runtime.backpressure import HERE, Source
from quicdist.runtime.calls import DRAINING, GEN_CALL, CalledNode, PendingCalls, fail_call, is_call
from quicdist.runtime.counters import Overflows
from quicdist.runtime.identifiers import Identifiers
from quicdist.runtime.process import NOPROC, Process, Watched, Watcher

Destination: TypeAlias = "Pid | Reference | str | tuple[str, str]"
"""A pid, an alias, a registered name of this node, or a (name, node) tuple."""

Handler: TypeAlias = Callable[[Any, Term, Source], None]

logger = logging.getLogger("quicdist.node")


_NODE_TYPE = Atom("node_type")
_VISIBLE = Atom("visible")
_HIDDEN = Atom("hidden")
_NODEDOWN_REASON = Atom("nodedown_reason")


@dataclass(frozen=True, slots=True)
class NodeMonitor:
    """The options of `net_kernel:monitor_nodes/2` for one process."""

    hidden: bool
    """Whether hidden nodes are included."""
    info: bool
    """Whether the messages contain a map with details."""


@dataclass(slots=True, eq=False)
class Route:
    """The route from one process to one receiver, cached for repeated sends."""

    to: Destination | None
    """The destination as the sender passed it, or None."""
    node: Atom
    sender: Pid
    signal: Message | SpawnRequest
    """The signal that carries each message."""
    send: Callable[[Route, Term], Awaitable[None] | None]
    """Sends a message along the route. See `ProcessTable.send`."""
    head: Head | None = None
    """The signal as encoded for the current connection."""


class Network(Protocol):
    """The connections to other nodes."""

    def post(self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        """Sends without waiting. Connects first if necessary."""

    def post_if_connected(
        self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends without waiting. Drops the signal if there is no connection."""

    def when_up(
        self, node: Atom, begin: Callable[[CalledNode], None], fail: Callable[[Exception], None]
    ) -> None:
        """Calls `begin` with the connection to a node, or `fail` if it cannot be established.

        If the connection is up, `begin` is called at once; otherwise later, in order with the
        queued signals. Raises NoConnection, NodeNameError.
        """

    def is_up(self, node: Atom) -> bool:
        """Returns whether a connection to the node is established."""

    def obstacle(self, node: Atom) -> NoConnection | None:
        """Returns why a connection that is being established has failed so far, or None."""

    def watch(self, node: Atom) -> None:
        """Connects if there is no connection. On failure `ProcessTable.node_lost` is called."""

    def send(self, route: Route, payload: Term) -> Awaitable[None] | None:
        """Sends a message.

        Returns an awaitable if the caller must wait for a connection or for backlog.

        The call and the awaitable raise NoConnection or EtfEncodeError.
        """


class ProcessTable:
    """The processes, names, aliases and monitors of one node."""

    def __init__(self, identifiers: Identifiers, network: Network) -> None:
        self.name = identifiers.node
        self.identifiers = identifiers
        self.network = network
        self.affinity = LoopAffinity(str(self.name))
        self.processes: dict[Pid, Process] = {}
        self.names: dict[Atom, Process] = {}
        self.aliases: dict[Reference, Process] = {}
        self.calls = PendingCalls(self.name)
        self.on_unwatched: dict[Reference, Callable[[], None]] = {}
        """Functions to call when a monitor is removed, because its process has ended, has given up,
        or is on a node whose connection was lost."""
        self.watched_names: dict[Reference, Process] = {}
        """The processes monitored by name. The name may later belong to another process."""
        self._tied: dict[Atom, dict[Process, None]] = {}
        """The processes with links, monitors or calls to each node."""
        self.node_monitors: dict[Pid, NodeMonitor] = {}
        """The processes that monitor nodes."""
        self.group_leader: Pid | None = None
        """The default group leader."""
        self.reply_sink: Pid | None = None
        """The process that receives answers that are not needed."""
        self.overflows = Overflows()
        self.is_draining = False
        """Whether new calls from other nodes are refused."""
        self.work: dict[object, Callable[[], int]] = {}
        """The components that a drain waits for, each with a function that returns its amount of
        work."""
        self.before_drain: dict[object, Callable[[], None]] = {}
        """Functions that are called when a drain begins."""
        self._last_run: tuple[Message, Process] | None = None
        """The last signal with a pid for which `receiver_of_run` was asked, and its receiver."""
        self._is_idle: asyncio.Event | None = None
        self._signals: deque[tuple[Signal, Payload]] = deque()
        self._is_handling = False
        self.handlers: dict[type[Signal], Handler] = {
            signals.Message: self._on_message,
            signals.Link: self._on_link,
            signals.Unlink: self._on_unlink,
            signals.UnlinkAck: self._on_unlink_ack,
            signals.Exit: self._on_exit,
            signals.ExitSignal: self._on_exit_signal,
            signals.Monitor: self._on_monitor,
            signals.Demonitor: self._on_demonitor,
            signals.Down: self._on_down,
            signals.SpawnReply: self._on_spawn_reply,
            signals.GroupLeader: self._on_group_leader,
        }
        """The handler of each kind of signal. Other modules add handlers."""

    # -- processes and names --

    def add_process(self, process: Process) -> Pid:
        """Registers a new process and returns its pid."""
        pid = self.identifiers.pid(self.processes)
        self.processes[pid] = process
        return pid

    def remove_process(self, process: Process) -> None:
        """Removes a process with its name and aliases."""
        self.processes.pop(process.pid, None)
        self._last_run = None
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
        """Registers a name for a process. A process has at most one name. Raises NameTaken."""
        atom = Atom(name)
        if atom in ("undefined", "true", "false", ""):
            raise NameTaken(f"{name!r} cannot be a registered name: it is reserved in Erlang")
        holder = self.names.get(atom)
        if holder is not None:
            raise NameTaken(f"the name {name!r} is already registered, for {holder.pid}")
        if process.name is not None:
            raise NameTaken(f"{process} already has a registered name")
        process.name = atom
        self.names[atom] = process

    def unregister(self, name: str) -> None:
        """Removes a registered name. Raises NoProcess."""
        process = self.names.pop(Atom(name), None)
        if process is None:
            raise NoProcess(f"no process of this node is registered as {name!r}")
        process.name = None

    def tie(self, process: Process, node: Atom) -> None:
        """Notes that `process` has a link, monitor or call with `node`.

        It is informed once when the connection to `node` is lost. The index makes the loss of a
        node cost proportional to its links and monitors.
        """
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
        """Fails the calls to a node and informs the processes with links or monitors there."""
        self.calls.node_lost(node)
        for process in self._tied.pop(node, ()):
            if process.is_alive:
                process.tied_to.remove(node)
                process.node_lost(node)

    def links_and_monitors_of(self, node: str) -> int:
        """Returns the number of links and monitors between processes of a node and of this node."""
        return sum(
            process.links.count(node)
            + sum(watcher.pid.node == node for watcher in process.watchers.values())
            for process in self._tied.get(Atom(node), ())
        )

    def monitor_nodes(self, process: Process, *, hidden: bool, info: bool) -> None:
        """Subscribes a process to messages about nodes."""
        self.node_monitors[process.pid] = NodeMonitor(hidden, info)

    def node_changed(
        self, kind: Atom, node: Atom, is_hidden: bool, reason: Atom | None = None
    ) -> None:
        """Informs processes that monitor nodes. `kind` is `nodeup` or `nodedown`."""
        info = {_NODE_TYPE: _HIDDEN if is_hidden else _VISIBLE}
        if reason is not None:
            info[_NODEDOWN_REASON] = reason
        for pid, wanted in list(self.node_monitors.items()):
            process = self.processes.get(pid)
            if process is not None and (wanted.hidden or not is_hidden):
                message = (kind, node, dict(info)) if wanted.info else (kind, node)
                process.signalled(message, HERE)

    def unwatched(self, reference: Reference) -> None:
        """Called when a monitor of a process of this node is removed before it has fired."""
        self.watched_names.pop(reference, None)
        call = self.on_unwatched.pop(reference, None)
        if call is not None:
            call()

    # -- draining --

    async def drain(self, timeout: float | None) -> int:
        """Refuses new calls from other nodes and waits until running calls have ended.

        Returns the amount of work left after `timeout` seconds.
        """
        if not self.is_draining:
            self.is_draining = True
            self.handlers[Message] = self._refusing_calls(self.handlers[Message])
            for begin in list(self.before_drain.values()):
                begin()
        self._is_idle = asyncio.Event()
        self.work_done()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), timeout)
        return self._work_left()

    def work_done(self) -> None:
        """Called when a piece of work that a drain waits for has ended."""
        if self._is_idle is not None and not self._work_left():
            self._is_idle.set()

    def _work_left(self) -> int:
        return sum(count() for count in self.work.values())

    def _refusing_calls(self, handler: Handler) -> Handler:
        def handle(signal: Message, payload: Term, source: Source) -> None:
            process = None if source is HERE else self._called(signal, payload)
            if process is None:
                handler(signal, payload, source)
            else:
                assert isinstance(payload, tuple)
                fail_call(process, payload[1], DRAINING)

        return handle

    def _called(self, signal: Message, message: Term) -> Process | None:
        """Returns the process that a message calls if it refuses calls while draining."""
        if not is_call(message) or message[0] != GEN_CALL:
            return None
        to = signal.to
        if isinstance(to, Reference):
            return None
        process = self.processes.get(to) if isinstance(to, Pid) else self.names.get(to)
        return process if process is not None and process.is_refusing_calls_in_drain else None

    # -- outgoing messages --

    def route(self, sender: Pid, to: Destination) -> Route:
        """Returns the route of messages from a process of this node."""
        if isinstance(to, Pid | Reference):
            return self._route(to, to.node, Message(sender, to), sender)
        if isinstance(to, str):
            return self._route(to, self.name, Message(sender, Atom(to)), sender)
        name, node = to
        return self._route((name, node), Atom(node), Message(sender, Atom(name)), sender)

    def route_of(self, node: Atom, sender: Pid, request: SpawnRequest) -> Route:
        """Returns the route of a spawn request with its arguments as the message."""
        return self._route(None, node, request, sender)

    def _route(
        self, to: Destination | None, node: Atom, signal: Message | SpawnRequest, sender: Pid
    ) -> Route:
        send = self._send_here if node is self.name else self.network.send
        return Route(to, node, sender, signal, send)

    def send(self, route: Route, message: Term) -> Awaitable[None] | None:
        """Sends a message. Returns an awaitable if the sender must wait.

        The call and the awaitable raise NoProcess for an unregistered local name, NoConnection, and
        EtfEncodeError.
        """
        return route.send(route, message)

    def _send_here(self, route: Route, message: Term) -> None:
        if isinstance(route.to, str) and route.to not in self.names:
            raise NoProcess(f"no process of this node is registered as {route.to!r}")
        self._signal(route.signal, message)

    def post(self, sender: Pid, to: Pid | Reference, message: Term) -> None:
        """Sends an answer, without waiting and without connecting."""
        self.emit_if_connected(to.node, sender, Message(sender, to), message)

    # -- outgoing signals --

    def send_link(self, sender: Pid, to: Pid) -> None:
        """Sends LINK. Connects first if necessary."""
        self.emit(to.node, sender, signals.Link(sender, to))

    def send_unlink(self, sender: Pid, to: Pid, identifier: int) -> None:
        """Sends UNLINK_ID, which the other node acknowledges. A lost connection ends the link."""
        self.emit_if_connected(to.node, sender, signals.Unlink(identifier, sender, to))

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None:
        """Sends EXIT over a link, when `sender` has ended."""
        self.emit_if_connected(to.node, sender, signals.Exit(sender, to), reason)

    def send_exit2(self, sender: Pid, to: Pid, reason: Term) -> None:
        """Sends EXIT2, as `erlang:exit/2`. Connects first if necessary."""
        self.emit(to.node, sender, signals.ExitSignal(sender, to), reason)

    def send_monitor(self, sender: Pid, watched: Watched, reference: Reference) -> None:
        """Sends MONITOR_P. Connects first if necessary."""
        node, target = _target(watched)
        self.emit(node, sender, signals.Monitor(sender, target, reference))

    def send_demonitor(self, sender: Pid, watched: Watched, reference: Reference) -> None:
        """Sends DEMONITOR_P. A lost connection ends the monitor."""
        node, target = _target(watched)
        self.emit_if_connected(node, sender, signals.Demonitor(sender, target, reference))

    def send_down(self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term) -> None:
        """Sends MONITOR_P_EXIT, when the monitored process has ended."""
        signal = signals.Down(watcher.known_as, watcher.pid, reference)
        self.emit_if_connected(watcher.pid.node, sender, signal, reason)

    def emit(self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        """Sends a signal. Connects first if necessary."""
        if node is self.name:
            self._signal(signal, payload)
        else:
            self.network.post(node, sender, signal, payload)

    def emit_if_connected(
        self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD
    ) -> None:
        """Sends a signal. Drops it if there is no connection, which makes it meaningless."""
        if node is self.name:
            self._signal(signal, payload)
        else:
            self.network.post_if_connected(node, sender, signal, payload)

    def _signal(self, signal: Signal, payload: Payload) -> None:
        """Queues and handles local signals, so that a chain of exits does not recurse."""
        self._signals.append((signal, payload))
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._signals:
                signal, payload = self._signals.popleft()
                self.handlers[type(signal)](signal, payload, HERE)
        finally:
            self._is_handling = False

    # -- incoming messages --

    def _on_message(self, signal: Message, payload: Term, source: Source) -> None:
        # A priority message is handled as an ordinary one. Only aliases created for priority
        # messages (EEP 76) differ, and quicdist creates none.
        to = signal.to
        if type(to) is Reference:
            if self.calls.answer_by_alias(to, payload, source):
                return
        elif type(to) is Pid and self.calls and self.calls.answer_by_pid(payload, source):
            return
        process = self._receiver(to)
        if process is not None:
            process.deliver(payload, source)

    def receiver_of_run(self, signal: Message) -> Process | None:
        """Returns the receiver of messages in a row with the same signal.

        None if each message must be handled by itself.
        """
        to = signal.to
        kind = type(to)
        if self.is_draining or kind is Reference or (kind is Pid and self.calls):
            return None
        if kind is not Pid:
            return self.names.get(to)  # type: ignore[arg-type]
        last = self._last_run
        if last is not None and last[0] is signal:  # hashing and comparing pids takes time
            return last[1]
        process = self.processes.get(to)  # type: ignore[arg-type]
        if process is not None:
            self._last_run = signal, process
        return process

    def _receiver(self, to: Pid | Atom | Reference) -> Process | None:
        """Returns the receiver of a message or exit signal. Using an alias may deactivate it."""
        kind = type(to)
        if kind is Pid:
            return self.processes.get(to)  # type: ignore[arg-type]
        if kind is not Reference:
            return self.names.get(to)  # type: ignore[arg-type]
        process = self.aliases.get(to)  # type: ignore[arg-type]
        if process is not None:
            process.alias_used(to)  # type: ignore[arg-type]
        return process

    # -- incoming links --

    def _on_link(self, signal: signals.Link, payload: Term, source: Source) -> None:
        process = self.processes.get(signal.to)
        if process is not None:
            process.links.link_received(signal.sender)
            self.tie(process, signal.sender.node)
            source.link_added(self.links_and_monitors_of)
        else:
            self.send_exit(signal.to, signal.sender, NOPROC)

    def _on_unlink(self, signal: signals.Unlink, payload: Term, source: Source) -> None:
        process = self.processes.get(signal.to)
        if process is not None:
            process.links.unlink_received(signal.sender)
        if signal.id is not None:
            # Unlink requests for ended processes are acknowledged as well: the other end waits for
            # that.
            ack = signals.UnlinkAck(signal.id, signal.to, signal.sender)
            self.emit_if_connected(signal.sender.node, signal.to, ack)

    def _on_unlink_ack(self, signal: signals.UnlinkAck, payload: Term, source: Source) -> None:
        process = self.processes.get(signal.to)
        if process is not None:
            process.links.unlink_acknowledged(signal.sender, signal.id)

    def _on_exit(self, signal: signals.Exit, reason: Term, source: Source) -> None:
        process = self.processes.get(signal.to)
        if process is not None:
            process.link_broken(signal.sender, reason, source)

    def _on_exit_signal(self, signal: signals.ExitSignal, reason: Term, source: Source) -> None:
        process = self._receiver(signal.to)
        if process is not None:
            process.exit_signalled(signal.sender, reason, source)

    # -- incoming monitors --

    def _on_monitor(self, signal: signals.Monitor, payload: Term, source: Source) -> None:
        target = signal.to
        process = self.processes.get(target) if isinstance(target, Pid) else self.names.get(target)
        watcher = Watcher(signal.sender, target)
        if process is not None and signal.ref in process.watchers:
            self.calls.refuse("monitor", source)
        elif process is not None:
            process.watchers[signal.ref] = watcher
            self.tie(process, signal.sender.node)
            source.link_added(self.links_and_monitors_of)
            if not isinstance(target, Pid):
                self.watched_names[signal.ref] = process
        else:
            # An unregistered name has no process to order signals, so the watcher's pid is the
            # sender.
            self.send_down(watcher, signal.sender, signal.ref, NOPROC)

    def _on_demonitor(self, signal: signals.Demonitor, payload: Term, source: Source) -> None:
        target = signal.to
        if isinstance(target, Pid):
            process = self.processes.get(target)
        else:
            process = self.watched_names.get(signal.ref)
        watcher = None if process is None else process.watchers.get(signal.ref)
        if process is None or watcher is None:
            return
        if watcher.pid == signal.sender:
            del process.watchers[signal.ref]
            self.unwatched(signal.ref)
        else:
            self.calls.refuse("demonitor", source)

    def _on_down(self, signal: signals.Down, reason: Term, source: Source) -> None:
        reference = signal.ref
        if self.calls.down(reference, reason, source):
            return
        process = self.processes.get(signal.to)
        watched = None if process is None else process.monitoring.get(reference)
        if process is None or watched is None:
            return
        if self.calls.is_from(_target(watched)[0], source):
            process.monitor_fired(reference, reason, source)
        else:
            self.calls.refuse("DOWN signal", source)

    # -- spawning, group leaders --

    def _on_spawn_reply(self, signal: signals.SpawnReply, payload: Term, source: Source) -> None:
        if self.calls.spawn_replied(signal, source):
            return
        # The caller has ended, or this node sent no such request.
        if isinstance(signal.result, Pid) and self.calls.is_from(signal.result.node, source):
            self.release_spawned(signal, signal.result, NOPROC)

    def release_spawned(self, signal: signals.SpawnReply, child: Pid, reason: Term) -> None:
        """Removes the link or monitor of a spawned process whose caller no longer needs it."""
        if signal.flags & signals.SPAWN_MONITORED:
            self.send_demonitor(signal.to, child, signal.req_id)
        if signal.flags & signals.SPAWN_LINKED:
            self.send_exit(signal.to, child, reason)

    def _on_group_leader(self, signal: signals.GroupLeader, payload: Term, source: Source) -> None:
        process = self.processes.get(signal.to)
        if process is not None:
            process.group_leader = signal.sender


def _target(watched: Watched) -> tuple[Atom, Pid | Atom]:
    if isinstance(watched, Pid):
        return watched.node, watched
    return watched[1], watched[0]
