"""Exact identity of Python terms, which is stricter than equality."""

from __future__ import annotations

from typing import Any

from quicdist.etf import (
    BitString,
    ErlMap,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)


def exactly(term: Term) -> list[Any]:
    """Returns the term as a flat list that is equal only for identical terms.

    Types, the order of keys and the sign of zero are significant.
    """
    parts: list[Any] = []
    todo: list[Term] = [term]
    while todo:
        item = todo.pop()
        kind = type(item)
        parts.append(kind)
        if kind is float:
            parts.append(item.hex())
        elif kind in (tuple, list):
            parts.append(len(item))
            todo += item
        elif kind is dict:
            parts.append(len(item))
            for key, value in item.items():
                todo += (key, value)
        elif kind is ErlMap:
            parts.append((len(item), item.key_depth))
            for key, value in item.items():
                todo += (key, value)
        elif kind in (Pid, Port, Reference, BitString, ImproperList, Export, Fun, NativeRecord):
            todo += (getattr(item, name) for name in kind.__match_args__)
        else:
            parts.append(item)
    return parts
