"""What stands in `Annotated[...]` to choose among the Erlang forms that a type may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias


@dataclass(frozen=True, slots=True)
class AsAtom:
    """A str that is an atom over there."""


@dataclass(frozen=True, slots=True)
class AsCharlist:
    """A str that is a list of code points over there, as Erlang's own strings are."""


@dataclass(frozen=True, slots=True)
class NoneAs:
    """The one atom that None is, for those who tell `nil` from `undefined`."""

    atom: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a field is called over there: `Annotated[str, Key("userName")]`."""

    name: str


@dataclass(frozen=True, slots=True)
class Precision:
    """How many digits of a second's fraction are written: `Annotated[datetime, Precision(6)]`.

    A value with more digits than that is an error, not rounded.
    """

    digits: int

    def __post_init__(self) -> None:
        if not 0 <= self.digits <= 6:
            raise ValueError(f"a second has 0..6 digits here, not {self.digits!r}")


@dataclass(frozen=True, slots=True)
class Via:
    """A type of your own, by way of one known here.

    `Annotated[UUID, Via(str, UUID, str)]` is a UUID written as the str it prints as. `read` and
    `write` may raise ValueError or TypeError, which become a TermError with the place.
    """

    type: Any
    """What stands in the term."""
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


AtomText: TypeAlias = Annotated[str, AsAtom()]
"""A str here, an atom there; `Atom` is an atom on both sides."""
Charlist: TypeAlias = Annotated[str, AsCharlist()]
"""A str here, `"text"` of Erlang or `'text'` of Elixir there."""
Nil: TypeAlias = Annotated[None, NoneAs("nil")]
"""None, and `nil` alone."""
Undefined: TypeAlias = Annotated[None, NoneAs("undefined")]
"""None, and `undefined` alone."""
