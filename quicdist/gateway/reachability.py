"""What the node has sent to one peer, and which answers the peer may send for it.

A signal from the node permits the peer to answer its sender, an alias in it, its monitor or its
spawn request. Nothing else gives access to a process: pids and references are sequential, so they
can be guessed.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection
from typing import Any, Final, TypeVar
from weakref import WeakSet

from quicdist import etf
from quicdist.cluster.otp_names import OTP_NAMES
from quicdist.etf.terms import Atom, Pid, Reference
from quicdist.gateway.payload_inspection import PayloadInspection, asks_for_features, reply_tag
from quicdist.gateway.term_scanner import Unreadable
from quicdist.protocol.signals import (
    Demonitor,
    Exit,
    ExitSignal,
    Message,
    Monitor,
    Signal,
    SpawnReply,
    SpawnRequest,
)

MAX_PROCESSES = 65536
"""The maximum number of processes and aliases to remember. The least recently used are removed."""

MAX_MONITORS = 1 << 20
"""The maximum number of monitors and spawn requests of the node at the peer."""

MAX_OF_NODE = 1 << 20
"""The maximum number of entries of all connections of a gateway: processes, pids, aliases,
monitors and spawn requests. The connections with the most entries lose their oldest first."""

_MAX_REFERENCES: Final = 1024
"""The maximum number of aliases taken from one piece of a message."""

_MAX_PIDS: Final = 4096
"""The maximum number of pids of each format taken from one piece of a message."""

_REPLY_TAG: Final = etf.encode_bare([Atom("alias")])[:-1]
"""`[alias | Reference]`, the tag of a `gen_server:call`, up to the reference."""

_LONGEST_REFERENCE: Final = 300
"""Bytes of a reference, and of the prefix of a reply alias."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Reach(enum.Enum):
    """How a process may be reached by its pid."""

    ANSWERS = enum.auto()
    """The process has sent its pid."""
    CHILD = enum.auto()
    """The peer has spawned the process."""


class ReferenceBudget:
    """Bounds the entries that all connections of a gateway keep together."""

    def __init__(self, limit: int = MAX_OF_NODE) -> None:
        self._limit = limit
        self._left = limit
        """New entries until the entries are counted again. Removals are not tracked."""
        self._members: WeakSet[Reachability] = WeakSet()

    def join(self, member: Reachability) -> None:
        """Adds a connection. It is removed with its last reference."""
        self._members.add(member)

    def added(self) -> None:
        """Counts a new entry, and makes room if there are too many."""
        self._left -= 1
        if self._left < 0:
            self._make_room()

    def may_bring(self, count: int) -> bool:
        """Whether peers may bring so many references more.

        They take a quarter at most, as they are never forgotten.
        """
        return sum(one.count_brought for one in self._members) + count <= self._limit // 4

    def _make_room(self) -> None:
        total = sum(one.count + one.count_brought for one in self._members)
        target = self._limit - self._limit // 16
        while total > target:
            largest = max(self._members, key=lambda one: one.count)
            total -= largest.forget(min(total - target, max(1, largest.count // 4)))
        self._left = self._limit - total


class Reachability:
    """The reachable processes, aliases, monitors and spawn requests of one connection."""

    def __init__(self, own_name: Atom, budget: ReferenceBudget | None = None) -> None:
        """`budget` bounds the entries of all connections of the gateway."""
        self._budget = ReferenceBudget() if budget is None else budget
        self._budget.join(self)
        self._own_name = own_name
        node = etf.encode_bare(own_name)
        self._marks = tuple(b"Z\0" + bytes((words,)) + node for words in (3, 4, 5))
        """How references of the node begin: with three words, or more with a pid (OTP 26)."""
        self._pid_marks = (b"X" + node, b"g" + node)
        """How pids of the node begin: NEW_PID_EXT, PID_EXT."""
        self._pids: dict[bytes, None] = {}
        """Numbers and serials of the pids that the peer was sent, in any place."""
        self._processes: dict[int, Reach] = {}
        self._features: dict[int, None] = {}
        """Processes that have asked for the features of the peer."""
        self._tags: dict[tuple[int, bytes], None] = {}
        """Callers, and the tags of the answers that they wait for. `net_kernel` answers by pid even
        if the tag contains an alias."""
        self._aliases: dict[bytes, bool] = {}
        """Words of aliases that were sent to the peer, and whether each is for one answer."""
        self._brought: set[bytes] = set()
        """Words of references that the peer sent before the node did.

        If the node repeats one, the peer has not learned it from the node.
        """
        self._monitors: dict[bytes, None] = {}
        self._spawns: dict[bytes, None] = {}

    @property
    def count(self) -> int:
        """The number of entries that can be forgotten."""
        return sum(map(len, self._tables()))

    @property
    def count_brought(self) -> int:
        """The number of references that the peer has brought."""
        return len(self._brought)

    def forget(self, count: int) -> int:
        """Removes the oldest entries of the largest tables. Returns the number removed."""
        removed = 0
        for table in sorted(self._tables(), key=len, reverse=True):
            for key in _oldest(table, count - removed):
                del table[key]
                removed += 1
        return removed

    def _tables(self) -> tuple[dict[Any, Any], ...]:
        return (
            *(self._processes, self._pids, self._features, self._tags),
            *(self._aliases, self._monitors, self._spawns),
        )

    # -- signals from the node --

    def sent(self, signal: Signal, payload: PayloadInspection | None) -> None:
        """Records a signal of the node."""
        match signal:
            case Message(sender=Pid() as sender, to=Atom() as name) if payload is not None:
                self._sent_to_name(sender, name, payload)
            case Monitor(ref=ref):
                self._remember(self._monitors, _key(ref), None, MAX_MONITORS)
            case Demonitor(ref=ref):
                self._monitors.pop(_key(ref), None)
            case SpawnRequest(req_id=ref, sender=sender, group_leader=leader):
                self._pid(sender)
                self._pid(leader)
                self._remember(self._spawns, _key(ref), None, MAX_MONITORS)
                if signal.options:
                    self._remember(self._monitors, _key(ref), None, MAX_MONITORS)
                if payload is not None and _contains(payload, sender):
                    self._process(sender, Reach.ANSWERS)
            case SpawnReply(result=Pid() as child):
                self._process(child, Reach.CHILD)
                self._pid(child)
            case Exit(sender=sender) | ExitSignal(sender=sender):
                self._pid(sender)
            # Not an UnlinkAck: its sender is what the peer has sent in an Unlink.

    def _sent_to_name(self, sender: Pid, name: Atom, payload: PayloadInspection) -> None:
        """Records a message to a name.

        A process that does not send its pid does not wait for an answer by pid: `timer_server`
        sends messages on behalf of others. A tag or an alias is sufficient for the answer.
        """
        try:
            tag = reply_tag(payload.again())
            is_of_features = asks_for_features(payload.again())
        except Unreadable:
            return
        if tag is not None:
            self._remember(self._tags, (number(sender), _key(tag)), None, MAX_PROCESSES)
        elif is_of_features:
            self._remember(self._features, number(sender), None, MAX_PROCESSES)
        elif name not in OTP_NAMES and _contains(payload, sender):
            self._process(sender, Reach.ANSWERS)

    def _remember(self, table: dict[_K, _V], key: _K, value: _V, limit: int) -> None:
        if key in table:
            del table[key]
        elif len(table) >= limit:
            del table[next(iter(table))]
        else:
            self._budget.added()
        table[key] = value

    def _process(self, pid: Pid, reach: Reach) -> None:
        if self._processes.get(number(pid)) is Reach.CHILD:
            reach = Reach.CHILD
        self._remember(self._processes, number(pid), reach, MAX_PROCESSES)

    def _pid(self, pid: Pid) -> None:
        """Records a pid that a control message shows to a process of the peer."""
        if pid.node == self._own_name:
            self._remember(self._pids, number(pid).to_bytes(8, "big"), None, MAX_PROCESSES)

    def sent_bytes(self, data: bytes, at: int) -> bytes:
        """Records the aliases in a piece of a message. Returns its end, for the next piece."""
        for mark in self._marks:
            found = data.find(mark, at)
            for _ in range(_MAX_REFERENCES):
                if found < 0:
                    break
                words = mark[2]
                end = found + len(mark) + 4 + 4 * words
                key = data[found + len(mark) + 4 : end]
                if len(key) == 4 * words and key not in self._brought:
                    once = data.endswith(_REPLY_TAG, 0, found)
                    self._remember(self._aliases, key, once, MAX_PROCESSES)
                found = data.find(mark, found + 1)
        return data[max(at, len(data) - _LONGEST_REFERENCE) :]

    def sent_pids(self, data: bytes, at: int) -> None:
        """Records the pids of the node in a piece of a payload."""
        for mark in self._pid_marks:
            found = data.find(mark, at)
            for _ in range(_MAX_PIDS):
                if found < 0:
                    break
                start = found + len(mark)
                key = data[start : start + 8]
                if len(key) == 8:
                    self._remember(self._pids, key, None, MAX_PROCESSES)
                found = data.find(mark, start)

    # -- signals from the peer --

    def reach(self, pid: Pid) -> Reach | None:
        """Returns how the peer may reach a process of the node, or None."""
        reach = self._processes.get(number(pid))
        if reach is not None:
            self._process(pid, reach)
        return reach

    def is_child(self, key: bytes) -> bool:
        """Whether the peer has spawned the process of this number and serial."""
        return self._processes.get(int.from_bytes(key, "big")) is Reach.CHILD

    def knows_pids(self, keys: set[bytes]) -> bool:
        """Whether the peer was sent all of these pids, given as number and serial."""
        return keys <= self._pids.keys()

    def takes_answer(self, pid: Pid, tag: Reference) -> bool:
        """Whether a process waits for an answer with this tag. The tag is valid once."""
        return self._tags.pop((number(pid), _key(tag)), self) is None

    def takes_features(self, pid: Pid) -> bool:
        """Whether the process has asked for the features of the peer."""
        return self._features.pop(number(pid), self) is None

    def takes_alias(self, alias: Reference) -> bool:
        """Whether the peer was sent this alias. A reply alias serves once."""
        key = _words(alias)
        once = self._aliases.get(key)
        if once:
            del self._aliases[key]
        return once is not None

    def knows_alias(self, alias: Reference) -> bool:
        """Whether the peer was sent this alias, without using it up."""
        return _words(alias) in self._aliases

    def brought(self, references: set[bytes]) -> bool:
        """Records the references of the node in a request of the peer, as words.

        Returns False if there are too many.
        """
        if not references:
            return True
        new = references - self._brought - self._aliases.keys()
        if not new:
            return True
        if len(self._brought) + len(new) > MAX_PROCESSES or not self._budget.may_bring(len(new)):
            return False
        self._brought |= new
        return True

    def takes_down(self, ref: Reference) -> bool:
        """Whether the node has set up this monitor. Its DOWN is accepted once."""
        return self._monitors.pop(_key(ref), self) is None

    def takes_spawn_reply(self, ref: Reference, *, is_spawned: bool) -> bool:
        """Whether the node has sent this spawn request. A failed one sends no DOWN."""
        key = _key(ref)
        if not is_spawned:
            self._monitors.pop(key, None)
        return self._spawns.pop(key, self) is None


def number(pid: Pid) -> int:
    """Returns the number and serial of a pid. The creation is not needed."""
    return pid.id << 32 | pid.serial


def _key(ref: Reference) -> bytes:
    """Returns the encoded creation and words."""
    return b"".join(part.to_bytes(4, "big") for part in (ref.creation, *ref.ids))


def _words(ref: Reference) -> bytes:
    """Returns the encoded words. A node also accepts a reference with creation 0 as its own."""
    return _key(ref)[4:]


def _contains(payload: PayloadInspection, pid: Pid) -> bool:
    """Whether a payload, or its first fragment, contains this pid as a complete term."""
    return payload.find(etf.encode_bare(pid))


def _oldest(table: dict[_K, _V], count: int) -> Collection[_K]:
    return list(itertools.islice(table, count))
