"""Checks the types of settings when they are given, not when they are used."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, Union

_Place: TypeAlias = "tuple[str, str, object]"
"""Where a value does not fit: the path below the setting, the expected type, and the value."""


def check_fields(settings: Any) -> None:
    """Checks the fields of a dataclass against its annotations. Raises TypeError.

    The text contains types and no values, because a setting may be a secret.
    """
    hints = _hints(settings.__class__)
    for field in dataclasses.fields(settings):
        if field.init:
            name = f"{type(settings).__name__}.{field.name}"
            check_type(name, getattr(settings, field.name), hints[field.name])


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, object]) -> None:
    """Checks the arguments of a function against its annotations. Raises TypeError."""
    for name, hint in _hints(function).items():
        if name != "return":
            check_type(f"{name}=", arguments[name], hint)


def check_type(name: str, value: object, hint: Any) -> None:
    """Checks one value against a type. `name` is the name of the setting. Raises TypeError."""
    place = _misfit(value, hint, "")
    if place is not None:
        path, expected, found = place
        kind = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise TypeError(f"invalid {name}{path}: expected {expected}, got {kind}")


@functools.cache
def _hints(annotated: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(annotated)


def _misfit(value: object, hint: Any, path: str) -> _Place | None:
    """Returns the first part of a value that does not fit a type, or None."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
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
    # A part whose container fits says more than the whole.
    inner = [one for one in misfits if one is not None and one[0] != path]
    return inner[0] if len(inner) == 1 else (path, _text(hint), value)


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
    if origin in (Union, types.UnionType):
        return " | ".join(map(_text, parts))
    name = getattr(origin or hint, "__name__", str(hint))
    if origin is None or not parts or any(isinstance(part, list) for part in parts):
        return name
    return f"{name}[{', '.join(map(_text, parts))}]"
