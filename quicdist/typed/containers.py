"""Conversions of lists, tuples, maps and unions, and of types with a `Via`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quicdist.etf import Atom, ErlMap, Term
from quicdist.typed.conversion import Conversion
from quicdist.typed.errors import TermError
from quicdist.typed.markers import Via


class Elements(Conversion):
    """Converts list, Sequence and Iterable to a list."""

    expects = "a list"

    def __init__(self, element: Conversion, *, only_lists: bool) -> None:
        self._element = element
        self._only_lists = only_lists
        self.classes = (list,)

    def read(self, term: Term) -> list[Any]:
        if not isinstance(term, list):
            raise TermError.expected(self.expects, term)
        return _each(self._element.read, term)

    def write(self, value: Any) -> list[Term]:
        if isinstance(value, list) or not (
            self._only_lists or isinstance(value, (str, bytes)) or not isinstance(value, Sequence)
        ):
            return _each(self._element.write, value)
        raise TermError.expected(self.expects, value)

    def claims(self, term: Term) -> bool:
        return isinstance(term, list)


class SameTuple(Conversion):
    """Converts tuple[X, ...] to a tuple of any length."""

    expects = "a tuple"
    classes = (tuple,)

    def __init__(self, element: Conversion) -> None:
        self._element = element

    def read(self, term: Term) -> tuple[Any, ...]:
        if not isinstance(term, tuple):
            raise TermError.expected(self.expects, term)
        return tuple(_each(self._element.read, term))

    def write(self, value: Any) -> Term:
        if not isinstance(value, tuple):
            raise TermError.expected(self.expects, value)
        return tuple(_each(self._element.write, value))

    def claims(self, term: Term) -> bool:
        return isinstance(term, tuple)


class FixedTuple(Conversion):
    """Converts tuple[X, Y] to a tuple of that length."""

    classes = (tuple,)

    def __init__(self, elements: Sequence[Conversion]) -> None:
        self._elements = elements
        self.expects = f"a tuple of {len(elements)}"

    def read(self, term: Term) -> tuple[Any, ...]:
        self._check(term)
        return tuple(
            _at(f"[{place}]", element.read, inner)
            for place, (element, inner) in enumerate(zip(self._elements, term, strict=True))
        )

    def write(self, value: Any) -> Term:
        self._check(value)
        return tuple(
            _at(f"[{place}]", element.write, inner)
            for place, (element, inner) in enumerate(zip(self._elements, value, strict=True))
        )

    def claims(self, term: Term) -> bool:
        return isinstance(term, tuple) and len(term) == len(self._elements)

    def _check(self, value: Any) -> None:
        if not isinstance(value, tuple) or len(value) != len(self._elements):
            raise TermError.expected(self.expects, value)


class Mapped(Conversion):
    """Converts dict and Mapping to a map."""

    expects = "a map"
    classes = (dict,)

    def __init__(self, key: Conversion, value: Conversion) -> None:
        self._key = key
        self._value = value

    def read(self, term: Term) -> dict[Any, Any]:
        if not isinstance(term, Mapping):
            raise TermError.expected(self.expects, term)
        return self._dict(term.items())

    def write(self, value: Any) -> Term:
        return self._map(self._pairs(value))

    def claims(self, term: Term) -> bool:
        return isinstance(term, Mapping)

    def _dict(self, pairs: Iterable[tuple[Term, Term]]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for place, (key, value) in enumerate(pairs):
            name = _at(f".keys()[{place}]", self._key.read, key)
            try:
                if name in result:
                    raise TermError(f"the key {name!r:.50} occurs twice in Python")
            except TypeError:
                raise TermError(f"a {type(name).__name__} cannot be a key in Python").within(
                    f".keys()[{place}]"
                ) from None
            result[name] = _at(_subscript(name), self._value.read, value)
        return result

    def _pairs(self, value: Any) -> list[tuple[Term, Term]]:
        if not isinstance(value, Mapping):
            raise TermError.expected("a dict", value)
        return [
            (
                _at(f".keys()[{place}]", self._key.write, key),
                _at(_subscript(key), self._value.write, inner),
            )
            for place, (key, inner) in enumerate(value.items())
        ]

    def _map(self, pairs: list[tuple[Term, Term]]) -> Term:
        try:
            result = dict(pairs)
        except TypeError:  # a key is not hashable
            result = {}
        if len(result) == len(pairs):
            return result
        try:
            return ErlMap(pairs)
        except ValueError as error:
            raise TermError(str(error)) from None


class KeywordMapped(Mapped):
    """Converts a dict to a list of `{atom, value}` pairs.

    With `is_proplist`, a single atom means true, and the first of several equal keys is used.
    """

    expects = "a keyword list"
    classes = (dict,)

    def __init__(self, key: Conversion, value: Conversion, *, is_proplist: bool) -> None:
        super().__init__(key, value)
        self._is_proplist = is_proplist

    def read(self, term: Term) -> dict[Any, Any]:
        return self._dict(keyword_pairs(term, is_proplist=self._is_proplist))

    def claims(self, term: Term) -> bool:
        return isinstance(term, list)

    def _map(self, pairs: list[tuple[Term, Term]]) -> Term:
        for place, (key, _) in enumerate(pairs):
            if type(key) is not Atom:
                raise TermError.expected("an atom", key).within(f".keys()[{place}]")
        return pairs


def keyword_pairs(term: Term, *, is_proplist: bool) -> list[tuple[Atom, Term]]:
    """The pairs of a keyword list or proplist, without duplicate keys.

    Raises TermError if an element is invalid, or if a key occurs twice in a keyword list.
    """
    expected = "a proplist" if is_proplist else "a keyword list"
    if not isinstance(term, list):
        raise TermError.expected(expected, term)
    found: dict[Atom, Term] = {}
    for place, pair in enumerate(term):
        if is_proplist and type(pair) is Atom:
            pair = (pair, True)
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not Atom:
            raise TermError.expected("an {atom, value} pair", pair).within(f"[{place}]")
        if pair[0] not in found:
            found[pair[0]] = pair[1]
        elif not is_proplist:
            raise TermError(f"the key {pair[0]!r:.50} occurs twice").within(f"[{place}]")
    return list(found.items())


class Either(Conversion):
    """Converts a union with the first member that fits. More specific members come first."""

    def __init__(self, members: Iterable[Conversion]) -> None:
        self._members = sorted(members, key=lambda member: member.rank)
        self.classes = tuple(kind for member in self._members for kind in member.classes)
        self.expects = " or ".join(dict.fromkeys(member.expects for member in self._members))

    def read(self, term: Term) -> Any:
        telling: TermError | None = None
        for member in self._members:
            try:
                return member.read(term)
            except TermError as error:
                if member.claims(term) and (telling is None or error.depth > telling.depth):
                    telling = error
        raise telling or TermError.expected(self.expects, term)

    def write(self, value: Any) -> Term:
        # In Python a bool is an int and a datetime is a date, so the exact class comes first.
        kind = type(value)
        meant = [member for member in self._members if kind in member.classes]
        others = [member for member in self._members if kind not in member.classes]
        telling: TermError | None = None
        for member in meant + others:
            try:
                return member.write(value)
            except TermError as error:
                if telling is None and member in meant:
                    telling = error
        raise telling or TermError.expected(self.expects, value)

    def claims(self, term: Term) -> bool:
        return any(member.claims(term) for member in self._members)


class ViaOther(Conversion):
    """Converts a type with a `Via`."""

    def __init__(self, via: Via, inner: Conversion, kind: Any) -> None:
        self._via = via
        self._inner = inner
        self.expects = f"{getattr(kind, '__name__', kind)} as {inner.expects}"
        self.classes = (kind,) if isinstance(kind, type) else ()

    def read(self, term: Term) -> Any:
        return _called(self._via.read, self._inner.read(term))

    def write(self, value: Any) -> Term:
        if self.classes and not isinstance(value, self.classes):
            raise TermError.expected(self.expects, value)
        return self._inner.write(_called(self._via.write, value))


def _called(function: Any, value: Any) -> Any:
    try:
        return function(value)
    except TermError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise TermError(f"{type(error).__name__}: {error}") from error


def _at(step: str, convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except TermError as error:
        error.within(step)
        raise


def _each(convert: Any, values: Sequence[Any]) -> list[Any]:
    result: list[Any] = []
    try:
        for value in values:
            result.append(convert(value))
    except TermError as error:
        error.within(f"[{len(result)}]")
        raise
    return result


def _subscript(key: object) -> str:
    if isinstance(key, str):
        return f'["{key:.50}"]'
    return f"[{key!r:.50}]"
