"""Process groups: a full member of a `pg` scope of OTP.

    groups = pg.start(node)
    groups.join("workers", me.pid)
    for worker in groups.members("workers"): ...

Each node keeps its own members and receives those of the other nodes: all of them with `discover`
and `sync` messages, and changes with `join` and `leave` messages. The members on a node are removed
when the connection to it is lost. A scope on a BEAM node announces itself only to visible nodes,
so this scope asks each connected node repeatedly, at intervals of up to 5 s, until it answers.

OTP, pg(3), OTP 23 and later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from quicdist.errors import NoProcess
from quicdist.etf import Atom, ErlMap, Pid, Reference, Term
from quicdist.etf.maps import canonical
from quicdist.etf.notation import format_bounded
from quicdist.node.node import Node
from quicdist.protocol import signals
from quicdist.runtime.backpressure import Source
from quicdist.runtime.calls import is_from
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import GEN_CAST, SystemProcess, ignore

logger = logging.getLogger("quicdist.otp")

_DISCOVER = Atom("discover")
_SYNC = Atom("sync")
_JOIN = Atom("join")
_LEAVE = Atom("leave")
_OK = Atom("ok")
_NOT_JOINED = Atom("not_joined")

_Key = bytes
"""The encoded group: Erlang distinguishes 1, 1.0 and true, and a list is not hashable."""


@dataclass(slots=True)
class _Group:
    """The members of one group on one node."""

    name: Term
    pids: list[Pid] = field(default_factory=list)


_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
"""Seconds between two `discover` messages to a node that does not answer."""


@dataclass(slots=True)
class _Search:
    """The state of asking one node for its scope."""

    pause: float = _FIRST_PAUSE
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _RemoteScope:
    """The groups of one node, and the monitor of its scope process."""

    monitor: Reference
    groups: dict[_Key, _Group] = field(default_factory=dict)


def start(node: Node, scope: str = "pg") -> Groups:
    """Starts the scope on this node. It runs until the node stops. Raises NameTaken."""
    groups = Groups(node.system)
    node.system.register(scope, groups)
    groups.discover_all(node.nodes())
    return groups


class Groups(SystemProcess):
    """A scope of process groups on this node."""

    def __init__(self, system: ProcessTable) -> None:
        super().__init__(system, lambda _, message, source: self._on_message(message, source))
        self._local: dict[_Key, _Group] = {}
        self._members: dict[Pid, Reference] = {}
        """The local members, and their monitors."""
        self._remote: dict[Pid, _RemoteScope] = {}
        self._scope_monitors: dict[Reference, Pid] = {}
        self._group_monitors: dict[Reference, tuple[Pid, _Key]] = {}
        self._undiscovered: dict[Atom, _Search] = {}
        """Connected nodes whose scope process is not known."""
        self.monitor_nodes(hidden=True)
        system.before_drain[self] = self.leave_all

    # -- public ----------------------------------------------------------------------------------

    def join(self, group: Term, *pids: Pid) -> None:
        """Adds processes of this node to a group.

        A process that joins twice is a member twice, as in OTP. A group name of type str is a
        binary on a BEAM node; use an `Atom` for an atom.

        Raises NoProcess if a process is not on this node or has ended.
        """
        self.system.affinity.check()
        for pid in pids:
            if pid not in self.system.processes:
                raise NoProcess(f"{pid} is not a process of this node")
        if not pids:
            return
        key = _key(group)
        for pid in pids:
            if pid not in self._members:
                self._members[pid] = self.monitor(pid)
        _add(self._local, key, group, pids)
        self._notify(_JOIN, key, group, pids)
        self._broadcast((_JOIN, self.pid, group, list(pids)))

    def leave(self, group: Term, *pids: Pid) -> bool:
        """Removes processes of this node, once each. Returns False if none was a member."""
        self.system.affinity.check()
        key = _key(group)
        left = _remove(self._local, key, pids)
        if not left:
            return False
        self._unwatch(left)
        self._notify(_LEAVE, key, group, left)
        self._broadcast((_LEAVE, self.pid, list(pids), [group]))
        return True

    def members(self, group: Term) -> list[Pid]:
        """Returns the members on all nodes."""
        self.system.affinity.check()
        key = _key(group)
        found = self._pids(self._local, key)
        for told in self._remote.values():
            found.extend(self._pids(told.groups, key))
        return found

    def local_members(self, group: Term) -> list[Pid]:
        """Returns the members on this node."""
        self.system.affinity.check()
        return self._pids(self._local, _key(group))

    def groups(self) -> list[Term]:
        """Returns the groups that have members."""
        self.system.affinity.check()
        found = {key: group.name for key, group in self._local.items()}
        for told in self._remote.values():
            found.update({key: group.name for key, group in told.groups.items()})
        return list(found.values())

    def local_groups(self) -> list[Term]:
        """Returns the groups that have members on this node."""
        self.system.affinity.check()
        return [group.name for group in self._local.values()]

    def monitor_group(self, watcher: Process, group: Term) -> tuple[Reference, list[Pid]]:
        """Returns a reference and the current members, and sends changes to `watcher`.

        The messages are (reference, 'join' or 'leave', group, pids).
        """
        self.system.affinity.check()
        return self._monitor_group(watcher.pid, group)

    def monitor_scope(self, watcher: Process) -> tuple[Reference, list[tuple[Term, list[Pid]]]]:
        """Monitors all groups. Returns a reference and (group, members) pairs."""
        self.system.affinity.check()
        return self._monitor_scope(watcher.pid)

    def demonitor_groups(self, reference: Reference) -> bool:
        """Removes a monitor of a group or of the scope. Returns True if it existed."""
        self.system.affinity.check()
        known = self._scope_monitors.pop(reference, None) is not None
        known = self._group_monitors.pop(reference, None) is not None or known
        if known:
            self.demonitor(reference)
        return known

    def leave_all(self) -> None:
        """Removes all processes of this node from all groups."""
        self.system.affinity.check()
        for group in list(self._local.values()):
            self.leave(group.name, *group.pids)

    def discover_all(self, nodes: Iterable[str]) -> None:
        """Asks nodes whether they run this scope, until each has answered or is disconnected."""
        self.system.affinity.check()
        for node in nodes:
            self._search(Atom(node))

    # -- messages --------------------------------------------------------------------------------

    def _on_message(self, message: Term, source: Source) -> None:
        node = source.name or self.system.name
        match message:
            case ("join" | "leave" | "discover", Pid() as peer, *_) if peer.node is not node:
                self._log_forged(message, node)
            case ("$gen_cast", ("sync", Pid() as peer, _)) if peer.node is not node:
                self._log_forged(message, node)
            case ("join", Pid() as peer, group, pids) if peer in self._remote:
                self._remote_join(peer, group, _pids_of(peer.node, pids))
            case ("leave", Pid() as peer, pids, list(groups)) if peer in self._remote:
                self._remote_leave(peer, _pids(pids), groups)
            case ("$gen_cast", ("sync", Pid() as peer, list(groups))):
                self._on_sync(peer, groups)
            case ("discover", Pid() as peer) | ("discover", Pid() as peer, _):
                self._on_discover(peer)
            case ("DOWN", Reference() as reference, _, Pid() as pid, _):
                self._on_down(reference, pid)
            case ("nodeup", Atom() as node):
                self._search(node)
            case ("nodedown", Atom() as node):
                self._end_search(node)
            case ("join", _, _, _) | ("leave", _, _, _):
                # A DOWN of the scope process of a known node; others belong to unknown nodes.
                pass
            case ("$gen_call", sender, request) if is_from(sender):
                self._on_call(sender, request)
            case _:
                text = format_bounded(message)
                extra = self.fields("message_ignored")
                logger.info("%s ignores a message: %s", self, text, extra=extra)
                ignore(self, message, source)

    def _log_forged(self, message: Term, node: Atom) -> None:
        extra = {**self.fields("message_ignored"), "peer": str(node)}
        text = "%s ignores a message of %s in the name of another node's scope: %s"
        logger.warning(text, self, node, format_bounded(message), extra=extra)

    def stopped(self) -> None:
        """Called when the node stops."""
        super().stopped()
        self.system.before_drain.pop(self, None)
        for node in list(self._undiscovered):
            self._end_search(node)

    def _search(self, node: Atom) -> None:
        # The scope on that node may start or restart later, and announces itself only to visible
        # nodes.
        self._end_search(node)
        if node is not self.system.name:
            self._ask_again(node, _Search())

    def _ask_again(self, node: Atom, search: _Search) -> None:
        self._undiscovered[node] = search
        self._discover(node)
        pause, search.pause = search.pause, min(search.pause * 2, _LONGEST_PAUSE)
        loop = asyncio.get_running_loop()
        search.timer = loop.call_later(pause, self._ask_again, node, search)

    def _end_search(self, node: Atom) -> None:
        search = self._undiscovered.pop(node, None)
        if search is not None and search.timer is not None:
            search.timer.cancel()

    def _discover(self, node: Atom) -> None:
        if self.name is not None and node is not self.system.name:
            signal = signals.Message(self.pid, self.name)
            self.system.emit_if_connected(node, self.pid, signal, (_DISCOVER, self.pid))

    def _on_discover(self, peer: Pid) -> None:
        mine = [(group.name, list(group.pids)) for group in self._local.values()]
        self.system.post(self.pid, peer, (GEN_CAST, (_SYNC, self.pid, mine)))
        if peer not in self._remote:
            self._remote[peer] = _RemoteScope(self.monitor(peer))
            self.system.post(self.pid, peer, (_DISCOVER, self.pid))

    def _on_sync(self, peer: Pid, groups: list[Term]) -> None:
        told = self._remote.get(peer)
        if told is None:
            told = self._remote[peer] = _RemoteScope(self.monitor(peer))
        self._end_search(peer.node)
        old, told.groups = told.groups, {}
        for one in groups:
            match one:
                case (group, pids):
                    _add(told.groups, _key(group), group, _pids_of(peer.node, pids))
        for key, group in old.items():
            self._compare(key, group, told.groups.get(key))
        for key, group in told.groups.items():
            if key not in old:
                self._notify(_JOIN, key, group.name, group.pids)

    def _compare(self, key: _Key, old: _Group, new: _Group | None) -> None:
        before, after = Counter(old.pids), Counter(new.pids if new else ())
        left, joined = list((before - after).elements()), list((after - before).elements())
        if left:
            self._notify(_LEAVE, key, old.name, left)
        if joined:
            self._notify(_JOIN, key, old.name, joined)

    def _remote_join(self, peer: Pid, group: Term, pids: Sequence[Pid]) -> None:
        key = _key(group)
        _add(self._remote[peer].groups, key, group, pids)
        self._notify(_JOIN, key, group, pids)

    def _remote_leave(self, peer: Pid, pids: Sequence[Pid], groups: list[Term]) -> None:
        for group in groups:
            key = _key(group)
            left = _remove(self._remote[peer].groups, key, pids)
            if left:
                self._notify(_LEAVE, key, group, left)

    def _on_down(self, reference: Reference, pid: Pid) -> None:
        if self._scope_monitors.pop(reference, None) is not None:
            return
        if self._group_monitors.pop(reference, None) is not None:
            return
        told = self._remote.get(pid)
        if told is not None and told.monitor == reference:
            del self._remote[pid]
            if self.system.network.is_up(pid.node):
                self._search(pid.node)
            for key, group in told.groups.items():
                self._notify(_LEAVE, key, group.name, group.pids)
        elif self._members.pop(pid, None) is not None:
            gone: list[Term] = []
            for key, group in list(self._local.items()):
                left = _remove(self._local, key, [pid] * group.pids.count(pid))
                if left:
                    # Once for each join, as in OTP.
                    gone.extend([group.name] * len(left))
                    self._notify(_LEAVE, key, group.name, left)
            self._broadcast((_LEAVE, self.pid, pid, gone))

    def _on_call(self, sender: Term, request: Term) -> None:
        assert isinstance(sender, tuple)
        caller = sender[0]
        match request:
            case "monitor":
                reference, groups = self._monitor_scope(caller)
                self.reply(sender, (reference, ErlMap(groups)))
            case ("monitor", group):
                self.reply(sender, self._monitor_group(caller, group))
            case ("demonitor", Reference() as reference):
                self.reply(sender, _OK if self.demonitor_groups(reference) else False)
            case ("join_local", group, pids) if self._are_ours(pids):
                self.join(group, *_pids(pids))
                self.reply(sender, _OK)
            case ("leave_local", group, pids):
                self.reply(sender, _OK if self.leave(group, *_pids(pids)) else _NOT_JOINED)
            case _:
                self.reply(sender, (Atom("error"), Atom("badarg")))

    def _are_ours(self, pids: Term) -> bool:
        return all(pid in self.system.processes for pid in _pids(pids))

    # -- internal --------------------------------------------------------------------------------

    def _monitor_scope(self, watcher: Pid) -> tuple[Reference, list[tuple[Term, list[Pid]]]]:
        reference = self.monitor(watcher)
        self._scope_monitors[reference] = watcher
        return reference, [(group, self.members(group)) for group in self.groups()]

    def _monitor_group(self, watcher: Pid, group: Term) -> tuple[Reference, list[Pid]]:
        reference = self.monitor(watcher)
        self._group_monitors[reference] = (watcher, _key(group))
        return reference, self.members(group)

    def _notify(self, action: Atom, key: _Key, group: Term, pids: Sequence[Pid]) -> None:
        if not pids:
            return
        for reference, watcher in list(self._scope_monitors.items()):
            self.system.post(self.pid, watcher, (reference, action, group, list(pids)))
        for reference, (watcher, of) in list(self._group_monitors.items()):
            if of == key:
                self.system.post(self.pid, watcher, (reference, action, group, list(pids)))

    def _broadcast(self, message: Term) -> None:
        for peer in self._remote:
            self.system.post(self.pid, peer, message)

    def _unwatch(self, pids: Sequence[Pid]) -> None:
        """Removes the monitors of processes that are in no group any more."""
        for pid in set(pids):
            if not any(pid in group.pids for group in self._local.values()):
                reference = self._members.pop(pid, None)
                if reference is not None:
                    self.demonitor(reference)

    @staticmethod
    def _pids(groups: dict[_Key, _Group], key: _Key) -> list[Pid]:
        group = groups.get(key)
        return [] if group is None else list(group.pids)


def _key(group: Term) -> _Key:
    return canonical(group)[0]


def _add(groups: dict[_Key, _Group], key: _Key, name: Term, pids: Iterable[Pid]) -> None:
    groups.setdefault(key, _Group(name)).pids.extend(pids)


def _remove(groups: dict[_Key, _Group], key: _Key, pids: Iterable[Pid]) -> list[Pid]:
    """Removes each pid once. Returns the pids that were found."""
    group = groups.get(key)
    if group is None:
        return []
    left = []
    for pid in pids:
        if pid in group.pids:
            group.pids.remove(pid)
            left.append(pid)
    if not group.pids:
        del groups[key]
    return left


def _pids_of(node: Atom, term: Term) -> list[Pid]:
    """The pids of a node. Each node announces its own processes only."""
    return [one for one in _pids(term) if one.node is node]


def _pids(term: Term) -> list[Pid]:
    """A pid, or a list of them."""
    if isinstance(term, Pid):
        return [term]
    return [one for one in term if isinstance(one, Pid)] if isinstance(term, list) else []
