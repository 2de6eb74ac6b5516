"""Conversion between typed values and terms, and the errors for terms that do not fit."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, BitString, ErlMap, ImproperList, Pid, Reference, decode, encode
from quicdist.typed import (
    AtomText,
    Charlist,
    Keyword,
    Nil,
    Precision,
    Proplist,
    Record,
    Shape,
    TermError,
    Terms,
    Undefined,
    UnsupportedType,
    Via,
    from_term,
    to_term,
)
from tests.support.parameters import parameter_id
from tests.typed import models as m

PID = Pid(Atom("a@b"), 1, 2, 3)
a = Atom
RED = a("red")
Listed: TypeAlias = Annotated[tuple[int, ...], Via(list[int], tuple, list)]

ROUND_TRIPS: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (int, 1 << 100, 1 << 100),
    (float, 1.5, 1.5),
    (bool, True, True),
    (str, "é", "é".encode()),
    (bytes, b"\xff", b"\xff"),
    (Atom, a("x"), a("x")),
    (AtomText, "x", a("x")),
    (AtomText, "true", True),
    (Atom, a("true"), True),
    (list[Atom | bool], [False, a("x")], [False, a("x")]),
    (Literal["true", "x"], "true", True),
    (Charlist, "hé", [104, 233]),
    (Charlist, "", []),
    (Pid, PID, PID),
    (Reference, Reference(a("a@b"), (1,), 1), Reference(a("a@b"), (1,), 1)),
    (BitString, BitString(b"\x80", 1), BitString(b"\x80", 1)),
    (ImproperList, ImproperList([1], 2), ImproperList([1], 2)),
    (None, None, a("undefined")),
    (Nil, None, a("nil")),
    (Undefined, None, a("undefined")),
    (int | None, None, a("undefined")),
    (int | None, 4, 4),
    (Atom | None, a("x"), a("x")),
    (Any, {a("k"): [b"x"]}, {a("k"): [b"x"]}),
    (list, [1, b"x"], [1, b"x"]),
    (list[str], ["a"], [b"a"]),
    (Sequence[int], [1], [1]),
    (Iterable[int], [1], [1]),
    (tuple, (1, b"x"), (1, b"x")),
    (tuple[()], (), ()),
    (tuple[int, str], (1, "a"), (1, b"a")),
    (tuple[str, ...], ("a", "b"), (b"a", b"b")),
    (dict[Atom, str], {a("k"): "v"}, {a("k"): b"v"}),
    (Mapping[str, int], {"k": 1}, {b"k": 1}),
    (dict[int | float, str], {1: "i"}, {1: b"i"}),
    (Annotated[dict[Atom, int], Keyword()], {a("x"): 1}, [(a("x"), 1)]),
    (Annotated[dict[AtomText, bool], Proplist()], {"x": True}, [(a("x"), True)]),
    (list[tuple[Atom, int]], [(a("x"), 1), (a("x"), 2)], [(a("x"), 1), (a("x"), 2)]),
    (Literal["ok", 1, b"b", True], "ok", a("ok")),
    (Literal["ok", 1, b"b", True], 1, 1),
    (Literal["ok", 1, b"b", True], b"b", b"b"),
    (Literal["ok", 1, b"b", True], True, True),
    (Literal["ok", None], None, a("undefined")),
    (Literal[m.Color.RED], m.Color.RED, RED),
    (m.Color, m.Color.RED, RED),
    (m.Level, m.Level.HIGH, 2),
    (m.Size, m.Size.BIG, a("big")),
    (m.Kind, m.Kind.TEXT, b"text"),
    (m.Kind, m.Kind.YES, True),
    (m.Rights, m.Rights.READ | m.Rights.WRITE, 3),
    (m.UserId, m.UserId(3), 3),
    (m.User, m.User(m.UserId(1), "A"), (a("user"), 1, b"A", a("undefined"), [])),
    (
        m.User,
        m.User(m.UserId(1), "A", m.Color.RED, ["x"]),
        (a("user"), 1, b"A", RED, [a("x")]),
    ),
    (m.Point, m.Point(1.0, 2.0), {a("x"): 1.0, a("y"): 2.0, a("label"): b""}),
    (m.Json, m.Json("A"), {b"userName": b"A"}),
    (m.Json, m.Json("A", 3, [1]), {b"userName": b"A", b"age": 3, b"more": [1]}),
    (m.Options, m.Options(), []),
    (m.Options, m.Options(1, a("n")), [(a("timeout"), 1), (a("name"), a("n"))]),
    (m.Pair[int], m.Pair(1, 2), (1, 2)),
    (m.Page[str], m.Page(["a"], "b"), {a("items"): [b"a"], a("next"): b"b"}),
    (
        m.Page[m.Pair[int]],
        m.Page([m.Pair(1, 2)]),
        {a("items"): [(1, 2)], a("next"): a("undefined")},
    ),
    (
        m.UserPage,
        m.UserPage([m.User(m.UserId(1), "A")], None, 9),
        {
            a("items"): [(a("user"), 1, b"A", a("undefined"), [])],
            a("next"): a("undefined"),
            a("total"): 9,
        },
    ),
    (
        m.Tree,
        m.Tree(1, m.Tree(2)),
        (
            a("node"),
            1,
            (a("node"), 2, a("undefined"), a("undefined")),
            a("undefined"),
        ),
    ),
    (m.Movie, {"title": "T"}, {a("title"): b"T"}),
    (m.Movie, {"title": "T", "year": 1}, {a("title"): b"T", a("year"): 1}),
    (m.Review, {"stars": 2, "text": "t"}, {a("stars"): 2, a("reviewText"): b"t"}),
    (m.Place, m.Place("S", 3), (b"S", 3)),
    (m.Deposit | m.Withdraw, m.Withdraw(3), (a("withdraw"), 3)),
    (int | float | bool, True, True),
    (float | int, 1, 1),
    (str | bytes, b"\xff", b"\xff"),
    (list[int] | list[str], ["a"], [b"a"]),
    (Atom | m.Color, m.Color.RED, RED),
    (Atom | m.Color, a("blue"), a("blue")),
    (
        m.Mixed,
        m.Mixed("x", None, b"e", 255),
        {a("chars"): [120], a("nil"): a("nil"), a("extra"): b"e", a("hexed"): b"0xff"},
    ),
]


@pytest.mark.parametrize(("kind", "value", "term"), ROUND_TRIPS, ids=parameter_id)
def test_there_and_back(kind: Any, value: Any, term: Any) -> None:
    written = to_term(value, kind)
    assert decode(encode(written)) == term
    read = from_term(decode(encode(written)), kind)
    assert read == value
    assert type(read) is type(value)


REFUSED: list[tuple[Any, Any, str]] = [
    (int, True, "expected an integer, got true"),
    (int, 1.0, "expected an integer, got the float 1.0"),
    (float, 1, "expected a float, got the integer 1"),
    (bool, 1, "expected true or false, got the integer 1"),
    (bool, a("yes"), "expected true or false, got the atom 'yes'"),
    (str, a("x"), "expected a UTF-8 binary, got the atom 'x'"),
    (str, b"\xff", "expected a UTF-8 binary, got the binary b'\\xff'"),
    (bytes, [1], "expected a binary, got a list of 1"),
    (Atom, b"x", "expected an atom, got the binary b'x'"),
    (AtomText, b"x", "expected an atom, got the binary b'x'"),
    (Charlist, [1 << 30], "expected a list of characters, got a list of 1"),
    (Pid, (1,), "expected a pid, got a tuple of 1"),
    (None, a("x"), "expected nil or undefined, got the atom 'x'"),
    (Nil, a("undefined"), "expected nil, got the atom 'undefined'"),
    (int | None, b"x", "expected nil or undefined or an integer, got the binary b'x'"),
    (list[int], [1, 2, b"x"], "[2]: expected an integer, got the binary b'x'"),
    (list[int], ImproperList([1], 2), "expected a list, got a ImproperList"),
    (list[int] | None, [b"x"], "[0]: expected an integer, got the binary b'x'"),
    (tuple[int, str], (1,), "expected a tuple of 2, got a tuple of 1"),
    (tuple[int, str], (1, 2), "[1]: expected a UTF-8 binary, got the integer 2"),
    (tuple[int, ...], (1, b""), "[1]: expected an integer, got the binary b''"),
    (dict[str, int], {b"k": b"v"}, "[\"k\"]: expected an integer, got the binary b'v'"),
    (dict[str, int], {1: 1}, "keys()[0]: expected a UTF-8 binary, got the integer 1"),
    (dict[int, int], [], "expected a map, got a list of 0"),
    (dict[Any, int], ErlMap([(1, 1), (1.0, 2)]), "the key 1.0 occurs twice in Python"),
    (dict[Any, int], ErlMap([([], 1)]), "keys()[0]: a list cannot be a key in Python"),
    (Annotated[dict[Atom, int], Keyword()], {a("a"): 1}, "expected a keyword list, got a map of 1"),
    (
        Annotated[dict[Atom, int], Keyword()],
        [(a("x"), 1), (a("x"), 2)],
        "[1]: the key Atom('x') occurs twice",
    ),
    (
        Annotated[dict[Atom, int], Keyword()],
        [a("x")],
        "[0]: expected an {atom, value} pair, got the atom 'x'",
    ),
    (Literal["ok", 1], True, "expected one of ok, 1, got true"),
    (Literal["ok"], b"ok", "expected ok, got the binary b'ok'"),
    (m.Color, a("blue"), "expected one of red, green, got the atom 'blue'"),
    (m.Color, b"red", "expected one of red, green, got the binary b'red'"),
    (m.Level, 2.0, "expected one of 1, 2, got the float 2.0"),
    (m.Rights, 64, "ValueError: "),
    (
        m.User,
        (a("user"), 1),
        "expected {user, id, name, color, tags}, got a tuple of 2 tagged user",
    ),
    (
        m.User,
        (a("person"), 1, b"", RED, []),
        "expected {user, id, name, color, tags}, got a tuple of 5 tagged person",
    ),
    (
        m.User,
        (a("user"), 1, b"A", RED, [a("x"), 5]),
        "tags[1]: expected an atom, got the integer 5",
    ),
    (m.Point, {a("x"): 1.0}, "y is missing from a map of 1"),
    (
        m.Point,
        {a("x"): 1.0, a("y"): 1.0, b"label": b""},
        "the binary b'label' is not one of the atom keys x, y, label",
    ),
    (m.Point, 5, "expected a map with x, y, got the integer 5"),
    (m.Item, {a("__struct__"): a("Elixir.Shop.Order")}, "expected a %Shop.Item{}, got a %Shop.Or"),
    (m.Item, {a("title"): b"x"}, "expected a %Shop.Item{}, got a map of 1"),
    (m.Options, [(a("timeout"), b"x")], "timeout: expected an integer, got the binary b'x'"),
    (m.Options, [(a("other"), 1)], "the atom 'other' is not one of the atom keys timeout, name"),
    (m.Movie, {}, "title is missing from a map of 0"),
    (m.Review, {a("stars"): 4}, "stars: expected one of 1, 2, 3, got the integer 4"),
    (m.Page[int], {a("items"): [b"x"]}, "items[0]: expected an integer, got the binary b'x'"),
    (m.Even, {a("n"): 3}, "Even rejects it: 3 is odd"),
    (m.Deposit | m.Withdraw, (a("withdraw"), b"x"), "amount: expected an integer, got the binary"),
    (m.Deposit | m.Withdraw, 5, "expected {deposit, amount, to} or {withdraw, amount}, got the"),
    (
        m.Mixed,
        {a("chars"): [], a("nil"): 1, a("extra"): 1, a("hexed"): b"zz"},
        "hexed: ValueError: invalid literal for int() with base 16: 'zz'",
    ),
    (
        list[m.UserPage],
        [{a("items"): [(a("user"), 1, b"A", RED, [b"x"])], a("total"): 1}],
        "[0].items[0].tags[0]: expected an atom, got the binary b'x'",
    ),
    (bytes, 1 << 200, "expected a binary, got an integer of 201 bits"),
    (int, b"x" * 1000, f"expected an integer, got the binary b'{'x' * 38}..."),
]


@pytest.mark.parametrize(("kind", "term", "message"), REFUSED, ids=parameter_id)
def test_what_does_not_fit(kind: Any, term: Any, message: str) -> None:
    with pytest.raises(TermError) as caught:
        from_term(term, kind)
    assert message in str(caught.value)
    assert not message or str(caught.value).startswith(message[:8])


def test_an_error_does_not_say_how_we_came_there() -> None:
    deep: Any = b"x"
    kind: Any = int
    for _ in range(50):
        deep, kind = [deep], list[kind]
    for convert in (from_term, to_term):
        with pytest.raises(TermError) as caught:
            convert(deep, kind)
        error = caught.value
        assert error.path == "[0]" * 10 + "..." + "[0]" * 10
        assert len(traceback.format_exception(error)) < 10
        assert error.__cause__ is None
        assert error.__suppress_context__


WRONG_VALUES: list[tuple[Any, Any, str]] = [
    (int, "x", "expected an integer, got the text 'x'"),
    (int, True, "expected an integer, got true"),
    (float, float("nan"), "expected a finite float, got nan"),
    (float, 10**400, "expected a float or an integer that fits one, got an integer of"),
    (str, b"x", "expected a str, got the binary b'x'"),
    (bytes, "x", "expected bytes, got the text 'x'"),
    (Atom, "x", "expected an Atom, got the text 'x'"),
    (AtomText, "x" * 256, "expected a str that is a valid atom: an atom of 256 characters"),
    (list[int], (1,), "expected a list, got a tuple of 1"),
    (Sequence[str], "text", "expected a list, got the text 'text'"),
    (m.Color, "red", "expected one of red, green, got the text 'red'"),
    (m.User, m.User(m.UserId(1), "A", tags=[b"x"]), "tags[0]: expected a str"),  # type: ignore[list-item]  # the mistake
    (m.Point, m.Point3(1, 2), "expected Point, got a Point3"),
    (m.Movie, {"title": "x", "yaer": 1}, "the text 'yaer' is not a key of Movie"),
    (m.Movie, {}, "title is missing from the Movie"),
    (Annotated[dict[str, int], Keyword()], {"k": 1}, "keys()[0]: expected an atom, got the text"),
    (Any, object(), "expected something with an Erlang form, got a object"),
    (Any, [1, {"k": object()}], '[1]["k"]: expected something with an Erlang form'),
    (m.Rights, 3, "expected Rights as an integer, got the integer 3"),
]


@pytest.mark.parametrize(("kind", "value", "message"), WRONG_VALUES, ids=parameter_id)
def test_values_that_are_not_what_they_should_be(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(TermError) as caught:
        encode(to_term(value, kind))
    assert message in str(caught.value)


def test_what_python_takes_for_the_same_is_written() -> None:
    assert to_term(1, float) == 1.0
    assert type(to_term(1, float)) is float
    assert type(to_term(Atom("x"), str)) is str
    assert to_term(m.Level.HIGH, int) == 2
    assert type(to_term(m.Level.HIGH, int)) is int
    assert to_term(bytearray(b"x"), bytes) == b"x"
    assert to_term((1, 2), Sequence[int]) == [1, 2]
    assert to_term(Atom("ok"), Literal["ok"]) == Atom("ok")


def test_without_a_type_a_value_is_written_by_what_it_is() -> None:
    user = m.User(m.UserId(1), "A", m.Color.RED)
    assert to_term([user, None, m.Size.BIG, {"k": (1,)}]) == [
        (a("user"), 1, "A", RED, []),
        a("undefined"),
        a("big"),
        {"k": (1,)},
    ]
    assert to_term(m.Page([user])) == {
        a("items"): [(a("user"), 1, "A", RED, [])],
        a("next"): a("undefined"),
    }


def test_none_is_nil_in_structs_and_undefined_in_records() -> None:
    user = m.User(m.UserId(1), "A")
    order = m.Order(1, [m.Item("x", Decimal("1.5"))], user)
    term = to_term(order)
    assert term["items"][0]["note"] is a("nil")
    assert term["buyer"][3] is a("undefined")
    assert from_term(decode(encode(term)), m.Order) == order
    assert Terms(none="nil").write(None) is a("nil")
    assert Terms(none="nil").write(user)[3] is a("undefined")
    page: m.Page[int] = m.Page([1])
    assert Terms(none="nil").write(page, m.Page[int])["next"] is a("nil")


def test_a_proplist_is_read_as_proplists_does() -> None:
    term = [a("verbose"), (a("limit"), 1), (a("limit"), 2), a("unknown")]
    assert from_term(term, m.Switches) == m.Switches(True, 1)
    assert to_term(m.Switches(True, 1)) == [(a("verbose"), True), (a("limit"), 1)]


def test_keys_that_python_cannot_hash_are_written() -> None:
    term = to_term({(1, 2): "x"}, dict[tuple[int, ...], str])
    assert term == {(1, 2): "x"}
    written = to_term({(1, 2): "x"}, dict[Listed, str])
    assert isinstance(written, ErlMap)
    assert from_term(decode(encode(written)), dict[Listed, str]) == {(1, 2): "x"}


def test_str_where_the_codec_already_made_str() -> None:
    assert from_term("x", str) == "x"
    assert from_term("x", bytes) == b"x"
    assert from_term({"userName": "A"}, m.Json) == m.Json("A")
    with pytest.raises(TermError):
        from_term("x", Literal["x"])


UNSUPPORTED: list[tuple[Any, str]] = [
    (complex, "complex has no Erlang form: make it a dataclass"),
    (list[complex], "complex has no Erlang form"),
    ("User", "'User' is a name, not a type"),
    (Annotated[int, Record("x")], "does not apply to"),
    (Annotated[int, Precision(3)], "does not apply to"),
    (type[int], "type has no Erlang form"),
]


@pytest.mark.parametrize(("kind", "message"), UNSUPPORTED, ids=parameter_id)
def test_types_without_an_erlang_form(kind: Any, message: str) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedType, match=message):
            from_term(1, kind)


def test_a_class_whose_annotations_cannot_be_read() -> None:
    @dataclass
    class Local:
        x: Unknown  # type: ignore[name-defined]  # noqa: F821  (on purpose)

    with pytest.raises(UnsupportedType, match="Unknown"):
        from_term({}, Local)


def test_types_of_others() -> None:
    terms = Terms(custom={uuid.UUID: Via(str, uuid.UUID, str)})
    one = uuid.uuid4()
    assert terms.write([one], list[uuid.UUID]) == [str(one)]
    assert terms.write({"id": one}) == {"id": str(one)}
    assert terms.read([str(one).encode()], list[uuid.UUID]) == [one]
    with pytest.raises(TermError, match=r"\[0\]: ValueError: badly formed"):
        terms.read([b"x"], list[uuid.UUID])
    with pytest.raises(TermError, match=r"\[0\]: expected UUID as a UTF-8 binary, got the int"):
        terms.write([1], list[uuid.UUID])
    with pytest.raises(UnsupportedType):
        from_term(b"x", uuid.UUID)


def test_the_order_of_a_union_is_its_own() -> None:
    assert from_term(b"x", str | bytes) == "x"
    assert from_term(b"x", bytes | str) == b"x"
    assert from_term([b"x"], list[str | bytes]) == ["x"]
    assert from_term([b"x"], list[bytes | str]) == [b"x"]


def test_terms_too_deep_for_the_stack() -> None:
    term: Any = a("undefined")
    for _ in range(60_000):
        term = (a("node"), 1, term, a("undefined"))
    with pytest.raises(TermError, match="nested too deeply"):
        from_term(term, m.Tree)
    tree: Any = m.Tree(1)
    tree.left = tree
    with pytest.raises(TermError, match="contains itself"):
        to_term(tree)


def test_a_long_path_is_cut() -> None:
    term: Any = (a("node"), b"x", a("undefined"), a("undefined"))
    for _ in range(50):
        term = (a("node"), 1, term, a("undefined"))
    with pytest.raises(TermError) as caught:
        from_term(term, m.Tree)
    assert caught.value.path.startswith("left.left.")
    assert "..." in caught.value.path
    assert caught.value.path.endswith(".left.value")


def test_an_error_can_be_pickled() -> None:
    with pytest.raises(TermError) as caught:
        from_term([b"x"], list[int])
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.path == "[0]"
    assert again.reason == "expected an integer, got the binary b'x'"


def test_a_shape_names_any_type() -> None:
    shape = Shape[m.Deposit | m.Withdraw]()
    message = shape.read((a("deposit"), 5, PID))
    match message:  # the type checker knows both
        case m.Deposit(amount, to):
            assert (amount, to) == (5, PID)
        case m.Withdraw():
            pytest.fail("no")
    assert shape.write(m.Withdraw(1)) == (a("withdraw"), 1)
    assert shape.matches((a("withdraw"), 1))
    assert not shape.matches((a("withdraw"), b"x"))
    with pytest.raises(UnsupportedType, match="Shape requires a type"):
        Shape().read(1)


def test_many_threads_ask_for_a_type_at_once() -> None:
    for _ in range(20):
        terms = Terms()
        start = threading.Barrier(8)
        results: list[Any] = []

        def ask(terms: Terms, start: threading.Barrier, results: list[Any]) -> None:
            start.wait()
            term = (a("node"), 1, (a("node"), 2, a("undefined"), a("undefined")), a("undefined"))
            results.append(terms.read(term, m.Tree))

        threads = [threading.Thread(target=ask, args=(terms, start, results)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [m.Tree(1, m.Tree(2))] * 8


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements came with Python 3.12")
def test_type_statements() -> None:
    space: dict[str, Any] = {}
    exec("type Json = int | list[Json] | dict[str, Json]\ntype Two[T] = tuple[T, T]", space)
    term = {b"a": [1, {b"b": 2}]}
    assert from_term(term, space["Json"]) == {"a": [1, {"b": 2}]}
    assert from_term((1, 2), space["Two"][int]) == (1, 2)
    with pytest.raises(TermError, match=r'\["a"\]\[1\]\["b"\]'):
        from_term({b"a": [1, {b"b": 2.0}]}, space["Json"])


trees: st.SearchStrategy[m.Tree] = st.recursive(
    st.builds(m.Tree, st.integers(), st.none(), st.none()),
    lambda inner: st.builds(m.Tree, st.integers(), st.none() | inner, st.none() | inner),
)
users = st.builds(
    m.User,
    st.integers().map(m.UserId),
    st.text(),
    st.none() | st.sampled_from(m.Color),
    st.lists(st.text(max_size=255)),
)


@given(st.lists(trees | users))
def test_any_of_them(values: list[m.Tree | m.User]) -> None:
    kind = list[m.Tree | m.User]
    assert from_term(decode(encode(to_term(values, kind))), kind) == values
