"""Topics compatible with Phoenix.PubSub.

    topics = pubsub.start(node, "MyApp.PubSub")
    topics.subscribe("room:1", me)
    topics.broadcast("room:1", {"body": "hello"})

Each node has one process in a `pg` group. A broadcast is sent to all of these processes, and each
forwards it to the subscribers of its node. This is the protocol of the default adapter of
Phoenix.PubSub 2.1 and later.
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
"""The pg scope of the adapter, and the default dispatcher module."""

_FORWARD = Atom("forward_to_local")


def start(node: Node, name: str, *, pool_size: int = 1) -> Topics:
    """Joins the topics of an Elixir application. They are available until the node stops.

    `name` is the name of the PubSub server, such as `MyApp.PubSub`. `pool_size` must be equal on
    all nodes; the default is 1 in Phoenix.PubSub as well. Raises NameTaken.
    """
    scope = node.system.names.get(SCOPE)
    groups = scope if isinstance(scope, pg.Groups) else pg.start(node, SCOPE)
    # Subscribers receive broadcasts until the node stops.
    node.system.before_drain.pop(groups, None)
    return Topics(node.system, groups, name, pool_size)


class Topics:
    """The subscriptions of this node, and broadcasts to all nodes."""

    def __init__(self, system: ProcessTable, groups: pg.Groups, name: str, pool_size: int) -> None:
        adapter = f"Elixir.{name}.Adapter"
        self._system = system
        self._groups = groups
        self._subscribers: dict[bytes, list[Pid]] = {}
        self._watched: set[Pid] = set()
        self._workers: list[SystemProcess] = []
        for number in range(1, pool_size + 1):
            # The first has the name of the adapter, as before pools were introduced.
            group = Atom(adapter if number == 1 else f"{adapter}_{number}")
            worker = SystemProcess(system, self._on_message)
            system.register(group, worker)
            groups.join(group, worker.pid)
            self._workers.append(worker)

    def subscribe(self, topic: str, process: Process) -> None:
        """Subscribes a process to a topic, until `unsubscribe` or until the process ends.

        A process that subscribes n times receives each message n times.
        """
        self._system.affinity.check()
        self._subscribers.setdefault(topic.encode(), []).append(process.pid)
        if process.pid not in self._watched:
            self._watched.add(process.pid)
            self._workers[0].monitor(process.pid)

    def unsubscribe(self, topic: str, process: Process) -> bool:
        """Removes all subscriptions of a process to a topic. Returns True if there were any."""
        self._system.affinity.check()
        return self._forget(topic.encode(), process.pid)

    def broadcast(self, topic: str, message: Term, *, sender: Process | None = None) -> None:
        """Sends a message to all subscribers of a topic on all nodes.

        `sender` does not receive it, as with `broadcast_from`. Raises EtfEncodeError.
        """
        self._system.affinity.check()
        worker = self._workers[0]
        forwarded = (_FORWARD, topic.encode(), message, SCOPE)
        for pid in self._groups.members(worker.name):
            if pid.node is not self._system.name:
                self._system.post(worker.pid, pid, forwarded)
        self.local_broadcast(topic, message, sender=sender)

    def local_broadcast(self, topic: str, message: Term, *, sender: Process | None = None) -> None:
        """Sends a message to the subscribers on this node only."""
        self._system.affinity.check()
        self._dispatch(topic.encode(), message, HERE, None if sender is None else sender.pid)

    def _on_message(self, worker: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("forward_to_local", bytes() as topic, inner, _):
                self._dispatch(topic, inner, source)
            case ("forward_to_local", str() as topic, inner, _):
                # Binaries may be decoded as str (an option of the node).
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
                # With the original source, so that a full mailbox holds that connection back.
                process.deliver(message, source)

    def _forget(self, topic: bytes, pid: Pid) -> bool:
        subscribers = self._subscribers.get(topic, [])
        left = [one for one in subscribers if one != pid]
        if left:
            self._subscribers[topic] = left
        else:
            self._subscribers.pop(topic, None)
        return len(left) != len(subscribers)
