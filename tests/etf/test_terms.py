"""The Python classes of Erlang terms."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
import tracemalloc
from typing import Any

import pytest

from quicdist.etf import (
    Atom,
    BitString,
    ErlMap,
    EtfDecodeError,
    Fun,
    ImproperList,
    Limits,
    Options,
    Pid,
    Port,
    Reference,
    decode,
    encode,
    footprint,
)
from quicdist.etf.terms import _interned

NODE = Atom("a@b")


def shuffled(terms: list[Any]) -> list[Any]:
    return random.Random(7).sample(terms, len(terms))


class TestAtom:
    def test_is_interned(self) -> None:
        assert Atom("x") is Atom("x")
        assert Atom(Atom("x")) is Atom("x")
        assert Atom("".join(["lo", "ng"])) is Atom("long")

    def test_is_one_object_however_it_came_about(self) -> None:
        atom = Atom("x")
        assert copy.copy(atom) is atom
        assert copy.deepcopy([atom])[0] is atom
        assert pickle.loads(pickle.dumps(atom)) is atom
        assert decode(encode(atom)) is atom

    def test_equals_the_text_so_that_a_str_finds_an_atom_key(self) -> None:
        row: dict[str, int] = {Atom("id"): 7}
        assert row["id"] == 7
        assert Atom("id") == "id"

    def test_says_what_it_is(self) -> None:
        assert repr(Atom("it's")) == 'Atom("it\'s")'
        assert f"{Atom('x')}" == "x"

    def test_knows_its_encoded_form(self) -> None:
        assert Atom("ok").encoded == b"w\x02ok"
        assert Atom("ok").utf8 == b"ok"
        long = Atom("é" * 200)
        assert long.encoded == b"v\x01\x90" + "é".encode() * 200
        assert long.utf8 == "é".encode() * 200

    def test_has_at_most_255_characters(self) -> None:
        assert len(Atom("é" * 255)) == 255
        with pytest.raises(ValueError, match="256 characters"):
            Atom("a" * 256)

    def test_has_no_lone_surrogates(self) -> None:
        with pytest.raises(ValueError, match="surrogates"):
            Atom("\ud800")

    def test_unused_ones_are_forgotten(self) -> None:
        Atom("only for this test")
        gc.collect()
        assert "only for this test" not in _interned

    def test_threads_agree_on_the_one_object(self) -> None:
        made: list[Atom] = []
        start = threading.Barrier(8)

        def make() -> None:
            start.wait()
            made.extend(Atom(f"thread-{n}") for n in range(200))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(atom) for atom in made}) == 200


class TestIdentifiers:
    def test_print_as_erlang_does(self) -> None:
        assert str(Pid(NODE, 94, 0, 1)) == "<0.94.0>"
        assert str(Port(NODE, 5, 1)) == "#Port<0.5>"
        assert str(Reference(NODE, (1, 2, 3), 1)) == "#Ref<0.3.2.1>"

    def test_are_values(self) -> None:
        assert Pid(NODE, 1, 0, 1) == Pid(NODE, 1, 0, 1)
        assert Pid(NODE, 1, 0, 1) != Pid(NODE, 1, 0, 2)
        assert len({Pid(NODE, 1, 0, 1), Pid(NODE, 1, 0, 1), Pid(NODE, 2, 0, 1)}) == 2

    def test_pids_order_by_number_before_node(self) -> None:
        pids = [Pid(Atom(n), i, s, 4) for s in (0, 1) for i in (1, 2) for n in ("a@b", "b@b")]
        assert sorted(shuffled(pids)) == pids

    def test_ports_and_references_order_by_node_before_number(self) -> None:
        ports = [Port(Atom(n), i, c) for n in ("a@b", "b@b") for c in (4, 5) for i in (1, 2)]
        assert sorted(shuffled(ports)) == ports
        refs = [Reference(Atom(n), (j, i), 4) for n in ("a", "b") for i in (1, 2) for j in (1, 2)]
        assert sorted(shuffled(refs)) == refs

    def test_do_not_order_among_each_other(self) -> None:
        with pytest.raises(TypeError):
            assert Pid(NODE, 1, 0, 1) < Port(NODE, 1, 1)


class TestBitString:
    def test_bits_that_mean_nothing_are_cleared(self) -> None:
        assert BitString(b"\xff\xff", 3) == BitString(b"\xff\xe0", 3)

    @pytest.mark.parametrize(("data", "bits"), [(b"", 1), (b"a", 0), (b"a", 8), (b"a", -1)])
    def test_refuses_counts_that_make_no_bitstring(self, data: bytes, bits: int) -> None:
        with pytest.raises(ValueError, match=r"1\.\.7 bits"):
            BitString(data, bits)


class TestImproperList:
    def test_items_may_be_any_sequence(self) -> None:
        assert ImproperList([1, 2], Atom("t")) == ImproperList((1, 2), Atom("t"))

    def test_refuses_what_is_a_proper_list(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            ImproperList([], 1)
        with pytest.raises(ValueError, match="must not be a list"):
            ImproperList([1], [2])
        with pytest.raises(ValueError, match="must not be a list"):
            ImproperList([1], ImproperList([1], 2))


class TestErlMap:
    def test_tells_apart_what_python_merges(self) -> None:
        m = ErlMap([(1, "int"), (1.0, "float"), (True, "atom"), ((1,), "t"), ((1.0,), "tf")])
        assert len(m) == 5
        assert [m[1], m[1.0], m[True], m[1,], m[1.0,]] == ["int", "float", "atom", "t", "tf"]

    def test_tells_the_zeros_apart(self) -> None:
        m = ErlMap([(0.0, "+"), (-0.0, "-")])
        assert (m[0.0], m[-0.0]) == ("+", "-")

    def test_takes_keys_python_cannot_hash(self) -> None:
        m = ErlMap([([1], "list"), ({1: [2]}, "map"), (ErlMap([([], 1)]), "erlmap")])
        assert (m[[1]], m[{1: [2]}]) == ("list", "map")
        assert m[ErlMap([([], 1)])] == "erlmap"
        assert [1.0] not in m

    def test_maps_as_keys_are_equal_in_any_order(self) -> None:
        m = ErlMap([({1: 2, 3: 4}, "x")])
        assert m[{3: 4, 1: 2}] == "x"

    def test_a_str_finds_the_binary_first_and_then_the_atom(self) -> None:
        both = ErlMap([(Atom("a"), "atom"), ("a", "binary")])
        assert (both["a"], both[b"a"], both[Atom("a")]) == ("binary", "binary", "atom")
        assert ErlMap([(Atom("id"), 1)])["id"] == 1
        assert Atom("a") not in ErlMap([(b"a", 1)])

    def test_is_a_mapping(self) -> None:
        m = ErlMap([(1, "a"), (1.0, "b")])
        assert list(m) == list(m.keys()) == [1, 1.0]
        assert list(m.values()) == ["a", "b"]
        assert list(m.items()) == [(1, "a"), (1.0, "b")]
        assert m.get(2, "none") == "none"
        with pytest.raises(KeyError):
            m[2]
        with pytest.raises(KeyError):
            m[object()]

    def test_equals_a_map_of_the_same_terms(self) -> None:
        assert ErlMap([(1, 2), (3, 4)]) == {3: 4, 1: 2}
        assert ErlMap([(1, 2)]) != {1.0: 2}
        assert ErlMap([(1, 2)]) != {1: 3}
        assert ErlMap([(1, 2)]) != 5

    def test_refuses_duplicates_and_what_is_no_term(self) -> None:
        with pytest.raises(ValueError, match="duplicate"):
            ErlMap([("a", 1), (b"a", 2)])
        with pytest.raises(ValueError, match="frozenset has no Erlang form"):
            ErlMap([(frozenset(), 1)])
        with pytest.raises(ValueError, match="finite"):
            ErlMap([(float("nan"), 1)])

    def test_survives_pickling_and_says_what_it_is(self) -> None:
        m = ErlMap([(1, "a"), (1.0, "b")])
        assert pickle.loads(pickle.dumps(m)) == m
        assert repr(m) == "ErlMap([(1, 'a'), (1.0, 'b')])"

    def test_has_no_hash(self) -> None:
        with pytest.raises(TypeError):
            hash(ErlMap())


class TestSettings:
    def test_refuse_what_they_do_not_know(self) -> None:
        with pytest.raises(ValueError, match="binaries"):
            Options(binaries="text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="strings"):
            Options(strings="tuple")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="none"):
            Options(none="null")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="compression"):
            Options(compression=10)
        with pytest.raises(ValueError, match="max_depth"):
            Limits(max_depth=-1)


def test_errors_say_where_and_why() -> None:
    with pytest.raises(EtfDecodeError) as caught:
        decode(b"\x83\x00")
    assert (caught.value.offset, caught.value.reason) == (1, "unknown tag 0")
    assert str(caught.value) == "unknown tag 0 (at byte 1)"
    assert pickle.loads(pickle.dumps(caught.value)).offset == 1


@pytest.mark.parametrize(
    "term",
    [
        [[] for _ in range(5000)],
        [bytes(100) + bytes([n % 256]) for n in range(2000)],
        [{n: (n, -n * 10**6)} for n in range(3000)],
        [Reference(NODE, (n, n, n), n) for n in range(70000, 72000)],
        [ErlMap([([n], n)]) for n in range(1000, 2000)],
        [ImproperList([n], n) for n in range(1000, 4000)],
        [BitString(bytes(20), 3) for n in range(2000)],
        list(range(70000, 90000)),
        [list(range(n, n + 50)) for n in range(1000, 1200)],
        [[1, 2, 3] * 30 for n in range(500)],
        [[n / 7] * 9 for n in range(500)],
        [[2**4000 + n for n in range(50)] for _ in range(10)],
    ],
    ids=lambda term: f"{term[0]!r:.20}",
)
def test_footprint_is_near_the_truth(term: object) -> None:
    data = encode(term)
    decode(data)
    tracemalloc.start()
    try:
        decoded = decode(data)
        truth = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert truth / 2.5 < footprint(decoded) < truth * 2.5


def test_footprint_goes_as_deep_as_the_term() -> None:
    term: object = Fun(NODE, 0, bytes(16), 0, 0, 0, Pid(NODE, 1, 0, 1), (Atom("x"),))
    for _ in range(20_000):
        term = ImproperList([ErlMap([([1], [(term,)])])], 5)
    assert footprint(term) > 20_000 * 300
