"""The compiled core decodes like the pure Python core, with equal terms and errors."""

from __future__ import annotations

import gc
import random
import struct
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, EtfDecodeError, Limits, Options, Term
from quicdist.etf.terms import _interned
from tests.etf.core import (
    TAGS,
    compiled,
    mutations,
    outcome,
    pure,
    same_bare_decoding,
    same_decoding,
)
from tests.etf.strategies import terms
from tests.etf.test_decode import FUN_BODY, fun, u32
from tests.etf.test_decode import TAGS as EXAMPLES

core = compiled()
PURE: Any = pure()

OPTIONS = [
    Options(binaries=binaries, strings=strings)
    for binaries in ("bytes", "str", "memoryview")
    for strings in ("list", "bytes", "str")
]
any_options = st.one_of(
    st.sampled_from(OPTIONS),
    st.builds(
        Options,
        binaries=st.sampled_from(["bytes", "str", "memoryview"]),
        strings=st.sampled_from(["list", "bytes", "str"]),
        limits=st.builds(
            Limits,
            max_depth=st.integers(0, 6),
            max_terms=st.integers(0, 12),
            max_integer=st.integers(0, 12),
            max_decompressed=st.integers(0, 60),
        ),
    ),
)
ATOMS = (Atom("ok"), Atom("true"), Atom("a@b"), Atom(""))
# Bytes that often are terms: tags, small counts and atoms.
likely = st.lists(
    st.one_of(
        st.sampled_from([bytes((tag,)) for tag in TAGS]),
        st.sampled_from([data for _, data, _ in EXAMPLES]),
        st.integers(0, 5).map(lambda n: struct.pack(">I", n)),
        st.integers(0, 4).map(lambda n: bytes((n,))),
        st.sampled_from([b"h\x02", b"l\0\0\0\x02", b"t\0\0\0\x02", b"m\0\0\0\x01", b"w\x02ok"]),
        st.binary(max_size=3),
    ),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.binaries},{o.strings}")
@pytest.mark.parametrize(("data", "term"), [x[1:] for x in EXAMPLES], ids=[x[0] for x in EXAMPLES])
def test_every_tag_and_every_cut_of_it(data: bytes, term: Term, options: Options) -> None:
    for end in range(len(data) + 1):
        same_decoding(core, b"\x83" + data[:end], options)
        same_bare_decoding(core, b"\x83" + data[:end], 1, options, ATOMS)
    for tag in range(256):
        same_bare_decoding(core, bytes((tag,)) + data[1:], 0, options, ATOMS)
        same_bare_decoding(core, data[:1] + bytes((tag,)) + data[2:], 0, options, ())


@given(terms, any_options)
def test_terms(term: Term, options: Options) -> None:
    same_decoding(core, PURE.encode(term), options)
    refs: dict[Atom, int] = {}
    bare = PURE.encode_bare(term, refs=refs)
    same_bare_decoding(core, bare, 0, options, tuple(refs))
    same_bare_decoding(core, b"x" + bare + b"y", 1, options, tuple(refs)[:1])


@given(terms, any_options, st.randoms(use_true_random=False))
def test_changed_terms(term: Term, options: Options, chance: random.Random) -> None:
    data = PURE.encode(term)
    for changed in mutations(data, chance.randrange, 20):
        same_decoding(core, changed, options)
        same_bare_decoding(core, changed, min(1, len(changed)), options, ATOMS)


@given(likely, any_options)
def test_likely_bytes(data: bytes, options: Options) -> None:
    same_decoding(core, b"\x83" + data, options)
    same_bare_decoding(core, data, 0, options, ATOMS)


@given(st.binary(max_size=60), any_options)
def test_any_bytes(data: bytes, options: Options) -> None:
    same_decoding(core, data, options)
    same_decoding(core, b"\x83" + data, options)


@given(likely, any_options, st.integers(-3, 3))
def test_compressed(data: bytes, options: Options, off: int) -> None:
    packed = b"\x83P" + u32(max(0, len(data) + off)) + zlib.compress(data)
    same_decoding(core, packed, options)
    same_decoding(core, packed + b"x", options)
    same_decoding(core, packed[:-1], options)
    expected = outcome(PURE.decode_prefix, b"-" + packed + b"x", 1, options)
    assert outcome(core.decode_prefix, bytearray(b"-" + packed + b"x"), 1, options) == expected


@pytest.mark.parametrize("limit", range(12))
def test_each_limit_at_each_value(limit: int) -> None:
    body = b"h\x02" + fun(FUN_BODY) + b"t" + u32(1) + b"h\x01j" + b"l" + u32(1) + b"n\x05\0abcdej"
    for options in OPTIONS:
        for name in ("max_depth", "max_terms", "max_integer"):
            limits = Limits(**{name: limit})
            tight = Options(binaries=options.binaries, strings=options.strings, limits=limits)
            for data in (b"\x83" + body, b"\x83h\x03" + body * 3, b"\x83" + body[:-1] + body):
                same_decoding(core, data, tight)


class TestMaps:
    """Both cores create a dict or an ErlMap by the same rules."""

    @pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 63, 64, 65, 66, 129, 300])
    @pytest.mark.parametrize(
        "key",
        [
            lambda n: b"n\x0a\0" + (n * (2**61 - 1)).to_bytes(10, "little"),  # with equal hashes
            lambda n: b"n\x0a\x01" + (n // 2 * (2**61 - 1)).to_bytes(10, "little"),
            lambda n: b"b" + u32(n * 1000),
            lambda n: b"F" + struct.pack(">d", n / 2),
            lambda n: b"b" + u32(n // 2) if n % 2 else b"F" + struct.pack(">d", n // 2),
            lambda n: b"m" + u32(4) + u32(n),
            lambda n: b"m" + u32(4) + u32(n // 2),
            lambda n: b"w\x02" + b"%02x" % (n % 256),
            lambda n: b"h\x01b" + u32(n),
            lambda n: b"h\x00" if n == 5 else b"b" + u32(n),
            lambda n: b"j" if n == 5 else b"b" + u32(n),
            lambda n: b"Xw\x01n" + u32(n, 1, 2) if n % 9 == 5 else b"b" + u32(n),
            lambda n: b"k\x00\x02%02x" % (n % 256),
            lambda n: b"X" + b"w\x03a@b" + u32(n, 0, 1),
            lambda n: b"a\x01" if n == 3 else b"w\x04true" if n == 4 else b"b" + u32(n),
        ],
    )
    def test_of_many_keys(self, key: Any, count: int) -> None:
        data = b"\x83t" + u32(count) + b"".join(key(n) + b"a\x07" for n in range(count))
        for options in OPTIONS:
            same_decoding(core, data, options)

    def test_with_a_fun_as_key_that_is_too_deep(self) -> None:
        deep = b"h\x01" * 200 + b"a\x01"
        data = b"\x83t" + u32(1) + fun(FUN_BODY[:-6].replace(u32(7, 2), u32(7, 1)) + deep) + b"j"
        for options in OPTIONS:
            same_decoding(core, data, options)


class TestMany:
    """The caches of atoms, pids and keys have no visible effect."""

    def test_atoms(self) -> None:
        names = [f"atom {n} {'é' * (n % 40)}".encode() for n in range(20_000)]
        for name in (*names, *names[:100]):
            data = b"\x83w" + bytes((len(name),)) + name
            assert core.decode(data) is PURE.decode(data)

    def test_atoms_of_all_lengths(self) -> None:
        for length in range(256):
            for text in ("a" * length, "é" * length, "a" * (length - 1) + "\x00"):
                utf8 = text.encode()
                data = b"\x83v" + struct.pack(">H", len(utf8)) + utf8
                same_decoding(core, data)
                same_decoding(core, data[:-1] + b"\xff")
                if len(utf8) < 256:
                    same_decoding(core, b"\x83w" + bytes((len(utf8),)) + utf8)

    def test_pids(self) -> None:
        for n in range(20_000):
            data = b"\x83Xw\x03a@" + bytes((97 + n % 3,)) + u32(n, n % 2, n % 5)
            assert core.decode(data) == PURE.decode(data)

    def test_keys(self) -> None:
        for n in range(20_000):
            key = b"%d" % (n * n) + bytes(n % 7) + "é".encode() * (n % 3)
            data = b"\x83t" + u32(1) + b"m" + u32(len(key)) + key + b"j"
            assert core.decode(data) == PURE.decode(data)
            text = Options(binaries="str")
            assert core.decode(data, text) == PURE.decode(data, text)


@pytest.mark.slow
def test_depth_is_no_matter() -> None:
    for opening, closing in ((b"h\x01", b""), (b"l\0\0\0\x01", b"j"), (b"t\0\0\0\x01a\x01", b"")):
        deep = b"\x83" + opening * 60_000 + b"a\x01" + closing * 60_000
        same_decoding(core, deep)
        same_decoding(core, deep[:-1])
        same_decoding(core, deep, Options(limits=Limits(max_depth=59_999)))


class TestArguments:
    """The compiled core accepts the same arguments as the pure core."""

    def test_keywords(self) -> None:
        data = b"\x83a\x01"
        assert core.decode(data=data, options=Options()) == 1
        assert core.decode_prefix(data=data, offset=0) == (1, 3)
        assert core.decode_bare(data, offset=1, atoms=[]) == (1, 3)

    @pytest.mark.parametrize(
        "call",
        [
            lambda c: c.decode(),
            lambda c: c.decode(b"", b"", b""),
            lambda c: c.decode(b"", data=b""),
            lambda c: c.decode(b"", what=1),
            lambda c: c.decode("text"),
            lambda c: c.decode_bare(b"a\1", "0"),
            lambda c: c.decode_prefix(b"a\1", None),
        ],
    )
    def test_wrong_ones(self, call: Any) -> None:
        for codec in (PURE, core):
            with pytest.raises(TypeError):
                call(codec)

    def test_offsets(self) -> None:
        for name in ("decode_prefix", "decode_bare"):
            for offset in (-1, 0, 1, 2, 3, 4, 100, 2**31, 2**62, True):
                expected = outcome(getattr(PURE, name), b"a\x83a\x01", offset)
                assert outcome(getattr(core, name), b"a\x83a\x01", offset) == expected

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_buffers(self, make: Any) -> None:
        data = PURE.encode({"key": [1, 2.5, b"bytes"]})
        assert core.decode(make(data)) == PURE.decode(data)
        # A buffer that is not contiguous.
        spread = bytes(byte for pair in zip(data, data, strict=True) for byte in pair)
        assert core.decode(memoryview(spread)[::2]) == PURE.decode(data)

    def test_a_bytearray_is_let_go(self) -> None:
        for data in (bytearray(b"\x83a\x01"), bytearray(b"\x83a")):
            outcome(core.decode, data)
            data.append(1)  # BufferError while the core holds the buffer

    def test_atoms_that_are_none(self) -> None:
        with pytest.raises(TypeError):
            core.decode_bare(b"R\x00", 0, Options(), [1])
        with pytest.raises(EtfDecodeError):
            core.decode_bare(b"R\x00", 0, Options(), [])


def test_ten_thousand_atoms_stay_in_the_table() -> None:
    spec = spec_from_file_location(core.__spec__.name, core.__file__)
    assert spec is not None
    assert spec.loader is not None
    fresh: Any = module_from_spec(spec)  # with a table of its own
    spec.loader.exec_module(fresh)
    names = [f"one of ten thousand {n}" for n in range(10_000)]
    texts = [name.encode() for name in names]
    atoms = b"".join(b"w" + bytes([len(text)]) + text for text in texts)
    assert fresh.decode(b"\x83l" + u32(len(texts)) + atoms + b"j") == names
    gc.collect()
    assert sum(name in _interned for name in names) > 9_930  # 9,865 with one set for each
