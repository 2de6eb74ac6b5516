"""Numbers that are neither `int` nor `float`, such as the scalars of numpy.

Source: Python data model, `object.__index__` and `object.__float__`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

_OTHERWISE = (str, bytes, bytearray, memoryview, tuple, list, Mapping)
"""Classes that have their own Erlang form, even if a subclass adds numeric methods."""

_NUMBER_KINDS = "biuf"
"""`dtype.kind` of booleans, integers and floats. Dates and complex numbers also have `__float__`,
but it loses information."""


def scalar(value: object) -> bool | int | float | None:
    """The number or bool that `value` represents, or None if it is neither.

    - a boolean scalar of an array library (`dtype.kind` is "b", no dimensions): `bool`
    - an object with `__index__`: `int`
    - an object with `__float__`: `float`, with the precision of a float

    An array with dimensions is not a scalar, even if it has only one element.
    """
    kind = type(value)
    if isinstance(value, _OTHERWISE) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        dtype = getattr(getattr(value, "dtype", None), "kind", None)
        if dtype is not None and dtype not in _NUMBER_KINDS:
            return None
        if dtype == "b":
            return bool(value)
        if hasattr(kind, "__index__"):
            return int(operator.index(value))  # type: ignore[arg-type]
        if hasattr(kind, "__float__"):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    return None
