"""Reads of a payload no more than tells what it asks for: the function, never its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quicdist import etf
from quicdist.dist.control import SpawnRequest, SpawnRequestTT
from quicdist.etf.terms import Atom, ImproperList, Pid, Reference, Term

_SMALL_TUPLE, _LARGE_TUPLE, _LIST, _COMPRESSED = b"h", b"i", b"l", b"P"
_ATOMS = (b"d", b"s", b"v", b"w")
"""ATOM_EXT, SMALL_ATOM_EXT, ATOM_UTF8_EXT, SMALL_ATOM_UTF8_EXT."""

_OPTIONS = etf.Options(limits=etf.Limits(max_depth=16, max_terms=256, max_integer=64))
"""What is read of a payload is small: an atom, a pid, who calls."""

_CALLS = ("call", "block_call", "cast", "spawn", "spawn_link", "spawn_opt")
_ERPC = {("erpc", "execute_call"): 1, ("erpc", "execute_cast"): 0}
"""What `erpc` and `rpc` spawn, and how many arguments come before the function that they run."""


class Unreadable(Exception):
    """A payload that is not what the rules have to look into, or larger: its message is refused.
    The frame ends where it says, so the connection goes on."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function is to be run."""

    module: str
    function: str

    def __str__(self) -> str:
        return f"a call of {self.module}:{self.function}"


@dataclass(frozen=True, slots=True)
class Passed:
    """A message is to be passed on to a registered name (`rpc:sbcast/2`)."""

    name: str

    def __str__(self) -> str:
        return f"a message to {self.name}"


@dataclass(frozen=True, slots=True)
class Ping:
    """`net_adm:ping`: the answer tells that the node is there, nothing else."""

    def __str__(self) -> str:
        return "a ping"


@dataclass(frozen=True, slots=True)
class Features:
    """What nodes of OTP 23 to 25 ask each other unasked: which calls they know."""


Request: TypeAlias = Call | Passed | Ping | Features


@dataclass(frozen=True, slots=True)
class Asked:
    """A message to `rex` or `net_kernel`: what it asks for, and by what monitor its sender notices
    that there is nobody to answer."""

    request: Request | None
    monitor: Reference | None = None
    is_plain: bool = False
    """It came as `{Pid, Request}`, as `rpc:sbcast` and C nodes have it: a message to that process
    is the answer."""


class Peek:
    """A payload from its first byte on."""

    __slots__ = ("_at", "_data")

    def __init__(self, frame: bytes, offset: int) -> None:
        self._data = frame
        self._at = offset

    def tuple(self) -> int | None:
        """How many elements the tuple has that begins here; None, and no step, for another term."""
        tag = self._tag()
        if tag == _SMALL_TUPLE:
            return self._count(1)
        return self._count(4) if tag == _LARGE_TUPLE else None

    def list(self) -> int | None:
        """How many elements the list has that begins here, up to its tail; None for another."""
        return self._count(4) if self._tag() == _LIST else None

    def atom(self) -> str | None:
        """The atom here; None, and no step, for another term."""
        return _text(self.term()) if self._tag() in _ATOMS else None

    def term(self) -> Term:
        """The whole term here. Raises Unreadable."""
        try:
            term, self._at = etf.decode_bare(self._data, self._at, _OPTIONS)
        except etf.EtfDecodeError as error:
            raise Unreadable(f"a payload does not begin as it should: {error}") from error
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
            raise Unreadable("a payload, or its first fragment, ends before it tells what it is")
        return found


def system_message(peek: Peek) -> Asked | None:
    """For one of `sys`, `{system, From, Request}`; None for any other. Raises Unreadable."""
    if peek.tuple() != 3 or peek.atom() != "system":
        return None
    return Asked(None, _monitor(peek.term()))


def spawned(control: SpawnRequest | SpawnRequestTT, peek: Peek) -> Call | None:
    """The function that a spawn request is for, the one behind `erpc`'s; None when not to be seen.

    Raises Unreadable.
    """
    module, function, arity = control.mfa
    before = _ERPC.get((module, function))
    if before is None:
        return Call(module, function)
    # A list may be written in pieces, which nobody does.
    if peek.list() != arity:
        return None
    for _ in range(before):
        peek.term()
    return _call(peek)


def requested(peek: Peek) -> Asked:
    """What a message to `rex` or `net_kernel` asks for. Raises Unreadable."""
    arity = peek.tuple()
    kind = peek.atom()
    if kind == "$gen_call" and arity == 3:
        monitor = _monitor(peek.term())
        return Asked(_request(peek), monitor)
    if kind == "$gen_cast" and arity == 2:
        return Asked(_request(peek))
    if kind is None and arity == 2 and type(peek.term()) is Pid:
        is_features = peek.atom() == "features_request"
        return Asked(Features() if is_features else _request(peek), is_plain=True)
    return Asked(None)


def _request(peek: Peek) -> Request | None:
    if peek.tuple() is None:
        return None
    tag = peek.atom()
    if tag in _CALLS:
        return _call(peek)
    if tag == "is_auth":
        return Ping()
    name = peek.atom() if tag in ("sbcast", "send") else None
    return None if name is None else Passed(name)


def _monitor(caller: Term) -> Reference | None:
    """`From` of a call is `{Pid, Tag}`, its tag the caller's monitor, by which it is an alias since
    OTP 24: `[alias | Monitor]`."""
    if type(caller) is not tuple or len(caller) != 2:
        return None
    tag = caller[1]
    if isinstance(tag, ImproperList):
        tag = tag.tail
    return tag if isinstance(tag, Reference) else None


def _call(peek: Peek) -> Call | None:
    module, function = peek.atom(), peek.atom()
    return None if module is None or function is None else Call(module, function)


def _text(term: Term) -> str | None:
    """Of an atom; true and false decode to bool."""
    if isinstance(term, bool):
        return "true" if term else "false"
    return str(term) if isinstance(term, Atom) else None
