"""Objects that are numbers without being `int` or `float`, such as numpy's scalars.

Source: Python data model, `object.__index__` and `object.__float__`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

_OTHERWISE = (str, bytes, bytearray, memoryview, tuple, list, Mapping)
"""Classes whose instances have a form of their own, whatever methods a subclass adds."""

_NUMBER_KINDS = "biuf"
"""`dtype.kind` of booleans, integers and floats. Dates and complex numbers have `__float__`, too,
and lose what it does not give."""


def scalar(value: object) -> bool | int | float | None:
    """The number or truth value that `value` stands for; None where it is neither.

    - a boolean scalar of an array library (`dtype.kind` is "b", no dimensions): `bool`
    - what has `__index__`: `int`
    - what has `__float__`: `float`, at a float's precision

    An array that has dimensions is no scalar, even one of one element.
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
