"""Estimates the memory of a decoded term, so that mailboxes can be limited in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from quicdist.etf.maps import ErlMap
from quicdist.etf.terms import BitString, Fun, ImproperList, NativeRecord, Port, Reference, Term

_WORD = 8
_LEAF = 56  # an object with a few words in it; integers and pids are near enough
_BYTES = 40
_VIEW = 184
_TUPLE = 56
_LIST = 72
_DICT = 96
_DICT_ENTRY = 56
_NUMBER = 32
_BULK = 8
_ERL_MAP_ENTRY = 300  # with the key's canonical bytes


def footprint(term: Term) -> int:
    """The estimated memory of `term` in bytes, accurate within a small factor.

    Atoms and small integers are shared, so only the references to them count.
    """
    if type(term) is bytes:
        return _BYTES + len(term)
    total = 0
    todo: list[Iterable[Term]] = [(term,)]
    while todo:
        for item in todo.pop():
            kind = type(item)
            if kind is tuple:
                total += _TUPLE + _WORD * len(item)
                todo.append(item)
            elif kind is bytes:
                total += _BYTES + len(item)
            elif kind is int:
                if not -6 < item < 257:
                    total += _NUMBER + item.bit_length() // 8
            elif kind is memoryview:
                total += _VIEW + item.nbytes
            elif kind is list:
                total += _LIST + _WORD * len(item)
                numbers = _numbers(item) if len(item) >= _BULK else None
                if numbers is None:
                    todo.append(item)
                else:
                    total += numbers
            elif kind is dict:
                total += _DICT + _DICT_ENTRY * len(item)
                todo.append(chain.from_iterable(item.items()))
            elif kind is str:
                total += 64 + len(item)
            elif kind is ErlMap:
                total += _DICT + _ERL_MAP_ENTRY * len(item)
                todo.append(chain.from_iterable(item.items()))
            elif kind is ImproperList:
                total += _TUPLE + _LIST + _WORD * len(item.items)
                todo.append(item.items)
                todo.append((item.tail,))
            elif kind is Fun:
                total += 4 * _LEAF + _TUPLE + _WORD * len(item.free) + len(item.encoded or b"")
                todo.append(item.free)
            elif kind is NativeRecord:
                total += _LEAF + 2 * (_TUPLE + _WORD * len(item.values))
                todo.append(item.values)
            elif kind is BitString:
                total += 2 * _LEAF + len(item.data)
            elif kind is Reference or kind is Port:
                total += 4 * _LEAF
            else:
                total += _LEAF
    return total


def _numbers(items: list[Term]) -> int | None:
    """The memory of a list of numbers, without a loop over them. None for other lists."""
    kind = type(items[0])
    if kind is not int and kind is not float:
        return None
    try:
        bytes(items)
    except (TypeError, ValueError):
        if set(map(type, items)) != {kind}:
            return None
        if kind is float:
            return _NUMBER * len(items)
        largest = max(max(items), -min(items)).bit_length() // 8
        return None if largest > _NUMBER else _NUMBER * len(items)
    return 0  # small integers, which are shared
