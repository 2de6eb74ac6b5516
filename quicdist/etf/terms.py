"""The classes for Erlang terms that have no Python type.

Integers, floats, bytes, lists, tuples and dicts are used for the corresponding terms, and bool for
`true` and `false`. The class for maps that are not possible as a dict is in quicdist.etf.maps.

Source: ERTS manual, External Term Format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias, final
from weakref import WeakValueDictionary

Term: TypeAlias = Any
"""Any object that an Erlang term decodes to: the types and classes of this module."""

MAX_ATOM_LENGTH = 255
"""Maximum number of characters of an atom."""


@final
class Atom(str):
    """An atom: an interned str with its encoded form.

    An atom is equal to the str of the same text, so that `m["id"]` finds the atom key `id`. Unused
    atoms are garbage-collected, so that a peer cannot exhaust the memory with atoms.

    Raises TypeError if the text is not a str, and ValueError for more than 255 characters and for
    lone surrogates.
    """

    __slots__ = ("__weakref__", "encoded")

    encoded: bytes
    """The encoded atom, SMALL_ATOM_UTF8_EXT or ATOM_UTF8_EXT with its tag."""

    def __new__(cls, text: str) -> Atom:
        """Returns the atom of this text, which exists only once."""
        if type(text) is Atom:
            return text
        if not isinstance(text, str):
            raise TypeError(f"the text of an atom must be a str, not {type(text).__name__}")
        text = str.__str__(text)
        known = _interned.get(text)
        if known is not None:
            return known
        if len(text) > MAX_ATOM_LENGTH:
            raise ValueError(
                f"an atom of {len(text)} characters, at most {MAX_ATOM_LENGTH} are allowed"
            )
        utf8 = text.encode()
        atom = str.__new__(cls, text)
        if len(utf8) < 256:
            atom.encoded = bytes((119, len(utf8))) + utf8
        else:
            atom.encoded = struct.pack(">BH", 118, len(utf8)) + utf8
        # Two threads must not create two atoms with the same text.
        with _interning:
            return _interned.setdefault(text, atom)

    @property
    def utf8(self) -> bytes:
        """The text in UTF-8."""
        return self.encoded[2:] if self.encoded[0] == 119 else self.encoded[3:]

    def __repr__(self) -> str:
        return f"Atom({str.__repr__(self)})"

    def __reduce__(self) -> tuple[type[Atom], tuple[str]]:
        return Atom, (str.__str__(self),)

    def __copy__(self) -> Atom:
        return self

    def __deepcopy__(self, memo: object) -> Atom:
        return self


_interned: WeakValueDictionary[str, Atom] = WeakValueDictionary()
_interning = Lock()


class _Ordered:
    """Base class that defines the Erlang term order by `_order()`."""

    __slots__ = ()

    def _order(self) -> tuple[object, ...]:
        raise NotImplementedError

    def __lt__(self, other: object) -> bool:
        return self._order() < other._order() if type(self) is type(other) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._order() <= other._order() if type(self) is type(other) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self._order() > other._order() if type(self) is type(other) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self._order() >= other._order() if type(self) is type(other) else NotImplemented


@dataclass(frozen=True, slots=True)
class Pid(_Ordered):
    """A process identifier. `id`, `serial` and `creation` have 32 bits."""

    node: Atom
    id: int
    serial: int
    creation: int

    def _order(self) -> tuple[object, ...]:
        return self.serial, self.id, self.node, self.creation

    def __str__(self) -> str:
        return f"<0.{self.id}.{self.serial}>"


@dataclass(frozen=True, slots=True)
class Port(_Ordered):
    """A port identifier. `id` has 64 bits, `creation` 32 bits."""

    node: Atom
    id: int
    creation: int

    def _order(self) -> tuple[object, ...]:
        return self.node, self.creation, self.id

    def __str__(self) -> str:
        return f"#Port<0.{self.id}>"


@dataclass(frozen=True, slots=True)
class Reference(_Ordered):
    """A reference. `ids` are up to five 32-bit words in wire order, the lowest first."""

    node: Atom
    ids: tuple[int, ...]
    creation: int

    def _order(self) -> tuple[object, ...]:
        number = sum(word << 32 * place for place, word in enumerate(self.ids))
        return self.node, self.creation, number

    def __str__(self) -> str:
        return f"#Ref<0.{'.'.join(map(str, reversed(self.ids)))}>"


@dataclass(frozen=True, slots=True)
class BitString:
    """A bitstring that is not a binary: only the `bits` (1..7) highest bits of the last byte count.

    The other bits of that byte are cleared. Raises ValueError if the data is empty or `bits` is out
    of range.
    """

    data: bytes
    bits: int

    def __post_init__(self) -> None:
        if not self.data or not 1 <= self.bits <= 7:
            raise ValueError("a BitString needs data and 1..7 bits in the last byte")
        last = self.data[-1]
        used = last & (0xFF00 >> self.bits)
        if used != last:
            object.__setattr__(self, "data", self.data[:-1] + bytes((used,)))


@dataclass(frozen=True, slots=True, init=False)
class ImproperList:
    """A list whose tail is not a list: `[1, 2 | tail]`.

    Raises ValueError if there are no items or the tail is a list.
    """

    items: tuple[Term, ...]
    tail: Term

    def __init__(self, items: tuple[Term, ...] | list[Term], tail: Term) -> None:
        if not items:
            raise ValueError("an improper list needs at least one item before its tail")
        if isinstance(tail, (list, ImproperList)):
            raise ValueError("the tail of an improper list must not be a list")
        object.__setattr__(self, "items", tuple(items))
        object.__setattr__(self, "tail", tail)


@dataclass(frozen=True, slots=True)
class Export:
    """An external fun: `fun Module:Function/Arity`."""

    module: Atom
    function: Atom
    arity: int


@dataclass(frozen=True, slots=True)
class Fun:
    """A fun. It can be stored and sent, but not called from Python.

    It is encoded to the bytes that Erlang uses. The values in `free` are always decoded without
    loss, regardless of the options.

    Source: ERTS manual, External Term Format, NEW_FUN_EXT.
    """

    module: Atom
    arity: int
    uniq: bytes
    """The 16-byte MD5 digest of the significant parts of its module."""
    index: int
    old_index: int
    old_uniq: int
    pid: Pid
    """The process that created the fun."""
    free: tuple[Term, ...]
    """The values of the free variables."""
    encoded: bytes | None = field(default=None, compare=False, repr=False)
    """The bytes that the fun was decoded from, with the tag. None if they depend on an atom cache
    or are part of another fun."""


NATIVE_RECORD_EXPORTED = 1
"""Flag of a native record: its module exports the definition."""


@dataclass(frozen=True, slots=True)
class NativeRecord:
    """A native record of OTP 29 and later: `#Module:Name{Field = Value, ...}`.

    It is not the tuple of a `-record(name, {...})`. Raises ValueError if `names` and `values` have
    different lengths.

    Source: EEP 79; ERTS manual, External Term Format, RECORD_EXT.
    """

    module: Atom
    name: Atom
    names: tuple[Atom, ...]
    """The names of the fields, in the order of the definition."""
    values: tuple[Term, ...]
    flags: int = NATIVE_RECORD_EXPORTED
    """The 8 bits of flags. Only NATIVE_RECORD_EXPORTED is defined."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise ValueError(f"{len(self.names)} field names, {len(self.values)} values")

    @property
    def is_exported(self) -> bool:
        """Whether code outside of `module` may access its fields."""
        return bool(self.flags & NATIVE_RECORD_EXPORTED)

    def __getitem__(self, name: str) -> Term:
        """The value of a field. Raises KeyError if there is no such field."""
        for known, value in zip(self.names, self.values, strict=True):
            if known == name:
                return value
        raise KeyError(name)
