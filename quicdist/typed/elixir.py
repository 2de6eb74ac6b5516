"""The structs of the Elixir standard library and their Python types.

| Elixir | Python |
|---|---|
| `Date` | `datetime.date` |
| `Time` | `datetime.time` |
| `NaiveDateTime` | `datetime.datetime` without `tzinfo` |
| `DateTime` | `datetime.datetime` with `tzinfo` |
| `Range` | `range`, whose end is exclusive |
| `MapSet` | `set`, `frozenset` |
| `Decimal` (of the decimal library) | `decimal.Decimal` |
| any exception | `ElixirException` |

Subclasses of the Python types keep what these cannot represent, so that a value is written as it
was read: the number of digits of a second, an unknown time zone, and the version in older sets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from quicdist.etf import Atom, Term
from quicdist.etf.errors import QuicdistError
from quicdist.etf.notation import format_bounded
from quicdist.typed.conversion import Conversion
from quicdist.typed.errors import TermError, alias, describe

_STRUCT = Atom("__struct__")
_EXCEPTION = Atom("__exception__")
_MESSAGE = Atom("message")
_ISO = Atom("Elixir.Calendar.ISO")

_DATE = ("year", "month", "day")
_TIME = ("hour", "minute", "second")
_ZONE = ("time_zone", "zone_abbr", "utc_offset", "std_offset")


# -- subclasses that keep more than the Python types ---------------------------------------------


class _Precise:
    """Keeps the number of digits of the second.

    Results of arithmetic, `replace` and unpickling do not keep it.
    """

    precision: int | None = None
    """Number of digits. None means no digits for a whole second and otherwise six."""


class PreciseTime(_Precise, dt.time):
    """A time that keeps the number of digits of the second."""


class PreciseDateTime(_Precise, dt.datetime):
    """A datetime that keeps the number of digits of the second."""


class VersionedSet(set[Any]):
    """A set from Elixir before 1.18, whose MapSet contains a version."""

    version: Term = 2


class VersionedFrozenSet(frozenset[Any]):
    """A frozenset from Elixir before 1.18, whose MapSet contains a version."""

    version: Term = 2


@dataclass(frozen=True)
class Zone(dt.tzinfo):
    """The time zone of one DateTime, if Python has no such zone or another offset for it.

    Offsets are in seconds east of UTC.
    """

    name: str
    abbreviation: str
    utc_of: int
    std_of: int

    def utcoffset(self, when: dt.datetime | None, /) -> dt.timedelta:
        """The standard offset plus the daylight saving offset."""
        return dt.timedelta(seconds=self.utc_of + self.std_of)

    def dst(self, when: dt.datetime | None, /) -> dt.timedelta:
        """The daylight saving offset."""
        return dt.timedelta(seconds=self.std_of)

    def tzname(self, when: dt.datetime | None, /) -> str:
        """The abbreviation of the zone, such as `CEST`."""
        return self.abbreviation

    def __reduce__(self) -> tuple[type[Zone], tuple[str, str, int, int]]:
        return Zone, (self.name, self.abbreviation, self.utc_of, self.std_of)


_SHOWN_MESSAGE = 2000
"""Maximum number of characters of a message of a peer in an exception text."""


class ElixirException(QuicdistError):
    """An Elixir exception with its module and its fields. Most exceptions have a `message`."""

    def __init__(self, module: str, fields: Mapping[str, Term]) -> None:
        super().__init__(module, fields)
        self.module = Atom(module)
        self.fields = {Atom(key): value for key, value in fields.items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module!r}, {format_bounded(self.fields)})"

    def __str__(self) -> str:
        name = alias(self.module)
        message = self.fields.get(_MESSAGE)
        if isinstance(message, (bytes, str, memoryview)) and not isinstance(message, Atom):
            text = message if isinstance(message, str) else str(message, errors="replace")
            return f"({name}) {text[:_SHOWN_MESSAGE]}"
        return f"({name}) {format_bounded(self.fields)}"


# -- conversions ---------------------------------------------------------------------------------


class _StructOf(Conversion):
    """Base class of the conversions of one struct."""

    def __init__(self, name: str, keys: Iterable[str], *, has_calendar: bool = False) -> None:
        self._module = Atom(f"Elixir.{name}")
        self._keys = tuple(map(Atom, keys))
        self._has_calendar = has_calendar
        self.expects = f"a %{name}{{}}"

    def take(self, term: Term) -> list[Term]:
        """The values of the keys in order. Raises TermError if the term is not this struct."""
        if not self.claims(term):
            raise TermError.expected(self.expects, term)
        if self._has_calendar and term.get("calendar") != _ISO:
            raise TermError(f"expected Calendar.ISO, got {describe(term.get('calendar'))}")
        if len(term) != len(self._keys) + 1 + self._has_calendar:
            raise TermError(f"expected {self.expects} of {len(self._keys)} fields")
        try:
            return [term[key] for key in self._keys]
        except KeyError as error:
            raise TermError(f"{error.args[0]} is missing from {describe(term)}") from None

    def put(self, *values: Term) -> Term:
        """The struct with these values."""
        term: dict[Term, Term] = {_STRUCT: self._module}
        if self._has_calendar:
            term[Atom("calendar")] = _ISO
        term.update(zip(self._keys, values, strict=True))
        return term

    def claims(self, term: Term) -> bool:
        return isinstance(term, Mapping) and term.get(_STRUCT) == self._module

    def integers(self, *values: Term) -> list[int]:
        """Returns the values if all are integers, otherwise raises TermError."""
        for key, value in zip(self._keys, values, strict=False):
            if type(value) is not int:
                raise TermError.expected("an integer", value).within(f".{key}")
        return list(values)


def _made(make: Callable[..., Any], *values: Any, **named: Any) -> Any:
    try:
        return make(*values, **named)
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise TermError(f"Python does not support this value: {error}") from None


class _Date(_StructOf):
    classes = (dt.date,)

    def read(self, term: Term) -> dt.date:
        date: dt.date = _made(dt.date, *self.integers(*self.take(term)))
        return date

    def write(self, value: Any) -> Term:
        if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
            raise TermError.expected("a date", value)
        return self.put(value.year, value.month, value.day)


class _Time(_StructOf):
    classes = (dt.time, PreciseTime)

    def __init__(self, digits: int | None = None) -> None:
        super().__init__("Time", (*_TIME, "microsecond"), has_calendar=True)
        self._digits = digits

    def read(self, term: Term) -> dt.time:
        *clock, fraction = self.take(term)
        micros, digits = _fraction(fraction)
        kind = dt.time if digits == _usual(micros) else PreciseTime
        time: dt.time = _made(kind, *self.integers(*clock), micros)
        if isinstance(time, PreciseTime):
            time.precision = digits
        return time

    def write(self, value: Any) -> Term:
        if not isinstance(value, dt.time) or value.tzinfo is not None:
            raise TermError.expected("a time without a time zone", value)
        fraction = _digits(value, self._digits)
        return self.put(value.hour, value.minute, value.second, fraction)


class _DateTime(Conversion):
    """Converts datetime. With a time zone it writes DateTime, otherwise NaiveDateTime."""

    expects = "a %DateTime{} or %NaiveDateTime{}"
    classes = (dt.datetime, PreciseDateTime)
    _naive = _StructOf("NaiveDateTime", (*_DATE, *_TIME, "microsecond"), has_calendar=True)
    _aware = _StructOf("DateTime", (*_DATE, *_TIME, "microsecond", *_ZONE), has_calendar=True)

    def __init__(self, digits: int | None = None) -> None:
        self._digits = digits

    def claims(self, term: Term) -> bool:
        return self._naive.claims(term) or self._aware.claims(term)

    def read(self, term: Term) -> dt.datetime:
        if self._naive.claims(term):
            struct, values = self._naive, self._naive.take(term)
        elif self._aware.claims(term):
            struct, values = self._aware, self._aware.take(term)
        else:
            raise TermError.expected(self.expects, term)
        micros, digits = _fraction(values[6])
        kind = dt.datetime if digits == _usual(micros) else PreciseDateTime
        clock = struct.integers(*values[:6])
        result: dt.datetime = _made(kind, *clock, micros)
        if struct is self._aware:
            result = _in_zone(result, *values[7:])
        if isinstance(result, PreciseDateTime):
            result.precision = digits
        return result

    def write(self, value: Any) -> Term:
        if not isinstance(value, dt.datetime):
            raise TermError.expected("a datetime", value)
        fraction = _digits(value, self._digits)
        if value.tzinfo is None:
            return self._naive.put(*_clock(value), fraction)
        name = "Etc/UTC" if value.tzinfo is dt.UTC else _zone_name(value.tzinfo)
        if name is None:  # an offset without a name becomes UTC, as in DateTime.from_iso8601
            value, name = _made(value.astimezone, dt.UTC), "Etc/UTC"
        return self._aware.put(*_clock(value), fraction, name, *_offsets(value))


def _clock(value: dt.datetime) -> tuple[int, ...]:
    return value.year, value.month, value.day, value.hour, value.minute, value.second


def _zone_name(zone: dt.tzinfo) -> str | None:
    if isinstance(zone, Zone):
        return zone.name
    return zone.key if isinstance(zone, ZoneInfo) else None


def _offsets(value: dt.datetime) -> tuple[str, int, int]:
    """The abbreviation, the standard offset and the daylight saving offset."""
    whole, saving = value.utcoffset() or dt.timedelta(), value.dst() or dt.timedelta()
    return value.tzname() or "", _seconds(whole - saving), _seconds(saving)


def _seconds(delta: dt.timedelta) -> int:
    return delta.days * 86400 + delta.seconds


def _in_zone(local: dt.datetime, name: Term, abbreviation: Term, utc: Term, std: Term) -> Any:
    """Returns the instant in the zone with that name if Python has the same offsets for it.

    Otherwise the zone is a `Zone`.
    """
    names = []
    for text in (name, abbreviation):
        if not isinstance(text, (bytes, str)):
            raise TermError.expected("a binary", text).within(".time_zone")
        names.append(text if isinstance(text, str) else text.decode(errors="replace"))
    for offset in (utc, std):
        if type(offset) is not int or abs(offset) >= 86400:
            raise TermError.expected("an offset in seconds", offset).within(".utc_offset")
    if abs(utc + std) >= 86400:
        raise TermError("an offset of more than a day").within(".utc_offset")
    if (*names, utc, std) == ("Etc/UTC", "UTC", 0, 0):
        return local.replace(tzinfo=dt.UTC)
    try:
        zone = ZoneInfo(names[0])
        for fold in (0, 1):
            known = local.replace(tzinfo=zone, fold=fold)
            if _offsets(known) == (names[1], utc, std):
                return known
    except (OSError, ValueError, LookupError):
        pass  # the zone is unknown, or no time zone data is installed
    return local.replace(tzinfo=Zone(names[0], names[1], utc, std))


def _fraction(term: Term) -> tuple[int, int]:
    """Microseconds and the number of significant digits."""
    if isinstance(term, tuple) and len(term) == 2:
        micros, digits = term
        if type(micros) is type(digits) is int and 0 <= micros < 10**6 and 0 <= digits <= 6:
            return micros, digits
    raise TermError("expected {microseconds, digits}").within(".microsecond")


def _usual(micros: int) -> int:
    """The default number of digits of a Python value."""
    return 6 if micros else 0


def _digits(value: dt.time | dt.datetime, wanted: int | None) -> tuple[int, int]:
    micros = value.microsecond
    if wanted is not None:
        if micros % 10 ** (6 - wanted):
            raise TermError(f"expected at most {wanted} digits of a second, got {micros:06} µs")
        return micros, wanted
    known = value.precision if isinstance(value, _Precise) else None
    return micros, _usual(micros) if known is None else known


class _Range(_StructOf):
    classes = (range,)

    def read(self, term: Term) -> range:
        first, last, step = self.integers(*self.take(term))
        if step == 0:
            raise TermError("expected a step other than 0").within(".step")
        return range(first, last + (1 if step > 0 else -1), step)

    def write(self, value: Any) -> Term:
        if not isinstance(value, range):
            raise TermError.expected("a range", value)
        last = value.stop - (1 if value.step > 0 else -1)
        return self.put(value.start, last, value.step)


_VERSIONED: dict[Any, Any] = {set: VersionedSet, frozenset: VersionedFrozenSet}


class MapSet(Conversion):
    """Converts set and frozenset."""

    expects = "a %MapSet{}"
    _module = Atom("Elixir.MapSet")

    def __init__(self, element: Conversion, kind: type[set[Any]] | type[frozenset[Any]]) -> None:
        self._element = element
        self._kind = kind
        self.classes = (kind, _VERSIONED[kind])

    def claims(self, term: Term) -> bool:
        return isinstance(term, Mapping) and term.get(_STRUCT) == self._module

    def read(self, term: Term) -> Any:
        if not self.claims(term) or not isinstance(term.get("map"), Mapping):
            raise TermError.expected(self.expects, term)
        terms = term["map"]
        elements = [self._one(self._element.read, one) for one in terms]
        version = term.get("version")
        try:
            result = (self._kind if version is None else _VERSIONED[self._kind])(elements)
        except TypeError:
            raise TermError("expected hashable elements") from None
        if len(result) != len(terms):
            raise TermError("two elements are equal in Python")
        if isinstance(result, (VersionedSet, VersionedFrozenSet)):
            result.version = version
        return result

    def write(self, value: Any) -> Term:
        if not isinstance(value, (set, frozenset)):
            raise TermError.expected("a set", value)
        members: dict[Term, Term] = {}
        for one in value:
            members[self._one(self._element.write, one)] = []
        term: dict[Term, Term] = {_STRUCT: self._module, Atom("map"): members}
        if isinstance(value, (VersionedSet, VersionedFrozenSet)):
            term[Atom("version")] = value.version
        return term

    def _one(self, convert: Callable[[Any], Any], element: Any) -> Any:
        try:
            return convert(element)
        except TermError as error:
            error.within("{}")
            raise


class _Decimal(_StructOf):
    classes = (Decimal,)

    def read(self, term: Term) -> Decimal:
        sign, coefficient, exponent = self.take(term)
        if type(sign) is not int or sign not in (1, -1):
            raise TermError.expected("1 or -1", sign).within(".sign")
        if type(exponent) is not int:
            raise TermError.expected("an integer", exponent).within(".exp")
        is_negative = int(sign < 0)
        if type(coefficient) is Atom and coefficient in ("NaN", "inf") and exponent == 0:
            return Decimal(f"{'-' * is_negative}{coefficient}")
        if type(coefficient) is not int or coefficient < 0:
            raise TermError.expected("a coefficient", coefficient).within(".coef")
        digits = _made(str, coefficient)  # Python limits the number of digits
        result: Decimal = _made(Decimal, (is_negative, tuple(map(int, digits)), exponent))
        return result

    def write(self, value: Any) -> Term:
        if not isinstance(value, Decimal):
            raise TermError.expected("a Decimal", value)
        sign, digits, exponent = value.as_tuple()
        outer = -1 if sign else 1
        if isinstance(exponent, int):
            return self.put(outer, _made(int, "".join(map(str, digits))), exponent)
        if exponent == "N" or digits not in ((), (0,)):
            raise TermError(f"expected a Decimal that Elixir supports, got {value}")
        return self.put(outer, Atom("inf" if exponent == "F" else "NaN"), 0)


class _Exceptions(Conversion):
    expects = "an exception"
    classes = (ElixirException,)

    def claims(self, term: Term) -> bool:
        return isinstance(term, Mapping) and _EXCEPTION in term

    def read(self, term: Term) -> ElixirException:
        if isinstance(term, Mapping) and term.get(_EXCEPTION) is True:
            module = term.get(_STRUCT)
            fields = {key: value for key, value in term.items() if key not in _MARKS}
            if type(module) is Atom and all(type(key) is Atom for key in fields):
                return ElixirException(module, fields)
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Term:
        if not isinstance(value, ElixirException):
            raise TermError.expected("an ElixirException", value)
        return {_STRUCT: value.module, _EXCEPTION: True, **value.fields}


_MARKS = (_STRUCT, _EXCEPTION)

CONVERSIONS: dict[Any, Conversion] = {
    dt.date: _Date("Date", _DATE, has_calendar=True),
    dt.time: _Time(),
    dt.datetime: _DateTime(),
    range: _Range("Range", ("first", "last", "step")),
    Decimal: _Decimal("Decimal", ("sign", "coef", "exp")),
    ElixirException: _Exceptions(),
}
"""The types that correspond to one struct."""
WITH_PRECISION: dict[Any, Callable[[int], Conversion]] = {dt.time: _Time, dt.datetime: _DateTime}
"""The types that `Precision` applies to."""
