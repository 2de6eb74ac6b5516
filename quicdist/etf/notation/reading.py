"""Reading of terms from text. Source: erl_parse of OTP."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from quicdist.etf.maps import KeyRefused, make_map
from quicdist.etf.notation.scanner import Kind, Scanner, Token
from quicdist.etf.notation.segments import ALIASES, TYPES, Segments, Spec
from quicdist.etf.notation.words import RESERVED
from quicdist.etf.settings import DEFAULT
from quicdist.etf.terms import (
    Atom,
    Export,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)

MAX_DEPTH = DEFAULT.limits.max_depth
"""Maximum nesting depth of a term, the same as for decoding."""

_MAX_FILLED_BITS = 1 << 27
"""Maximum total size in bits of integer segments, because `<<0:1000000000000>>` is a short text."""

_OCTETS = re.compile("(?:[0-9]{1,9},[ \n]*){8,4096}")
"""A run of binary segments that are only numbers. Its length is limited, so that reading it again
one by one is cheap."""

_MAX_BINARY_DEPTH = 16
"""Maximum nesting depth of binaries in segments of binaries, each of which is copied."""

_NUMBERS = re.compile(r"((?:\.[0-9]{1,20}){1,5})>")
_IDENTIFIER_NUMBERS = {"<": (2, 2, 32), "#Port<": (1, 1, 64), "#Ref<": (1, 5, 32)}
"""Minimum and maximum count of numbers in a pid, port or reference, and their bits."""


def parse_term(
    text: str,
    *,
    node: str | None = None,
    creation: int = 0,
    max_depth: int = MAX_DEPTH,
) -> Term:
    """Reads the Erlang term in `text`, optionally followed by a full stop.

    Binaries become `bytes` (or `BitString`), and strings become lists of integers, as in Erlang.
    `<0.94.0>`, `#Port<0.1>` and `#Ref<0.1.2.3>` belong to `node` with `creation`. Without a node
    they are rejected. Identifiers of other nodes have the creation 0. Duplicate map keys are
    rejected. Integers of more than 4300 digits must be in base 16.

    Raises NotationError if the text is not a term.
    """
    parser = _Parser(text, node, creation, max_depth)
    term = parser.term()
    parser.end()
    return term


def parse_call(
    text: str, *, node: str | None = None, creation: int = 0, max_depth: int = MAX_DEPTH
) -> tuple[Atom, Atom, list[Term]]:
    """Reads the module, function and arguments of a call such as `lists:seq(1, 3)`.

    Raises NotationError if the text is not a call.
    """
    parser = _Parser(text, node, creation, max_depth)
    call = parser.call()
    parser.end()
    return call


# -- partly read containers ---------------------------------------------------------------------


class _Frame(Protocol):
    """A partly read container."""

    @property
    def closing(self) -> str:
        """The token that ends it."""

    def empty(self) -> Term:
        """The empty container."""

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        """Adds a value and reads the next separator.

        Returns whether the container is complete, and the container.
        """


@dataclass(slots=True)
class _List:
    items: list[Term] = field(default_factory=list)
    at_tail: bool = False
    tails: int = 0
    """Number of lists opened after a bar, `[a | [b | ...`, which are read as one list."""

    @property
    def closing(self) -> str:
        return "]"

    def empty(self) -> Term:
        return []

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        if self.at_tail:
            parser.expect("]")
            return self._closed(parser, value)
        self.items.append(value)
        found = parser.one_of(",", "|", "]")
        if found == "]":
            return self._closed(parser, [])
        self.at_tail = found == "|"
        if self.at_tail and parser.accept("["):
            if parser.accept("]"):
                parser.expect("]")
                return self._closed(parser, [])
            self.at_tail = False
            self.tails += 1
        return False, None

    def _closed(self, parser: _Parser, tail: Term) -> tuple[bool, Term]:
        for _ in range(self.tails):
            parser.expect("]")
        if isinstance(tail, list):  # [] or a string
            return True, self.items + tail
        return True, ImproperList(self.items, tail)


@dataclass(slots=True)
class _Tuple:
    items: list[Term] = field(default_factory=list)

    @property
    def closing(self) -> str:
        return "}"

    def empty(self) -> Term:
        return ()

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        self.items.append(value)
        if parser.one_of(",", "}") == ",":
            return False, None
        return True, tuple(self.items)


@dataclass(slots=True)
class _Arguments:
    items: list[Term] = field(default_factory=list)

    @property
    def closing(self) -> str:
        return ")"

    def empty(self) -> Term:
        return []

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        self.items.append(value)
        return parser.one_of(",", ")") == ")", self.items


@dataclass(slots=True)
class _Map:
    start: int
    items: list[Term] = field(default_factory=list)

    @property
    def closing(self) -> str:
        return "}"

    def empty(self) -> Term:
        return {}

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        self.items.append(value)
        if len(self.items) % 2:
            parser.expect("=>")
            return False, None
        if parser.one_of(",", "}") == ",":
            return False, None
        try:
            return True, make_map(self.items)
        except KeyRefused as error:
            parser.fail(f"a valid map ({error})", self.start)


@dataclass(slots=True)
class _Record:
    """A native record, `#Module:Name{Field = Value}`. Field names are read before the values."""

    module: Atom
    name: Atom
    parser: _Parser
    names: dict[Atom, None] = field(default_factory=dict)
    """The names in order."""
    values: list[Term] = field(default_factory=list)

    @property
    def closing(self) -> str:
        return "}"

    def empty(self) -> Term:
        if self.names:
            self.parser.fail("a term", self.parser.position - 1)
        return NativeRecord(self.module, self.name, (), ())

    def read_name(self) -> None:
        start = self.parser.skip_space()
        name = self.parser.atom("the name of a field")
        if name in self.names:
            self.parser.fail("a field that is not set yet", start)
        self.parser.expect("=")
        self.names[name] = None

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        self.values.append(value)
        if parser.one_of(",", "}") == ",":
            self.read_name()
            return False, None
        names, values = tuple(self.names), tuple(self.values)
        return True, NativeRecord(self.module, self.name, names, values)


@dataclass(slots=True)
class _Binary:
    segments: Segments
    depth: int

    @property
    def closing(self) -> str:
        return ">>"

    def empty(self) -> Term:
        return b""

    def take(self, value: Term, parser: _Parser) -> tuple[bool, Term]:
        start, text = parser.value_start, parser.text_value
        spec = parser.segment_spec()
        try:
            if text is not None:
                self.segments.add_text(text, spec)
            else:
                self.segments.add(value, spec)
        except ValueError as error:
            parser.fail(str(error), start)
        if parser.one_of(",", ">>") == ",":
            parser.octets(self.segments)
            return False, None
        return True, self.segments.whole()


# -- the grammar --------------------------------------------------------------------------------


class _Parser(Scanner):
    """A parser that keeps open containers on an explicit stack."""

    def __init__(self, text: str, node: str | None, creation: int, max_depth: int) -> None:
        super().__init__(text)
        self.value_start = 0
        """Start of the last value."""
        self.text_value: str | None = None
        """The characters of the last value if it was a string literal."""
        self._node = node
        self._creation = creation
        self._max_depth = max_depth
        self._filled = 0

    def call(self) -> tuple[Atom, Atom, list[Term]]:
        """Reads `M:F(Args)`."""
        module = self.atom("a module")
        self.expect(":")
        function = self.atom("a function")
        self.expect("(")
        if self.accept(")"):
            return module, function, []
        arguments = self.term(_Arguments())
        assert isinstance(arguments, list)
        return module, function, arguments

    def end(self) -> None:
        """Reads the end of the text, optionally after a full stop."""
        token = self.next()
        if token.kind is Kind.DOT:
            token = self.next()
            if token.kind is not Kind.END:
                self.fail("nothing after the full stop", token.start)
        if token.kind is not Kind.END:
            self.fail("the end", token.start)

    def term(self, outermost: _Frame | None = None) -> Term:
        """Reads a term, or the rest of a container."""
        stack = [] if outermost is None else [outermost]
        starts: list[int] = []
        while True:
            token = self.next()
            frame = self._opened(token, stack)
            if frame is None:
                self.value_start = token.start
                value = self._scalar(token)
            elif self.accept(frame.closing):
                self.value_start, self.text_value = token.start, None
                value = frame.empty()
            else:
                if len(stack) >= self._max_depth:
                    self.fail(f"nesting of at most {self._max_depth}", token.start)
                stack.append(frame)
                starts.append(token.start)
                continue
            while stack:
                done, value = stack[-1].take(value, self)
                if not done:
                    break
                stack.pop()
                self.text_value = None
                self.value_start = starts.pop() if starts else 0
            else:
                return value

    def _opened(self, token: Token, stack: list[_Frame]) -> _Frame | None:
        if token.kind is not Kind.PUNCTUATION:
            return None
        if token.text == "[":
            return _List()
        if token.text == "{":
            return _Tuple()
        if token.text == "#":
            return self._map_or_record(token)
        if token.text != "<<":
            return None
        depth = stack[-1].depth + 1 if stack and isinstance(stack[-1], _Binary) else 0
        if depth > _MAX_BINARY_DEPTH:
            self.fail(f"binaries nested at most {_MAX_BINARY_DEPTH} deep", token.start)
        return _Binary(Segments(self._fill), depth)

    def _map_or_record(self, token: Token) -> _Frame:
        before = self.position
        kind = self.next()
        self.position = before
        if kind.kind is not Kind.ATOM and kind.text != "'":
            self.expect("{")
            return _Map(token.start)
        module = self.atom("a module")
        self.expect(":")
        record = _Record(module, self.atom("the name of a record"), self)
        self.expect("{")
        if self.peek() != "}":
            record.read_name()
        return record

    def _fill(self, bits: int) -> int:
        self._filled += bits
        if self._filled > _MAX_FILLED_BITS:
            raise ValueError(f"segments of at most {_MAX_FILLED_BITS} bits in total")
        return bits

    def octets(self, segments: Segments) -> None:
        """Reads a run of segments that are only numbers, each with the comma after it.

        This is faster than reading them one by one, and most large binaries consist of them.
        """
        found = _OCTETS.match(self.text, self.position)
        if found is None:
            return
        numbers = found.group().split(",")[:-1]
        if self._filled + 8 * len(numbers) > _MAX_FILLED_BITS:
            return  # read one by one to report the segment that exceeds the limit
        segments.add_octets(bytes([int(number) & 0xFF for number in numbers]))
        self.position = found.end()

    def segment_spec(self) -> Spec:
        """Reads the optional parts of `:Size/type-sign-endian-unit:N`."""
        spec = Spec()
        if self.accept(":"):
            in_parentheses = self.accept("(")
            spec.size = self.unsigned("a size")
            if in_parentheses:
                self.expect(")")
        if self.accept("/"):
            self._segment_word(spec)
            while self.accept("-"):
                self._segment_word(spec)
        return spec

    def _segment_word(self, spec: Spec) -> None:
        token = self.next()
        word = ALIASES.get(token.text, token.text)
        if word == "unit" and spec.unit is None:
            self.expect(":")
            spec.unit = self.unsigned("a unit")
            if not 1 <= spec.unit <= 256:
                self.fail("a unit of 1 to 256", token.start)
        elif word in TYPES and spec.type in (None, word):
            spec.type = word
        elif word in ("big", "little", "native") and spec.endian in (None, word):
            spec.endian = word
        elif word not in ("signed", "unsigned"):
            self.fail("a type such as utf8, little or binary", token.start)

    # Terms that contain no other.

    def _scalar(self, token: Token) -> Term:
        self.text_value = None
        if token.kind is Kind.NUMBER:
            return self.number(token)
        if token.kind is Kind.ATOM:
            return self._fun(token) if token.text == "fun" else _to_term(self._word(token))
        if token.kind is Kind.IDENTIFIER:
            return self._identifier(token)
        if token.kind is Kind.PUNCTUATION and token.text in _SCALARS:
            return _SCALARS[token.text](self, token)
        is_variable = token.kind is Kind.VARIABLE
        hint = " (variables have no value here; quote an atom: 'Name')" if is_variable else ""
        return self.fail(f"a term{hint}", token.start)

    def _word(self, token: Token) -> Atom:
        if token.text in RESERVED and token.text not in ("maybe", "else"):
            self.fail(f"a term (a reserved word is an atom if quoted: '{token.text}')", token.start)
        return self._made_atom(token.text, token.start)

    def _quoted_atom(self, token: Token) -> Term:
        return _to_term(self._made_atom(self.quoted("'", token.start), token.start))

    def _made_atom(self, name: str, start: int) -> Atom:
        try:
            return Atom(name)
        except ValueError as error:
            self.fail(f"a valid atom ({error})", start)

    def atom(self, expected: str) -> Atom:
        """Reads an atom."""
        token = self.next()
        if token.kind is Kind.ATOM:
            return self._word(token)
        if token.text != "'":
            self.fail(expected, token.start)
        return self._made_atom(self.quoted("'", token.start), token.start)

    def _text(self, token: Token) -> Term:
        text = self.string(token.start)
        self.text_value = text
        return list(map(ord, text))

    def _dollar(self, token: Token) -> Term:
        return self.char()

    def _signed(self, token: Token) -> Term:
        operand = self.next()
        if operand.kind is Kind.NUMBER:
            return self.number(operand, token.text)
        if operand.text != "$":
            self.fail("a number", operand.start)
        return -self.char() if token.text == "-" else self.char()

    def _parenthesised(self, token: Token) -> Term:
        """Reads a term in parentheses, as in `<<(-1):16>>`. It may not contain other terms."""
        inner = self.next()
        if inner.text == "(":
            self.fail("a number, string or atom", inner.start)
        value = self._scalar(inner)
        self.expect(")")
        return value

    def _fun(self, token: Token) -> Term:
        if self.peek() == "(":
            self.fail("fun Module:Function/Arity (the body of a fun has no notation)", token.start)
        module = self.atom("a module")
        self.expect(":")
        function = self.atom("a function")
        self.expect("/")
        start = self.skip_space()
        arity = self.unsigned("an arity")
        if arity > 255:
            self.fail("an arity of at most 255", start)
        return Export(module, function, arity)

    def _identifier(self, token: Token) -> Term:
        """A pid, a port or a reference."""
        if token.text == "#Fun<":
            self.fail("a term (a fun cannot be read back)", token.start)
        least, most, size = _IDENTIFIER_NUMBERS[token.text]
        node, creation = self._identifier_node(token)
        found = _NUMBERS.match(self.text, self.position)
        numbers = [int(number) for number in found.group(1).split(".")[1:]] if found else []
        if found is None or not least <= len(numbers) <= most or max(numbers) >= 1 << size:
            self.fail("numbers as in <0.94.0>, #Port<0.6> or #Ref<0.1.2.3>", token.start)
        self.position = found.end()
        if token.text == "<":
            return Pid(node, numbers[0], numbers[1], creation)
        if token.text == "#Port<":
            return Port(node, numbers[0], creation)
        return Reference(node, tuple(reversed(numbers)), creation)

    def _identifier_node(self, token: Token) -> tuple[Atom, int]:
        first = self.next()
        if first.text == "'":
            node = self._made_atom(self.quoted("'", first.start), first.start)
            return node, self._creation if node == self._node else 0
        if first.text != "0":
            self.fail("0 or a quoted node name", first.start)
        if self._node is None:
            self.fail("the name of a node: <'name@host'.94.0> instead of <0.94.0>", token.start)
        return self._made_atom(self._node, token.start), self._creation


_SCALARS: dict[str, Callable[[_Parser, Token], Term]] = {
    '"': _Parser._text,
    "'": _Parser._quoted_atom,
    "$": _Parser._dollar,
    "-": _Parser._signed,
    "+": _Parser._signed,
    "(": _Parser._parenthesised,
}


def _to_term(atom: Atom) -> Term:
    """`true` and `false` are `bool`, as the decoder reads them."""
    return {"true": True, "false": False}.get(atom, atom)
