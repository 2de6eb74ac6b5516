"""Checks the types and ranges of settings when they are given, not when they are used.

A range is part of the annotation: `port: Port`, or `Annotated[int, Range(1, 9)]`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union

from quicdist.errors import SettingError

_Place: TypeAlias = "tuple[str, str, object]"
"""Where a value does not fit: the path below the setting, the expected type, and the value."""


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers from `least` to `most`, both included unless `is_open`."""

    least: float
    most: float = math.inf
    is_open: bool = False
    """Whether `least` is excluded."""

    def __contains__(self, number: Any) -> bool:
        is_above = number > self.least if self.is_open else number >= self.least
        return bool(is_above and number < math.inf and number <= self.most)

    def __str__(self) -> str:
        if self.is_open:
            return f"a finite number above {self.least:g}"
        if self.most == math.inf:
            return f"a finite number of at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"


Positive: TypeAlias = Annotated[int, Range(1)]
"""A number of bytes or things, not 0."""
NotNegative: TypeAlias = Annotated[int, Range(0)]
Port: TypeAlias = Annotated[int, Range(0, 65535)]
"""A port to bind, where 0 is any free port."""
RemotePort: TypeAlias = Annotated[int, Range(1, 65535)]
Duration: TypeAlias = Annotated[float, Range(0)]
"""A time that may be 0."""
PositiveDuration: TypeAlias = Annotated[float, Range(0, is_open=True)]
Rate: TypeAlias = Annotated[float, Range(0)]
"""Something per second."""
PositiveRate: TypeAlias = Annotated[float, Range(0, is_open=True)]


def check_fields(settings: Any) -> None:
    """Checks the fields of a dataclass against its annotations.

    Raises TypeError, and SettingError for a number that is out of range.

    The text contains types and numbers, and no other values: a setting may be a secret.
    """
    hints = _hints(settings.__class__)
    for field in dataclasses.fields(settings):
        if field.init:
            name = f"{type(settings).__name__}.{field.name}"
            check_type(name, getattr(settings, field.name), hints[field.name])


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, object]) -> None:
    """Checks the arguments of a function against its annotations.

    Raises TypeError and SettingError.
    """
    for name, hint in _hints(function).items():
        if name != "return":
            check_type(f"{name}=", arguments[name], hint)


def check_type(name: str, value: object, hint: Any) -> None:
    """Checks one value against a type. `name` is the name of the setting.

    Raises TypeError, and SettingError for a number that is out of range.
    """
    place = _misfit(value, hint, "")
    if place is not None:
        path, expected, found = place
        if isinstance(found, _OutOfRange):
            raise SettingError(f"invalid {name}{path}: expected {expected}, got {found.number}")
        kind = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise TypeError(f"invalid {name}{path}: expected {expected}, got {kind}")


@functools.cache
def _hints(annotated: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(annotated, include_extras=True)


@dataclass(frozen=True, slots=True)
class _OutOfRange:
    """A number of the right type. Numbers are never secrets."""

    number: Any


def _misfit(value: object, hint: Any, path: str) -> _Place | None:
    """Returns the first part of a value that does not fit a type, or None."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _of_range(value, parts, path)
    if origin in (Union, types.UnionType):
        return _of_union(value, hint, parts, path)
    if origin is Mapping:
        return _of_mapping(value, hint, parts, path)
    if origin in (Sequence, tuple):
        return _of_sequence(value, hint, parts, path)
    fits = origin is Literal or _fits(value, origin or hint)
    return None if fits else (path, _text(hint), value)


def _of_union(value: object, hint: Any, parts: Sequence[Any], path: str) -> _Place | None:
    misfits = [_misfit(value, part, path) for part in parts]
    if None in misfits:
        return None
    # A part whose container or type fits says more than the whole.
    inner = [
        one
        for one in misfits
        if one is not None and (one[0] != path or isinstance(one[2], _OutOfRange))
    ]
    return inner[0] if len(inner) == 1 else (path, _text(hint), value)


def _of_range(value: Any, parts: Sequence[Any], path: str) -> _Place | None:
    kind, *ranges = parts
    misfit = _misfit(value, kind, path)
    if misfit is not None:
        return misfit
    for each in ranges:
        if isinstance(each, Range) and value not in each:
            return path, str(each), _OutOfRange(value)
    return None


def _of_mapping(value: object, hint: Any, parts: Sequence[Any], path: str) -> _Place | None:
    if not isinstance(value, Mapping):
        return path, _text(hint), value
    for key, one in value.items():
        at = f"{path}[{key!r:.100}]" if isinstance(key, str) else f"{path}[...]"
        misfit = _misfit(key, parts[0], f"{path} key") or _misfit(one, parts[1], at)
        if misfit is not None:
            return misfit
    return None


def _of_sequence(value: object, hint: Any, parts: Sequence[Any], path: str) -> _Place | None:
    """A tuple is checked as a sequence, so that a list is accepted in its place."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        return path, _text(hint), value
    is_uniform = len(parts) == 1 or parts[1] is Ellipsis
    if not is_uniform and len(parts) != len(value):
        return path, _text(hint), value
    for index, one in enumerate(value):
        misfit = _misfit(one, parts[0] if is_uniform else parts[index], f"{path}[{index}]")
        if misfit is not None:
            return misfit
    return None


def _fits(value: object, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    if getattr(kind, "_is_protocol", False):
        return not isinstance(value, type) and isinstance(value, kind)
    return not isinstance(kind, type) or isinstance(value, kind)


def _text(hint: Any) -> str:
    """Returns a type as it is written in an annotation, without the names of modules."""
    if hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _text(parts[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(_text, parts))
    name = getattr(origin or hint, "__name__", str(hint))
    if origin is None or not parts or any(isinstance(part, list) for part in parts):
        return name
    return f"{name}[{', '.join(map(_text, parts))}]"
