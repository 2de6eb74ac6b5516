"""The compiled core encodes like the pure Python core, with equal bytes and errors."""

from __future__ import annotations

import enum
from collections import ChainMap, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    BitString,
    ErlMap,
    EtfEncodeError,
    Export,
    Fun,
    ImproperList,
    Limits,
    NativeRecord,
    Options,
    Pid,
    Port,
    Reference,
    Term,
)
from tests.etf.core import compiled, outcome, pure, same_encoding
from tests.etf.exactly import exactly
from tests.etf.strategies import terms
from tests.etf.test_decode import TAGS as EXAMPLES

core = compiled()
PURE: Any = pure()
NODE = Atom("a@b")
PID = Pid(NODE, 1, 2, 3)


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Row(list):  # type: ignore[type-arg]
    pass


class Index:
    """An object with `__index__`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


class Approximate:
    """An object with `__float__`."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __float__(self) -> float:
        return self.number


class Kind:
    kind = "b"


class Truth:
    """A boolean scalar like those of array libraries."""

    dtype = Kind()

    def __init__(self, value: bool) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return self.value


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 70_000


Point = namedtuple("Point", "x y")
FUN = Fun(Atom("m"), 1, bytes(16), 1, 2, 3, PID, (Atom("free"), (1, 2.5)))


class Sly(Mapping[Any, Any]):
    """A mapping with side effects when it is read."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __getitem__(self, key: Any) -> Any:
        return 1

    def __iter__(self) -> Iterator[Any]:
        self.act()
        return iter((1, 2, 3))

    def __len__(self) -> int:
        return 3


# Python objects that are encoded by another type, or not at all.
ODD: list[Any] = [
    None,
    Text("text"),
    Text("é"),
    Number(5),
    Number(2**70),
    Real(0.5),
    Row(),
    Row([1, 2]),
    Row([1.5, "x"]),
    Colour.RED,
    Colour.BLUE,
    Point(1, "y"),
    (),
    bytearray(b"array"),
    memoryview(b"view"),
    memoryview(b"every other")[::2],
    memoryview(bytearray(b"shared")),
    OrderedDict([("b", 1), ("a", 2)]),
    defaultdict(list, a=[1]),
    MappingProxyType({"a": 1}),
    ChainMap({"a": 1}, {"b": 2}),
    UserDict(a=1),
    FUN,
    NativeRecord(NODE, NODE, (NODE, Atom("true")), (1, [2.5, "x"])),
    NativeRecord(NODE, NODE, (), (), 0),
    Index(3),
    Index(2**70),
    [Index(3), 4],
    [Index(300), 4],
    [Index(-1)],
    Approximate(0.5),
    [Approximate(0.5), Index(1)],
    {Index(1): 2, "x": 3},
    {Approximate(0.5): 2, 0.5: 3},
    (Truth(True), [Truth(False)]),
    [1, Truth(True)],
    # Invalid terms.
    NativeRecord(NODE, NODE, (NODE,), (object(),)),
    NativeRecord("m", NODE, (), ()),  # type: ignore[arg-type]
    NativeRecord(NODE, NODE, ("f",), (1,)),  # type: ignore[arg-type]
    NativeRecord(NODE, NODE, [NODE], [1]),  # type: ignore[arg-type]
    NativeRecord(NODE, NODE, (), (), 256),
    NativeRecord(NODE, NODE, (), (), -1),
    Approximate(float("inf")),
    object(),
    {1, 2},
    "\ud800",
    "é\ud800",
    float("nan"),
    float("-inf"),
    1j,
    range(3),
    Pid(NODE, -1, 0, 0),
    Pid(NODE, 2**32, 0, 0),
    Pid("a@b", 1, 2, 3),  # type: ignore[arg-type]
    Pid(NODE, True, False, 3),
    Pid(NODE, 1.5, 2, 3),  # type: ignore[arg-type]
    Port(NODE, 2**64, 0),
    Port(NODE, -1, 0),
    Port(NODE, True, 0),
    Reference(NODE, (), 0),
    Reference(NODE, (1, 2, 3, 4, 5, 6), 0),
    Reference(NODE, [1, 2], 0),  # type: ignore[arg-type]
    Reference(NODE, (2**32,), 0),
    Reference(NODE, (1,), -1),
    Export(NODE, NODE, 256),
    Export(NODE, NODE, -1),
    Export("m", NODE, 1),  # type: ignore[arg-type]
    Fun(Atom("m"), 256, bytes(16), 1, 2, 3, PID, ()),
    Fun(Atom("m"), 1, bytes(3), 1, 2, 3, PID, ()),
    Fun(Atom("m"), 1, bytes(16), 1, 2, 3, PID, ({"a": 1, b"a": 2},)),
    {"a": 1, b"a": 2},
    {Atom("a"): 1, "a ": 2, b"a": 3},
    {(1, "a"): 1, (1, b"a"): 2},
    {(1, ("a",)): 1, (1, (b"a",)): 2},
    {True: 1, Atom("true"): 2},
    {None: 1, Atom("undefined"): 2},
    {None: 1, Atom("nil"): 2},
    {object(): 1},
    {object(): 1, 2: 3},
    {frozenset(): 1},
    {float("nan"): 1, 2.5: 2},
    {PID: 1, NODE: 2, 1: 3, "x": 4},
    {FUN: 1, "x": 2},
]


def odd_thing(place: int) -> Any:
    return ODD[place]


odd = st.integers(0, len(ODD) - 1).map(odd_thing)
numbers = st.lists(
    st.one_of(
        st.integers(-2, 300),
        st.integers(-(2**31) - 2, 2**31 + 2),
        st.integers(-(2**64) - 2, 2**64 + 2),
        st.sampled_from([0.5, -0.0, 1e308, float("inf"), float("nan")]),
        st.sampled_from([True, Colour.RED, Number(3), Index(4), "x", None, Real(1.5)]),
    ),
    max_size=20,
)


def no_list(tail: Any) -> Any:
    return b"tail" if isinstance(tail, (list, ImproperList)) else tail


mixed = st.recursive(
    st.one_of(odd, terms, numbers),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=2), st.integers(0, 3)), inner, max_size=3),
        st.dictionaries(st.tuples(st.text(max_size=1), st.integers(0, 1)), inner, max_size=2),
        st.builds(
            ImproperList,
            st.lists(inner, min_size=1, max_size=2),
            inner.map(no_list),
        ),
        st.lists(inner, max_size=2).map(
            lambda items: ErlMap([(n, x) for n, x in enumerate(items)])
        ),
    ),
    max_leaves=8,
)
enough = [Options(), Options(none="nil"), Options(compression=6)]
any_options = st.sampled_from(enough)
tight_options = st.sampled_from(
    [*enough, Options(native_records=False), Options(limits=Limits(max_terms=3))]
)


@given(terms, any_options)
def test_terms(term: Term, options: Options) -> None:
    kind, data, _ = same_encoding(core, term, options)
    assert kind == "value"
    again = core.decode(data[1])
    assert exactly(again) == exactly(PURE.decode(data[1]))


@pytest.mark.parametrize("term", ODD)
def test_each_odd_thing(term: Any) -> None:
    for options in (Options(), Options(none="nil")):
        for around in (term, [term], (1, term), {"key": term}, [1, 2, term, 3], (term, [term])):
            same_encoding(core, around, options)


@given(mixed, tight_options)
def test_anything(term: Term, options: Options) -> None:
    same_encoding(core, term, options)


@given(numbers)
def test_numbers(items: list[Any]) -> None:
    same_encoding(core, items)
    same_encoding(core, tuple(items))
    same_encoding(core, (items, Row(items)))


@pytest.mark.parametrize(("data", "term"), [x[1:] for x in EXAMPLES], ids=[x[0] for x in EXAMPLES])
def test_every_example(data: bytes, term: Term) -> None:
    same_encoding(core, PURE.decode(b"\x83" + data))
    same_encoding(core, [PURE.decode(b"\x83" + data), 1])


def test_integers_around_every_border() -> None:
    for bits in (*range(80), 255 * 8, 256 * 8, 4096, 2**15):
        for more in range(-2, 3):
            for sign in (-1, 1):
                same_encoding(core, sign * 2**bits + more)


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        255,
        256,
        1017,
        1018,
        1019,
        4096,
        65_535,
        65_536,
        pytest.param(300_000, marks=pytest.mark.slow),
    ],
)
def test_sizes(size: int) -> None:
    for term in (
        bytes(size),
        "e" * size,
        "é" * size,
        [1] * size,
        [1, 256] * size,
        [0.5] * size,
        [b"x"] * size,
        tuple(range(size)),
        [*[1] * size, Number(1)],
        dict.fromkeys(range(size), 1),
        [bytes(size), bytes(size // 2), [bytes(10)] * 20],
    ):
        same_encoding(core, term)


class TestRefs:
    """The control message and the payload use the same dict of atoms."""

    def test_the_last_numbers(self) -> None:
        for count in (253, 254, 255, 256, 300):
            same_encoding(core, [Atom(f"a{n}") for n in range(count)] * 2)

    def test_of_a_dict_that_has_some(self) -> None:
        term = (Atom("b"), Atom("a"), True, None, PID, FUN, Export(NODE, NODE, 1))
        for given_refs in ({}, {Atom("a"): 0}, {Atom("b"): 7, Atom("a"): 255}):
            one: dict[Atom, int] = dict(given_refs)
            two: dict[Atom, int] = dict(given_refs)
            assert core.encode_bare(term, Options(), one) == PURE.encode_bare(term, Options(), two)
            assert list(one.items()) == list(two.items())

    def test_of_numbers_there_are_not(self) -> None:
        for number in (256, -1, 2**70, "x", None):
            results = [
                outcome(codec.encode_bare, [NODE], Options(), {NODE: number})
                for codec in (PURE, core)
            ]
            assert results[0] == results[1]


class TestParts:
    """Both cores return large binaries as separate parts without copies."""

    def test_of_every_mixture(self) -> None:
        sizes = (0, 1, 63, 64, 65, 1000, 70_000, 300_000)
        for before in sizes:
            for size in sizes:
                big = b"x" * size
                for term in (
                    big,
                    [b"y" * before, big, b"y" * before],
                    {"k": big, b"y" * before: big},
                    (big, [0.5] * before, big),
                ):
                    same_encoding(core, term)

    def test_the_sizes_of_funs_count_them(self) -> None:
        inner = Fun(Atom("m"), 1, bytes(16), 1, 2, 3, PID, (b"z" * 5000, Atom("free")))
        outer = Fun(Atom("m"), 1, bytes(16), 1, 2, 3, PID, (inner, b"z" * 9000, 1))
        same_encoding(core, [b"z" * 6000, outer, inner])

    def test_limits_that_are_none(self) -> None:
        for large in (-(2**70), -1, 0, 2**70, "x", None, 1.5):
            for name in ("encode_parts", "encode_bare_parts"):
                ours, theirs = (
                    outcome(partial(getattr(codec, name), [b"", b"x"], large=large))
                    for codec in (core, PURE)
                )
                assert ours[:2] == theirs[:2]

    def test_by_python_where_that_is_needed(self) -> None:
        big = b"z" * 5000
        for term in ([big, Sly(lambda: None), big], {big: 1, "a": big, b"b": 2}):
            same_encoding(core, term)
        for codec in (PURE, core):
            parts = codec.encode_parts([big, MappingProxyType({"a": big}), Row([big])], large=5000)
            assert [part is big for part in parts].count(True) == 3


class TestCycles:
    """The error contains the path, and no reference is leaked."""

    def test_of_every_length(self) -> None:
        for before in (0, 1, 7, 8, 9, 40):
            for length in (1, 2, 3, 9, 30):
                rows: list[Any] = [[n, {}] for n in range(length)]
                for row, after in zip(rows, [*rows[1:], rows[0]], strict=True):
                    row[1]["next"] = (after,)
                term: Any = rows[0]
                for _ in range(before):
                    term = [term]
                kind, _, reason = same_encoding(core, term)
                assert kind == "encode error"
                assert "contains itself" in reason

    def test_what_is_there_twice_is_none(self) -> None:
        shared: Any = [1.5, {}]
        for _ in range(12):
            shared = [shared, shared]
        assert same_encoding(core, shared)[0] == "value"


small = st.builds(
    Limits,
    max_depth=st.integers(0, 5),
    max_terms=st.integers(0, 30),
    max_integer=st.integers(0, 20),
)


@given(mixed, small, st.sampled_from([0, 6]))
def test_beyond_limits(term: Term, limits: Limits, compression: int) -> None:
    same_encoding(core, term, Options(limits=limits, compression=compression))


@given(numbers, small)
def test_numbers_beyond_limits(items: list[Any], limits: Limits) -> None:
    for term in (items, [items, items], Row(items), (items, {1: Row(items)})):
        same_encoding(core, term, Options(limits=limits))


def test_lists_of_numbers_that_are_no_strings() -> None:
    for size in (65_535, 65_536):
        for term in ([1] * size, Row([1] * size), [*[1] * (size - 1), Number(1)], ([1] * size,)):
            for limits in (Limits(max_depth=1), Limits(max_depth=0), Limits(max_terms=65_535)):
                same_encoding(core, term, Options(limits=limits))


class TestSly:
    """Containers that change while they are encoded do not crash the process."""

    def test_a_list_that_shrinks(self) -> None:
        row: list[Any] = [Sly(lambda: row.clear()), *([[1]] * 50)]
        for _ in range(3):
            outcome(core.encode, row)

    def test_a_list_that_grows(self) -> None:
        row: list[Any] = [Sly(lambda: row.extend([[1]] * 5)), [2]]
        outcome(core.encode, row)

    def test_a_dict_that_changes(self) -> None:
        table: dict[Any, Any] = {1: Sly(lambda: table.pop(2, None)), 2: [3], 3: [4]}
        with pytest.raises(RuntimeError, match="changed size"):
            core.encode(table)

    def test_a_key_that_changes_its_dict(self) -> None:
        table: dict[Any, Any] = {}
        table[ErlKey(table)] = [1]
        outcome(core.encode, table)

    def test_an_error_of_its_own(self) -> None:
        def fail() -> None:
            raise LookupError("mine")

        for codec in (PURE, core):
            with pytest.raises(LookupError, match="mine"):
                codec.encode([1, Sly(fail)])

    def test_itself_within_itself(self) -> None:
        inner: list[Any] = []
        term = [Sly(lambda: inner.append(core.encode([1, [2]]))), 5]
        assert core.encode(term) == PURE.encode(term)
        assert inner


class ErlKey(tuple):  # type: ignore[type-arg]
    """A tuple that clears a dict when it is read."""

    table: dict[Any, Any]

    def __new__(cls, table: dict[Any, Any]) -> ErlKey:
        self = super().__new__(cls, (1,))
        self.table = table
        return self

    def __iter__(self) -> Iterator[Any]:
        self.table.clear()
        return super().__iter__()

    def __hash__(self) -> int:
        return 1


def test_keywords() -> None:
    assert core.encode(term=1, options=Options()) == b"\x83a\x01"
    assert core.encode_bare(term=NODE, refs={}) == b"R\x00"
    assert core.encode_bare(NODE, refs=None) == b"w\x03a@b"


@pytest.mark.parametrize("field", ["data", "bits"])
def test_slots_that_were_never_set(field: str) -> None:
    bare = BitString.__new__(BitString)
    object.__setattr__(bare, field, {"data": b"x", "bits": 3}[field])
    for codec in (PURE, core):
        with pytest.raises((AttributeError, EtfEncodeError)):
            codec.encode(bare)


@given(terms, st.integers(0, 80))
def test_a_bound_on_bytes(term: Term, most: int) -> None:
    same_encoding(core, term, Options(limits=Limits(max_bytes=most)))


@pytest.mark.parametrize("most", [*range(0, 120, 7), 10_000])
@pytest.mark.parametrize("field", ["max_bytes", "max_terms", "max_depth"])
def test_a_bound_on_a_term_inside_itself(field: str, most: int) -> None:
    row: list[Any] = [1, b"before"]
    row.append({"key": (2, row), (3, ()): 4.5})
    same_encoding(core, row, Options(limits=Limits(**{field: most})))
    same_encoding(core, row[2], Options(limits=Limits(**{field: most})))


@pytest.mark.parametrize("other", [(), (1,), [], [2.5], {}, {1: 2}, PID, True, None, 2**70])
def test_a_term_of_another_type_among_common_ones(other: Any) -> None:
    for place in range(3):
        items = [Atom("a"), b"b"]
        items.insert(place, other)
        same_encoding(core, tuple(items), Options())
        same_encoding(core, items, Options())
        same_encoding(core, dict(enumerate(items)), Options())
        if other.__hash__ is not None:
            same_encoding(core, dict.fromkeys(items, 1), Options())
        same_encoding(core, tuple(items), Options(none="nil"))
