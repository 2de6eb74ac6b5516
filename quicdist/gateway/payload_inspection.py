"""Reads the start of a payload to find the requested function. Arguments are not decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quicdist import etf
from quicdist.cluster.access_rules import atom_text
from quicdist.etf.terms import Atom, ImproperList, Pid, Reference, Term
from quicdist.gateway.term_scanner import TermScanner, Unreadable
from quicdist.protocol.signals import SpawnRequest

_SMALL_TUPLE, _LARGE_TUPLE, _LIST, _COMPRESSED = b"h", b"i", b"l", b"P"
_ATOMS = (b"d", b"s", b"v", b"w")
"""ATOM_EXT, SMALL_ATOM_EXT, ATOM_UTF8_EXT, SMALL_ATOM_UTF8_EXT."""

_ENDS_EARLY = "a payload, or its first fragment, ends before the request is complete"

_PIDS = (b"X", b"g")
"""NEW_PID_EXT, PID_EXT."""
_REFERENCES = (b"Z", b"r")
"""NEWER_REFERENCE_EXT, NEW_REFERENCE_EXT."""

_ALIAS = Atom("alias")

_OPTIONS = etf.Options(limits=etf.Limits(max_depth=16, max_terms=256, max_integer=64))
"""The maximum size of the terms that are decoded: an atom, a pid, a caller."""

_CALLS = {"call": 5, "block_call": 5, "cast": 5, "spawn": 5, "spawn_link": 5, "spawn_opt": 7}
"""Requests `{Tag, Module, Function, Args, ...}` of `rex` and `net_kernel`: elements by tag."""
_STREAM = ("quicdist_stream", "start", 6)
_WRAPPERS = {
    ("erpc", "execute_call", 4): 1,
    ("erpc", "execute_cast", 3): 0,
    ("quicdist_call", "execute", 5): 1,
    _STREAM: 3,
}
"""Spawned functions that run a function in their arguments, and the number of arguments before it:
those of `erpc` and `rpc`, and those of the OTP application of quicdist."""


_EVENT_REQUESTS = frozenset(
    {
        *("sync_notify", "call", "add_handler", "add_sup_handler", "delete_handler"),
        *("swap_handler", "swap_sup_handler", "stop", "which_handlers", "get_modules"),
    }
)
"""Requests of `gen_event`: `{AnyTerm, {To, Tag}, Request}`, answered to `To`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to run a function."""

    module: str
    function: str

    def __str__(self) -> str:
        return f"a call of {self.module}:{self.function}"


@dataclass(frozen=True, slots=True)
class Passed:
    """A request to forward a message to a registered name (`rpc:sbcast/2`)."""

    name: str
    tag: str | None = None
    """The first element of the message if that is a tuple."""
    is_for_another: bool = False
    """Whether the answer goes to a process that is not the peer's."""

    def __str__(self) -> str:
        return f"a message to {self.name}"


@dataclass(frozen=True, slots=True)
class Ping:
    """A request of `net_adm:ping`, whose answer only tells that the node is alive."""

    def __str__(self) -> str:
        return "a ping"


@dataclass(frozen=True, slots=True)
class Features:
    """A request that nodes of OTP 23 to 25 send to find out which calls the other node supports."""


Request: TypeAlias = Call | Passed | Ping | Features


@dataclass(frozen=True, slots=True)
class Asked:
    """A message to `rex` or `net_kernel`.

    It contains the request, and the monitor by which the sender detects that there is no answer.
    """

    request: Request | None
    monitor: Reference | None = None
    is_plain: bool = False
    """Whether the message has the form `{Pid, Request}` of `rpc:sbcast` and C nodes, which is
    answered with a message to the process."""


class PayloadInspection:
    """A reader of a payload."""

    __slots__ = ("_at", "_data", "_is_whole", "_start")

    def __init__(self, frame: bytes, offset: int, *, is_whole: bool = True) -> None:
        """`is_whole` is False if the payload is the first fragment of a message."""
        self._data = frame
        self._at = self._start = offset
        self._is_whole = is_whole

    def skip(self, terms: int = 1) -> None:
        """Reads complete terms of any size without decoding them. Raises Unreadable."""
        scanner = TermScanner(terms)
        end = scanner.feed(self._data, self._at)
        if not scanner.is_done:
            raise Unreadable(_ENDS_EARLY)
        self._at = end

    def again(self) -> PayloadInspection:
        """Returns a new reader of the same payload."""
        return PayloadInspection(self._data, self._start, is_whole=self._is_whole)

    def from_here(self) -> PayloadInspection:
        """The rest of the payload."""
        return PayloadInspection(self._data, self._at, is_whole=self._is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether the payload ends with its frame."""
        return self._is_whole

    def is_at_end(self) -> bool:
        """Whether the whole payload was read."""
        return self._is_whole and self._at == len(self._data)

    def find(self, part: bytes) -> bool:
        """Whether the payload contains these bytes."""
        return self._data.find(part, self._start) >= 0

    def tuple(self) -> int | None:
        """Reads a tuple header and returns its arity. For another term, returns None and stays."""
        tag = self._tag()
        if tag == _SMALL_TUPLE:
            return self._count(1)
        return self._count(4) if tag == _LARGE_TUPLE else None

    def list(self) -> int | None:
        """Reads a list header and returns its length without the tail, or returns None."""
        return self._count(4) if self._tag() == _LIST else None

    def atom(self) -> str | None:
        """Reads an atom. For another term, returns None and does not advance."""
        return atom_text(self.term()) if self._tag() in _ATOMS else None

    def pid(self) -> Pid | None:
        """Reads a pid. For another term, returns None and does not advance."""
        return self.term() if self._tag() in _PIDS else None

    def reference(self) -> Reference | None:
        """Reads a reference. For another term, returns None and does not advance."""
        return self.term() if self._tag() in _REFERENCES else None

    def alias_tag(self) -> Reference | None:
        """Returns the reference of `[alias | Reference]` without advancing."""
        here = self._at
        is_tag = self.list() == 1 and self.atom() == "alias"
        found = self.reference() if is_tag else None
        self._at = here
        return found

    def is_pair(self) -> bool:
        """Whether a pair whose first element is a pid follows. Does not advance."""
        here = self._at
        found = self.tuple() == 2 and self._tag() in _PIDS
        self._at = here
        return found

    def term(self) -> Term:
        """Reads a complete term. Raises Unreadable."""
        try:
            term, self._at = etf.decode_bare(self._data, self._at, _OPTIONS)
        except etf.EtfDecodeError as error:
            raise Unreadable(f"the start of a payload is invalid: {error}") from error
        return term

    def _tag(self) -> bytes:
        tag = self._bytes(self._at, 1)
        if tag == _COMPRESSED:
            raise Unreadable("a compressed payload")
        return tag

    def _count(self, width: int) -> int:
        count = self._bytes(self._at + 1, width)
        self._at += 1 + width
        return int.from_bytes(count, "big")

    def _bytes(self, start: int, count: int) -> bytes:
        found = self._data[start : start + count]
        if len(found) < count:
            raise Unreadable(_ENDS_EARLY)
        return found


def first_tag(inspection: PayloadInspection) -> str | None:
    """Returns the first element of a tuple if it is an atom. Raises Unreadable."""
    return inspection.atom() if inspection.tuple() else None


def asker(inspection: PayloadInspection) -> Reference | None:
    """Returns the monitor of the sender in `{Tag, From, Request}`."""
    if inspection.tuple() != 3 or inspection.atom() is None:
        return None
    return _monitor(inspection.term()) if inspection.is_pair() else None


def reply_tag(inspection: PayloadInspection) -> Reference | None:
    """Returns the reference in `{Tag, {Pid, ReplyTag}, Request}`, the format of `gen:call`."""
    if inspection.tuple() != 3 or inspection.atom() is None or not inspection.is_pair():
        return None
    caller = inspection.term()
    if type(caller) is not tuple or type(caller[0]) is not Pid:
        return None
    return _monitor(caller)


def answer_tag(inspection: PayloadInspection) -> Reference | None:
    """Returns the reference in the tag of an answer by pid, `{Ref | [alias | Ref], Reply}`."""
    if inspection.tuple() != 2:
        return None
    return inspection.reference() or inspection.alias_tag()


def asks_for_features(inspection: PayloadInspection) -> bool:
    """`{Pid, features_request}`."""
    return (
        inspection.tuple() == 2
        and inspection.pid() is not None
        and inspection.atom() == "features_request"
    )


def answers_features(inspection: PayloadInspection) -> bool:
    """`{features_reply, Node, Features}`."""
    return inspection.tuple() == 3 and inspection.atom() == "features_reply"


def spawned(signal: SpawnRequest, inspection: PayloadInspection) -> Call | None:
    """Returns the function of a spawn request, or the one that `erpc` runs. None if unknown.

    None as well for a stream whose items go to another node than that of the sender. Raises
    Unreadable.
    """
    module, function, arity = signal.mfa
    before = _WRAPPERS.get((module, function, arity))
    if before is None:
        return Call(module, function)
    # A list may be encoded in several parts, but no node does so.
    if inspection.list() != arity:
        return None
    ahead = [inspection.term() for _ in range(before)]
    if signal.mfa == _STREAM and not _is_consumer_of(ahead[:2], signal.sender.node):
        return None
    return _call(inspection)


def _is_consumer_of(ahead: list[Term], peer: Atom) -> bool:
    """Whether these are a process and an alias of `peer`."""
    consumer, alias = ahead
    return isinstance(consumer, Pid) and consumer.node == peer and _is_reference_of(alias, peer)


def requested(inspection: PayloadInspection, peer: Atom) -> Asked:
    """Returns the request in a message to `rex` or `net_kernel` of the node `peer`.

    Only the exact formats of OTP are recognized. Raises Unreadable.
    """
    arity = inspection.tuple()
    kind = inspection.atom() if arity else None
    if kind == "$gen_call" and arity == 3:
        caller = inspection.term() if inspection.is_pair() else None
        if not _is_of(caller, peer):
            return Asked(None)
        return Asked(_request(inspection, peer), _monitor(caller))
    if kind == "$gen_cast" and arity == 2:
        request = _request(inspection, peer)
        return Asked(None if isinstance(request, Ping) else request)
    if kind is None and arity == 2 and (pid := inspection.pid()) is not None and pid.node == peer:
        if inspection.atom() == "features_request":
            return Asked(Features() if inspection.is_at_end() else None, is_plain=True)
        request = _request(inspection, peer)
        return Asked(None if isinstance(request, Ping) else request, is_plain=True)
    return Asked(None)


def _request(inspection: PayloadInspection, peer: Atom) -> Request | None:
    arity = inspection.tuple()
    if not arity:
        return None
    tag = inspection.atom()
    if tag in _CALLS:
        call = _call(inspection) if arity == _CALLS[tag] else None
        return call if tag != "spawn_opt" or _spawns_plainly(inspection) else None
    if tag == "is_auth":
        is_ping = arity == 2 and inspection.atom() == peer and inspection.is_at_end()
        return Ping() if is_ping else None
    name = inspection.atom() if tag in ("sbcast", "send") and arity == 3 else None
    if name is None:
        return None
    passed = inspection.from_here()
    return Passed(name, first_tag(passed.again()), is_asked_for_another(passed, peer))


def _spawns_plainly(inspection: PayloadInspection) -> bool:
    """Whether the options of `spawn_opt` are empty, because a heap size can end a node.

    Nodes since OTP 23 send a spawn request instead.
    """
    inspection.term()
    options = inspection.term()
    return isinstance(options, list) and not options


def is_asked_for_another(inspection: PayloadInspection, peer: Atom) -> bool:
    """Whether this is `{Tag, From, Request}` with an answer to another node than `peer`.

    `From` is then a name, a process of another node, or contains an alias of another node. Raises
    Unreadable.
    """
    if inspection.tuple() != 3:
        return False
    tag = inspection.atom()
    if tag is None:
        inspection.skip()
    caller = inspection.from_here()
    if not (tag or "").startswith("$") and not _is_event_request(inspection):
        return False
    return not (caller.is_pair() and _is_of(caller.term(), peer))


def is_of_event_manager(inspection: PayloadInspection) -> bool:
    """Whether it is a request to a `gen_event`: `{AnyTerm, From, Request}`. Raises Unreadable."""
    if inspection.tuple() != 3:
        return False
    inspection.skip()
    return _is_event_request(inspection)


def _is_event_request(inspection: PayloadInspection) -> bool:
    """Whether `From` and a request to a `gen_event` follow."""
    if inspection.tuple() != 2:
        return False
    inspection.skip(2)
    if inspection.tuple() == 0:
        return False
    return inspection.atom() in _EVENT_REQUESTS


def _is_of(caller: Term, peer: Atom) -> bool:
    """Whether `From` of a call, `{Pid, Tag}`, has a process and, if any, a reference of the peer.

    `gen_server:reply` sends to any name and alias in it, and the answer contains the tag. The alias
    may be in `[alias | Alias]` and in `[[alias | Alias] | Term]`.
    """
    if type(caller) is not tuple or type(caller[0]) is not Pid or caller[0].node != peer:
        return False
    tag = caller[1]
    if isinstance(tag, ImproperList):
        return tag.items == (_ALIAS,) and _is_reference_of(tag.tail, peer)
    return isinstance(tag, Atom | int | bytes) or _is_reference_of(tag, peer)


def _is_reference_of(term: Term, peer: Atom) -> bool:
    return isinstance(term, Reference) and term.node == peer


def _monitor(caller: Term) -> Reference | None:
    """Returns the monitor in the `From` of a call, `{Pid, Tag}`.

    Since OTP 24 the tag is `[alias | Monitor]`.
    """
    if type(caller) is not tuple or len(caller) != 2:
        return None
    tag = caller[1]
    if isinstance(tag, ImproperList):
        tag = tag.tail
    return tag if isinstance(tag, Reference) else None


def _call(inspection: PayloadInspection) -> Call | None:
    module, function = inspection.atom(), inspection.atom()
    return None if module is None or function is None else Call(module, function)
