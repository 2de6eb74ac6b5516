"""Hypothesis strategies for Erlang terms, and the equivalent Erlang source."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    BitString,
    ErlMap,
    Export,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)
from quicdist.etf.maps import canonical

_U32 = st.integers(0, 2**32 - 1)

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
atoms = st.one_of(
    st.sampled_from([Atom(name) for name in ("ok", "error", "undefined", "nil", "", "true é")]),
    _text.filter(lambda text: text not in ("true", "false")).map(Atom),
)
integers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    # Integers near the limits of the tags and of OTP's internal representations.
    st.builds(
        lambda sign, bits, more: sign * 2**bits + more,
        st.sampled_from([-1, 1]),
        st.sampled_from([8, 27, 31, 59, 63, 64, 2040]),
        st.integers(-1, 1),
    ),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
bit_strings = st.builds(BitString, st.binary(min_size=1, max_size=9), st.integers(1, 7))
nodes = st.sampled_from([Atom("a@b"), Atom("node@host.example"), Atom("true")])
pids = st.builds(Pid, nodes, _U32, _U32, _U32)
ports = st.builds(Port, nodes, st.integers(0, 2**64 - 1), _U32)
references = st.builds(Reference, nodes, st.lists(_U32, min_size=1, max_size=5).map(tuple), _U32)
exports = st.builds(Export, atoms, atoms, st.integers(0, 255))

# Terms that are literals in Erlang source.
_plain = st.one_of(
    atoms, st.booleans(), integers, floats, st.binary(max_size=20), bit_strings, exports
)
_leaves = st.one_of(_plain, pids, ports, references)


def _containers(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    lists = st.lists(inner, max_size=5)
    return st.one_of(
        lists,
        st.lists(st.integers(0, 255), max_size=8),
        lists.map(tuple),
        # Mapped instead of filtered, because a filter of hypothesis prints its whole strategy.
        st.builds(ImproperList, st.lists(inner, min_size=1, max_size=4), inner.map(_no_list)),
        st.lists(st.tuples(inner, inner), max_size=5).map(to_map),
    )


def _no_list(term: Term) -> Term:
    return (term,) if isinstance(term, (list, ImproperList)) else term


def to_map(pairs: list[tuple[Term, Term]]) -> Mapping[Term, Term]:
    """Returns a dict if it can hold these pairs, else an ErlMap. The last of equal keys counts."""
    pairs = list({canonical(pair[0])[0]: pair for pair in pairs}.values())
    try:
        plain = dict(pairs)
    except TypeError:
        return ErlMap(pairs)
    return plain if len(plain) == len(pairs) else ErlMap(pairs)


def _with_native_records(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    fields = st.lists(st.tuples(atoms, inner), max_size=4)
    return st.one_of(_containers(inner), st.builds(native_record, atoms, atoms, fields))


def native_record(
    module: Atom, name: Atom, fields: list[tuple[Atom, Term]], flags: int = 1
) -> NativeRecord:
    """Returns the native record of these names and values. The last of equal names counts."""
    table = dict(fields)
    return NativeRecord(module, name, tuple(table), tuple(table.values()), flags)


_terms = st.recursive(_leaves, _with_native_records, max_leaves=12)
_literals = st.recursive(_plain, _containers, max_leaves=12)
_older = st.recursive(_leaves, _containers, max_leaves=12)
# Deferred, so that a failure does not print all strategies.
terms = st.deferred(lambda: _terms)
# Without native records, which Erlang before OTP 29 does not support.
older_terms = st.deferred(lambda: _older)
literals = st.deferred(lambda: _literals)


def same(one: Term, other: Term) -> bool:
    """Whether two terms are `=:=`. In Python, 1 == 1.0 == True."""
    return canonical(one)[0] == canonical(other)[0]


def to_source(term: Term) -> str:
    """Returns the term as an Erlang expression, independently of the encoder."""
    if isinstance(term, Atom):
        return f"binary_to_atom({to_source(str.encode(term))}, utf8)"
    if isinstance(term, bool):
        return "true" if term else "false"
    if isinstance(term, int):
        return str(term)
    if isinstance(term, float):
        return f"(fun() -> <<F/float>> = <<{int.from_bytes(_ieee(term), 'big')}:64>>, F end)()"
    if isinstance(term, bytes):
        return f"<<{','.join(map(str, term))}>>"
    if isinstance(term, BitString):
        whole = [str(byte) for byte in term.data[:-1]]
        last = f"{term.data[-1] >> (8 - term.bits)}:{term.bits}"
        return f"<<{','.join([*whole, last])}>>"
    if isinstance(term, list):
        return f"[{','.join(map(to_source, term))}]"
    if isinstance(term, ImproperList):
        return f"[{','.join(map(to_source, term.items))}|{to_source(term.tail)}]"
    if isinstance(term, tuple):
        return f"{{{','.join(map(to_source, term))}}}"
    if isinstance(term, Export):
        return f"erlang:make_fun({to_source(term.module)},{to_source(term.function)},{term.arity})"
    assert isinstance(term, Mapping)
    pairs = (f"{to_source(key)} => {to_source(value)}" for key, value in term.items())
    return f"#{{{','.join(pairs)}}}"


def _ieee(number: float) -> bytes:

    return struct.pack(">d", number)
