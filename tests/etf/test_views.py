"""`Options(binaries="memoryview")`: large binaries are views of the decoded data, in both cores."""

from __future__ import annotations

import gc
import weakref
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, Fun, Options, Pid, Term, encode, encode_bare, footprint
from tests.etf.core import compiled, pure
from tests.etf.exactly import exactly

VIEWS = Options(binaries="memoryview")
LEAST = 65536
BIG = bytes(range(256)) * 512
CORES = {"pure": pure(), "compiled": compiled()}
FUN = Fun(Atom("m"), 1, bytes(16), 1, 2, 3, Pid(Atom("a@b"), 1, 0, 1), (BIG,))


def shape(term: Term) -> Any:
    """The term, in which each view is marked."""
    if isinstance(term, memoryview):
        return "view", bytes(term), term.readonly, term.format, term.ndim
    if isinstance(term, (tuple, list)):
        return type(term), [shape(each) for each in term]
    if isinstance(term, Fun):
        return shape(term.free)
    if hasattr(term, "items"):
        return [(shape(key), shape(value)) for key, value in term.items()]
    return exactly(term)


def views(term: Term) -> list[bytes]:
    """The contents of all views in a term, in order."""
    marked: list[bytes] = []

    def visit(found: Any) -> None:
        if isinstance(found, tuple) and found[:1] == ("view",):
            marked.append(found[1])
        elif isinstance(found, (tuple, list)):
            for each in found:
                visit(each)

    visit(shape(term))
    return marked


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> Any:
    return CORES[request.param]


class TestWhatBecomesAView:
    @pytest.mark.parametrize(
        ("term", "count"),
        [
            (BIG, 1),
            (bytes(LEAST), 1),
            (bytes(LEAST - 1), 0),
            ((Atom("tensor"), [BIG]), 1),
            ({Atom("k"): {1: (BIG,)}}, 1),
            ([BIG] * 7, 7),
            ([BIG] * 8, 0),  # each is less than an eighth of the data
            ([BIG, bytes(7 * len(BIG))], 1),
            ([BIG[:LEAST]] * 2 + [BIG], 3),
            ({BIG: 1}, 0),
            ({(BIG,): BIG}, 1),
            ({(1, (BIG,)): {2: BIG}}, 1),
            (FUN, 0),
            ([FUN, BIG], 1),
        ],
    )
    def test_the_large_binaries_that_are_no_keys(self, core: Any, term: Term, count: int) -> None:
        data = encode(term)
        for form in (data, bytearray(data), memoryview(data)):
            read = core.decode(form, VIEWS)
            assert len(views(read)) == count
            assert encode(read) == data
        assert not views(core.decode(data))

    def test_a_view_is_read_only_and_has_bytes(self, core: Any) -> None:
        read = core.decode(bytearray(encode(BIG)), VIEWS)
        assert (read.readonly, read.format, read.ndim, read.nbytes) == (True, "B", 1, len(BIG))
        assert read == BIG

    def test_it_is_not_a_copy(self, core: Any) -> None:
        data = bytearray(encode(BIG))
        read = core.decode(data, VIEWS)
        data[-1] ^= 0xFF
        assert read[-1] == BIG[-1] ^ 0xFF
        with pytest.raises(BufferError):  # its memory cannot move
            data += b"more"

    def test_it_keeps_the_data_alive_and_nothing_else_does(self, core: Any) -> None:
        class Data(bytearray):
            pass

        data = Data(encode(BIG))
        alive = weakref.ref(data)
        read = core.decode(data, VIEWS)
        del data
        gc.collect()
        assert read == BIG
        del read
        gc.collect()
        assert alive() is None

    def test_other_data(self, core: Any) -> None:
        data = encode([BIG, 1])
        strided = memoryview(bytes(each for byte in data for each in (byte, 0)))[::2]
        assert views(core.decode(strided, VIEWS)) == [BIG]
        shaped = memoryview(data + bytes(-len(data) % 8)).cast("Q")
        term, end = core.decode_prefix(shaped, 0, VIEWS)
        assert (views(term), end) == ([BIG], len(data))
        bare = b"xyz" + encode_bare([BIG, Atom("a")], refs={Atom("a"): 0})
        term, _ = core.decode_bare(bare, 3, VIEWS, (Atom("a"),))
        assert (views(term), term[1]) == ([BIG], Atom("a"))
        plain = encode_bare(BIG)
        packed = b"\x83P" + len(plain).to_bytes(4, "big") + zlib.compress(plain)
        assert views(core.decode(packed, VIEWS)) == [BIG]


@given(
    st.recursive(
        st.sampled_from([b"", bytes(LEAST), bytes(LEAST - 1), BIG, b"key", 1.5, Atom("a"), FUN]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(
                st.sampled_from([b"k", BIG, (1, BIG), ((BIG, 2),)]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_both_cores_read_alike(term: Term) -> None:
    data = encode(term)
    reads = [core.decode(data, VIEWS) for core in CORES.values()]
    assert shape(reads[0]) == shape(reads[1])
    assert encode(reads[0]) == encode(reads[1]) == data


def test_the_footprint_of_a_view_is_that_of_its_bytes() -> None:
    assert 0 < footprint((memoryview(BIG),)) - footprint((b"",)) - len(BIG) < 1000


class TestPartsOfViews:
    """Sending: read-only memory is not copied, writable memory is."""

    def parts(self, core: Any, value: object) -> list[Any]:
        found = core.encode_bare_parts((Atom("t"), value, b"x"), large=LEAST)
        assert b"".join(found) == encode_bare((Atom("t"), value, b"x"))
        return [part for part in found if len(part) > 1000]

    def test_a_read_only_view_is_not_copied(self, core: Any) -> None:
        memory = bytearray(BIG)
        (part,) = self.parts(core, memoryview(memory).toreadonly())
        memory[7] ^= 0xFF
        assert part[7] == BIG[7] ^ 0xFF
        assert part.readonly

    def test_a_view_of_numbers_is_not_copied(self, core: Any) -> None:
        (part,) = self.parts(core, memoryview(BIG).cast("d").cast("B").cast("I", (256, 128)))
        assert (part.format, part.ndim, part.nbytes) == ("B", 1, len(BIG))
        assert part.obj is BIG

    @pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
    def test_writable_memory_is_copied(self, core: Any, kind: Any) -> None:
        memory = kind(BIG)
        (part,) = self.parts(core, memory)
        memory[7] ^= 0xFF
        assert part[part.index(BIG[:200]) :][: len(BIG)] == BIG

    def test_memory_that_is_not_contiguous_is_copied(self, core: Any) -> None:
        assert len(self.parts(core, memoryview(BIG * 2)[::2])) == 1

    def test_limits_count_it(self, core: Any) -> None:
        from quicdist.etf import EtfEncodeError, Limits

        view = memoryview(BIG)
        room = len(encode_bare([view]))
        core.encode_bare_parts([view], Options(limits=Limits(max_bytes=room)))
        with pytest.raises(EtfEncodeError, match="max_bytes"):
            core.encode_bare_parts([view], Options(limits=Limits(max_bytes=room - 1)))
