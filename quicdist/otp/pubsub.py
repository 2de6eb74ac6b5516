"""Topics, as Phoenix.PubSub has them: a Python node among the nodes of a Phoenix application.

    topics = pubsub.start(node, "MyApp.PubSub")
    topics.subscribe("room:1", me)
    topics.broadcast("room:1", {"body": "hello"})

Each node has one process in a `pg` group; what is broadcast goes to all of them, and each hands
it to the subscribers of its node. Phoenix.PubSub's default adapter, 2.1 and later.
"""

from __future__ import annotations

from quicdist.etf import Atom, Pid, Term
from quicdist.node.node import Node
from quicdist.otp import pg
from quicdist.runtime.backpressure import HERE, Source
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import SystemProcess, ignore

SCOPE = Atom("Elixir.Phoenix.PubSub")
"""The pg scope of the adapter, and the module that dispatches by default."""

_FORWARD = Atom("forward_to_local")


def start(node: Node, name: str, *, pool_size: int = 1) -> Topics:
    """Joins the topics of an Elixir application on this node, as long as the node lives.

    `name` is what the application calls it: `MyApp.PubSub`. `pool_size` must be that of the
    other nodes, 1 by default as there. Raises NameTaken.
    """
    scope = node.system.names.get(SCOPE)
    groups = scope if isinstance(scope, pg.Groups) else pg.start(node, SCOPE)
    # Subscribers receive what is broadcast until the node stops.
    node.system.before_drain.pop(groups, None)
    return Topics(node.system, groups, name, pool_size)


class Topics:
    """Who has subscribed to what on this node, and the way to the other nodes."""

    def __init__(self, system: ProcessTable, groups: pg.Groups, name: str, pool_size: int) -> None:
        adapter = f"Elixir.{name}.Adapter"
        self._system = system
        self._groups = groups
        self._subscribers: dict[bytes, list[Pid]] = {}
        self._watched: set[Pid] = set()
        self._workers: list[SystemProcess] = []
        for number in range(1, pool_size + 1):
            # The first has the adapter's own name, as all had when there was no pool.
            group = Atom(adapter if number == 1 else f"{adapter}_{number}")
            worker = SystemProcess(system, self._on_message)
            system.register(group, worker)
            groups.join(group, worker.pid)
            self._workers.append(worker)

    def subscribe(self, topic: str, process: Process) -> None:
        """From now on the process is sent what is broadcast on a topic, as often as it has
        subscribed; until `unsubscribe`, or its end."""
        self._system.affinity.check()
        self._subscribers.setdefault(topic.encode(), []).append(process.pid)
        if process.pid not in self._watched:
            self._watched.add(process.pid)
            self._workers[0].monitor(process.pid)

    def unsubscribe(self, topic: str, process: Process) -> bool:
        """Takes all subscriptions of a process to a topic back. True when there was one."""
        self._system.affinity.check()
        return self._forget(topic.encode(), process.pid)

    def broadcast(self, topic: str, message: Term, *, sender: Process | None = None) -> None:
        """Sends a message to all subscribers of a topic on all nodes; not to `sender`, as
        `broadcast_from`, where one is given. Raises EtfEncodeError."""
        self._system.affinity.check()
        worker = self._workers[0]
        forwarded = (_FORWARD, topic.encode(), message, SCOPE)
        for pid in self._groups.members(worker.name):
            if pid.node is not self._system.name:
                self._system.post(worker.pid, pid, forwarded)
        self.local_broadcast(topic, message, sender=sender)

    def local_broadcast(self, topic: str, message: Term, *, sender: Process | None = None) -> None:
        """The same for the subscribers on this node alone."""
        self._system.affinity.check()
        self._dispatch(topic.encode(), message, HERE, None if sender is None else sender.pid)

    def _on_message(self, worker: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("forward_to_local", bytes() as topic, inner, _):
                self._dispatch(topic, inner, source)
            case ("forward_to_local", str() as topic, inner, _):
                # Binaries are read as str, by option.
                self._dispatch(topic.encode(), inner, source)
            case ("DOWN", _, _, Pid() as pid, _):
                self._watched.discard(pid)
                for topic in list(self._subscribers):
                    self._forget(topic, pid)
            case _:
                ignore(worker, message, source)

    def _dispatch(
        self, topic: bytes, message: Term, source: Source, sender: Pid | None = None
    ) -> None:
        for pid in list(self._subscribers.get(topic, ())):
            process = self._system.processes.get(pid)
            if process is not None and pid != sender:
                # In the name of whoever it came from: a full mailbox holds that connection back.
                process.deliver(message, source)

    def _forget(self, topic: bytes, pid: Pid) -> bool:
        subscribers = self._subscribers.get(topic, [])
        left = [one for one in subscribers if one != pid]
        if left:
            self._subscribers[topic] = left
        else:
            self._subscribers.pop(topic, None)
        return len(left) != len(subscribers)
