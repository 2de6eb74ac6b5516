"""Decoding: every tag, errors and their reasons, and bounded cost for hostile input."""

from __future__ import annotations

import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    BitString,
    ErlMap,
    EtfDecodeError,
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
    decode_prefix,
    encode,
    encode_bare,
)
from quicdist.etf.codec import CORE
from quicdist.etf.decode import _ATOMS_KEPT, _PIDS_KEPT, _atoms, _pids
from quicdist.etf.maps import MAX_KEY_DEPTH
from quicdist.etf.terms import _interned
from tests.etf.strategies import same, terms

AB = Atom("a@b")
TRUE = Atom("true")
OLD_NODE = b"d\x00\x03a@b"
NODE = b"w\x03a@b"
UNIQ = bytes(range(16))


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def float_text(text: bytes) -> bytes:
    return b"c" + text.ljust(31, b"\0")


def fun(body: bytes, extra: int = 0) -> bytes:
    return b"p" + u32(len(body) + 4 + extra) + body


FUN_BODY = b"\x02" + UNIQ + u32(7, 2) + b"w\x01m" + b"a\x05" + b"b\xff\xff\xff\xff"
FUN_BODY += b"X" + NODE + u32(1, 2, 3) + b"a\x09" + b"k\x00\x01\x01"

TAGS: list[tuple[str, bytes, Term]] = [
    ("SMALL_INTEGER_EXT", b"a\xff", 255),
    ("INTEGER_EXT", b"b\xff\xff\xff\xff", -1),
    ("INTEGER_EXT min", b"b\x80\x00\x00\x00", -(2**31)),
    ("FLOAT_EXT", float_text(b"1.50000000000000000000e+00"), 1.5),
    ("FLOAT_EXT filled", float_text(b"-2.500000000000000000000000000"), -2.5),
    ("NEW_FLOAT_EXT", b"F" + struct.pack(">d", -0.0), -0.0),
    ("ATOM_EXT is latin-1", b"d\x00\x01\xe9", Atom("é")),
    ("SMALL_ATOM_EXT is latin-1", b"s\x01\xe9", Atom("é")),
    ("ATOM_UTF8_EXT", b"v\x00\x02\xc3\xa9", Atom("é")),
    ("SMALL_ATOM_UTF8_EXT", b"w\x02\xc3\xa9", Atom("é")),
    ("empty atom", b"w\x00", Atom("")),
    ("true", b"w\x04true", True),
    ("false, old", b"d\x00\x05false", False),
    ("undefined", b"w\x09undefined", Atom("undefined")),
    ("REFERENCE_EXT", b"e" + OLD_NODE + u32(5) + b"\x01", Reference(AB, (5,), 1)),
    (
        "NEW_REFERENCE_EXT",
        b"r\x00\x03" + OLD_NODE + b"\x03" + u32(1, 2, 3),
        Reference(AB, (1, 2, 3), 3),
    ),
    (
        "NEWER_REFERENCE_EXT",
        b"Z\x00\x05" + NODE + u32(9, 1, 2, 3, 4, 5),
        Reference(AB, (1, 2, 3, 4, 5), 9),
    ),
    ("PORT_EXT", b"f" + OLD_NODE + u32(5) + b"\x02", Port(AB, 5, 2)),
    ("NEW_PORT_EXT", b"Y" + NODE + u32(5, 9), Port(AB, 5, 9)),
    ("V4_PORT_EXT", b"x" + NODE + struct.pack(">QI", 2**64 - 1, 9), Port(AB, 2**64 - 1, 9)),
    ("PID_EXT", b"g" + OLD_NODE + u32(5, 6) + b"\x03", Pid(AB, 5, 6, 3)),
    ("NEW_PID_EXT", b"X" + NODE + u32(2**32 - 1, 6, 9), Pid(AB, 2**32 - 1, 6, 9)),
    ("NEW_PID_EXT, old atom", b"X" + OLD_NODE + u32(5, 6, 9), Pid(AB, 5, 6, 9)),
    ("node named true", b"X" + b"w\x04true" + u32(5, 6, 9), Pid(Atom("true"), 5, 6, 9)),
    ("SMALL_TUPLE_EXT", b"h\x02a\x01a\x02", (1, 2)),
    ("SMALL_TUPLE_EXT empty", b"h\x00", ()),
    ("LARGE_TUPLE_EXT", b"i" + u32(2) + b"a\x01a\x02", (1, 2)),
    ("LARGE_TUPLE_EXT empty", b"i" + u32(0), ()),
    ("NIL_EXT", b"j", []),
    ("STRING_EXT", b"k\x00\x02hi", [104, 105]),
    ("STRING_EXT empty", b"k\x00\x00", []),
    ("LIST_EXT", b"l" + u32(2) + b"a\x01a\x02j", [1, 2]),
    ("LIST_EXT improper", b"l" + u32(1) + b"a\x01w\x01t", ImproperList([1], Atom("t"))),
    ("LIST_EXT whose tail is a list", b"l" + u32(1) + b"a\x01l" + u32(1) + b"a\x02j", [1, 2]),
    (
        "LIST_EXT whose tail is an improper list",
        b"l" + u32(1) + b"a\x01l" + u32(1) + b"a\x02a\x03",
        ImproperList([1, 2], 3),
    ),
    ("LIST_EXT whose tail is a string", b"l" + u32(1) + b"a\x01k\x00\x01A", [1, 65]),
    ("LIST_EXT of nothing is its tail", b"l" + u32(0) + b"a\x05", 5),
    ("LIST_EXT of nothing as a tail", b"l" + u32(1) + b"a\x01l" + u32(0) + b"j", [1]),
    ("BINARY_EXT", b"m" + u32(3) + b"abc", b"abc"),
    ("BIT_BINARY_EXT", b"M" + u32(2) + b"\x03\xff\xff", BitString(b"\xff\xe0", 3)),
    ("BIT_BINARY_EXT of whole bytes", b"M" + u32(1) + b"\x08\xff", b"\xff"),
    ("BIT_BINARY_EXT empty", b"M" + u32(0) + b"\x00", b""),
    ("SMALL_BIG_EXT", b"n\x09\x01" + bytes(8) + b"\x01", -(2**64)),
    ("SMALL_BIG_EXT of a small number", b"n\x03\x00\x05\x00\x00", 5),
    ("SMALL_BIG_EXT of nothing", b"n\x00\x01", 0),
    ("SMALL_BIG_EXT, any sign but 0 is minus", b"n\x01\x07\x05", -5),
    ("LARGE_BIG_EXT", b"o" + u32(512) + b"\x00" + bytes(511) + b"\x80", 2**4095),
    ("MAP_EXT", b"t" + u32(2) + b"w\x01aa\x01w\x01ba\x02", {Atom("a"): 1, Atom("b"): 2}),
    ("MAP_EXT empty", b"t" + u32(0), {}),
    ("EXPORT_EXT", b"qw\x05listsw\x03mapa\x02", Export(Atom("lists"), Atom("map"), 2)),
    ("EXPORT_EXT of true:true", b"qw\x04truew\x04truea\x02", Export(TRUE, TRUE, 2)),
    ("EXPORT_EXT, arity in four bytes", b"qw\x04truew\x04trueb" + u32(3), Export(TRUE, TRUE, 3)),
    (
        "RECORD_EXT",
        b"C" + u32(2) + b"\x01w\x04shopw\x05order" + b"w\x02idw\x04true" + b"a\x07k\x00\x01\x01",
        NativeRecord(Atom("shop"), Atom("order"), (Atom("id"), TRUE), (7, [1]), 1),
    ),
    (
        "RECORD_EXT without fields, not exported, old atoms",
        b"C" + u32(0) + b"\x00d\x00\x01ms\x01n",
        NativeRecord(Atom("m"), Atom("n"), (), (), 0),
    ),
    (
        "NEW_FUN_EXT",
        fun(FUN_BODY),
        Fun(Atom("m"), 2, UNIQ, 7, 5, -1, Pid(AB, 1, 2, 3), (9, [1])),
    ),
]  # fmt: skip

REFUSED: list[tuple[str, bytes, str]] = [
    ("an unknown tag", b"\x00", "unknown tag 0"),
    ("FUN_EXT", b"u" + u32(0), "FUN_EXT, which OTP 23"),
    ("RECORD_EXT of an integer", b"C" + u32(0) + b"\0a\x01", "native record must be"),
    ("RECORD_EXT named by one", b"C" + u32(0) + b"\0w\0a\x01", "native record must be"),
    ("RECORD_EXT with one as field", b"C" + u32(1) + b"\0w\0w\0a\x01a\x01", "the name of a field"),
    ("LOCAL_EXT", b"y\x01\x02\x03\x04a\x01", "LOCAL_EXT, which only the node that encoded it"),
    ("a version byte inside", b"\x83a\x01", "version byte inside"),
    ("ATOM_CACHE_REF without a cache", b"R\x00", "no atom 0 in the atom cache"),
    ("an atom of 256 characters", b"d\x01\x00" + b"a" * 256, "256 characters"),
    ("an atom of 256 characters, UTF-8", b"v\x01\x00" + b"a" * 256, "256 characters"),
    ("an atom that is no UTF-8", b"w\x01\xe9", "not UTF-8"),
    ("an atom with a surrogate", b"w\x03\xed\xa0\x80", "not UTF-8"),
    ("NaN", b"F\x7f\xf8" + bytes(6), "not a finite number"),
    ("infinity", b"F\x7f\xf0" + bytes(6), "not a finite number"),
    ("float text nan", float_text(b"nan"), "invalid float text 'nan'"),
    ("float text inf", float_text(b"inf"), "invalid float text"),
    ("float text too large", float_text(b"1.0e400"), "invalid float text"),
    ("float text with a space", float_text(b" 1.5"), "invalid float text"),
    ("float text with an underscore", float_text(b"1_0.5"), "invalid float text"),
    ("float text without a point", float_text(b"1e5"), "invalid float text"),
    ("float text with rest", float_text(b"1.5x"), "invalid float text"),
    ("bits without bytes", b"M" + u32(0) + b"\x03", "0 bytes with 3 bits"),
    ("bytes without bits", b"M" + u32(1) + b"\x00\xff", "1 bytes with 0 bits"),
    ("nine bits in a byte", b"M" + u32(1) + b"\x09\xff", "1 bytes with 9 bits"),
    ("a pid on the node nil", b"Xj" + u32(1, 0, 4), "the node of a pid must be an atom, not NIL"),
    ("a pid whose node is 1", b"Xa\x01" + u32(1, 0, 4), "must be an atom, not SMALL_INTEGER_EXT"),
    ("a port whose node is nil", b"Yj" + u32(1, 0), "the node of a port"),
    ("a reference whose node is nil", b"Z\x00\x01j" + u32(1, 0), "the node of a reference"),
    ("a reference of six words", b"Z\x00\x06" + NODE + u32(*range(7)), "6 words"),
    ("an old pid with a new creation", b"g" + NODE + u32(5, 6) + b"\x04", "must be 0..3"),
    ("an old port with a new creation", b"f" + NODE + u32(5) + b"\x04", "must be 0..3"),
    ("an old reference, new creation", b"e" + NODE + u32(5) + b"\x04", "must be 0..3"),
    ("an old reference of 19 bits", b"e" + NODE + u32(2**18) + b"\x01", "18 bits"),
    ("a new reference of 19 bits", b"r\x00\x01" + NODE + b"\x01" + u32(2**18), "18 bits"),
    ("an external fun of module 1", b"qa\x01w\x01fa\x01", "the module of an external fun"),
    ("an external fun of function 1", b"qw\x01ma\x01a\x01", "the function of an external fun"),
    ("an external fun of arity nil", b"qw\x01mw\x01fj", "the arity of an external fun"),
    ("an external fun of arity -3", b"qw\x01mw\x01fb" + u32(2**32 - 3), "must be 0..255, not -3"),
    ("an external fun of arity 256", b"qw\x01mw\x01fb" + u32(256), "must be 0..255, not 256"),
    ("a fun that is shorter than it says", fun(FUN_BODY, 1), "a fun of"),
    ("a fun that is longer than it says", fun(FUN_BODY, -1), "a fun of"),
    ("a fun with creator nil", fun(FUN_BODY.partition(b"X")[0] + b"jj"), "the creator of a fun"),
    ("duplicate keys", b"t" + u32(2) + b"a\x01a\x01a\x01a\x02", "duplicate map key"),
    ("duplicate lists as keys", b"t" + u32(2) + b"ja\x01ja\x02", "duplicate map key"),
    ("duplicate keys, written in two ways", b"t" + u32(2) + b"a\x01jn\x01\x00\x01j", "duplicate"),
    ("a compressed term inside", b"h\x01P" + u32(2) + zlib.compress(b"a\x01"), "inside another"),
]  # fmt: skip

_CORE_KEEPS = 16_384
"""The atoms that the table of the compiled core holds."""


class TestTags:
    @pytest.mark.parametrize(("data", "term"), [t[1:] for t in TAGS], ids=[t[0] for t in TAGS])
    def test_is_read(self, data: bytes, term: Term) -> None:
        read = decode(b"\x83" + data)
        assert type(read) is type(term)
        assert same(read, term)

    @pytest.mark.parametrize(
        ("data", "reason"), [t[1:] for t in REFUSED], ids=[t[0] for t in REFUSED]
    )
    def test_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(EtfDecodeError) as caught:
            decode(b"\x83" + data)
        assert reason in caught.value.reason

    @pytest.mark.parametrize("data", [t[1] for t in TAGS], ids=[t[0] for t in TAGS])
    def test_every_cut_is_refused(self, data: bytes) -> None:
        for cut in range(len(data) + 1):
            with pytest.raises(EtfDecodeError) as caught:
                decode((b"\x83" + data)[:cut])
            assert 0 <= caught.value.offset <= cut

    @pytest.mark.parametrize("data", [t[1] for t in TAGS], ids=[t[0] for t in TAGS])
    def test_bytes_behind_are_refused_or_left(self, data: bytes) -> None:
        with pytest.raises(EtfDecodeError, match="1 bytes after the term"):
            decode(b"\x83" + data + b"\x00")
        assert decode_prefix(b"xx\x83" + data + b"rest", 2)[1] == 3 + len(data)
        assert decode_bare(b"xx" + data + b"rest", 2)[1] == 2 + len(data)

    def test_the_version_byte_comes_first(self) -> None:
        for data in (b"", b"a\x01", b"\x82a\x01"):
            with pytest.raises(EtfDecodeError, match="must begin with 131"):
                decode(data)

    def test_an_offset_counts_from_the_beginning(self) -> None:
        with pytest.raises(ValueError, match="must not be negative"):
            decode_prefix(b"\x83j", -2)
        with pytest.raises(ValueError, match="must not be negative"):
            decode_bare(b"j", -1)
        with pytest.raises(EtfDecodeError):
            decode_bare(b"j", 7)
        with pytest.raises(EtfDecodeError):
            decode_prefix(b"\x83j", 7)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_will_do(self, kind: Any) -> None:
        term = decode(kind(b"\x83h\x02m\0\0\0\x01xk\0\x01y"))
        assert term == (b"x", [121])
        assert type(term[0]) is bytes


class TestMaps:
    """Maps decode to a dict if that is lossless, else to an ErlMap."""

    @pytest.mark.parametrize(
        "keys",
        [
            (1, 1.0),
            (1, True),
            (0, False),
            (0.0, -0.0),
            ((1,), (1.0,)),
            ((1, (True,)), (1, (1.0,))),
            ([1], [2]),
            ({}, []),
            ((1, [2]), (1, [2.0])),
            (ImproperList([1], 2), ImproperList([1.0], 2)),
            (Fun(AB, 0, UNIQ, 0, 0, 0, Pid(AB, 1, 1, 1), (1,)),
             Fun(AB, 0, UNIQ, 0, 0, 0, Pid(AB, 1, 1, 1), (1.0,))),
        ],
        ids=repr,
    )  # fmt: skip
    def test_keys_that_python_merges_or_cannot_hash(self, keys: tuple[Term, Term]) -> None:
        pairs = list(zip(keys, (Atom("x"), Atom("y"))))  # noqa: B905 (two)
        data = encode(ErlMap(pairs))
        read = decode(data)
        assert type(read) is ErlMap
        assert [type(key) for key in read] == [type(key) for key in keys]
        assert [read[key] for key in keys] == ["x", "y"]
        assert encode(read) == data

    def test_keys_that_python_tells_apart(self) -> None:
        for plain in ({1: 2, 2.0: 3, False: 4}, {(1, 2): 1, (1.0, 3): 1}, {b"a": 1, Atom("a"): 2}):
            assert type(decode(encode(plain))) is dict

    def test_an_atom_and_an_equal_str(self) -> None:
        data = encode(ErlMap([(Atom("a"), 1), (b"a", 2)]))
        assert type(decode(data)) is dict
        read = decode(data, Options(binaries="str"))
        assert type(read) is ErlMap
        assert (read[Atom("a")], read["a"]) == (1, 2)
        assert encode(read) == data
        deep = encode({(Atom("a"),): 1, (b"a",): 2})
        assert type(decode(deep, Options(binaries="str"))) is ErlMap

    def test_keys_that_an_option_makes_one_are_refused(self) -> None:
        data = encode(ErlMap([([97], 1), (b"a", 2)]))
        with pytest.raises(EtfDecodeError, match="duplicate"):
            decode(data, Options(strings="bytes"))

    def test_keys_have_a_depth_bound_of_their_own(self) -> None:
        def key(depth: int, opening: bytes, closing: bytes = b"") -> bytes:
            return b"\x83t" + u32(1) + opening * depth + b"a\x01" + closing * depth + b"j"

        endless = Options(limits=Limits(max_depth=10**9))
        for opening, closing in (
            (b"h\x01", b""),
            (b"l" + u32(1), b"j"),
            (b"l" + u32(1), b"w\x01t"),
            (b"t" + u32(1), b"a\x01"),
            (b"t" + u32(1) + b"a\x01", b""),
            (b"h\x02l" + u32(1), b"jj"),
        ):
            per_level = 2 if opening.startswith(b"h\x02") else 1
            decode(key(MAX_KEY_DEPTH // per_level, opening, closing), endless)
            for depth in (MAX_KEY_DEPTH // per_level + 1, 100_000):
                with pytest.raises(EtfDecodeError, match="map key nested deeper than 128"):
                    decode(key(depth, opening, closing), endless)

    def test_the_bound_counts_keys_within_keys(self) -> None:
        key: Term = 1
        for _ in range(MAX_KEY_DEPTH // 2):
            key = (ErlMap([(key, 1)]),)
        ErlMap([(key, 1)])
        with pytest.raises(ValueError, match="deeper"):
            ErlMap([((key,), 1)])

    def test_values_are_not_bound_by_it(self) -> None:
        data = b"\x83" + (b"t" + u32(1) + b"j") * 5000 + b"j"
        assert encode(decode(data)) == data


class TestOptions:
    def test_binaries_as_str_where_they_are_utf8(self) -> None:
        data = encode([b"caf\xc3\xa9", b"\xff", BitString(b"a", 1)])
        read = decode(data, Options(binaries="str"))
        assert read == ["café", b"\xff", BitString(b"a", 1)]
        assert encode(read) == data

    def test_strings(self) -> None:
        data = b"\x83k\x00\x03h\xe9!"
        assert decode(data, Options(strings="bytes")) == b"h\xe9!"
        assert decode(data, Options(strings="str")) == "hé!"
        assert decode(b"\x83j", Options(strings="str")) == []
        tail = b"\x83l" + u32(1) + b"a\x01k\x00\x01A"
        assert decode(tail, Options(strings="str")) == [1, 65]

    def test_values_in_a_fun_stay_what_they_are(self) -> None:
        body = FUN_BODY[:25] + b"w\x01ma\x05b" + b"\xff" * 4 + b"X" + NODE + u32(1, 2, 3)
        data = b"\x83h\x02" + fun(body.replace(u32(7, 2), u32(7, 2)) + b"m\0\0\0\x01ak\0\x01b")
        data += b"m\0\0\0\x01a"
        options = Options(binaries="str", strings="str")
        value, text = decode(data, options)
        assert (value.free, text) == ((b"a", [98]), "a")
        assert encode((value, text)) == data


class TestAtomCache:
    ATOMS = (Atom("a@b"), Atom("true"), Atom("x"))

    def test_references_are_the_atoms_given(self) -> None:
        assert decode_bare(b"h\x03R\x02R\x01R\x00", atoms=self.ATOMS)[0] == (Atom("x"), True, AB)

    def test_references_stand_wherever_an_atom_does(self) -> None:
        pid = decode_bare(b"XR\x00" + u32(1, 2, 3), atoms=self.ATOMS)[0]
        assert pid == Pid(AB, 1, 2, 3)
        export = decode_bare(b"qR\x01R\x02a\x01", atoms=self.ATOMS)[0]
        assert export == Export(Atom("true"), Atom("x"), 1)

    def test_an_index_beyond_is_refused(self) -> None:
        for data in (b"R\x03", b"XR\x03" + u32(1, 2, 3)):
            with pytest.raises(EtfDecodeError, match="no atom 3"):
                decode_bare(data, atoms=self.ATOMS)

    def test_what_is_remembered_of_pids_does_not_mix_caches(self) -> None:
        data = b"XR\x00" + u32(1, 2, 3)
        assert decode_bare(data, atoms=(Atom("a"),))[0] != decode_bare(data, atoms=(Atom("b"),))[0]


class TestFuns:
    def test_encode_to_the_bytes_they_came_from(self) -> None:
        for data in (fun(FUN_BODY), fun(FUN_BODY.replace(b"w\x01m", b"d\x00\x01m"))):
            assert encode(decode(b"\x83" + data)) == b"\x83" + data

    def test_atoms_from_the_cache_are_resolved(self) -> None:
        data = fun(FUN_BODY)
        refs: dict[Atom, int] = {}
        on_the_wire = encode_bare(decode(b"\x83" + data), refs=refs)
        assert list(refs) == ["m", "a@b"]
        assert b"R\x00" in on_the_wire
        value = decode_bare(on_the_wire, atoms=list(refs))[0]
        assert encode(value) == b"\x83" + data

    def test_hold_funs(self) -> None:
        head = FUN_BODY[: FUN_BODY.index(b"a\x09")].replace(u32(7, 2), u32(7, 1))
        data = fun(FUN_BODY)
        for _ in range(2000):
            data = fun(head + data)
        value = decode(b"\x83" + data)
        assert encode(value) == b"\x83" + data
        assert encode(value.free[0]) == b"\x83" + data[5 + len(head) :]


class TestCompressed:
    TERM = (Atom("ok"), [b"x" * 1000, 5])

    def test_is_read_and_written(self) -> None:
        data = encode(self.TERM, Options(compression=6))
        assert data[1] == 80
        assert len(data) < 100
        assert decode(data) == self.TERM
        assert decode_prefix(b"x" + data + b"rest", 1) == (self.TERM, len(data) + 1)

    def test_is_not_written_where_it_is_no_shorter(self) -> None:
        assert encode(5, Options(compression=9)) == b"\x83a\x05"

    def test_every_cut_is_refused(self) -> None:
        data = encode(self.TERM, Options(compression=6))
        for cut in range(len(data)):
            with pytest.raises(EtfDecodeError):
                decode(data[:cut])

    @pytest.mark.parametrize(
        ("declared", "plain", "reason"),
        [
            (3, b"a\x01", "truncated"),
            (1, b"a\x01", "declared 1 bytes"),
            (3, b"a\x01\x00", "1 bytes after"),
            (2**32 - 1, b"a\x01", "4294967295 bytes when decompressed"),
        ],
    )
    def test_is_what_it_declares(self, declared: int, plain: bytes, reason: str) -> None:
        with pytest.raises(EtfDecodeError, match=reason):
            decode(b"\x83P" + u32(declared) + zlib.compress(plain))

    def test_damage_is_refused(self) -> None:
        data = bytearray(encode(self.TERM, Options(compression=6)))
        for place in range(6, len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            with pytest.raises(EtfDecodeError):
                decode(damaged)


@contextmanager
def cheap(memory: int, seconds: float = 20) -> Iterator[None]:
    """Checks that the body uses little memory and CPU time, even for an attack."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory
    assert time.process_time() - began < seconds


class TestHostile:
    """Hostile input raises one exception and uses little time and memory."""

    @pytest.mark.parametrize("tag", b"iklmMotZrPpt")
    def test_a_huge_length_in_a_few_bytes(self, tag: int) -> None:
        for length in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\xff\xff\xff"):
            with cheap(memory=100_000), pytest.raises(EtfDecodeError):
                decode(b"\x83" + bytes((tag,)) + length + b"aaaaaaa")

    def test_a_million_nested_lists(self) -> None:
        for opening in (b"l" + u32(1), b"h\x01", b"t" + u32(1) + b"j"):
            with pytest.raises(EtfDecodeError, match="nested deeper than 65536"):
                decode(b"\x83" + opening * 1_000_000 + b"j")

    def test_nesting_of_ten_thousand_is_fine(self) -> None:
        for opening, closing in (
            (b"l" + u32(1), b"j"),
            (b"h\x01", b""),
            (b"t" + u32(1) + b"j", b""),
            (b"l" + u32(1), b"w\x01t"),
        ):
            data = b"\x83" + opening * 10_000 + b"j" + closing * 10_000
            assert encode(decode(data)) == data

    def test_depth_is_a_setting_and_letting_go_of_a_deep_term_is_safe(self) -> None:
        deep = Options(limits=Limits(max_depth=300_000))
        for opening, closing in (
            (b"l" + u32(1), b"j"),
            (b"h\x01", b""),
            (b"t" + u32(1) + b"j", b""),
            (b"l" + u32(1), b"w\x01t"),
            (b"h\x02l" + u32(1) + b"t" + u32(1) + b"j", b"jj"),
        ):
            data = b"\x83" + opening * 60_000 + b"j" + closing * 60_000
            term = decode(data, deep)
            assert encode(term, deep) == data
            del term
        with pytest.raises(EtfDecodeError, match="nested deeper than 3"):
            decode(b"\x83" + b"h\x01" * 4 + b"j", Options(limits=Limits(max_depth=3)))
        assert decode(b"\x83" + b"h\x01" * 3 + b"j", Options(limits=Limits(max_depth=3)))

    def test_lists_whose_tails_are_lists_are_not_copied_again_and_again(self) -> None:
        data = b"\x83" + (b"l" + u32(1) + b"j") * 300_000 + b"j"
        assert len(decode(data)) == 300_000
        assert decode(b"\x83" + (b"l" + u32(0)) * 300_000 + b"j") == []

    def test_the_number_of_terms_is_a_limit(self) -> None:
        few = Options(limits=Limits(max_terms=10))
        assert decode(b"\x83l" + u32(10) + b"j" * 11, few) == [[]] * 10
        for data in (
            b"l" + u32(11) + b"j" * 12,
            b"h\x0b" + b"j" * 11,
            b"t" + u32(6) + b"j" * 12,
            b"h\x05" + b"h\x03jjj" * 5,
            b"l" + u32(9) + b"j" * 9 + b"l" + u32(2) + b"jjj",
        ):
            with pytest.raises(EtfDecodeError, match="more than 10 terms"):
                decode(b"\x83" + data, few)

    def test_the_size_of_an_integer_is_a_limit(self) -> None:
        limit = Options(limits=Limits(max_integer=100))
        assert decode(b"\x83n\x64\x00" + b"\xff" * 100, limit) == 2**800 - 1
        for data in (b"n\x65\x00" + b"\xff" * 101, b"o" + u32(101) + b"\x00" + b"\xff" * 101):
            with pytest.raises(EtfDecodeError, match="an integer of 101 bytes"):
                decode(b"\x83" + data, limit)

    def test_a_zlib_bomb(self) -> None:
        bomb = zlib.compress(bytes(100_000_000), 9)
        for declared in (2**32 - 1, 100_000_000):
            with (
                cheap(memory=1_000_000),
                pytest.raises(EtfDecodeError, match=r"Limits\.max_decompressed"),
            ):
                decode(b"\x83P" + u32(declared) + bomb)
        with cheap(memory=1_000_000), pytest.raises(EtfDecodeError, match="declared 1000 bytes"):
            decode(b"\x83P" + u32(1000) + bomb)

    @pytest.mark.parametrize(
        "key",
        [
            lambda n: n * (2**61 - 1),
            lambda n: -n * (2**61 - 1),
            lambda n: (n * (2**61 - 1), 1),
            lambda n: ((n * (2**61 - 1),),),
        ],
        ids=["positive", "negative", "tuple", "tuple of tuple"],
    )
    def test_keys_that_collide_in_pythons_hash(self, key: Any) -> None:
        count = 20_000
        pairs = b"".join(encode_bare(key(n)) + b"a\x01" for n in range(1, count + 1))
        data = b"\x83t" + u32(count) + pairs
        with cheap(memory=100_000_000):
            read = decode(data)
        assert type(read) is ErlMap
        assert len(read) == count
        assert read[key(count)] == 1

    def test_many_keys_that_do_not_collide_are_a_dict(self) -> None:
        plain = dict.fromkeys([*range(-1000, 1000), *((n, n) for n in range(1000))], 1)
        assert type(decode(encode(plain))) is dict

    def test_keys_within_keys_do_not_add_up(self) -> None:
        big = b"m" + u32(1_000_000) + bytes(1_000_000)
        data = big
        for _ in range(60):
            data = b"t" + u32(1) + b"l" + u32(1) + data + b"jj"
        with cheap(memory=20_000_000):
            decode(b"\x83" + data)

    def test_a_flood_of_atoms_and_pids_is_forgotten(self) -> None:
        before = len(_interned)
        for n in range(3):
            decode(encode_bare_list(f"flood {n} {i}" for i in range(20_000)))
        decode(encode([Pid(AB, n, 0, 1) for n in range(20_000)]))
        # Each codec has a table of atoms. That of the compiled core is larger.
        kept = _ATOMS_KEPT + (_CORE_KEEPS if CORE == "compiled" else 0)
        assert len(_interned) - before <= kept
        assert len(_atoms) <= _ATOMS_KEPT
        assert len(_pids) <= _PIDS_KEPT

    def test_printing_a_huge_integer_is_not_our_way_to_fail(self) -> None:
        data = b"\x83o" + u32(100_000) + b"\x00" + b"\xff" * 100_000
        assert decode(data).bit_length() == 800_000
        with pytest.raises(EtfDecodeError):
            decode(b"\x83t" + u32(2) + (data[1:] + b"j") * 2)

    def test_a_deep_call_stack_is_no_excuse(self) -> None:
        data = encode(ErlMap([([[[[[1]]]]], 1)]))

        def descend(left: int) -> None:
            if left:
                descend(left - 1)
            else:
                decode(data)

        for left in range(sys.getrecursionlimit() - 200):
            try:
                descend(left)
            except (EtfDecodeError, RecursionError):
                break

    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_term_or_refused(self, data: bytes) -> None:
        try:
            decode(b"\x83" + data)
        except EtfDecodeError as error:
            assert 0 <= error.offset <= len(data) + 1  # noqa: PT017 (a term is fine too)

    @given(terms, st.data())
    def test_any_damage_gives_a_term_or_is_refused(self, term: Term, draw: st.DataObject) -> None:
        data = bytearray(encode(term))
        place = draw.draw(st.integers(0, len(data) - 1))
        data[place] = draw.draw(st.integers(0, 255))
        try:
            decode(data)
        except EtfDecodeError as error:
            assert 0 <= error.offset <= len(data)  # noqa: PT017 (a term is fine too)

    @given(terms)
    def test_every_cut_is_refused(self, term: Term) -> None:
        data = encode(term)
        for cut in range(len(data)):
            with pytest.raises(EtfDecodeError):
                decode(data[:cut])


def encode_bare_list(names: Iterator[str]) -> bytes:
    """Returns an encoded list of atoms that no other test creates."""
    atoms = [b"w" + bytes((len(name),)) + name.encode() for name in names]
    return b"\x83l" + u32(len(atoms)) + b"".join(atoms) + b"j"
