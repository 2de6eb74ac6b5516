"""Values of a real Elixir survive a round trip through Python: `==` holds in Elixir."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import shutil
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.etf import Atom, ErlMap, Term, decode, encode
from quicdist.typed import (
    ElixirException,
    Keyword,
    PreciseDateTime,
    PreciseTime,
    Precision,
    TermError,
    Terms,
    VersionedFrozenSet,
    VersionedSet,
    Zone,
    from_term,
    to_term,
)
from tests.support.erlang import NO_ELIXIR, Erlang, elixir_libraries
from tests.support.parameters import parameter_id
from tests.typed import models as m

a = Atom
UTC = dt.UTC
ELIXIR = Terms(none="nil")

_MODULES = """
defmodule Shop.Item do
  defstruct [:title, :price, :note]
end
defmodule Shop.Order do
  defstruct [:number, :buyer, items: []]
end
defmodule Shop.NotFound do
  defexception [:message, :id]
end
# The fields of the library, which is not part of Elixir.
defmodule Decimal do
  defstruct sign: 1, coef: 0, exp: 0
end
"""

_EVAL = r"""
{Value, _} = 'Elixir.Code':eval_string(In),
term_to_binary(Value).
"""


def needs_elixir(test: Any) -> Any:
    """Marks a test that needs a real Elixir."""
    has_none = shutil.which("elixir") is None
    skip = pytest.mark.skipif(has_none, reason=NO_ELIXIR)
    return pytest.mark.erlang(skip(test))


class Elixir:
    """Evaluates Elixir source. `It` is the given term."""

    def __init__(self, erlang: Erlang) -> None:
        self._erlang = erlang

    def __call__(self, source: str, it: Term = None) -> Term:
        literal = ", ".join(map(str, encode(it)))
        bound = f"it = :erlang.binary_to_term(<<{literal}>>)\n_ = it\n{source}"
        return decode(self._erlang.eval(_EVAL, bound.encode()))


@pytest.fixture(scope="module")
def elixir() -> Iterator[Elixir]:
    """An Erlang node with Elixir."""
    with Erlang("-pa", f"{elixir_libraries()}/elixir/ebin") as erlang:
        erlang.eval("{ok, _} = application:ensure_all_started(elixir), [].")
        ask = Elixir(erlang)
        ask(f"{_MODULES}\n:ok")
        yield ask


WARSAW = ZoneInfo("Europe/Warsaw")

VALUES: list[tuple[str, Any, Any]] = [
    ("~D[2024-02-29]", dt.date, dt.date(2024, 2, 29)),
    ("~T[12:34:56]", dt.time, dt.time(12, 34, 56)),
    ("~T[12:34:56.000001]", dt.time, dt.time(12, 34, 56, 1)),
    ("~T[12:34:56.120]", dt.time, dt.time(12, 34, 56, 120_000)),
    ("~T[12:34:56.000]", dt.time, dt.time(12, 34, 56)),
    ("~N[2024-02-29 12:34:56]", dt.datetime, dt.datetime(2024, 2, 29, 12, 34, 56)),
    ("~N[2024-02-29 12:34:56.1]", dt.datetime, dt.datetime(2024, 2, 29, 12, 34, 56, 100_000)),
    ("~N[0001-01-01 00:00:00.000000]", dt.datetime, dt.datetime(1, 1, 1)),
    ("~U[2024-02-29 12:34:56Z]", dt.datetime, dt.datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)),
    (
        "~U[2024-02-29 12:34:56.123Z]",
        dt.datetime,
        dt.datetime(2024, 2, 29, 12, 34, 56, 123_000, UTC),
    ),
    (
        '%{~U[2024-07-01 12:00:00Z] | time_zone: "Europe/Warsaw", zone_abbr: "CEST", '
        "utc_offset: 3600, std_offset: 3600}",
        dt.datetime,
        dt.datetime(2024, 7, 1, 12, tzinfo=WARSAW),
    ),
    (  # the second 02:30 of that night
        '%{~U[2024-10-27 02:30:00.5Z] | time_zone: "Europe/Warsaw", zone_abbr: "CET", '
        "utc_offset: 3600, std_offset: 0}",
        dt.datetime,
        dt.datetime(2024, 10, 27, 2, 30, 0, 500_000, WARSAW, fold=1),
    ),
    (
        '%{~U[2024-07-01 12:00:00Z] | time_zone: "Mars/Olympus", zone_abbr: "MTC", '
        "utc_offset: 1234, std_offset: 0}",
        dt.datetime,
        dt.datetime(2024, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(seconds=1234))),
    ),
    (  # Python's time zone data differs
        '%{~U[2024-07-01 12:00:00.25Z] | time_zone: "Europe/Warsaw", zone_abbr: "XYZ", '
        "utc_offset: 7200, std_offset: 0}",
        dt.datetime,
        dt.datetime(2024, 7, 1, 10, 0, 0, 250_000, UTC),
    ),
    ("1..3", range, range(1, 4)),
    ("0..10//3", range, range(0, 11, 3)),
    ("5..1//-2", range, range(5, 0, -2)),
    ("5..1//1", range, range(5, 2)),
    ("MapSet.new([1, 2, 3])", set[int], {1, 2, 3}),
    ("MapSet.new()", set[int], set()),
    ('MapSet.new(["a", {"b"}])', frozenset[str | tuple[str]], frozenset({"a", ("b",)})),
    ("MapSet.new([nil, :a])", set[Atom | None], {None, a("a")}),
    ("%Decimal{sign: -1, coef: 12345, exp: -2}", Decimal, Decimal("-123.45")),
    ("%Decimal{coef: 0, exp: -3}", Decimal, Decimal("0.000")),
    ("%Decimal{sign: -1, coef: 0}", Decimal, Decimal("-0")),
    ("%Decimal{coef: 5, exp: 300}", Decimal, Decimal("5E300")),
    ("%Decimal{coef: :inf}", Decimal, Decimal("Infinity")),
    ("%Decimal{sign: -1, coef: :inf}", Decimal, Decimal("-Infinity")),
    ("nil", int | None, None),
    (
        '%Shop.Item{title: "Tea", price: %Decimal{coef: 5, exp: -1}}',
        m.Item,
        m.Item("Tea", Decimal("0.5")),
    ),
    (
        '%Shop.Order{number: 1, buyer: {:user, 7, "Ann", :undefined, [:vip]}, items: '
        '[%Shop.Item{title: "Tea", price: %Decimal{coef: 5, exp: -1}, note: "green"}]}',
        m.Order,
        m.Order(
            1, [m.Item("Tea", Decimal("0.5"), "green")], m.User(m.UserId(7), "Ann", None, ["vip"])
        ),
    ),
    ("[timeout: 10, name: Foo]", m.Options, m.Options(10, a("Elixir.Foo"))),
    ("[a: 1, b: nil]", Annotated[dict[Atom, int | None], Keyword()], {"a": 1, "b": None}),
    ('%{"userName" => "Ann", "more" => [1, 2]}', m.Json, m.Json("Ann", None, [1, 2])),
    ('%Shop.NotFound{message: "gone", id: 4}', m.NotFound, m.NotFound("gone", 4)),
]


@needs_elixir
@pytest.mark.parametrize(("source", "kind", "value"), VALUES, ids=parameter_id)
def test_what_elixir_makes(elixir: Elixir, source: str, kind: Any, value: Any) -> None:
    read = ELIXIR.read(elixir(source), kind)
    assert read == value
    assert isinstance(read, type(value))
    back = ELIXIR.write(read, kind)
    assert elixir(f"it == ({source})", back) is True
    assert elixir(f"it == ({source})", ELIXIR.write(ELIXIR.read(back, kind), kind)) is True


EXCEPTIONS = [
    ('%ArgumentError{message: "bad"}', "(ArgumentError) bad"),
    ("%KeyError{key: :a, term: %{}}", "(KeyError) #{key => a,message => nil,term => #{}}"),
    ('try do raise "oops" rescue e -> e end', "(RuntimeError) oops"),
    ("%Shop.NotFound{message: nil, id: 1}", "(Shop.NotFound) #{id => 1,message => nil}"),
]


@needs_elixir
@pytest.mark.parametrize(("source", "text"), EXCEPTIONS)
def test_exceptions(elixir: Elixir, source: str, text: str) -> None:
    error = from_term(elixir(source), ElixirException)
    assert sorted(str(error)) == sorted(text)  # the order of keys depends on the OTP release
    assert elixir(f"it == ({source})", to_term(error)) is True
    again = pickle.loads(pickle.dumps(error))
    assert (again.module, again.fields) == (error.module, error.fields)
    with pytest.raises(ElixirException):
        raise error


@needs_elixir
def test_an_exception_of_ours_can_be_raised_on_both_sides(elixir: Elixir) -> None:
    error = from_term(elixir('%Shop.NotFound{message: "gone", id: 4}'), m.NotFound)
    with pytest.raises(m.NotFound) as caught:
        raise error
    assert caught.value.id == 4
    assert elixir(
        "try do raise it rescue e in Shop.NotFound -> {Exception.message(e), e.id} end",
        to_term(error),
    ) == (b"gone", 4)
    with pytest.raises(TermError, match="expected an exception"):
        from_term({**to_term(error), a("__exception__"): False}, m.NotFound)


MADE_HERE: list[tuple[Any, Any, str]] = [
    (dt.date, dt.date(2024, 1, 2), "Date.to_iso8601(it) == \"2024-01-02\""),
    (dt.time, dt.time(1, 2, 3, 450_000), "Time.to_iso8601(it) == \"01:02:03.450000\""),
    (
        dt.datetime,
        dt.datetime(2024, 1, 2, 3, 4, 5),
        "NaiveDateTime.to_iso8601(it) == \"2024-01-02T03:04:05\"",
    ),
    (
        dt.datetime,
        dt.datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Warsaw")),
        "DateTime.to_iso8601(it) == \"2024-07-01T12:00:00+02:00\" and it.zone_abbr == \"CEST\"",
    ),
    (
        dt.datetime,
        dt.datetime(2024, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=-3))),
        "it == ~U[2024-07-01 15:00:00Z]",
    ),
    (
        Annotated[dt.datetime, Precision(6)],
        dt.datetime(2024, 7, 1, 12, tzinfo=UTC),
        "it == ~U[2024-07-01 12:00:00.000000Z]",
    ),
    (Annotated[dt.time, Precision(3)], dt.time(1, 2, 3, 4000), "it == ~T[01:02:03.004]"),
    (range, range(3), "Enum.to_list(it) == [0, 1, 2]"),
    (range, range(10, 0, -3), "Enum.to_list(it) == [10, 7, 4, 1]"),
    (range, range(0), "Enum.to_list(it) == []"),
    (set[int], {1, 2}, "MapSet.equal?(MapSet.union(it, MapSet.new([3])), MapSet.new(1..3)) or "
                       "Enum.sort(MapSet.union(it, MapSet.new([3]))) == [1, 2, 3]"),
    (frozenset[str], frozenset({"a"}), 'MapSet.member?(it, "a") and Enum.count(it) == 1'),
    (Decimal, Decimal("1.50"), "it == %Decimal{coef: 150, exp: -2}"),
    (Any, {"at": dt.date(2024, 1, 2), "n": {1}}, 'it["at"] == ~D[2024-01-02] and 1 in it["n"]'),
]  # fmt: skip


@needs_elixir
@pytest.mark.parametrize(("kind", "value", "check"), MADE_HERE, ids=parameter_id)
def test_what_python_makes(elixir: Elixir, kind: Any, value: Any, check: str) -> None:
    assert elixir(check, to_term(value, kind)) is True


# -- without Elixir ------------------------------------------------------------------------------


def date(**changes: Term) -> Term:
    return _struct("Date", {"year": 2024, "month": 1, "day": 2}, changes)


def naive(**changes: Term) -> Term:
    fields = {"year": 2024, "month": 1, "day": 2, "hour": 3, "minute": 4, "second": 5}
    return _struct("NaiveDateTime", {**fields, "microsecond": (0, 0)}, changes)


def aware(**changes: Term) -> Term:
    zone = {"time_zone": b"Etc/UTC", "zone_abbr": b"UTC", "utc_offset": 0, "std_offset": 0}
    return {**naive(**zone), **_struct("DateTime", {}, changes)}


def decimal(**changes: Term) -> Term:
    term = _struct("Decimal", {"sign": 1, "coef": 1, "exp": 0}, changes)
    del term["calendar"]
    return term


def _struct(name: str, fields: dict[str, Term], changes: dict[str, Term]) -> Term:
    marks = {"__struct__": a(f"Elixir.{name}"), "calendar": a("Elixir.Calendar.ISO")}
    return {a(key): value for key, value in {**marks, **fields, **changes}.items()}


REFUSED: list[tuple[Any, Term, str]] = [
    (dt.date, date(month=13), "Python does not support this value: month must be in 1..12"),
    (dt.date, date(year=-1), "Python does not support this value: year"),
    (dt.date, date(year=10**30), "Python does not support this value: "),
    (dt.date, date(day=b"1"), "day: expected an integer, got the binary b'1'"),
    (dt.date, date(calendar=a("Other")), "expected Calendar.ISO, got the atom 'Other'"),
    (dt.date, date(more=1), "expected a %Date{} of 3 fields"),
    (dt.date, naive(), "expected a %Date{}, got a %NaiveDateTime{}"),
    (dt.date, {}, "expected a %Date{}, got a map of 0"),
    (dt.datetime, date(), "expected a %DateTime{} or %NaiveDateTime{}, got a %Date{}"),
    (dt.datetime, naive(microsecond=0), "microsecond: expected {microseconds, digits}"),
    (dt.datetime, naive(microsecond=(10**6, 6)), "microsecond: expected {microseconds, digits}"),
    (dt.datetime, aware(time_zone=5), "time_zone: expected a binary, got the integer 5"),
    (dt.datetime, aware(utc_offset=10**9), "utc_offset: expected an offset in seconds, got"),
    (dt.datetime, aware(utc_offset=80000, std_offset=80000), "utc_offset: an offset of more"),
    (
        dt.date | dt.time,
        date(month=0),
        "Python does not support this value: month must be in 1..12",
    ),
    (range, _struct("Range", {"first": 1, "last": 2, "step": 0}, {}), "expected a %Range{} of 3"),
    (set[int], {a("__struct__"): a("Elixir.MapSet"), a("map"): 1}, "expected a %MapSet{}"),
    (set[int], {a("__struct__"): a("Elixir.MapSet"), a("map"): {b"x": []}}, "{}: expected an int"),
    (Decimal, decimal(sign=0), "sign: expected 1 or -1, got the integer 0"),
    (Decimal, decimal(coef=-1), "coef: expected a coefficient, got the integer -1"),
    (Decimal, decimal(coef=a("x")), "coef: expected a coefficient, got the atom 'x'"),
    (Decimal, decimal(exp=b""), "exp: expected an integer, got the binary b''"),
    (ElixirException, {a("__struct__"): a("Elixir.X")}, "expected an exception, got a %X{}"),
]


@pytest.mark.parametrize(("kind", "term", "message"), REFUSED, ids=parameter_id)
def test_what_does_not_fit(kind: Any, term: Term, message: str) -> None:
    with pytest.raises(TermError) as caught:
        from_term(term, kind)
    assert str(caught.value).startswith(message)


def test_sets_that_python_would_merge() -> None:
    term = {a("__struct__"): a("Elixir.MapSet"), a("map"): ErlMap([(1, []), (1.0, [])])}
    with pytest.raises(TermError, match="two elements are equal"):
        from_term(term, set[int | float])
    term[a("map")] = ErlMap([([], [])])
    with pytest.raises(TermError, match="expected hashable elements"):
        from_term(term, set[list[int]])


WRONG_VALUES: list[tuple[Any, Any, str]] = [
    (dt.date, dt.datetime(2024, 1, 1), "expected a date, got a datetime"),
    (dt.datetime, dt.date(2024, 1, 1), "expected a datetime, got a date"),
    (dt.time, dt.time(1, tzinfo=UTC), "expected a time without a time zone"),
    (Annotated[dt.time, Precision(3)], dt.time(1, 0, 0, 1), "at most 3 digits of a second"),
    (Decimal, Decimal("sNaN"), "expected a Decimal that Elixir supports, got sNaN"),
    (Decimal, Decimal("NaN123"), "expected a Decimal that Elixir supports, got NaN123"),
    (set[int], [1], "expected a set, got a list of 1"),
    (set[int], {"x"}, "{}: expected an integer, got the text 'x'"),
    (range, [1], "expected a range, got a list of 1"),
]


@pytest.mark.parametrize(("kind", "value", "message"), WRONG_VALUES, ids=parameter_id)
def test_values_that_are_not_what_they_should_be(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(TermError) as caught:
        to_term(value, kind)
    assert message in str(caught.value)


def test_a_not_a_number_goes_both_ways() -> None:
    for text in ("NaN", "-NaN"):
        number = Decimal(text)
        assert from_term(to_term(number), Decimal).compare_total(number) == 0


def test_in_unions_each_finds_its_struct() -> None:
    kind = dt.date | dt.datetime | dt.time | range | set[int] | Decimal | None
    values = [dt.date(2024, 1, 2), dt.datetime(2024, 1, 2), dt.time(1), range(2), {1}, Decimal(1)]
    for value in [*values, None]:
        assert from_term(to_term(value, kind), kind) == value


def test_what_remembers_more_is_what_it_is() -> None:
    time = from_term(_struct("Time", {"hour": 1, "minute": 2, "second": 3,
                                      "microsecond": (0, 3)}, {}), dt.time)  # fmt: skip
    assert isinstance(time, PreciseTime)
    assert time.precision == 3
    when = from_term(naive(microsecond=(120_000, 3)), dt.datetime)
    assert isinstance(when, PreciseDateTime)
    assert when == dt.datetime(2024, 1, 2, 3, 4, 5, 120_000)
    assert (when + dt.timedelta(1)).isoformat() == "2024-01-03T03:04:05.120000"
    assert pickle.loads(pickle.dumps(when)) == copy.deepcopy(when) == when
    assert type(from_term(naive(microsecond=(5, 6)), dt.datetime)) is dt.datetime
    # `Any` encodes them by their class.
    assert to_term([when])[0][a("microsecond")] == (120_000, 3)

    zone = from_term(aware(time_zone=b"Mars/Olympus", utc_offset=90), dt.datetime).tzinfo
    assert zone == Zone("Mars/Olympus", "UTC", 90, 0)
    assert pickle.loads(pickle.dumps(zone)) == copy.deepcopy(zone) == zone

    term = {a("__struct__"): a("Elixir.MapSet"), a("map"): {1: []}, a("version"): 2}
    for kind, versioned in ((set[int], VersionedSet), (frozenset[int], VersionedFrozenSet)):
        read = from_term(term, kind)
        assert isinstance(read, versioned)
        assert read == {1}
        assert to_term(read) == term


def test_a_time_zone_of_a_peer_is_no_path() -> None:
    for name in (b"../../../etc/passwd", b"/etc/passwd", b"\0", b"", b"Europe", b"\xff"):
        zone = from_term(aware(time_zone=name), dt.datetime).tzinfo
        assert isinstance(zone, Zone)


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_any_datetime_is_the_same_instant(value: dt.datetime) -> None:
    try:
        read = from_term(decode(encode(to_term(value))), dt.datetime)
    except (OverflowError, TermError):
        assert value.tzinfo is not None
        assert value.year in (1, 9999)
        return
    assert read == value
    assert read.utcoffset() == value.utcoffset()


@given(st.decimals(allow_nan=False))
def test_any_decimal(value: Decimal) -> None:
    assert from_term(decode(encode(to_term(value))), Decimal).compare_total(value) == 0
