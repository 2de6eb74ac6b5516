"""Maps with the key equality of Erlang.

A dict treats 1, 1.0 and True as one key, Erlang treats them as three. Lists and maps are valid keys
in Erlang but not hashable in Python. The hash of numbers in Python is predictable, so that a peer
can choose keys that make a dict slow. ErlMap solves these three problems: it finds a key by its
canonical bytes, which are equal exactly if the keys are `=:=`.
"""

from __future__ import annotations

import struct
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import fields
from hashlib import blake2b
from typing import Any, cast

from quicdist.etf.errors import QuicdistError
from quicdist.etf.scalars import scalar
from quicdist.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)

MAX_KEY_DEPTH = 128
"""Maximum nesting depth of a map key. It is fixed, because Python hashes keys recursively."""


class KeyRefused(QuicdistError, ValueError):
    """A map key is nested too deeply, is a duplicate, or is not a term."""


class ErlMap(Mapping[Any, Any]):
    """An immutable map whose keys are equal if they are `=:=` in Erlang.

    The keys keep their order. A str finds the binary key that it encodes to, or else the atom key
    of that text, as in a dict. Raises KeyRefused, a ValueError, if two keys are equal or a key is
    not a term.
    """

    __slots__ = ("_entries", "key_depth")

    _entries: dict[bytes, tuple[Term, Term]]
    key_depth: int
    """The nesting depth of the deepest key."""

    def __init__(self, pairs: Mapping[Term, Term] | Iterable[tuple[Term, Term]] = ()) -> None:
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        entries: dict[bytes, tuple[Term, Term]] = {}
        deepest = 0
        for key, value in pairs:
            name, depth = canonical(key)
            if name in entries:
                raise KeyRefused("duplicate map key")
            entries[name] = key, value
            deepest = max(deepest, depth)
        self._entries = entries
        self.key_depth = deepest

    def __getitem__(self, key: Term) -> Term:
        return self._entry(key)[1]

    def __contains__(self, key: object) -> bool:
        try:
            self._entry(key)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[Term]:
        return (key for key, _ in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> ItemsView[Term, Term]:
        """A view of the pairs of key and value."""
        return _Items(self)

    def values(self) -> ValuesView[Term]:
        """A view of the values."""
        return _Values(self)

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a map with the same keys (`=:=`) and equal values."""
        if not isinstance(other, Mapping):
            return NotImplemented
        if not isinstance(other, ErlMap):
            try:
                other = ErlMap(other)
            except KeyRefused:
                return False
        theirs = other._entries
        return self._entries.keys() == theirs.keys() and all(
            entry[1] == theirs[name][1] for name, entry in self._entries.items()
        )

    __hash__ = None  # type: ignore[assignment]  # its values may change

    def __repr__(self) -> str:
        return f"ErlMap({list(self._entries.values())!r})"

    def __reduce__(self) -> tuple[type[ErlMap], tuple[list[tuple[Term, Term]]]]:
        return ErlMap, (list(self._entries.values()),)

    def _entry(self, key: object) -> tuple[Term, Term]:
        try:
            entry = self._entries.get(canonical(key)[0])
        except KeyRefused:
            raise KeyError(key) from None
        if entry is None and isinstance(key, str) and type(key) is not Atom:
            entry = self._entries.get(_short(_text(b"a", key)))
        if entry is None:
            raise KeyError(key)
        return entry


class _Values(ValuesView[Any]):
    """A view of the stored values. The inherited view would look up each key."""

    __slots__ = ()
    _mapping: ErlMap

    def __iter__(self) -> Iterator[Term]:
        return (value for _, value in self._mapping._entries.values())


class _Items(ItemsView[Any, Any]):
    """A view of the stored pairs."""

    __slots__ = ()
    _mapping: ErlMap

    def __iter__(self) -> Iterator[tuple[Term, Term]]:
        return iter(self._mapping._entries.values())


def canonical(key: object) -> tuple[bytes, int]:
    """The canonical bytes of a key, which are equal exactly if two keys are `=:=`, and its depth.

    Long ones are replaced by a digest, so that nested keys do not accumulate.
    Raises KeyRefused if the key is not a term or is nested too deeply.
    """
    depth = _Depth()
    try:
        return _short(_canonical(key, 0, depth)), depth.deepest
    except UnicodeEncodeError:
        raise KeyRefused("a map key with a lone surrogate") from None
    except RecursionError:
        raise KeyRefused("a map key is nested too deeply for the remaining stack") from None


def _short(name: bytes) -> bytes:
    return name if len(name) <= 64 else b"#" + blake2b(name, digest_size=32).digest()


class _Depth:
    """The depth of a key, found during its traversal."""

    __slots__ = ("deepest",)

    def __init__(self) -> None:
        self.deepest = 0

    def enter(self, depth: int) -> None:
        if depth > MAX_KEY_DEPTH:
            raise KeyRefused(f"a map key nested deeper than {MAX_KEY_DEPTH}")
        if depth > self.deepest:
            self.deepest = depth


def _canonical(term: object, depth: int, seen: _Depth) -> bytes:
    """The tag, length and content of a term. No canonical form is a prefix of another one."""
    if isinstance(term, Atom):
        return _text(b"a", term)
    if isinstance(term, str):
        return _text(b"m", term)
    if isinstance(term, bool):
        return _text(b"a", "true" if term else "false")
    if isinstance(term, int):
        return _data(b"i", int(term).to_bytes(term.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(term, float):
        if term - term != 0.0:
            raise KeyRefused("a map key that is not a finite number")
        return b"f" + struct.pack(">d", term)
    if isinstance(term, (bytes, bytearray, memoryview)):
        return _data(b"m", bytes(term))
    if term is None:
        return _text(b"a", "undefined")
    if isinstance(term, BitString):
        return b"b%c" % term.bits + _data(b"m", term.data)
    depth += 1
    seen.enter(depth)
    if isinstance(term, tuple):
        return _sequence(b"t", term, depth, seen)
    if isinstance(term, list):
        return _sequence(b"l", term, depth, seen)
    if isinstance(term, ImproperList):
        return _sequence(b"|", (*term.items, term.tail), depth, seen)
    if isinstance(term, ErlMap):
        seen.enter(depth + term.key_depth)
        return _pairs(((name, value) for name, (_, value) in term._entries.items()), depth, seen)
    if isinstance(term, Mapping):
        keys = ((_short(_canonical(key, depth, seen)), value) for key, value in term.items())
        return _pairs(keys, depth, seen)
    for tag, kind, names in _RECORDS:
        if isinstance(term, kind):
            return _sequence(tag, [getattr(term, name) for name in names], depth, seen)
    number = scalar(term)
    if number is not None:
        return _canonical(number, depth - 1, seen)
    raise KeyRefused(f"{type(term).__qualname__} has no Erlang form")


_RECORDS: tuple[tuple[bytes, type, tuple[str, ...]], ...] = tuple(
    (tag, cast(type, kind), tuple(field.name for field in fields(kind) if field.compare))
    for tag, kind in (
        *((b"P", Pid), (b"O", Port), (b"R", Reference)),
        *((b"E", Export), (b"F", Fun), (b"N", NativeRecord)),
    )
)


def _text(tag: bytes, text: str) -> bytes:
    return _data(tag, str.encode(text))


def _data(tag: bytes, data: bytes) -> bytes:
    return tag + len(data).to_bytes(8, "big") + data


def _sequence(
    tag: bytes, items: tuple[object, ...] | list[object], depth: int, seen: _Depth
) -> bytes:
    parts = [_canonical(item, depth, seen) for item in items]
    return tag + len(parts).to_bytes(8, "big") + b"".join(parts)


def _pairs(pairs: Iterable[tuple[bytes, object]], depth: int, seen: _Depth) -> bytes:
    parts = sorted(name + _canonical(value, depth, seen) for name, value in pairs)
    return b"M" + len(parts).to_bytes(8, "big") + b"".join(parts)


_SCALARS = frozenset((Atom, bytes, str, bool, int, float, BitString, Pid, Port, Reference))
_SECRETLY_HASHED = frozenset((Atom, bytes, str, bool))
FEW = 64
"""A number of keys, or of keys with equal hash, that is fast even if all of them collide."""


def make_map(items: list[Term]) -> dict[Term, Term] | ErlMap:
    """The map of `items`: key, value, key, value.

    It is a dict if that is lossless, otherwise an ErlMap. Raises KeyRefused if a key is invalid.
    """
    keys = items[::2]
    types = set(map(type, keys))
    if not types <= _SCALARS:
        for key in keys:
            check_depth(key)
    try:
        if len(keys) <= FEW or types <= _SECRETLY_HASHED or _spread(keys):
            it = iter(items)
            pairs = dict(zip(it, it))  # noqa: B905 (an even count)
            if len(pairs) == len(keys):
                return pairs
    except TypeError:
        pass  # not hashable
    it = iter(items)
    return ErlMap(zip(it, it, strict=True))


def _spread(keys: list[Term]) -> bool:
    """Whether nearly all keys have different hashes."""
    return len(keys) - len(set(map(hash, keys))) <= FEW


def check_depth(key: Term) -> None:
    """Raises KeyRefused if a key is nested too deeply to be hashed.

    Hashing stops at the first object that is not hashable (list, dict, ErlMap).
    """
    level = [key]
    for _ in range(MAX_KEY_DEPTH + 1):
        inner: list[Term] = []
        for term in level:
            kind = type(term)
            if kind is tuple:
                inner += term
            elif kind is ImproperList:
                inner += (*term.items, term.tail)
            elif kind is Fun:
                inner += term.free
            elif kind is NativeRecord:
                inner += term.values
        if not inner:
            return
        level = inner
    raise KeyRefused(f"a map key nested deeper than {MAX_KEY_DEPTH}")
