"""Encoding: the tags that OTP chooses, and objects without an Erlang form."""

from __future__ import annotations

import struct
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Iterator
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    BitString,
    ErlMap,
    EtfDecodeError,
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
    decode,
    decode_bare,
    encode,
    encode_bare,
    encode_bare_parts,
    encode_parts,
)
from quicdist.etf.maps import MAX_KEY_DEPTH
from tests.etf.strategies import same, terms

AB = Atom("a@b")
NODE = b"w\x03a@b"


class Number(IntEnum):
    SEVEN = 7


class Name(str, Enum):  # noqa: UP042  # the form before StrEnum
    FIRST = "first"


class Real(float):
    pass


class Octets(bytes):
    pass


class Row(list[Any]):
    pass


Point = namedtuple("Point", "x y")


FORMS: list[tuple[str, object, bytes]] = [
    ("0", 0, b"a\x00"),
    ("255", 255, b"a\xff"),
    ("256", 256, b"b\x00\x00\x01\x00"),
    ("-1", -1, b"b\xff\xff\xff\xff"),
    ("the largest INTEGER_EXT", 2**31 - 1, b"b\x7f\xff\xff\xff"),
    ("the smallest INTEGER_EXT", -(2**31), b"b\x80\x00\x00\x00"),
    ("the smallest SMALL_BIG_EXT", 2**31, b"n\x04\x00\x00\x00\x00\x80"),
    ("the smallest negative SMALL_BIG_EXT", -(2**31) - 1, b"n\x04\x01\x01\x00\x00\x80"),
    ("the largest SMALL_BIG_EXT", 2**2040 - 1, b"n\xff\x00" + b"\xff" * 255),
    ("LARGE_BIG_EXT", 2**2040, b"o\x00\x00\x01\x00\x00" + bytes(255) + b"\x01"),
    ("float", 1.5, b"F" + struct.pack(">d", 1.5)),
    ("minus zero", -0.0, b"F\x80" + bytes(7)),
    ("true", True, b"w\x04true"),
    ("false", False, b"w\x05false"),
    ("None", None, b"w\x09undefined"),
    ("atom", Atom("é"), b"w\x02\xc3\xa9"),
    ("atom of 256 bytes", Atom("é" * 128), b"v\x01\x00" + "é".encode() * 128),
    ("bytes", b"ab", b"m\x00\x00\x00\x02ab"),
    ("bytearray", bytearray(b"ab"), b"m\x00\x00\x00\x02ab"),
    ("memoryview", memoryview(b"aXbX")[::2], b"m\x00\x00\x00\x02ab"),
    ("str", "é", b"m\x00\x00\x00\x02\xc3\xa9"),
    ("bit string", BitString(b"\xff", 3), b"M\x00\x00\x00\x01\x03\xe0"),
    ("empty tuple", (), b"h\x00"),
    ("tuple of 255", (0,) * 255, b"h\xff" + b"a\x00" * 255),
    ("tuple of 256", (0,) * 256, b"i\x00\x00\x01\x00" + b"a\x00" * 256),
    ("empty list", [], b"j"),
    ("list of bytes", [0, 255], b"k\x00\x02\x00\xff"),
    ("list with 256", [0, 256], b"l\x00\x00\x00\x02a\x00b\x00\x00\x01\x00j"),
    ("list with a negative", [0, -1], b"l\x00\x00\x00\x02a\x00b\xff\xff\xff\xffj"),
    ("list of bool", [1, True], b"l\x00\x00\x00\x02a\x01w\x04truej"),
    ("list of 65535 bytes", [7] * 65535, b"k\xff\xff" + b"\x07" * 65535),
    ("list of 65536 bytes", [7] * 65536, b"l\x00\x01\x00\x00" + b"a\x07" * 65536 + b"j"),
    ("improper list", ImproperList([1], 2), b"l\x00\x00\x00\x01a\x01a\x02"),
    ("dict", {1: [], Atom("a"): ()}, b"t\x00\x00\x00\x02a\x01jw\x01ah\x00"),
    (
        "ErlMap",
        ErlMap([(1, 2), (1.0, 3)]),
        b"t\x00\x00\x00\x02a\x01a\x02F?\xf0" + bytes(6) + b"a\x03",
    ),
    ("pid", Pid(AB, 1, 2, 3), b"X" + NODE + struct.pack(">III", 1, 2, 3)),
    ("port", Port(AB, 5, 3), b"x" + NODE + struct.pack(">QI", 5, 3)),
    ("large port", Port(AB, 2**64 - 1, 3), b"x" + NODE + struct.pack(">QI", 2**64 - 1, 3)),
    ("reference", Reference(AB, (1, 2), 3), b"Z\x00\x02" + NODE + struct.pack(">III", 3, 1, 2)),
    ("export", Export(Atom("m"), Atom("f"), 2), b"qw\x01mw\x01fa\x02"),
    (
        "fun",
        Fun(Atom("m"), 1, bytes(16), 2, 3, 4, Pid(AB, 1, 2, 3), (9,)),
        b"p\x00\x00\x00\x38\x01" + bytes(16) + b"\x00\x00\x00\x02\x00\x00\x00\x01w\x01ma\x03a\x04X"
        + NODE + struct.pack(">III", 1, 2, 3) + b"a\x09",
    ),
    (
        "native record",
        NativeRecord(AB, Atom("r"), (Atom("x"), Atom("true")), (1, [2])),
        b"C\x00\x00\x00\x02\x01" + NODE + b"w\x01rw\x01xw\x04truea\x01k\x00\x01\x02",
    ),
    ("empty native record", NativeRecord(AB, AB, (), (), 0), b"C\0\0\0\0\0" + NODE + NODE),
    ("IntEnum", Number.SEVEN, b"a\x07"),
    ("str Enum", Name.FIRST, b"m\x00\x00\x00\x05first"),
    ("float subclass", Real(1.5), b"F" + struct.pack(">d", 1.5)),
    ("bytes subclass", Octets(b"a"), b"m\x00\x00\x00\x01a"),
    ("list subclass", Row([1, []]), b"l\x00\x00\x00\x02a\x01jj"),
    ("list subclass of bytes", Row([1]), b"k\x00\x01\x01"),
    ("empty list subclass", Row(), b"j"),
    ("namedtuple", Point(1, [2]), b"h\x02a\x01k\x00\x01\x02"),
    ("empty namedtuple", namedtuple("Empty", "")(), b"h\x00"),
    ("OrderedDict", OrderedDict({1: 2}), b"t\x00\x00\x00\x01a\x01a\x02"),
    ("mappingproxy", MappingProxyType({1: 2}), b"t\x00\x00\x00\x01a\x01a\x02"),
    ("UserDict", UserDict({1: 2}), b"t\x00\x00\x00\x01a\x01a\x02"),
]  # fmt: skip


@pytest.mark.parametrize(("term", "form"), [f[1:] for f in FORMS], ids=[f[0] for f in FORMS])
def test_has_the_form_otp_gives_it(term: object, form: bytes) -> None:
    assert encode(term) == b"\x83" + form
    assert encode_bare(term) == form


def test_none_is_undefined_or_nil() -> None:
    assert encode((None,), Options(none="nil")) == b"\x83h\x01w\x03nil"


@given(terms)
def test_what_is_encoded_is_decoded(term: Term) -> None:
    read = decode(encode(term))
    assert same(read, term)
    assert type(read) is type(term)
    assert encode(read) == encode(term)


@given(terms)
def test_what_is_encoded_with_a_cache_is_decoded_with_it(term: Term) -> None:
    refs: dict[Atom, int] = {}
    data = encode_bare(term, refs=refs)
    assert list(refs.values()) == list(range(len(refs)))
    read, end = decode_bare(data, atoms=list(refs))
    assert end == len(data)
    assert same(read, term)


class TestParts:
    def test_a_large_binary_is_a_part_of_its_own_and_not_copied(self) -> None:
        big, small = b"x" * 64, b"y" * 63
        parts = encode_parts((AB, small, big, [big, 1]), large=64)
        assert b"".join(parts) == encode((AB, small, big, [big, 1]))
        assert [part is big for part in parts] == [False, True, False, True, False]

    def test_a_term_that_ends_with_one_ends_with_that_part(self) -> None:
        assert encode_parts(b"abc", large=3) == [b"\x83m\0\0\0\3", b"abc"]

    def test_without_one_there_is_one_part(self) -> None:
        assert encode_parts(b"abc", large=4) == [encode(b"abc")]
        assert encode_parts(b"x" * 65535) == [encode(b"x" * 65535)]
        assert len(encode_parts(b"x" * 65536)) == 2

    def test_what_may_change_is_copied(self) -> None:
        changing = bytearray(b"abc")
        assert encode_parts(changing, large=1) == [encode(b"abc")]
        assert encode_parts(memoryview(changing), large=1) == [encode(b"abc")]

    def test_compressed_all_is_one_part(self) -> None:
        options = Options(compression=6)
        assert encode_parts(b"x" * 999, options, 1) == [encode(b"x" * 999, options)]

    def test_an_error_has_its_path(self) -> None:
        with pytest.raises(EtfEncodeError) as caught:
            encode_parts([b"abc", (float("nan"),)], large=1)
        assert caught.value.path == "[1][0]"

    def test_bare_ones_have_no_version_and_number_atoms(self) -> None:
        refs: dict[Atom, int] = {}
        parts = encode_bare_parts([AB, b"abc"], refs=refs, large=3)
        assert parts == [b"l\0\0\0\2R\0m\0\0\0\3", b"abc", b"j"]
        assert refs == {AB: 0}

    @given(terms, st.integers(1, 20))
    def test_together_they_are_the_whole(self, term: Term, large: int) -> None:
        assert b"".join(encode_parts(term, large=large)) == encode(term)
        assert b"".join(encode_bare_parts(term, large=large)) == encode_bare(term)


class TestAtomCache:
    def test_numbers_atoms_in_the_order_they_come(self) -> None:
        refs: dict[Atom, int] = {}
        term = (Atom("a"), True, Atom("a"), None, Pid(AB, 0, 0, 0), Export(Atom("m"), AB, 1))
        data = encode_bare(term, refs=refs)
        assert refs == {"a": 0, "true": 1, "undefined": 2, "a@b": 3, "m": 4}
        assert data == b"h\x06R\x00R\x01R\x00R\x02XR\x03" + bytes(12) + b"qR\x04R\x03a\x01"

    def test_goes_on_with_what_is_there(self) -> None:
        refs = {Atom("a"): 0}
        assert encode_bare([Atom("b"), Atom("a")], refs=refs) == b"l\x00\x00\x00\x02R\x01R\x00j"
        assert refs == {"a": 0, "b": 1}

    def test_writes_the_256th_in_full(self) -> None:
        refs: dict[Atom, int] = {}
        data = encode_bare([Atom(f"n{n}") for n in range(300)], refs=refs)
        assert len(refs) == 255
        assert data.endswith(b"w\x04n298w\x04n299j")
        assert b"R\xfew\x04n255" in data


class Odd:
    pass


def cycle() -> list[Any]:
    ring: list[Any] = [1]
    ring.append({"key": (ring,)})
    return ring


def dict_cycle() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["self"] = [ring]
    return ring


def row_cycle() -> Row:
    ring = Row([0])
    ring.append([ring])
    return ring


NO_FORM: list[tuple[str, object, str, str]] = [
    ("NaN", float("nan"), "", "nan has no Erlang form"),
    ("infinity", [1.5, float("-inf")], "[1]", "-inf has no Erlang form"),
    ("infinity as a subclass", (Real("inf"),), "[0]", "has no Erlang form"),
    ("object", Odd(), "", "Odd has no Erlang form"),
    ("object inside", [1, 2, 3, {"key": Odd()}], '[3]["key"]', "Odd has no Erlang form"),
    ("object under an atom", {Atom("a"): ({7: Odd()},)}, '["a"][0][7]', "Odd has no"),
    ("object as a key", [{Odd: 1}], "[0].keys()[0]", "type has no Erlang form"),
    ("object in a tail", (ImproperList([1], Odd()),), "[0].tail", "Odd has no"),
    ("object in an improper list", ImproperList([1, Odd()], 1), ".items[1]", "Odd has no"),
    ("object in an ErlMap", ErlMap([([1], Odd())]), "[[1]]", "Odd has no"),
    (
        "object in a fun",
        Fun(AB, 0, bytes(16), 0, 0, 0, Pid(AB, 1, 1, 1), (1, Odd())),
        ".free[1]",
        "Odd has no",
    ),
    (
        "object in a native record",
        [NativeRecord(AB, AB, (AB,), (Odd(),))],
        "[0].values[0]",
        "Odd has no",
    ),
    ("native record of a str", NativeRecord("m", AB, (), ()), "", "an Atom, not str"),  # type: ignore[arg-type]
    ("native record, flags", NativeRecord(AB, AB, (), (), 256), "", "out of range"),
    ("set", {1}, "", "set has no Erlang form"),
    ("range", [range(3)], "[0]", "range has no Erlang form"),
    ("complex", 1j, "", "complex has no Erlang form"),
    ("surrogate", ["\ud800"], "[0]", "lone surrogate"),
    ("list cycle", cycle(), '[1]["key"][0]', "a list that contains itself"),
    ("dict cycle", dict_cycle(), '["self"][0]', "contains itself"),
    ("subclass cycle", row_cycle(), "[1][0]", "contains itself"),
    ("node that is a str", Pid("a@b", 1, 1, 1), "", "an Atom, not str"),  # type: ignore[arg-type]
    ("pid out of range", [Pid(AB, 2**32, 1, 1)], "[0]", "a number in Pid is out of range"),
    ("negative port", Port(AB, -1, 1), "", "out of range"),
    ("reference of six words", Reference(AB, (1,) * 6, 1), "", "at most 5 words"),
    ("arity 256", Export(AB, AB, 256), "", "out of range"),
    ("str and bytes as keys", [{"a": 1, b"a": 2}], "[0]", "two keys are equal in Erlang"),
    ("None and undefined as keys", {None: 1, Atom("undefined"): 2}, "", "two keys are equal"),
    ("True and true as keys", {True: 1, Atom("true"): 2}, "", "two keys are equal"),
    ("tuples as keys", {("a",): 1, (b"a",): 2}, "", "two keys are equal"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("term", "path", "reason"), [n[1:] for n in NO_FORM], ids=[n[0] for n in NO_FORM]
)
def test_what_has_no_erlang_form_is_refused_with_the_path_to_it(
    term: object, path: str, reason: str
) -> None:
    with pytest.raises(EtfEncodeError) as caught:
        encode(term)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert path in str(caught.value)


def test_none_as_a_key_is_what_the_option_says() -> None:
    nil = Options(none="nil")
    assert decode(encode({None: 1, Atom("undefined"): 2}, nil)) == {"nil": 1, "undefined": 2}
    with pytest.raises(EtfEncodeError, match="two keys"):
        encode({None: 1, Atom("nil"): 2}, nil)


def test_a_long_path_is_shortened() -> None:
    term: object = Odd()
    for _ in range(5000):
        term = [term]
    with pytest.raises(EtfEncodeError) as caught:
        encode(term)
    assert caught.value.path == "[0]" * 10 + "..." + "[0]" * 10


def test_the_same_object_twice_is_no_cycle() -> None:
    twice = [1.5]
    for _ in range(12):
        twice = [twice, {"a": twice}]  # type: ignore[list-item]
    assert len(encode(twice)) > 2**12


def test_a_wide_cycle_is_found_before_it_fills_the_memory() -> None:
    wide: list[Any] = [b"x"] * 100_000
    wide.append(wide)
    with pytest.raises(EtfEncodeError, match="contains itself"):
        encode(wide)


def test_depth_is_a_setting() -> None:
    term = nested(200_000)
    data = encode(term, Options(limits=Limits(max_depth=200_000)))
    assert len(data) == 1 + 200_000 * 6 + 9
    with pytest.raises(EtfEncodeError, match=r"nested deeper than 65536, Limits\.max_depth"):
        encode(term)


def nested(depth: int, innermost: Any = 1.5) -> Any:
    for _ in range(depth):
        innermost = [innermost]
    return innermost


class TestLimits:
    """Encoding rejects terms that decoding would reject with the same limits."""

    @given(
        terms,
        st.builds(
            Limits,
            max_depth=st.integers(0, 5),
            max_terms=st.integers(0, 20),
            max_integer=st.integers(0, 12),
        ),
    )
    def test_written_is_what_is_read(self, term: Term, limits: Limits) -> None:
        data = encode(term)
        try:
            decode(data, Options(limits=limits))
        except EtfDecodeError:
            with pytest.raises(EtfEncodeError):
                encode(term, Options(limits=limits))
        else:
            assert encode(term, Options(limits=limits)) == data

    def test_the_place_is_told(self) -> None:
        with pytest.raises(EtfEncodeError) as caught:
            encode({"key": [0.5, nested(3)]}, Options(limits=Limits(max_depth=3)))
        assert caught.value.path == '["key"][1][0]'

    def test_more_terms_than_anybody_takes(self) -> None:
        for term in ([b""] * 4_200_000, ([None] * 3_000_000, [1000] * 3_000_000)):
            with pytest.raises(EtfEncodeError, match=r"more than 4194304 terms, Limits\.max_terms"):
                encode(term)

    def test_an_integer_that_is_too_large(self) -> None:
        for number in (2**200, -(2**200), 2**2100):
            size = (number.bit_length() + 7) // 8
            assert decode(encode(number, Options(limits=Limits(max_integer=size)))) == number
            with pytest.raises(EtfEncodeError, match=f"an integer of {size} bytes"):
                encode(number, Options(limits=Limits(max_integer=size - 1)))

    def test_a_fun_that_is_written_as_it_came(self) -> None:
        fun = Fun(Atom("m"), 1, bytes(16), 2, 3, 4, Pid(AB, 1, 2, 3), (nested(40),))
        again = decode(encode(fun))
        assert isinstance(again, Fun)
        assert again.encoded
        assert encode(nested(9, again), Options(limits=Limits(max_depth=50)))
        with pytest.raises(EtfEncodeError, match="nested deeper than 50"):
            encode(nested(10, again), Options(limits=Limits(max_depth=50)))

    def test_bytes_are_a_bound_to_the_byte(self) -> None:
        for term in (b"x" * 300, "é" * 5000, [1.5] * 300, {1: (b"x" * 70_000, AB)}, 2**5000, 7):
            size = len(encode_bare(term))
            exact, less = (Options(limits=Limits(max_bytes=most)) for most in (size, size - 1))
            assert len(encode(term, exact)) == size + 1
            assert len(b"".join(encode_bare_parts(term, exact, large=64))) == size
            for write in (encode, encode_bare, encode_parts, encode_bare_parts):
                with pytest.raises(EtfEncodeError, match=r"Limits\.max_bytes") as caught:
                    write(term, less)
                assert (caught.value.path, caught.value.limit) == ("", "max_bytes")

    def test_no_more_is_written_than_the_bound(self) -> None:
        def items() -> Iterator[bytes]:
            for _ in range(1000):
                taken.append(1)
                yield b"x" * 10_000

        class Long(Row):
            def __len__(self) -> int:
                return 1000

            def __iter__(self) -> Iterator[Any]:
                return items()

        taken: list[int] = []
        with pytest.raises(EtfEncodeError, match="more than 100000 bytes"):
            encode(Long([b""]), Options(limits=Limits(max_bytes=100_000)))
        assert len(taken) <= 11

    def test_the_limit_is_told_apart(self) -> None:
        with pytest.raises(EtfEncodeError) as caught:
            encode([[b""] * 5], Options(limits=Limits(max_terms=5)))
        assert caught.value.limit == "max_terms"
        with pytest.raises(EtfEncodeError) as caught:
            encode(Odd())
        assert caught.value.limit is None

    def test_native_records_are_for_those_who_read_them(self) -> None:
        record = NativeRecord(AB, AB, (), ())
        with pytest.raises(EtfEncodeError, match="OTP 29") as caught:
            encode([record], Options(native_records=False))
        assert caught.value.path == "[0]"

    def test_a_key_that_nobody_reads(self) -> None:
        key: Any = ()
        for _ in range(MAX_KEY_DEPTH + 1):
            key = (key,)
        for table in ({key: 1}, {key: 1, 2: 3}):
            with pytest.raises(EtfEncodeError, match="map key nested deeper than 128"):
                encode([table])

    def test_what_is_too_large_when_compressed_goes_uncompressed(self) -> None:
        some = Options(compression=6, limits=Limits(max_decompressed=1000))
        assert encode(bytes(1000), some) == encode(bytes(1000))
        assert len(encode(bytes(900), some)) < 100


def test_funs_within_funs_have_their_sizes() -> None:
    value = Fun(Atom("m"), 1, bytes(16), 2, 3, 4, Pid(AB, 1, 2, 3), ())
    for _ in range(20):
        value = Fun(Atom("m"), 1, bytes(16), 2, 3, -4, Pid(AB, 1, 2, 3), (value, [value]))
        data = encode(value)
        assert decode(data) == value
        if len(data) > 100_000:
            break


def test_a_generator_is_not_eaten() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(EtfEncodeError, match="generator has no Erlang form"):
        encode(numbers())
