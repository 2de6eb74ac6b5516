"""The base class of conversions between terms and values, and the conversions of simple types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from quicdist.etf.scalars import scalar
from quicdist.typed.errors import TermError, UnsupportedType


class Conversion:
    """Converts between the terms and the values of one type."""

    expects: str = "a term"
    """The expected term, for error texts."""
    classes: tuple[type, ...] = ()
    """In a union, values of exactly these classes use this conversion."""
    rank: int = 2
    """In a union, conversions with a lower rank, which are more specific, are tried first."""

    def read(self, term: Term) -> Any:
        """Converts a term to a value. Raises TermError if the term does not fit the type."""
        raise NotImplementedError

    def write(self, value: Any) -> Term:
        """Converts a value to a term. Raises TermError if the value does not fit the type."""
        raise NotImplementedError

    def claims(self, term: Term) -> bool:
        """Whether the term is tagged for this type.

        A union then reports the error of this conversion.
        """
        return False


class AnyTerm(Conversion):
    """Converts without a type: terms are unchanged, and values are written by their class."""

    rank = 3

    def __init__(self, conversion_of: Callable[[type], Conversion]) -> None:
        self._conversion_of = conversion_of

    def read(self, term: Term) -> Any:
        return term

    def write(self, value: Any) -> Term:
        for kind in type(value).__mro__[:-1] or (object,):
            try:
                conversion = self._conversion_of(kind)
            except UnsupportedType:
                continue
            if conversion is not self:
                return conversion.write(value)
        number = scalar(value)
        if number is not None:
            return number
        raise TermError.expected("something with an Erlang form", value)


class Leaf(Conversion):
    """Passes a term of one class of quicdist.etf unchanged."""

    def __init__(self, kind: type, expects: str) -> None:
        self.classes = (kind,)
        self.expects = expects
        self._kind = kind

    def read(self, term: Term) -> Any:
        if type(term) is self._kind:
            return term
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Term:
        return self.read(value)


class Integer(Conversion):
    """Converts int. A bool is rejected, because it is an atom in Erlang."""

    expects = "an integer"
    classes = (int,)

    def read(self, term: Term) -> int:
        if type(term) is int:
            return term
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return int.__int__(value)
        number = scalar(value)
        if type(number) is int and not isinstance(value, bool):
            return number
        raise TermError.expected(self.expects, value)


class Float(Conversion):
    """Converts float.

    It rejects integer terms (use `int | float`), and writes an int as a float if the two are equal.
    """

    expects = "a float"
    classes = (float,)

    def read(self, term: Term) -> float:
        if type(term) is float:
            return term
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> float:
        if not isinstance(value, (int, float)) and type(scalar(value)) in (int, float):
            value = scalar(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                raise TermError.expected("a float or an integer that fits one", value) from None
            if number - number == 0.0:
                return number
            raise TermError(f"expected a finite float, got {number!r}")
        raise TermError.expected(self.expects, value)


class Text(Conversion):
    """Converts str to a UTF-8 binary."""

    expects = "a UTF-8 binary"
    classes = (str,)

    def read(self, term: Term) -> str:
        if type(term) is bytes:
            try:
                return term.decode()
            except UnicodeDecodeError:
                raise TermError.expected(self.expects, term) from None
        if type(term) is str:  # decoded with Options.binaries or Options.strings
            return term
        if type(term) is memoryview:  # decoded with Options.binaries
            return self.read(bytes(term))
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> str:
        if isinstance(value, str):
            return str.__str__(value)  # an Atom is also a str
        raise TermError.expected("a str", value)


class Binary(Conversion):
    """Converts bytes to a binary."""

    expects = "a binary"
    classes = (bytes,)

    def read(self, term: Term) -> bytes:
        if type(term) is bytes:
            return term
        if type(term) is str:
            return term.encode()
        if type(term) is memoryview:  # decoded with Options.binaries
            return bytes(term)
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        raise TermError.expected("bytes", value)


class AnyAtom(Conversion):
    """Converts Atom. It also accepts the atoms `true` and `false`."""

    expects = "an atom"
    classes = (Atom,)

    def read(self, term: Term) -> Atom:
        if type(term) is Atom:
            return term
        if type(term) is bool:
            return _BOOLEANS[term]
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Atom:
        if type(value) is Atom:
            return value
        raise TermError.expected("an Atom", value)


class Boolean(Conversion):
    """bool."""

    expects = "true or false"
    classes = (bool,)
    rank = 1

    def read(self, term: Term) -> bool:
        if type(term) is bool:
            return term
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> bool:
        number = scalar(value)
        return self.read(number if type(number) is bool else value)


class AtomAsText(Conversion):
    """Converts str to an atom."""

    expects = "an atom"
    classes = (str,)

    def read(self, term: Term) -> str:
        if type(term) is bool:
            term = _BOOLEANS[term]
        if type(term) is Atom:
            return str.__str__(term)
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Atom:
        if not isinstance(value, str):
            raise TermError.expected("a str", value)
        try:
            return Atom(str.__str__(value))
        except ValueError as error:
            raise TermError(f"expected a str that is a valid atom: {error}") from None


class CharlistAsText(Conversion):
    """Converts str to a list of code points."""

    expects = "a list of characters"
    classes = (str,)

    def read(self, term: Term) -> str:
        if isinstance(term, list):
            try:
                return "".join(map(chr, term))
            except (TypeError, ValueError, OverflowError):
                pass
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> list[int]:
        if isinstance(value, str):
            return [ord(character) for character in value]
        raise TermError.expected("a str", value)

    def claims(self, term: Term) -> bool:
        return isinstance(term, list)


class Nothing(Conversion):
    """Converts None to `nil` or `undefined`. It reads both, or only one of them."""

    classes = (type(None),)
    rank = 0

    def __init__(self, written: str, *, alone: bool = False) -> None:
        self._atom = Atom(written)
        self._read = {self._atom} if alone else {Atom("nil"), Atom("undefined")}
        self.expects = " or ".join(sorted(self._read))

    def read(self, term: Term) -> None:
        if term is not None and not (type(term) is Atom and term in self._read):
            raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Atom:
        if value is None:
            return self._atom
        raise TermError.expected("None", value)


class OneOf(Conversion):
    """Converts enums and literals. A str becomes an atom."""

    rank = 1

    def __init__(self, values: Sequence[Any], terms: Sequence[Any], expects: str) -> None:
        self.expects = expects
        self._pairs = [(value, _constant(term)) for value, term in zip(values, terms, strict=True)]
        self.classes = tuple({type(value) for value in values})

    def read(self, term: Term) -> Any:
        if type(term) is str:
            term = term.encode()
        for value, known in self._pairs:
            if type(term) is type(known) and term == known:
                return value
        raise TermError.expected(self.expects, term)

    def write(self, value: Any) -> Term:
        for known, term in self._pairs:
            if type(value) is type(known) and value == known:
                return term
        if type(value) is Atom:  # use the equal str
            return self.write(str.__str__(value))
        raise TermError.expected(self.expects, value)


_BOOLEANS = {True: Atom("true"), False: Atom("false")}


def _constant(value: Any) -> Term:
    if isinstance(value, str):
        return value == "true" if value in ("true", "false") else Atom(value)
    return value


LEAVES: dict[Any, Conversion] = {
    int: Integer(),
    float: Float(),
    str: Text(),
    bytes: Binary(),
    bool: Boolean(),
    Atom: AnyAtom(),
    Pid: Leaf(Pid, "a pid"),
    Port: Leaf(Port, "a port"),
    Reference: Leaf(Reference, "a reference"),
    Fun: Leaf(Fun, "a fun"),
    Export: Leaf(Export, "an external fun"),
    BitString: Leaf(BitString, "a bitstring"),
    ImproperList: Leaf(ImproperList, "an improper list"),
    NativeRecord: Leaf(NativeRecord, "a native record"),
    ErlMap: Leaf(ErlMap, "a map with keys that no dict has"),
}
"""The conversions of simple types."""
