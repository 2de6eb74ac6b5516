"""Terms as text, as in the shell, erl_scan and erl_parse, in linear time."""

from __future__ import annotations

import contextlib
import math
import struct
import sys
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quicdist import etf
from quicdist.etf import (
    Atom,
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
from quicdist.etf.notation import (
    MAX_DEPTH,
    NotationError,
    format_atom,
    format_term,
    parse_call,
    parse_term,
)
from tests.support.erlang import Erlang, erlang_available

NODE = Atom("5555@127.0.0.1")

# (term, text): the text is printed and read back.
BOTH_WAYS: list[tuple[Term, str]] = [
    (0, "0"),
    (-5, "-5"),
    (1 << 200, str(1 << 200)),
    (-(1 << 4096), str(-(1 << 4096))),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (0.1, "0.1"),
    (100000.0, "1.0e5"),
    (123456789.0, "123456789.0"),
    (2.0**53, "9.007199254740992e15"),
    (2.0**53 - 1, "9007199254740991.0"),
    (0.0001, "0.0001"),
    (0.00012345, "1.2345e-4"),
    (5e-324, "5.0e-324"),
    (sys.float_info.max, "1.7976931348623157e308"),
    (True, "true"),
    (False, "false"),
    (Atom("ok"), "ok"),
    (Atom("a@b"), "a@b"),
    (Atom(""), "''"),
    (Atom("Elixir.Enum"), "'Elixir.Enum'"),
    (Atom("5555@127.0.0.1"), "'5555@127.0.0.1'"),
    (Atom("it's"), r"'it\'s'"),
    (Atom('a\n\\"\0\x7f'), "'a\\n\\\\\"\\000\\d'"),
    (Atom("ß"), "ß"),
    (Atom("été"), "été"),
    (Atom("Été"), "'Été'"),
    (Atom("日本"), "'日本'"),
    (Atom("when"), "'when'"),
    (Atom("maybe"), "'maybe'"),
    ([], "[]"),
    ([1, 2, 3], "[1,2,3]"),
    ([97, 98, 99], '"abc"'),
    ([97, 10, 34, 92, 27], r'"a\n\"\\\e"'),
    ([228, 0x65E5, 0x1F600], '"ä日😀"'),
    ([127], "[127]"),
    ([128], "[128]"),
    ([0xFFFE], "[65534]"),
    ([0xD800], "[55296]"),
    ([0x110000], "[1114112]"),
    ([97, True], "[97,true]"),
    ([97, 1.0], "[97,1.0]"),
    ([[97], [98]], '["a","b"]'),
    ((), "{}"),
    ((Atom("ok"), ([],)), "{ok,{[]}}"),
    ({}, "#{}"),
    ({Atom("a"): 1, (2,): [97]}, '#{a => 1,{2} => "a"}'),
    (ErlMap([(1, Atom("a")), (1.0, Atom("b")), ([1], 2)]), "#{1 => a,1.0 => b,[1] => 2}"),
    (ImproperList([1, 2], Atom("t")), "[1,2|t]"),
    (ImproperList([97], 98), "[97|98]"),
    (b"", "<<>>"),
    (b"abc\n", r'<<"abc\n">>'),
    (b"\x00\x01", "<<0,1>>"),
    ("ö".encode(), '<<"ö"/utf8>>'),
    (b"\xf6", '<<"ö">>'),
    (b"\xff\x80", "<<255,128>>"),
    (b"\xc2\x80", "<<194,128>>"),
    (BitString(b"\x01\x40", 3), "<<1,2:3>>"),
    (BitString(b"\xa0", 3), "<<5:3>>"),
    (Export(Atom("lists"), Atom("map"), 2), "fun lists:map/2"),
    (Export(Atom("A"), Atom("b c"), 0), "fun 'A':'b c'/0"),
]

READ_AS: list[tuple[str, Term]] = [
    ("1_000", 1000),
    ("16#fF", 255),
    ("1_6#f_f", 255),
    ("36#z", 35),
    ("- 5", -5),
    ("+5", 5),
    ("-16#a", -10),
    ("1.5e3", 1500.0),
    ("1.5E+3", 1500.0),
    ("-1_0.2_5", -10.25),
    ("$a", 97),
    ("$ ", 32),
    ("$\\s", 32),
    ("$\\x{41}", 65),
    ("$\\x41", 65),
    ("$\\101", 65),
    ("$\\^a", 1),
    ("$\\^\n", 10),
    ("$'", 39),
    ("-$a", -97),
    ('"a" "b"\n%c\n"c"', [97, 98, 99]),
    ('"a\\\nb"', [97, 10, 98]),
    ("'a\\x{3b1}'", Atom("a\u03b1")),
    ("[a|[b|[c]]]", [Atom("a"), Atom("b"), Atom("c")]),
    ("[a|[]]", [Atom("a")]),
    ("[a|[b|c]]", ImproperList([Atom("a"), Atom("b")], Atom("c"))),
    ('[1|"bc"]', [1, 98, 99]),
    ("# { }", {}),
    ("{ a , % one\n b }", (Atom("a"), Atom("b"))),
    ("(-5)", -5),
    ("fun a : b / 1", Export(Atom("a"), Atom("b"), 1)),
    ("<< >>", b""),
    ('<<"a" "b">>', b"ab"),
    ('<<"ö日"/utf8>>', "ö日".encode()),
    ('<<"ab":16>>', b"\0a\0b"),
    ('<<"ab"/utf16-little>>', b"a\0b\0"),
    ('<<"ab":4>>', b"\x12"),
    ("<<97/utf8,16#1F600/utf32>>", b"a\x00\x01\xf6\x00"),
    ("<<1:16/little,1:16/big-signed>>", b"\x01\x00\x00\x01"),
    ("<<16#fff:12/little,1:4>>", b"\xff\xf1"),
    ("<<1.0/float,1:32/float,0.5:16/float>>", struct.pack(">dfe", 1.0, 1.0, 0.5)),
    ("<<1.0/float-little>>", struct.pack("<d", 1.0)),
    ("<<-1,300,(-1):16>>", b"\xff\x2c\xff\xff"),
    ("<<<<1,2:3>>/bitstring,1:5>>", b"\x01\x41"),
    ("<<<<1,2,3>>:2/binary>>", b"\x01\x02"),
    ("<<<<1,2,3>>:(9)/bits>>", BitString(b"\x01\x00", 1)),
    ("<<1:2/unit:8>>", b"\x00\x01"),
    ("<<1:0>>", b""),
    ("<<$a,1:1>>", BitString(b"a\x80", 1)),
]

TRIPLE_QUOTED = [
    ('"""\nabc\n"""', "abc"),
    ('"""\n  a\n   b\\n\n\n  """', "a\n b\\n\n"),
    ('""""\n"""\n""""', '"""'),
    ('"""\n"""', ""),
]

REFUSED = [
    ("", 0, "a term"),
    ("a b", 2, "the end"),
    ("a. b", 3, "nothing after"),
    ("{a,}", 3, "a term"),
    ("[a,]", 3, "a term"),
    ("[|a]", 1, "a term"),
    ("[a|b,c]", 4, '"]"'),
    ("{a b}", 3, '"," or "}"'),
    ("{a", 2, '"," or "}"'),
    ("[a", 2, '",", "|" or "]"'),
    ("#{a}", 3, '"=>"'),
    ("#{a := 1}", 4, '"=>"'),
    ("#m:n{a=}", 7, "a term"),
    ("#m:n{a}", 6, '"="'),
    ("#m:n{1=2}", 5, "the name of a field"),
    ("#m:n{a=1,a=2}", 9, "a field that is not set yet"),
    ("#r{}", 2, '":"'),
    ("#{1 => a, 1 => b}", 0, "duplicate"),
    ("X", 0, "'Name'"),
    ("_", 0, "'Name'"),
    ("when", 0, "'when'"),
    ("a:b", 1, "the end"),
    ("1+1", 1, "the end"),
    ("1e3", 1, "the end"),
    ("--5", 1, "a number"),
    ("-a", 1, "a number"),
    ("37#1", 0, "base"),
    ("16#", 3, "digits of base 16"),
    ("2#12", 0, "digits of base 2"),
    ("1.0e400", 0, "within range"),
    ("1" * 4301, 0, "base 16"),
    ('"abc', 4, 'closing "'),
    ("'abc", 4, "closing '"),
    ("$", 1, "a character"),
    ("$\\", 1, "an escape"),
    ('"\\xg"', 1, "an escape"),
    ('"\\x{110000}"', 1, "code of a character"),
    ('"\\x{d800}"', 1, "code of a character"),
    ('"\ud800"', 1, "surrogate"),
    ("'" + "a" * 256 + "'", 0, "255"),
    ("fun(X) -> X end", 0, "no notation"),
    ("fun a:b/256", 8, "255"),
    ("fun a/1", 5, '":"'),
    ("#Fun<a.1.2>", 0, "a fun"),
    ("<0.94.0>", 0, "the name of a node"),
    ("<9403.94.0>", 1, "quoted node name"),
    ("<'a@b'.94>", 0, "<0.94.0>"),
    ("<'a@b'.4294967296.0>", 0, "<0.94.0>"),
    ("((1))", 1, "a number"),
    ("<<1.0>>", 2, "1.0/float"),
    ("<<<<1>>>>", 2, "/binary"),
    ("<<a>>", 2, "integer"),
    ('<<"日">>', 2, "/utf8"),
    ('<<"a"/binary>>', 2, "utf8"),
    ("<<1/foo>>", 4, "a type"),
    ("<<1/integer-float>>", 12, "a type"),
    ("<<1/utf8-unit:8>>", 2, "without size and unit"),
    ("<<16#d800/utf8>>", 2, "character's code"),
    ("<<1.0:8/float>>", 2, "16, 32 or 64"),
    ("<<1.0e300:32/float>>", 2, "fits"),
    ("<<<<1>>:2/binary>>", 2, "16 bits"),
    ("<<<<1:1>>/binary>>", 2, "bitstring"),
    ("<<1:4294967295>>", 2, "in total"),
    ('"""\n a\n  """', 4, "the indentation"),
    ("\x00`", 1, "a term"),
]


def same(left: Term, right: Term) -> bool:
    """Whether two terms are `=:=`, by their encoded bytes."""
    return etf.encode(left) == etf.encode(right)


# The same, for OTP 29 and later.
RECORDS: list[tuple[Term, str]] = [
    (
        NativeRecord(Atom("shop"), Atom("order"), (Atom("id"), Atom("to")), (1, [])),
        "#shop:order{id = 1,to = []}",
    ),
    (
        NativeRecord(Atom("m"), Atom("It"), (Atom("A b"),), ({1: Atom("a")},)),
        "#m:'It'{'A b' = #{1 => a}}",
    ),
    (NativeRecord(Atom("m"), Atom("n"), (), ()), "#m:n{}"),
]


@pytest.mark.parametrize(("term", "text"), BOTH_WAYS + RECORDS)
def test_prints_and_reads(term: Term, text: str) -> None:
    assert format_term(term) == text
    assert same(parse_term(text), term)
    assert type(parse_term(text)) is type(term)


@pytest.mark.parametrize(("text", "term"), READ_AS)
def test_reads(text: str, term: Term) -> None:
    assert same(parse_term(text), term)


@pytest.mark.parametrize(("text", "content"), TRIPLE_QUOTED)
def test_reads_triple_quoted_strings(text: str, content: str) -> None:
    assert parse_term(text) == list(map(ord, content))


@pytest.mark.parametrize(("text", "position", "expected"), REFUSED)
def test_refuses_with_place_and_expectation(text: str, position: int, expected: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse_term(text)
    assert expected in caught.value.expected
    assert caught.value.position == position
    assert "\n" not in str(caught.value)


def test_error_tells_line_and_column() -> None:
    with pytest.raises(NotationError) as caught:
        parse_term("{a,\n b c}")
    assert (caught.value.line, caught.value.column) == (2, 4)
    assert str(caught.value) == 'line 2, column 4: expected "," or "}", found \'c}\''


def test_python_values_print_as_what_they_encode_to() -> None:
    assert format_term(None) == "undefined"
    assert format_term("ö") == '<<"ö"/utf8>>'
    assert format_term(bytearray(b"a")) == '<<"a">>'
    assert format_atom("A") == "'A'"


@pytest.mark.parametrize("term", [object(), {1: object()}, {1, 2}])
def test_prints_no_foreign_object(term: object) -> None:
    with pytest.raises(TypeError, match="not an Erlang term"):
        format_term(term)


@pytest.mark.parametrize("term", [math.nan, math.inf, -math.inf])
def test_prints_no_float_that_erlang_lacks(term: float) -> None:
    with pytest.raises(ValueError, match="not an Erlang float"):
        format_term(term)


@pytest.mark.slow
def test_prints_no_list_that_contains_itself() -> None:
    endless: list[Term] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        format_term(endless)


def test_identifiers() -> None:
    pid = Pid(NODE, 94, 1, 7)
    port = Port(NODE, 1 << 63, 7)
    reference = Reference(NODE, (1, 2, 0xFFFFFFFF), 7)
    other = Pid(Atom("it's@b"), 1, 2, 3)
    for term, text in [
        (pid, "<0.94.1>"),
        (port, "#Port<0.9223372036854775808>"),
        (reference, "#Ref<0.4294967295.2.1>"),
    ]:
        assert format_term(term) == format_term(term, node=NODE) == text
        assert parse_term(text, node=NODE, creation=7) == term
        named = format_term(term, node="other@host")
        assert named == text.replace("<0.", "<'5555@127.0.0.1'.")
        assert parse_term(named, node=NODE, creation=7) == term
        assert parse_term(named) != term  # the text has no creation
    assert format_term(other) == "<0.1.2>"
    assert format_term([other], node=NODE) == r"[<'it\'s@b'.1.2>]"
    assert parse_term(r"<'it\'s@b'.1.2>", node=NODE, creation=7) == Pid(other.node, 1, 2, 0)


def test_fun_prints_as_in_the_shell() -> None:
    fun = Fun(Atom("erl_eval"), 1, bytes(16), 5, 42, 3316493, Pid(NODE, 9, 0, 7), ())
    assert format_term(fun) == "#Fun<erl_eval.42.3316493>"


def test_a_full_stop_may_follow() -> None:
    for text in ["1.", "1 .\n", "1.% one", "1. \n% one\n"]:
        assert parse_term(text) == 1


def test_calls() -> None:
    assert parse_call("lists:seq(1, 3).") == ("lists", "seq", [1, 3])
    assert parse_call("'Elixir.Enum':sum([1|[2]])") == ("Elixir.Enum", "sum", [[1, 2]])
    assert parse_call("erlang:node()") == ("erlang", "node", [])
    for text in ["lists", "lists:seq", "lists:seq(1", "lists:seq(1,)", "a:b(1) c", "1:b()"]:
        with pytest.raises(NotationError):
            parse_call(text)


# -- bounds -------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_depth_is_bounded_and_not_by_python() -> None:
    assert format_term(parse_term(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for text in [nested(200_000), "{" * 200_000, "#{a=>" * 200_000, "<<" * 200_000]:
        with pytest.raises(NotationError, match=r"nesting of at most|16 deep"):
            parse_term(text)
    assert parse_term("[[]]", max_depth=1) == [[]]
    with pytest.raises(NotationError):
        parse_term("[[[]]]", max_depth=1)


def test_deep_map_keys_are_refused() -> None:
    with pytest.raises(NotationError, match="deeper than"):
        parse_term("#{" + "{" * 1000 + "}" * 1000 + "=> 1}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 200_000 + "1]",
        '"' + "a" * 2_000_000 + '"',
        '"' + "\\n" * 200_000 + '"',
        '"' + "a" * 2_000_000,
        '"a" ' * 100_000,
        "[1|" * 100_000 + "[]" + "]" * 100_000,
        "% c\n" * 200_000 + "1",
        "1_" * 500_000 + "x",
        "0." + "3" * 1_000_000 + "e-400",
        "16#" + "f" * 1_000_000,
        "<<" + "1:1," * 50_000 + "1>>",
        "<<" + ('"' + "a" * 100 + '":7,') * 2_000 + "1>>",
        "<<" + "1," * 1_000_000 + "1:3>>",
        "<<1:3," + "1, " * 1_000_000 + "1>>",
        "<<" + "1," * 1_000_000 + "x>>",
        '"""\n' + "\n" * 1_000_000,
        "<<1:1," * 16 + '<<"' + "a" * 1_000_000 + '">>' + "/bits>>" * 16,
        "<<" + '"a":100000000,' * 10 + "1>>",
    ],
    ids=lambda text: text[:12],
)
def test_long_text_takes_linear_time(text: str) -> None:
    with contextlib.suppress(NotationError):
        format_term(parse_term(text))  # quadratic time would be hours


@given(
    st.lists(st.integers(0, 300) | st.integers(0, 10**12), max_size=40),
    st.sampled_from([",", ", ", ",\n  ", ",% c\n", " ,", ", 1:3,"]),
    st.integers(0, 9),
)
def test_numbers_in_a_row_are_what_each_is(numbers: list[int], comma: str, bits: int) -> None:
    first = f"<<1:{bits},"
    plain = first + comma.join(map(str, [*numbers, 7])) + ">>"
    each = first + comma.join(f"{number}:8" for number in [*numbers, 7]) + ">>"
    assert parse_term(plain) == parse_term(each)


def test_a_number_too_many_in_a_row_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicdist.etf.notation.reading._MAX_FILLED_BITS", 8 * 100)
    assert parse_term("<<" + "1," * 99 + "1>>") == b"\x01" * 100
    with pytest.raises(NotationError) as caught:
        parse_term("<<" + "1," * 300 + "1>>")
    assert caught.value.position == 2 + 2 * 100


def test_huge_integers_print_in_base_16() -> None:
    value = -(1 << 1_000_000)
    assert format_term([value]) == "[-16#1" + "0" * 250_000 + "]"
    assert parse_term(format_term(value)) == value
    edge = 10**4299
    assert format_term(edge) == str(edge)
    assert parse_term(str(edge)) == edge


# -- round trips --------------------------------------------------------------------------------

atoms = st.builds(Atom, st.text(st.characters(codec="utf-8"), max_size=20))
floats = st.floats(allow_nan=False, allow_infinity=False)
words = st.integers(0, 0xFFFFFFFF)
bitstrings = st.builds(BitString, st.binary(min_size=1, max_size=8), st.integers(1, 7))
pids = st.builds(Pid, atoms, words, words, st.just(0))
ports = st.builds(Port, atoms, st.integers(0, (1 << 64) - 1), st.just(0))
references = st.builds(
    Reference, atoms, st.lists(words, min_size=1, max_size=5).map(tuple), st.just(0)
)
exports = st.builds(Export, atoms, atoms, st.integers(0, 255))
texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.one_of(
    atoms.filter(lambda atom: atom not in ("true", "false")),
    st.booleans(),
    st.integers(),
    st.binary(max_size=512).map(lambda data: int.from_bytes(data, "big", signed=True)),
    floats,
    st.binary(max_size=20),
    texts.map(str.encode),
    texts.map(lambda text: list(map(ord, text))),
    bitstrings,
    pids,
    ports,
    references,
    exports,
)


def containers(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.builds(
            ImproperList,
            st.lists(inner, min_size=1, max_size=4),
            inner.filter(lambda tail: not isinstance(tail, (list, ImproperList))),
        ),
        st.lists(st.tuples(inner, inner), max_size=4).map(map_of),
    )


def map_of(pairs: list[tuple[Term, Term]]) -> ErlMap:
    """The map of these pairs, an empty one if two have the same key."""
    try:
        return ErlMap(pairs)
    except ValueError:
        return ErlMap()


terms = st.recursive(scalars, containers, max_leaves=15)


@given(terms)
def test_what_is_printed_is_read(term: Term) -> None:
    assert same(parse_term(format_term(term, node="nobody@nowhere")), term)


@given(st.text())
def test_any_text_is_a_term_or_refused(text: str) -> None:
    assert 0 <= refusal_of(text) <= len(text)


@given(st.text(st.sampled_from("[]{}()<>#|,:/-+.\"'$\\%01_aAxeR= \n"), max_size=40))
def test_any_punctuation_is_a_term_or_refused(text: str) -> None:
    assert 0 <= refusal_of(text) <= len(text)


def refusal_of(text: str) -> int:
    """Returns the position at which parsing stopped."""
    try:
        parse_term(text, node=NODE)
    except NotationError as error:
        return error.position
    return len(text)


# -- a real Erlang ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unicode_erl() -> Iterator[Erlang]:
    """An Erlang whose shell treats every Unicode character as printable."""
    if not erlang_available():
        pytest.skip("no Erlang on the PATH: sudo apt-get install erlang-base")
    with Erlang("+pc", "unicode") as erlang:
        yield erlang


def printed(erl: Erlang, term: Term) -> str:
    """Returns the text that Erlang prints."""
    source = 'unicode:characters_to_binary(io_lib:format("~0tp", [binary_to_term(In)])).'
    return erl.eval(source, etf.encode(term)).decode()


def reads_as(erl: Erlang, text: str, term: Term) -> bool:
    """Whether Erlang reads the text as this term."""
    source = """
        <<Size:32, Bytes:Size/binary, Text/binary>> = In,
        {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text) ++ "."),
        {ok, Term} = erl_parse:parse_term(Tokens),
        atom_to_binary(Term =:= binary_to_term(Bytes)).
    """
    encoded = etf.encode(term)
    return erl.eval(source, struct.pack(">I", len(encoded)) + encoded + text.encode()) == b"true"


@pytest.mark.erlang
def test_erlang_prints_the_same(unicode_erl: Erlang) -> None:
    for term, text in BOTH_WAYS:
        if term in ("maybe", "else"):
            continue  # quoted or not: depends on the release
        theirs = printed(unicode_erl, term)
        if isinstance(term, (dict, ErlMap)):
            assert len(theirs) == len(text)  # the order of keys may differ
        else:
            assert theirs == text


@pytest.mark.erlang
def test_erlang_reads_the_same(unicode_erl: Erlang) -> None:
    for term, text in BOTH_WAYS:
        assert reads_as(unicode_erl, text, term)
    for text, term in READ_AS:
        if text == "$\\^\n":
            continue  # an illegal character since OTP 27
        assert reads_as(unicode_erl, text, term)


@pytest.mark.erlang
def test_erlang_prints_a_fun_the_same(unicode_erl: Erlang) -> None:
    pair = etf.decode(
        unicode_erl.eval(
            'F = fun(X) -> X end, term_to_binary({F, list_to_binary(io_lib:format("~0tp", [F]))}).'
        )
    )
    assert format_term(pair[0]).encode() == pair[1]


plain = st.recursive(
    scalars.filter(lambda term: not isinstance(term, (Pid, Port, Reference))),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.lists(inner, max_size=5).map(tuple)),
    max_leaves=10,
)


@pytest.mark.erlang
@given(term=plain)
def test_erlang_prints_any_term_the_same(unicode_erl: Erlang, term: Term) -> None:
    text = format_term(term)
    assume("fun " not in text or text.isascii())  # OTP 25 prints other characters wrongly
    assume("'maybe'" not in text and "'else'" not in text)  # quoted only since OTP 27
    assert printed(unicode_erl, term) == text


@pytest.mark.erlang
@given(values=st.lists(floats, min_size=50, max_size=50))
def test_erlang_prints_any_float_the_same(unicode_erl: Erlang, values: list[float]) -> None:
    theirs = printed(unicode_erl, tuple(values)).split(",")
    assert format_term(tuple(values)).split(",") == theirs


@pytest.mark.erlang
@given(term=terms)
def test_erlang_reads_what_is_printed(unicode_erl: Erlang, term: Term) -> None:
    text = format_term(term, node="nobody@nowhere")
    assume("<'" not in text)  # identifiers are not literals in Erlang
    assume("-0.0" not in text)  # and before OTP 27 it is the same key as 0.0
    assert reads_as(unicode_erl, text, term)


def test_the_interpreters_bound_on_digits_is_told_from_wrong_digits() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(700)
    try:
        with pytest.raises(NotationError, match="fewer digits"):
            parse_term("1" * 800)
        with pytest.raises(NotationError, match="digits of base 10"):
            parse_term("10#1a")
        assert parse_term("16#" + "f" * 800) == 16**800 - 1
    finally:
        sys.set_int_max_str_digits(before)
