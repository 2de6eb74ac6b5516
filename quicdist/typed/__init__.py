r"""Typed terms: checked conversion between dataclasses, other Python types and Erlang terms.

>>> from dataclasses import dataclass
>>> from quicdist import Atom
>>> from quicdist.typed import Record, from_term, to_term
>>> @Record("user")
... @dataclass
... class User:
...     id: int
...     name: str
>>> to_term(User(1, "Ann"))
(Atom('user'), 1, 'Ann')
>>> from_term((Atom("user"), 1, b"Ann"), User)
User(id=1, name='Ann')
>>> from_term((Atom("user"), 1, b"\xff"), User)
Traceback (most recent call last):
    ...
quicdist.typed.errors.TermError: name: expected a UTF-8 binary, got the binary b'\xff'

| Python | Erlang |
|---|---|
| `int`, `float`, `bool`, `bytes`, `Atom`, `Pid`, ... | the corresponding term |
| `str` | binary; `AtomText` an atom, `Charlist` a list of code points |
| `None` | `undefined` or `nil`; `Undefined` and `Nil` accept only one of them |
| `list[X]`, `tuple[X, Y]`, `tuple[X, ...]`, `dict[K, V]` | list, tuple, map |
| enum, `Literal` | the value; a str becomes an atom |
| `X | Y` | the first type that fits |
| dataclass, `TypedDict` | map with atom keys; or `@Record`, `@Struct`, `@Keyword`, `@Proplist` |
| `NamedTuple` | tuple |
| dataclass with `@Native` | native record of OTP 29 |
| `date`, `time`, `datetime`, `range`, `set`, `Decimal` | Elixir structs, `quicdist.typed.elixir` |
| any other class | `Annotated[X, Via(...)]`, or `Terms(custom={X: Via(...)})` |
"""

from __future__ import annotations

from quicdist.typed.elixir import (
    ElixirException,
    PreciseDateTime,
    PreciseTime,
    VersionedFrozenSet,
    VersionedSet,
    Zone,
)
from quicdist.typed.errors import TermError, UnsupportedType
from quicdist.typed.forms import Keyword, Map, Native, Proplist, Record, Struct, Tuple
from quicdist.typed.handlers import Shape, typed, with_terms
from quicdist.typed.markers import AtomText, Charlist, Key, Nil, Precision, Undefined, Via
from quicdist.typed.resolve import Terms, from_term, to_term

__all__ = [
    "AtomText",
    "Charlist",
    "ElixirException",
    "Key",
    "Keyword",
    "Map",
    "Native",
    "Nil",
    "PreciseDateTime",
    "PreciseTime",
    "Precision",
    "Proplist",
    "Record",
    "Shape",
    "Struct",
    "TermError",
    "Terms",
    "Tuple",
    "Undefined",
    "UnsupportedType",
    "VersionedFrozenSet",
    "VersionedSet",
    "Via",
    "Zone",
    "from_term",
    "to_term",
    "typed",
    "with_terms",
]
