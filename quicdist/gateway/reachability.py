"""What the node has sent to one peer, and which answers the peer may send for it.

A signal from the node permits the peer to answer its sender, an alias in it, its monitor or its
spawn request. Nothing else gives access to a process: pids and references are sequential, so they
can be guessed.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

from quicdist import etf
from quicdist.cluster.otp_names import OTP_NAMES
from quicdist.etf.terms import Atom, Pid, Reference
from quicdist.gateway.payload_inspection import PayloadInspection, asks_for_features, reply_tag
from quicdist.gateway.term_scanner import Unreadable
from quicdist.protocol.signals import (
    Demonitor,
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

_MAX_REFERENCES: Final = 1024
"""The maximum number of aliases taken from one piece of a message."""

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


class Reachability:
    """The reachable processes, aliases, monitors and spawn requests of one connection."""

    def __init__(self, own_name: Atom) -> None:
        self._own_name = own_name
        node = etf.encode_bare(own_name)
        self._marks = tuple(b"Z\0" + bytes((words,)) + node for words in (3, 4, 5))
        """How references of the node begin: with three words, or more with a pid (OTP 26)."""
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

    # -- signals from the node --

    def sent(self, signal: Signal, payload: PayloadInspection | None) -> None:
        """Records a signal of the node."""
        match signal:
            case Message(sender=Pid() as sender, to=Atom() as name) if payload is not None:
                self._sent_to_name(sender, name, payload)
            case Monitor(ref=ref):
                _remember(self._monitors, _key(ref), None, MAX_MONITORS)
            case Demonitor(ref=ref):
                self._monitors.pop(_key(ref), None)
            case SpawnRequest(req_id=ref, sender=sender):
                _remember(self._spawns, _key(ref), None, MAX_MONITORS)
                if signal.options:
                    _remember(self._monitors, _key(ref), None, MAX_MONITORS)
                if payload is not None and _contains(payload, sender):
                    self._process(sender, Reach.ANSWERS)
            case SpawnReply(result=Pid() as child):
                self._process(child, Reach.CHILD)

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
            _remember(self._tags, (number(sender), _key(tag)), None, MAX_PROCESSES)
        elif is_of_features:
            _remember(self._features, number(sender), None, MAX_PROCESSES)
        elif name not in OTP_NAMES and _contains(payload, sender):
            self._process(sender, Reach.ANSWERS)

    def _process(self, pid: Pid, reach: Reach) -> None:
        if self._processes.get(number(pid)) is Reach.CHILD:
            reach = Reach.CHILD
        _remember(self._processes, number(pid), reach, MAX_PROCESSES)

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
                    _remember(self._aliases, key, once, MAX_PROCESSES)
                found = data.find(mark, found + 1)
        return data[max(at, len(data) - _LONGEST_REFERENCE) :]

    # -- signals from the peer --

    def reach(self, pid: Pid) -> Reach | None:
        """Returns how the peer may reach a process of the node, or None."""
        reach = self._processes.get(number(pid))
        if reach is not None:
            self._process(pid, reach)
        return reach

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
        if len(self._brought) + len(new) > MAX_PROCESSES:
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


def _remember(table: dict[_K, _V], key: _K, value: _V, limit: int) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > limit:
        del table[next(iter(table))]
