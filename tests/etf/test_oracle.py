"""A real Erlang as oracle: its encodings are decoded, and it reads encoded terms as =:=."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from quicdist.etf import (
    Atom,
    ErlMap,
    EtfDecodeError,
    Fun,
    Options,
    Pid,
    Port,
    Reference,
    Term,
    decode,
    decode_bare,
    encode,
    encode_bare,
)
from tests.etf.strategies import literals, older_terms, same, terms, to_source
from tests.etf.test_decode import REFUSED, TAGS
from tests.support.erlang import Erlang

pytestmark = pytest.mark.erlang

# A corpus in Erlang: every type, and sizes on both sides of each tag's boundary.
CORPUS = r"""
    Ints = lists:append([[B - 1, B, B + 1, -B - 1, -B, -B + 1]
                         || N <- [7, 8, 16, 24, 27, 28, 31, 32, 59, 60, 63, 64, 2032, 2040, 4096],
                            B <- [1 bsl N]]),
    Floats = [0.0, -0.0, 1.0, 1.5, -1.0e300, 5.0e-324, 2.2250738585072014e-308,
              1.7976931348623157e308, 0.1],
    Atoms = [list_to_atom(lists:duplicate(N, C)) || N <- [0, 1, 127, 128, 254, 255],
                                                    C <- [$a, 16#e9, 16#20ac, 16#1f600]]
            ++ [true, false, undefined, nil, 'hello world', ''],
    Bins = [binary:copy(<<255>>, N) || N <- [0, 1, 63, 64, 65, 255, 256, 65535, 65536, 70000]],
    Bits = [<<(binary:copy(<<170>>, N))/binary, 5:B>> || N <- [0, 1, 8, 100], B <- lists:seq(3, 7)],
    Tuples = [erlang:make_tuple(N, a) || N <- [0, 1, 2, 254, 255, 256, 257, 1000]],
    Strings = [lists:duplicate(N, C) || N <- [0, 1, 2, 255, 256, 65534, 65535, 65536],
                                        C <- [0, 255, 256]],
    Lists = [[1 | 2], [a, b | c], [[] | x], [[[[]]]], [{}], [alias | make_ref()], [1.5, a, <<>>],
             lists:seq(-300, 300), [<<1:1>> | <<1:1>>]],
    Maps = [maps:from_list([{K, K} || K <- lists:seq(1, N)]) || N <- [0, 1, 2, 31, 32, 33, 300]]
           ++ [#{1 => a, 1.0 => b}, #{1 => a, true => b, <<1>> => c}, #{[1] => a, [1.0] => b},
               #{#{} => 1, #{#{} => 1} => 2, [] => 3}, #{{1} => a, {1.0} => b, {{1}} => c},
               #{a => 1, <<"a">> => 2, "a" => 3}, #{[a | b] => 1, <<1:3>> => 2},
               #{0 => zero, 0.0 => fzero, false => f, -0.0 => m}],
    Foreign = [binary_to_term(<<131, B/binary>>) || Node <- [<<119, 3, "a@b">>],
               B <- [<<88, Node/binary, 1:32, 2:32, 3:32>>,
                     <<88, Node/binary, -1:32, -1:32, -1:32>>,
                     <<89, Node/binary, 16#fffffff:32, 9:32>>,
                     <<120, Node/binary, 16#fffffff:64, 9:32>>,
                     <<120, Node/binary, 16#10000000:64, 9:32>>,
                     <<120, Node/binary, -1:64, 9:32>>]
                    ++ [<<90, N:16, Node/binary, 7:32, (binary:copy(<<1:32>>, N))/binary>>
                        || N <- lists:seq(1, 5)]],
    Local = [self(), hd(erlang:ports()), make_ref(), erlang:group_leader()],
    X = make_ref(), Y = #{a => [1 | 2]},
    Funs = [fun() -> ok end, fun(A) -> {A, X} end, fun(A, B) -> [A, B, X, Y, "text", <<1:3>>] end,
            (fun(F) -> fun() -> F end end)(fun() -> Y end),
            fun lists:map/2, fun erlang:node/0, fun 'an odd':'näme'/255],
    Corpus = lists:append([Ints, Floats, Atoms, Bins, Bits, Tuples, Strings, Lists, Maps, Foreign,
                           Local, Funs]) ++ [{Ints, Floats, Atoms, Lists, Maps, Foreign, Local}],
"""

# Packs terms for Python and unpacks terms of Python.
PACK = r"""
    Pack = fun(Bins) -> [[<<(byte_size(B)):32>>, B] || B <- Bins] end,
    Unpack = fun(Packed) -> [B || <<S:32, B:S/binary>> <= Packed] end,
"""


def pack(parts: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def exact(corpus: list[bytes]) -> list[bytes]:
    """Returns the terms that all releases encode alike. OTP 25 encodes some ports differently."""
    return [data for data in corpus if not re.search(rb"Yw.(a@b|nonode@nohost)", data, re.DOTALL)]


def unpack(data: bytes) -> Iterator[bytes]:
    pos = 0
    while pos < len(data):
        (size,) = struct.unpack_from(">I", data, pos)
        yield data[pos + 4 : pos + 4 + size]
        pos += 4 + size


@pytest.fixture(scope="module")
def corpus(erl: Erlang) -> list[bytes]:
    """The corpus as term_to_binary writes it since OTP 26; Erlang keeps the terms themselves."""
    source = CORPUS + PACK + "put(corpus, Corpus),"
    source += "Pack([term_to_binary(T, [{minor_version, 2}]) || T <- Corpus])."
    return list(unpack(erl.eval(source)))


def refused_by_erlang(erl: Erlang, ours: list[bytes], terms: str = "corpus") -> list[str]:
    """Returns the terms that Erlang rejects or that are not =:= to those it keeps."""
    source = (
        f"Terms = get({terms}),"
        + PACK
        + r"""
        Answers = [try binary_to_term(B) =:= T of
                       true -> [];
                       false -> io_lib:format("~0P ~0P", [T, 20, binary_to_term(B), 20])
                   catch error:badarg -> io_lib:format("refused: ~0P ~0P", [T, 20, B, 80]) end
                   || {T, B} <- lists:zip(Terms, Unpack(In))],
        Pack([unicode:characters_to_binary(A) || [_ | _] = A <- Answers]).
    """
    )
    return [answer.decode() for answer in unpack(erl.eval(source, pack(ours)))]


class TestCorpus:
    """Erlang encodes, Python decodes and encodes again, and Erlang compares."""

    def test_comes_back_the_same(self, erl: Erlang, corpus: list[bytes]) -> None:
        assert len(corpus) > 200
        assert refused_by_erlang(erl, [encode(decode(data)) for data in corpus]) == []

    def test_is_encoded_byte_for_byte_as_erlang_does(self, corpus: list[bytes]) -> None:
        for data in exact(corpus):
            assert encode(decode(data)) == data

    def test_comes_back_the_same_from_old_tags_and_compressed(
        self, erl: Erlang, corpus: list[bytes]
    ) -> None:
        for way in ("[{minor_version, 0}]", "[{minor_version, 1}]", "[compressed]"):
            # The first version writes floats as text, which is not exact for all of them.
            source = PACK + f"Pack([term_to_binary(T, {way}) || T <- get(corpus)])."
            ours = [encode(decode(data)) for data in unpack(erl.eval(source))]
            assert len(ours) == len(corpus)
            assert refused_by_erlang(erl, ours) == []

    def test_comes_back_the_same_with_an_atom_cache(self, erl: Erlang, corpus: list[bytes]) -> None:
        ours = []
        for data in corpus:
            refs: dict[Atom, int] = {}
            cached = encode_bare(decode(data), refs=refs)
            ours.append(encode(decode_bare(cached, atoms=list(refs))[0]))
        assert set(exact(corpus)) <= set(ours)
        assert refused_by_erlang(erl, ours) == []

    def test_compressed_by_us_is_read_by_erlang(self, erl: Erlang, corpus: list[bytes]) -> None:
        ours = [encode(decode(data), Options(compression=6)) for data in corpus]
        assert any(data[1] == 80 for data in ours)
        assert refused_by_erlang(erl, ours) == []

    def test_binaries_as_str_lose_nothing(self, corpus: list[bytes]) -> None:
        text = Options(binaries="str")
        for data in exact(corpus):
            assert encode(decode(data, text)) == data

    def test_is_cut_nowhere(self, corpus: list[bytes]) -> None:
        for data in corpus:
            if len(data) < 3000:
                for cut in range(len(data)):
                    with pytest.raises(EtfDecodeError):
                        decode(data[:cut])

    def test_minus_zero_is_a_key_of_its_own(self, erl: Erlang) -> None:
        # Since OTP 27; before, both sides of =:= were one key.
        data = encode(ErlMap([(0.0, 1), (-0.0, 2)]))
        release = int(erl.eval("erlang:system_info(otp_release)."))
        source = "try map_size(binary_to_term(In)) of N -> [N] catch error:badarg -> [0] end."
        assert erl.eval(source, data) == (b"\x02" if release >= 27 else b"\x00")


@given(st.lists(literals, min_size=1, max_size=6))
def test_what_we_encode_is_what_erlang_calls_so(erl: Erlang, batch: list[Term]) -> None:
    # Erlang reads both our bytes and its own source text of the same terms.
    batch = [term for term in batch if not has_both_zeros(term)]
    source = PACK + f"Terms = [{','.join(map(to_source, batch))}], put(batch, Terms),"
    source += "Pack([term_to_binary(T, [{minor_version, 2}]) || T <- Terms])."
    theirs = list(unpack(erl.eval(source)))
    assert refused_by_erlang(erl, [encode(term) for term in batch], "batch") == []
    for term, data in zip(batch, theirs, strict=True):
        assert same(decode(data), term)


@given(st.lists(older_terms, min_size=1, max_size=6))
def test_what_we_encode_comes_back_the_same(erl: Erlang, batch: list[Term]) -> None:
    batch = [term for term in batch if not has_both_zeros(term)]
    source = PACK + "Pack([term_to_binary(binary_to_term(B)) || B <- Unpack(In)])."
    theirs = unpack(erl.eval(source, pack([encode(term) for term in batch])))
    for term, data in zip(batch, theirs, strict=True):
        assert same(decode(data), term)


def has_both_zeros(term: Term) -> bool:
    """Whether a map may have 0.0 and -0.0 as keys, which is one key before OTP 27."""
    return b"F\x80" + bytes(7) in encode(term)


# Rejected only by quicdist: OTP does not check the size and the creator of a fun, and OTP 27
# crashes on such an arity.
STRICTER = ("a fun that is", "a fun whose maker", "an external fun of arity 256")


class TestTags:
    """Erlang rejects the invalid terms of test_decode too."""

    @pytest.mark.parametrize("data", [t[1] for t in TAGS], ids=[t[0] for t in TAGS])
    def test_what_we_read_erlang_reads_as_the_same(self, erl: Erlang, data: bytes) -> None:
        if data[:1] == b"C" and int(erl.eval("erlang:system_info(otp_release).")) < 29:
            pytest.skip("RECORD_EXT is read by OTP 29 and later")
        ours = encode(decode(b"\x83" + data))
        if ours == b"\x83m" + bytes(4):
            return  # the empty BIT_BINARY_EXT, which OTP 27 no longer reads
        source = "[A, B] = Unpack(In), atom_to_list(binary_to_term(A) =:= binary_to_term(B))."
        assert erl.eval(PACK + source, pack([b"\x83" + data, ours])) == b"true"

    def test_what_we_refuse_erlang_refuses(self, erl: Erlang) -> None:
        refused = [(n, d) for n, d, _ in REFUSED if not n.startswith(STRICTER)]
        source = (
            PACK
            + r"""
            [try binary_to_term(B) of _ -> 0 catch error:badarg -> 1 end || B <- Unpack(In)].
        """
        )
        answers = erl.eval(source, pack([b"\x83" + data for _, data in refused]))
        assert [
            name for (name, _), answer in zip(refused, answers, strict=True) if not answer
        ] == []


class TestFuns:
    def test_are_the_same_bytes_and_run(self, erl: Erlang) -> None:
        source = 'A = 5, F = fun(X) -> {X, A, [1, 2], <<"b">>} end, put(f, F), term_to_binary(F).'
        data = erl.eval(source)
        value = decode(data)
        assert isinstance(value, Fun)
        assert encode(value) == data
        check = 'F = binary_to_term(In), true = F =:= get(f), {7, 5, [1, 2], <<"b">>} = F(7), [].'
        erl.eval(check, encode(value))
        erl.eval(check, encode(replace(value, encoded=None)))

    def test_with_resolved_atoms_are_the_bytes_erlang_writes(self, erl: Erlang) -> None:
        source = "A = {x, y}, term_to_binary(fun(X) -> {X, A} end, [{minor_version, 2}])."
        data = erl.eval(source)
        refs: dict[Atom, int] = {}
        cached = encode_bare(decode(data), refs=refs)
        assert len(cached) < len(data)
        assert encode(decode_bare(cached, atoms=list(refs))[0]) == data


class TestOrder:
    @pytest.mark.parametrize("kind", ["pid", "port", "reference"])
    def test_identifiers_order_as_in_erlang(self, erl: Erlang, kind: str) -> None:
        nodes = [Atom("a@b"), Atom("b@b")]
        items: list[Any] = []
        for node in nodes:
            for creation in (4, 5):
                for low in (1, 7, 9):
                    for high in (0, 1):
                        if kind == "pid":
                            items.append(Pid(node, low, high, creation))
                        elif kind == "port":
                            items.append(Port(node, high << 32 | low, creation))
                        else:
                            items.append(Reference(node, (low, high, 3), creation))
        sorted_there = erl.eval("term_to_binary(lists:sort(binary_to_term(In))).", encode(items))
        assert decode(sorted_there) == sorted(items)


def test_the_strategies_reach_what_they_are_for() -> None:
    find(terms, lambda term: isinstance(term, ErlMap), settings=settings(max_examples=2000))
