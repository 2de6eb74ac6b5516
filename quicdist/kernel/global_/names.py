"""`global_name_server`: the names, the locks and the mesh of a cluster on a visible node.

When two nodes meet, each locks its side of the cluster. They then exchange their names, resolve the
conflicts, and send their sides the result and the nodes of the other side, and each side connects
to the other. The stages are those of a `NameExchange`:

    nodeup          -> init_connect                      each sends its tag and its locker
    init_connect    -> init_connect_ack, to the locker   the tags identify the meeting
    lock set, both  -> exchange                          the names
    exchange        -> resolved                          the resolved conflicts, the known nodes
    resolved        -> new_nodes to the own side         and the lock is released
    new_nodes       -> a connection, then in_sync        to each node of the other side

To prevent overlapping partitions, a node that loses another sends `lost_connection` to all known
nodes. Each of them forwards it, and disconnects from the lost node with `remove_connection`.

OTP, global(3), protocol versions 7 (OTP 25.0 and before) and 8.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from quicdist.errors import NameTaken, NodeError, NotRunning
from quicdist.etf import Atom, ErlMap, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.caller import Caller
from quicdist.kernel.global_.conflicts import Conflicts, OnConflict
from quicdist.kernel.global_.exchanges import Locker, NameExchange
from quicdist.kernel.global_.locks import RESOURCE, SERVER, LockManager, Locks
from quicdist.kernel.global_.table import Table
from quicdist.protocol import signals
from quicdist.runtime.calls import fail_call, is_from
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import GEN_CAST, NOTSUP, SystemProcess, ignore

logger = logging.getLogger("quicdist.node")

VERSION = 8
_VERIFIES = 8
"""From this version on, a node acknowledges a meeting and can cancel it."""
_PARTS = 7
"""From this version on, a node prevents overlapping partitions and sends the versions of other
nodes."""

_LOST = 3600.0
"""Seconds for which a lost connection is remembered, so that it is forwarded once."""
_MOST_LOST = 100_000

_YES = Atom("yes")
_OK = Atom("ok")
_INSERT = Atom("insert")
_DELETE = Atom("delete")
_REGISTER = Atom("register")


class GlobalNames(SystemProcess):
    """The global name server of a node, with the API for Python code."""

    def __init__(
        self,
        system: ProcessTable,
        caller: Callable[[], Caller],
        connect: Callable[[Atom], Awaitable[object]],
        disconnect: Callable[[Atom], object],
    ) -> None:
        """`caller` makes a process that calls over established connections only."""
        super().__init__(system, lambda _, message, source: self._on_message(message))
        self._here = system.name
        self._connect = connect
        self._disconnect = disconnect
        self._locks = Locks(self)
        self._registrar = LockManager(caller(), self._locks)
        self._registering = asyncio.Lock()
        self._names = Table(self)
        self.conflicts = Conflicts(self, caller())
        self._known: dict[Atom, int] = {}
        """The other nodes of the cluster, with their protocol versions."""
        self._synced: set[Atom] = set()
        self._sync_waiters: list[tuple[set[Atom], asyncio.Future[None]]] = []
        self._meetings: dict[Atom, NameExchange] = {}
        self._removing: set[Atom] = set()
        """Nodes that this node is disconnecting from."""
        self._lost: dict[tuple[Atom, Atom], tuple[int, int, float]] = {}
        self._tags = itertools.count(1)
        self._incarnation = (random.getrandbits(27) << 32) + system.identifiers.creation
        self._tasks: set[asyncio.Task[None]] = set()
        self._locker = Locker(system.name, self, self._locks, LockManager(caller(), self._locks))
        system.register(SERVER, self)
        self.monitor_nodes()
        self._start(self._locker.run())

    # -- public ----------------------------------------------------------------------------------

    def whereis(self, name: Term) -> Pid | None:
        """Returns the pid that is registered under a global name, or None."""
        self.system.affinity.check()
        entry = self._names.get(name)
        if entry is None:
            return None
        is_here = entry.pid.node is self._here
        return None if is_here and entry.pid not in self.system.processes else entry.pid

    def names(self) -> list[Term]:
        """Returns all global names."""
        self.system.affinity.check()
        return [entry.name for entry in self._names]

    async def register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Registers a global name for a process, as `global:register_name/3`.

        A process has at most one global name. Raises NameTaken.
        """
        self.system.affinity.check()

        async def work(nodes: Sequence[Atom]) -> None:
            holder = self.whereis(name)
            if holder is not None:
                raise NameTaken(f"the global name {format_bounded(name)} is taken by {holder}")
            for entry in self._names:
                if entry.pid == pid:
                    other = format_bounded(entry.name)
                    raise NameTaken(f"{pid} already has the global name {other}")
            await self._registrar.ask(nodes, (_REGISTER, name, pid, on_conflict.method))

        await self._locked(work)

    async def re_register(
        self, name: Term, pid: Pid, *, on_conflict: OnConflict = OnConflict.KILL_ONE
    ) -> None:
        """Registers a global name for a process and replaces an existing one."""
        self.system.affinity.check()

        async def work(nodes: Sequence[Atom]) -> None:
            await self._registrar.ask(nodes, (_REGISTER, name, pid, on_conflict.method))

        await self._locked(work)

    async def unregister(self, name: Term) -> None:
        """Removes a global name."""
        self.system.affinity.check()

        async def work(nodes: Sequence[Atom]) -> None:
            await self._registrar.ask(nodes, (Atom("unregister"), name))

        if self.whereis(name) is not None:
            await self._locked(work)

    async def sync(self, nodes: Iterable[str] | None = None) -> None:
        """Waits until the names of these nodes are known.

        The default is all visible connected nodes. Nodes whose connection is lost are skipped.
        """
        self.system.affinity.check()
        wanted = self._known.keys() | self._meetings.keys() if nodes is None else map(Atom, nodes)
        missing = set(wanted) - self._synced - {self._here}
        if missing:
            done = asyncio.get_running_loop().create_future()
            self._sync_waiters.append((missing, done))
            await done

    async def _locked(self, work: Callable[[Sequence[Atom]], Awaitable[None]]) -> None:
        """Runs a change of the global names under the cluster lock, one at a time.

        The lock is released even if the caller is cancelled.
        """
        task = asyncio.ensure_future(self._under_lock(work))
        self._keep(task)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not self.is_alive:
                raise NotRunning("the node has stopped") from None
            raise

    async def _under_lock(self, work: Callable[[Sequence[Atom]], Awaitable[None]]) -> None:
        async with self._registering:
            lock = RESOURCE, self._registrar.pid
            times = 0
            while (nodes := await self._lock_all(lock)) is None:
                await asyncio.sleep(random.uniform(0, min(2**times / 8, 8)))
                times += 1
            try:
                await work(nodes)
            finally:
                await self._registrar.delete(lock, nodes)

    async def _lock_all(self, lock: tuple[Term, Term]) -> Sequence[Atom] | None:
        known = set(self._known)
        nodes = [self._here, *known]
        boss = [max(nodes)]
        if not await self._registrar.set(lock, boss):
            return None
        if not await self._registrar.set(lock, nodes):
            await self._registrar.delete(lock, boss)
            return None
        if not known.issuperset(self._known):
            await self._registrar.delete(lock, nodes)
            return None
        return nodes

    # -- messages --------------------------------------------------------------------------------

    def _on_message(self, message: Term) -> None:
        match message:
            case ("$gen_call", sender, request) if is_from(sender):
                self._on_call(sender, request)
            case ("$gen_cast", tuple() as cast):
                self._on_cast(cast)
            case ("DOWN", Reference() as reference, _, _, _):
                if not self._locks.holder_gone(reference):
                    self._names.holder_gone(reference)
            case ("nodeup", Atom() as node):
                self._node_up(node)
            case ("nodedown", Atom() as node):
                self._node_down(node)
            case (
                "lost_connection",
                Atom() as node,
                int() as life,
                int() as number,
                Atom() as lost,
            ):
                self._on_lost_connection(message, node, life, number, lost)
            case ("remove_connection", Atom() as node):
                self._on_remove_connection(node)
            case ("cancel_connect", Atom() as node, tag):
                meeting = self._meeting(node, tag)
                if meeting is not None:
                    meeting.version = 0
                    self._restart(meeting)
            case ("init_connect_ack", Atom() as node, tag, his_tag):
                self._on_ack(node, tag, his_tag)
            case ("whereis", name, sender) if is_from(sender):
                self.reply(sender, self.whereis(name))
            case _:
                logger.info("%s ignores a message: %s", self, format_bounded(message))
                ignore(self, message)

    def _on_call(self, sender: Term, request: Term) -> None:
        assert isinstance(sender, tuple)
        caller = sender[0]
        match request:
            case ("set_lock", (resource, requester)):
                answer: Term = self._locks.set(resource, requester, caller)
            case ("del_lock", (resource, requester)):
                self._locks.delete(resource, requester, caller)
                answer = True
            case ("register", name, Pid() as pid, method):
                self._names.insert(name, pid, method, None, self._locks.allows(caller))
                answer = _YES
            case ("register_ext", name, Pid() as pid, method, Atom() as registrant):
                self._names.insert(name, pid, method, registrant, self._locks.allows(caller))
                answer = _YES
            case ("unregister", name):
                self._names.remove(name)
                answer = _OK
            case "get_known":
                answer = list(self._known)
            case "get_synced":
                answer = list(self._synced)
            case "get_protocol_version":
                answer = VERSION
            case "get_names_ext":
                answer = self._names.external()
            case _:
                logger.info("%s does not support %s", self, format_bounded(request))
                fail_call(self, sender, NOTSUP)
                return
        self.reply(sender, answer)

    def _on_cast(self, cast: tuple[Term, ...]) -> None:
        match cast:
            case ("init_connect", (int() as version, tag, *_), Atom() as node, start):
                self._on_init_connect(node, version, tag, start)
            case ("lock_set", Pid() as locker, bool() as is_set, _, *tags):
                self._on_lock_set(locker, is_set, tags)
            case ("exchange", Atom() as node, list(names), _, tag):
                meeting = self._meeting(node, tag)
                if meeting is not None:
                    meeting.his_names = names
                    self._exchange(meeting)
            case ("resolved", Atom() as node, list(ops), list(known), _, list(external), tag):
                meeting = self._meeting(node, tag)
                if meeting is not None:
                    meeting.resolved = ops, known, external
                    self._conclude(meeting)
            case ("new_nodes", Atom() as node, list(ops), list(external), list(nodes), extra):
                self._sync_others(self._add_known(nodes))
                lock = _lock_of(extra)
                is_allowed = lock is not None and self._locks.allows(lock[1])
                self._names.operate(ops, external, is_allowed or not self._locks.is_set(RESOURCE))
            case ("in_sync", Atom() as node, _):
                self._in_sync(node)
            case ("async_del_name" | "async_del_lock", _, _):
                # Sent by OTP R13 and before. The local monitors report the same.
                pass
            case _:
                logger.info("%s ignores a cast: %s", self, format_bounded(cast))

    # -- meetings --------------------------------------------------------------------------------

    def _node_up(self, node: Atom) -> None:
        if node in self._known or node in self._meetings:
            return
        meeting = self._meetings[node] = NameExchange(node, next(self._tags))
        start = (Atom("locker"), Atom("no_longer_a_pid"), ErlMap([]), self._locker.pid)
        self._cast(node, (Atom("init_connect"), (VERSION, meeting.tag), self._here, start))

    def _on_init_connect(self, node: Atom, version: int, tag: Term, start: Term) -> None:
        meeting = self._meetings.get(node)
        if meeting is None:
            return
        if meeting.version:
            # The other node has restarted the meeting, and this node has not.
            if version >= _VERIFIES:
                self._say(node, (Atom("cancel_connect"), self._here, tag))
                self._restart(meeting)
            else:
                logger.error("%s has restarted the connection setup of global: disconnecting", node)
                self._disconnect(node)
            return
        match start:
            case (_, _, _, Pid() as locker) if version > 5:
                meeting.locker = locker
        if meeting.locker is None:
            logger.error("%s uses version %s of global, which is not supported", node, version)
            return
        meeting.his_tag = tag
        meeting.version = min(version, VERSION)
        if version >= _VERIFIES:
            self._say(node, (Atom("init_connect_ack"), self._here, tag, meeting.tag))
        self._locker.wake()

    def _on_ack(self, node: Atom, tag: Term, his_tag: Term) -> None:
        meeting = self._meetings.get(node)
        if meeting is not None and (meeting.tag, meeting.his_tag) == (tag, his_tag):
            return
        self._say(node, (Atom("cancel_connect"), self._here, his_tag))
        if meeting is not None:
            self._restart(meeting)

    def _on_lock_set(self, locker: Pid, is_set: bool, tags: Sequence[Term]) -> None:
        node = locker.node
        meeting = self._meetings.get(node)
        if meeting is not None and (not tags or tags[0] == meeting.tag) and meeting.version:
            self._locker.told(meeting, is_set)

    def both_locked(self, meeting: NameExchange, lock: tuple[Term, Term]) -> None:
        """Called when both sides are locked. Sends the local names."""
        meeting.lock = lock
        names: list[Term] = [(one.name, one.pid, one.method) for one in self._names]
        self._cast(meeting.node, (Atom("exchange"), self._here, names, [], meeting.his_tag))
        self._exchange(meeting)

    def _exchange(self, meeting: NameExchange) -> None:
        if meeting.lock is not None and meeting.his_names is not None and not meeting.resolver:
            meeting.resolver = self._start(self._resolve_all(meeting, meeting.his_names))

    async def _resolve_all(self, meeting: NameExchange, his_names: list[Term]) -> None:
        """Determines the operations for the names of both sides."""
        here: list[Term] = []
        there: list[Term] = []
        for one in his_names:
            match one:
                case (name, Pid() as pid, method):
                    theirs = (_INSERT, (name, pid, method))
                case _:
                    continue
            entry = self._names.get(name)
            if entry is None:
                here.append(theirs)
            elif entry.pid != pid and self._here < meeting.node:
                # The node with the lesser name resolves the conflict.
                kept = await self.conflicts.who_keeps(entry, pid)
                if kept == pid:
                    here.append(theirs)
                elif kept == entry.pid:
                    there.append((_INSERT, (name, entry.pid, entry.method)))
                else:
                    here.append((_DELETE, name))
                    there.append((_DELETE, name))
        meeting.operations = here
        says_versions = meeting.version >= _PARTS
        known: list[Term] = list(self._known.items() if says_versions else self._known)
        self._cast(
            meeting.node,
            (
                Atom("resolved"),
                self._here,
                there,
                known,
                Atom("unused"),
                self._names.external(),
                meeting.his_tag,
            ),
        )
        self._conclude(meeting)

    def _conclude(self, meeting: NameExchange) -> None:
        """Applies the operations when both sides know them."""
        if meeting.operations is None or meeting.resolved is None:
            return
        assert meeting.lock is not None
        node = meeting.node
        his_ops, his_known, external = meeting.resolved
        ops = [*meeting.operations, *his_ops]
        new: list[Term] = [(node, meeting.version), *his_known]
        others = [one for one, _ in map(_versioned, his_known) if one is not self._here]
        told = list(self._known.items())
        extra: list[Term] = [(Atom("vsn"), meeting.version), (Atom("lock"), meeting.lock)]

        def tell_our_side() -> None:
            for one, version in told:
                nodes = new if version >= _PARTS else [_versioned(each)[0] for each in new]
                self._cast(one, (Atom("new_nodes"), self._here, ops, external, nodes, extra))

        self._sync_others(others)
        self._names.operate(ops, external, self._locks.allows(meeting.lock[1]))
        self._in_step(node)
        for one in others:
            self._end(one)
        meeting.before_unlock = tell_our_side
        self._end(node)
        self._add_known(new)
        self._synced.add(node)

    def _in_sync(self, node: Atom) -> None:
        """Called when a node of the other side has added this node to its cluster."""
        self._in_step(node)
        self._synced.add(node)
        self._end(node)

    def _in_step(self, node: Atom) -> None:
        for waiting in list(self._sync_waiters):
            missing, done = waiting
            missing.discard(node)
            if not missing:
                self._sync_waiters.remove(waiting)
                if not done.done():
                    done.set_result(None)

    def _end(self, node: Atom) -> None:
        """Ends a meeting, whether it succeeded or not."""
        meeting = self._meetings.pop(node, None)
        if meeting is None:
            return
        if meeting.resolver is not None and meeting.operations is None:
            meeting.resolver.cancel()
        if not meeting.over.done():
            meeting.over.set_result(None)

    def _restart(self, meeting: NameExchange) -> None:
        """Restarts a meeting after a mismatch of the tags. Releases the locks of the other node."""
        node = meeting.node
        if meeting.version >= _VERIFIES:
            self._say(node, (Atom("cancel_connect"), self._here, meeting.his_tag))
        self._end(node)
        self._forget(node)
        self._node_up(node)

    def _meeting(self, node: Atom, tag: Term) -> NameExchange | None:
        """Returns the meeting with a node if it has that tag."""
        meeting = self._meetings.get(node)
        return meeting if meeting is not None and meeting.tag == tag else None

    # -- the mesh --------------------------------------------------------------------------------

    @property
    def known(self) -> dict[Atom, int]:
        """The other nodes of the cluster, with their protocol versions."""
        return self._known

    def candidates(self) -> list[NameExchange]:
        """Returns the meetings whose side can be locked now."""
        return [
            one
            for one in self._meetings.values()
            if one.version and one.lock is None and one.node not in self._known
        ]

    def _add_known(self, nodes: Iterable[Term]) -> list[Atom]:
        added = []
        for node, version in map(_versioned, nodes):
            if node is self._here:
                continue
            if node not in self._known:
                added.append(node)
            self._known[node] = version or self._known.get(node, 0)
        return added

    def _sync_others(self, nodes: Iterable[Atom]) -> None:
        for node in nodes:
            self._start(self._sync_other(node))

    async def _sync_other(self, node: Atom) -> None:
        try:
            await self._connect(node)
        except NodeError as error:
            logger.warning("%s is in the cluster and cannot be reached: %s", node, error)
            self._node_down(node)
        else:
            self._cast(node, (Atom("in_sync"), self._here, True))

    def _node_down(self, node: Atom) -> None:
        is_loss = node not in self._removing
        self._removing.discard(node)
        if is_loss:
            lost = (Atom("lost_connection"), self._here, self._incarnation, next(self._tags), node)
            self._say_on(lost, node)
        self._part(node)

    def _part(self, node: Atom) -> None:
        """Removes a node from the cluster."""
        self._known.pop(node, None)
        self._synced.discard(node)
        self._end(node)
        self._in_step(node)

    def _on_lost_connection(
        self, message: Term, node: Atom, life: int, number: int, lost: Atom
    ) -> None:
        now = asyncio.get_running_loop().time()
        known = self._lost.pop((node, lost), None)
        if known is not None and known[0] == life and number <= known[1]:
            self._lost[node, lost] = known
            return
        self._lost[node, lost] = life, number, now
        self._forget_old(now)
        self._say_on(message, node)
        gone = node if lost is self._here else lost
        version = self._version(gone)
        if version is None:
            return
        logger.warning("disconnecting from %s: %s has lost %s", gone, node, lost)
        if version < _PARTS:
            self._disconnect(gone)
        else:
            self._say(gone, (Atom("remove_connection"), self._here))
        self._removing.add(gone)
        self._part(gone)

    def _on_remove_connection(self, node: Atom) -> None:
        if self._version(node) is None:
            return
        logger.warning("disconnecting from %s at its request", node)
        self._removing.add(node)
        self._part(node)
        asyncio.get_running_loop().call_soon(self._disconnect, node)

    def _version(self, node: Atom) -> int | None:
        """Returns the protocol version of a node that is in the cluster or joining it."""
        meeting = self._meetings.get(node)
        known = self._known.get(node)
        return known if known is not None or meeting is None else meeting.version or None

    def _say_on(self, message: Term, but: Atom) -> None:
        for node in {*self._known, *self._meetings} - {but}:
            if (self._version(node) or 0) >= _PARTS:
                self._say(node, message)

    def _forget_old(self, now: float) -> None:
        """Removes old entries, which come first."""
        while self._lost:
            key = next(iter(self._lost))
            if len(self._lost) <= _MOST_LOST and now - self._lost[key][2] < _LOST:
                return
            del self._lost[key]

    # -- the names -------------------------------------------------------------------------------

    def _forget(self, node: Atom) -> None:
        """Releases the locks and names of a node that is still connected."""
        self._locks.node_gone(node)
        self._names.node_gone(node)

    # -- outgoing messages -----------------------------------------------------------------------

    def _cast(self, node: Atom, request: Term) -> None:
        self._say(node, (GEN_CAST, request))

    def _say(self, node: Atom, message: Term) -> None:
        self.system.emit_if_connected(node, self.pid, signals.Message(self.pid, SERVER), message)

    def lock_set(self, meeting: NameExchange, is_set: bool) -> None:
        """Sends the other side whether the local side is locked."""
        tag = [meeting.his_tag] if meeting.version >= _VERIFIES else []
        known = list(self._known)
        self._cast(meeting.node, (Atom("lock_set"), self._locker.pid, is_set, known, *tag))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a background task."""
        task = asyncio.ensure_future(work)
        self._keep(task)
        task.add_done_callback(self._report)
        return task

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # The waiter may have been cancelled, so the exception is marked as retrieved.
        if not task.cancelled():
            task.exception()

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a background task failed", self, exc_info=task.exception())

    def stopped(self) -> None:
        """Cancels all tasks when the node stops."""
        for task in self._tasks:
            task.cancel()
        for _, done in self._sync_waiters:
            if not done.done():
                done.set_exception(NotRunning("the node has stopped"))


def _versioned(node: Term) -> tuple[Atom, int]:
    """Returns a known node and its version, which is present since protocol version 7."""
    match node:
        case (Atom() as name, int() as version):
            return name, version
        case Atom():
            return node, 0
    raise ValueError(f"{format_bounded(node)} is not a known node")


def _lock_of(extra: Term) -> tuple[Term, Term] | None:
    """Returns the lock under which names were changed."""
    for one in extra if isinstance(extra, list) else ():
        match one:
            case ("lock", (resource, requester)):
                return resource, requester
    return None
