"""Resolves types to conversions: `Terms`, and the functions `from_term` and `to_term`."""

from __future__ import annotations

import dataclasses
import enum
import threading
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, TypeVar, overload

from quicdist.etf import Term
from quicdist.typed import elixir
from quicdist.typed.containers import (
    Either,
    Elements,
    FixedTuple,
    KeywordMapped,
    Mapped,
    SameTuple,
    ViaOther,
)
from quicdist.typed.conversion import (
    LEAVES,
    AnyTerm,
    AtomAsText,
    CharlistAsText,
    Conversion,
    Nothing,
    OneOf,
)
from quicdist.typed.errors import TermError, UnsupportedType, describe
from quicdist.typed.forms import FORM, Field, Fielded, Fields, Form, Keyword, Map, Tuple
from quicdist.typed.markers import AsAtom, AsCharlist, Key, NoneAs, Precision, Via

T = TypeVar("T")
_NoneAtom = Literal["nil", "undefined"]


class _Place(NamedTuple):
    """A type and the context that changes its form."""

    type: Any
    none: _NoneAtom


class Terms:
    """Conversion settings and the resolved conversion of each type.

    `none` is the atom for None outside of structs and records, which define their own. `custom`
    maps custom types to a `Via`. One object can serve a whole program and is thread-safe.
    """

    def __init__(
        self, *, none: _NoneAtom = "undefined", custom: Mapping[Any, Via] | None = None
    ) -> None:
        self._none: _NoneAtom = none
        self._custom = dict(custom or {})
        self._lock = threading.RLock()
        self._known: dict[Any, Conversion] = {}
        # Types that are being resolved. Other threads see them only when all are complete.
        self._building: dict[Any, Conversion] = {}
        self._any = AnyTerm(lambda kind: self.conversion(kind))

    @overload
    def read(self, term: Term, kind: type[T], /) -> T: ...

    @overload
    def read(self, term: Term, kind: Any, /) -> Any: ...

    def read(self, term: Term, kind: Any, /) -> Any:
        """Converts a term to a value of a type.

        Raises TermError if the term does not fit, UnsupportedType if the type has no Erlang form.
        """
        return read(self.conversion(kind), term)

    def write(self, value: Any, kind: Any = Any, /) -> Term:
        """Converts a value of a type to a term. Without a type, the class of the value is used.

        Raises TermError if the value does not fit, UnsupportedType if the type has no Erlang form.
        """
        return write(self.conversion(kind), value)

    def conversion(self, kind: Any) -> Conversion:
        """The conversion of a type. Raises UnsupportedType if the type has no Erlang form."""
        place = _Place(kind, self._none)
        known = self._known.get(kind if _is_class(kind) else _name(place))
        if known is not None:
            return known
        with self._lock:
            try:
                result = self._conversion(place)
                self._known.update(self._building)
                if _is_class(kind):
                    self._known[kind] = result
                return result
            finally:
                self._building.clear()

    def _conversion(self, place: _Place) -> Conversion:
        name = _name(place)
        known = self._known.get(name) or self._building.get(name)
        if known is not None:
            return known
        self._building[name] = later = _Later()
        later.target = self._building[name] = self._make(*place)
        return later.target

    # -- resolution by kind of type --

    def _make(self, kind: Any, none: _NoneAtom) -> Conversion:
        if kind is Any or kind is object:
            return self._any
        if kind is None or kind is types.NoneType:
            return Nothing(none)
        if isinstance(kind, (str, ForwardRef)):
            raise UnsupportedType(f"{kind!r} is a name, not a type")
        if isinstance(kind, TypeVar):
            return self._conversion(_Place(_unbound(kind), none))
        origin = typing.get_origin(kind)
        if origin is Annotated:
            return self._annotated(kind, none)
        if origin is Literal:
            return _literal(typing.get_args(kind), none)
        if origin is typing.Union or origin is types.UnionType:
            return Either([self._conversion(_Place(one, none)) for one in typing.get_args(kind)])
        if _special(origin) in ("Final", "Required", "NotRequired", "ReadOnly"):
            return self._conversion(_Place(typing.get_args(kind)[0], none))
        if hasattr(kind, "__supertype__"):  # a NewType
            return self._custom_or(kind, none, kind.__supertype__)
        alias = kind if origin is None else origin
        if hasattr(alias, "__value__") and hasattr(alias, "__type_params__"):  # type X = ...
            arguments = dict(zip(alias.__type_params__, typing.get_args(kind), strict=False))
            return self._conversion(_Place(_substitute(alias.__value__, arguments), none))
        return self._generic(kind, origin, none)

    def _custom_or(self, kind: Any, none: _NoneAtom, otherwise: Any) -> Conversion:
        via = self._custom.get(kind)
        if via is not None:
            return ViaOther(via, self._conversion(_Place(via.type, none)), kind)
        return self._conversion(_Place(otherwise, none))

    def _annotated(self, kind: Any, none: _NoneAtom) -> Conversion:
        inner, *marks = typing.get_args(kind)
        base = typing.get_origin(inner) or inner
        for mark in marks:
            if isinstance(mark, Via):
                return ViaOther(mark, self._conversion(_Place(mark.type, none)), base)
            if isinstance(mark, AsAtom) and inner is str:
                return AtomAsText()
            if isinstance(mark, AsCharlist) and inner is str:
                return CharlistAsText()
            if isinstance(mark, NoneAs) and inner in (None, types.NoneType):
                return Nothing(mark.atom, alone=True)
            if isinstance(mark, Precision) and inner in elixir.WITH_PRECISION:
                return elixir.WITH_PRECISION[inner](mark.digits)
            if isinstance(mark, Keyword) and base in _MAPS:
                key, value = self._arguments(inner, 2, mark.none)
                return KeywordMapped(key, value, is_proplist=mark.is_proplist)
            if isinstance(mark, Form) and _has_fields(base):
                return self._fielded(inner, base, none, mark)
            if isinstance(mark, (AsAtom, AsCharlist, NoneAs, Precision, Form)):
                raise UnsupportedType(f"{mark!r} does not apply to {inner!r}")
        return self._conversion(_Place(inner, none))

    def _generic(self, kind: Any, origin: Any, none: _NoneAtom) -> Conversion:
        base = kind if origin is None else origin
        if not isinstance(base, type):
            raise UnsupportedType(f"{kind!r} has no Erlang form")
        via = self._custom.get(kind) or self._custom.get(base)
        if via is not None:
            return ViaOther(via, self._conversion(_Place(via.type, none)), base)
        if base in LEAVES:
            return LEAVES[base]
        if base in elixir.CONVERSIONS:
            return elixir.CONVERSIONS[base]
        if base in _LISTS:
            (element,) = self._arguments(kind, 1, none)
            return Elements(element, only_lists=base is list)
        if base in _SETS:
            (element,) = self._arguments(kind, 1, "nil")
            return elixir.MapSet(element, frozenset if base in (frozenset, abc.Set) else set)
        if base in _MAPS:
            key, value = self._arguments(kind, 2, none)
            return Mapped(key, value)
        if base is tuple:
            return self._tuple(kind, none)
        if issubclass(base, enum.Enum):
            return _enum(base)
        if _has_fields(base):
            default = Tuple() if issubclass(base, tuple) else Map()
            return self._fielded(kind, base, none, getattr(base, FORM, default))
        raise UnsupportedType(
            f"{base.__qualname__} has no Erlang form: make it a dataclass or use "
            f"Annotated[{base.__qualname__}, Via(...)]"
        )

    def _arguments(self, kind: Any, count: int, none: _NoneAtom | None) -> list[Conversion]:
        arguments = typing.get_args(kind) or (Any,) * count
        return [self._conversion(_Place(one, none or self._none)) for one in arguments]

    def _tuple(self, kind: Any, none: _NoneAtom) -> Conversion:
        arguments = typing.get_args(kind)
        if typing.get_origin(kind) is None:
            return SameTuple(self._any)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return SameTuple(self._conversion(_Place(arguments[0], none)))
        return FixedTuple([self._conversion(_Place(one, none)) for one in arguments])

    def _fielded(self, kind: Any, base: Any, none: _NoneAtom, form: Form) -> Conversion:
        none = form.none or none
        hints = _hints(kind, base)
        fields = [
            Field(
                name,
                _key(hint) or name,
                self._conversion(_Place(hint, none)),
                required,
                **({} if default is None else {"default": default}),
            )
            for name, hint, required, default in _members(base, hints)
        ]
        try:
            return Fielded(Fields(base, fields), form, base, _is_typed_dict(base))
        except ValueError as error:
            raise UnsupportedType(str(error)) from None


class _Later(Conversion):
    """A reference to a recursive type that is being resolved."""

    target: Conversion

    def read(self, term: Term) -> Any:
        return self.target.read(term)

    def write(self, value: Any) -> Term:
        return self.target.write(value)

    def claims(self, term: Term) -> bool:
        return self.target.claims(term)


_LISTS = (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection)
_SETS = (set, frozenset, abc.Set, abc.MutableSet)
_MAPS = (dict, abc.Mapping, abc.MutableMapping)


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type)


def _name(place: _Place) -> Any:
    """The cache key of a type. It contains the repr, because `int | str` equals `str | int`."""
    try:
        hash(place)
    except TypeError:
        return id(place.type), repr(place.type), place.none
    return place, repr(place.type)


def _special(origin: Any) -> str:
    """The name of a special form of typing or typing_extensions."""
    return str(origin).rpartition(".")[2] if not isinstance(origin, type) else ""


def _unbound(variable: TypeVar) -> Any:
    """The type of an unbound type variable."""
    if variable.__constraints__:
        return typing.Union[variable.__constraints__]  # noqa: UP007  (created from a tuple)
    return Any if variable.__bound__ is None else variable.__bound__


def _substitute(kind: Any, arguments: Mapping[Any, Any]) -> Any:
    """The type with its type variables replaced."""
    if isinstance(kind, TypeVar):
        return arguments.get(kind, kind)
    parameters = getattr(kind, "__parameters__", ())
    if typing.get_origin(kind) is None or not parameters:
        return kind
    return kind[tuple(arguments.get(one, one) for one in parameters)]


def _bindings(kind: Any) -> dict[Any, Any]:
    """The arguments of the type variables of a generic class and its bases."""
    origin = typing.get_origin(kind)
    base = kind if origin is None else origin
    found = dict(zip(getattr(base, "__parameters__", ()), typing.get_args(kind), strict=False))
    for parent in getattr(base, "__orig_bases__", ()):
        if typing.get_origin(parent) in (None, typing.Generic):
            continue
        for variable, argument in _bindings(parent).items():
            found.setdefault(variable, _substitute(argument, found))
    return found


def _hints(kind: Any, base: Any) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(base, include_extras=True)
    except NameError as error:
        raise UnsupportedType(
            f"{base.__qualname__} has an annotation that cannot be read: {error} at the top of "
            f"its module"
        ) from None
    bindings = _bindings(kind)
    return {name: _substitute(hint, bindings) for name, hint in hints.items()}


def _is_typed_dict(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _has_fields(kind: Any) -> bool:
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind)
        or _is_typed_dict(kind)
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _members(base: Any, hints: dict[str, Any]) -> list[tuple[str, Any, bool, Any]]:
    """Name, type, whether it is required, and default factory of each member."""
    if _is_typed_dict(base):
        return [(name, hint, _is_required(base, name, hint), None) for name, hint in hints.items()]
    if issubclass(base, tuple):
        return [
            (name, hints.get(name, Any), True, _constantly(base._field_defaults, name))
            for name in base._fields
        ]
    return [
        (one.name, hints[one.name], not _has_default(one), _default(one))
        for one in dataclasses.fields(base)
        if one.init
    ]


def _is_required(base: Any, name: str, hint: Any) -> bool:
    # `__required_keys__` is wrong for annotations that are stored as text.
    while True:
        special = _special(typing.get_origin(hint))
        if special in ("Required", "NotRequired"):
            return special == "Required"
        if special not in ("ReadOnly", "Annotated") and typing.get_origin(hint) is not Annotated:
            return name in base.__required_keys__
        hint = typing.get_args(hint)[0]


def _has_default(one: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return one.default is not missing or one.default_factory is not missing


def _default(one: dataclasses.Field[Any]) -> Any:
    if one.default is not dataclasses.MISSING:
        return lambda: one.default
    return None if one.default_factory is dataclasses.MISSING else one.default_factory


def _constantly(defaults: Mapping[str, Any], name: str) -> Any:
    return (lambda: defaults[name]) if name in defaults else None


def _key(hint: Any) -> str | None:
    """The name given by a Key in the annotation."""
    while typing.get_origin(hint) is not None:
        if typing.get_origin(hint) is Annotated:
            for mark in typing.get_args(hint)[1:]:
                if isinstance(mark, Key):
                    return mark.name
        elif _special(typing.get_origin(hint)) not in ("Required", "NotRequired", "ReadOnly"):
            return None
        hint = typing.get_args(hint)[0]
    return None


_CONSTANTS = (str, bytes, int, bool)


def _enum(kind: Any) -> Conversion:
    if issubclass(kind, enum.Flag):
        return ViaOther(Via(int, _flags(kind), lambda flag: flag.value), LEAVES[int], kind)
    members = list(kind)
    for member in members:
        if not isinstance(member.value, (*_CONSTANTS, float, tuple)):
            raise UnsupportedType(f"{member}: {describe(member.value)} is not a valid enum value")
    values = ", ".join(str(member.value) for member in members)
    return OneOf(members, [member.value for member in members], f"one of {values:.200}")


def _flags(kind: Any) -> Callable[[int], Any]:
    def flags(bits: int) -> Any:
        found = kind(bits)
        # Python 3.11 before 3.11.4 discards unknown bits instead of rejecting them.
        if found.value != bits:
            raise ValueError(f"{bits} is not a valid {kind.__qualname__}")
        return found

    return flags


def _literal(values: tuple[Any, ...], none: _NoneAtom) -> Conversion:
    terms = [one.value if isinstance(one, enum.Enum) else one for one in values]
    if None in values:
        rest = tuple(one for one in values if one is not None)
        return Either([Nothing(none), *([_literal(rest, none)] if rest else [])])
    text = ", ".join(str(one) for one in terms)
    return OneOf(values, terms, f"one of {text:.200}" if len(values) > 1 else text)


def read(conversion: Conversion, term: Term) -> Any:
    """Reads at the outermost level.

    Raises TermError without a traceback, because the error contains the path.
    """
    try:
        return conversion.read(term)
    except TermError as error:
        raise error.with_traceback(None) from error.__cause__
    except RecursionError:
        raise TermError("the term is nested too deeply for its type") from None


def write(conversion: Conversion, value: Any) -> Term:
    """Writes at the outermost level. Raises TermError like `read`."""
    try:
        return conversion.write(value)
    except TermError as error:
        raise error.with_traceback(None) from error.__cause__
    except RecursionError:
        raise TermError("the value is nested too deeply, or contains itself") from None


DEFAULT = Terms()
"""The settings of `from_term` and `to_term`."""


@overload
def from_term(term: Term, kind: type[T], /) -> T: ...


@overload
def from_term(term: Term, kind: Any, /) -> Any: ...


def from_term(term: Term, kind: Any, /) -> Any:
    """Converts a term to a value of a type.

    Raises TermError if the term does not fit, UnsupportedType if the type has no Erlang form.

    >>> from_term([1, 2], list[int])
    [1, 2]
    """
    return DEFAULT.read(term, kind)


def to_term(value: Any, kind: Any = Any, /) -> Term:
    """Converts a value of a type to a term. Without a type, the class of the value is used.

    Raises TermError if the value does not fit, UnsupportedType if the type has no Erlang form.
    """
    return DEFAULT.write(value, kind)
