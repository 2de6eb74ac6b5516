"""Markers for `Annotated[...]` that select one of several Erlang forms of a type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias


@dataclass(frozen=True, slots=True)
class AsAtom:
    """A str that is an atom in Erlang."""


@dataclass(frozen=True, slots=True)
class AsCharlist:
    """A str that is a list of code points in Erlang, like an Erlang string."""


@dataclass(frozen=True, slots=True)
class NoneAs:
    """The only atom that corresponds to None, either `nil` or `undefined`."""

    atom: str


@dataclass(frozen=True, slots=True)
class Key:
    """The name of a field in Erlang: `Annotated[str, Key("userName")]`."""

    name: str


@dataclass(frozen=True, slots=True)
class Precision:
    """The number of fractional digits of a second, 0 to 6: `Annotated[datetime, Precision(6)]`.

    A value with more digits raises TermError. It is not rounded. Raises ValueError if the number is
    out of range.
    """

    digits: int

    def __post_init__(self) -> None:
        if not 0 <= self.digits <= 6:
            raise ValueError(f"Precision must be 0 to 6 digits, not {self.digits!r}")


@dataclass(frozen=True, slots=True)
class Via:
    """Converts a custom type by way of a supported type.

    `Annotated[UUID, Via(str, UUID, str)]` is a UUID that is written as its str. If `read` or
    `write` raises ValueError or TypeError, it becomes a TermError with the path.
    """

    type: Any
    """The supported type that the term has."""
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


AtomText: TypeAlias = Annotated[str, AsAtom()]
"""A str in Python and an atom in Erlang. `Atom` is an atom in both."""
Charlist: TypeAlias = Annotated[str, AsCharlist()]
"""A str in Python, and `"text"` in Erlang or `'text'` in Elixir."""
Nil: TypeAlias = Annotated[None, NoneAs("nil")]
"""None, only as `nil`."""
Undefined: TypeAlias = Annotated[None, NoneAs("undefined")]
"""None, only as `undefined`."""
