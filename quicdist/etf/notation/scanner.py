"""Reading of tokens from text. Source: erl_scan of OTP."""

from __future__ import annotations

import enum
import re
import sys
from typing import NamedTuple, NoReturn

from quicdist.etf.notation.errors import NotationError
from quicdist.etf.notation.words import MAX_DIGITS, WORD


class Kind(enum.Enum):
    """The kinds of tokens. The rest of a quoted token is read separately after its first quote."""

    ATOM = "atom"
    VARIABLE = "variable"
    NUMBER = "number"
    IDENTIFIER = "identifier"
    PUNCTUATION = "punctuation"
    DOT = "dot"
    OTHER = "other"
    END = "end"


class Token(NamedTuple):
    """A token at index `start` of the text."""

    kind: Kind
    text: str
    start: int


_KINDS = {kind.value: kind for kind in Kind}
_SPACE = re.compile(r"(?:[\x00-\x20\x80-\xa0]|%[^\n]*)*")
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_TOKEN = re.compile(
    rf"""
      (?P<atom> [a-z\xdf-\xf6\xf8-\xff][{WORD}]* )
    | (?P<variable> [A-Z_\xc0-\xd6\xd8-\xde][{WORD}]* )
    | (?P<number> {_DIGITS} )
    | (?P<identifier> <(?!<) | \#(?:Ref|Port|Fun)< )
    | (?P<punctuation> << | >> | => | [][{{}}()|,:/"'$+#=-] )
    | (?P<dot> \.(?=[\x00-\x20\x80-\xa0%]|\Z) )
    | (?P<other> . )
    | (?P<end> \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_FRACTION = re.compile(rf"\.{_DIGITS}(?:[eE][+-]?{_DIGITS})?")
_BASED = re.compile("#([0-9A-Za-z]+(?:_[0-9A-Za-z]+)*)")
_PLAIN_RUN = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_ESCAPE = re.compile(
    r"(?P<octal>[0-7]{1,3})|x\{(?P<hex>[0-9A-Fa-f]+)\}|x(?P<two>[0-9A-Fa-f]{2})"
    r"|\^(?P<control>.)|(?P<char>[^x^])",
    re.DOTALL,
)
_ESCAPED = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "b": "\b",
    "f": "\f",
    "e": "\x1b",
    "s": " ",
    "d": "\x7f",
}
_TRIPLE = re.compile('("{3,})[\x00-\x09\x0b-\x20\x80-\xa0]*\n')
_LONE = re.compile("[\ud800-\udfff]")


class Scanner:
    """Reads tokens from left to right, and the grammar of numbers and quoted text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._ahead: tuple[int, Token, int] | None = None
        """A token that was read but not consumed: start of reading, token, and end."""
        lone = _LONE.search(text)
        if lone:
            self.fail("text (a surrogate is not a character)", lone.start())

    def fail(self, expected: str, position: int) -> NoReturn:
        """Raises `NotationError`."""
        raise NotationError(self.text, position, expected)

    def next(self) -> Token:
        """Reads a token."""
        if self._ahead is not None and self._ahead[0] == self.position:
            _, token, self.position = self._ahead
            return token
        found = _TOKEN.match(self.text, self.skip_space())
        assert found is not None
        assert found.lastgroup is not None
        self.position = found.end()
        return Token(_KINDS[found.lastgroup], found.group(), found.start())

    def accept(self, choice: str) -> bool:
        """Reads the next token if it is `choice`. Returns whether it was."""
        before = self.position
        token = self.next()
        if token.kind is Kind.PUNCTUATION and token.text == choice:
            return True
        self._ahead = before, token, self.position
        self.position = before
        return False

    def one_of(self, *choices: str) -> str:
        """Reads one of the tokens. Raises NotationError for any other token."""
        token = self.next()
        if token.kind is not Kind.PUNCTUATION or token.text not in choices:
            *others, last = (f'"{choice}"' for choice in choices)
            self.fail(" or ".join([", ".join(others), last] if others else [last]), token.start)
        return token.text

    def expect(self, choice: str) -> None:
        """Reads the token. Raises NotationError for any other token."""
        self.one_of(choice)

    def peek(self) -> str:
        """Skips spaces and returns the next character, `""` at the end."""
        start = self.skip_space()
        return self.text[start : start + 1]

    def skip_space(self) -> int:
        """Skips spaces and comments."""
        found = _SPACE.match(self.text, self.position)
        assert found is not None
        self.position = found.end()
        return self.position

    def number(self, token: Token, sign: str = "+") -> int | float:
        """Reads the rest of a number."""
        if self.text.startswith("#", self.position):
            return self._based(token, sign)
        fraction = _FRACTION.match(self.text, self.position)
        if fraction is None:
            return self._integer(sign + token.text, 10, token.start)
        self.position = fraction.end()
        value = float((sign + token.text + fraction.group()).replace("_", ""))
        if value - value != 0.0:
            self.fail("a float within range", token.start)
        return value

    def _based(self, token: Token, sign: str) -> int:
        base = int(token.text) if len(token.text) <= 4 else 0
        if not 2 <= base <= 36:
            self.fail("a base of 2 to 36", token.start)
        digits = _BASED.match(self.text, self.position)
        if digits is None:
            self.fail(f"digits of base {base}", self.position + 1)
        self.position = digits.end()
        return self._integer(sign + digits.group(1), base, token.start)

    def _integer(self, text: str, base: int, start: int) -> int:
        if base & (base - 1) and len(text) > MAX_DIGITS + len("+"):
            self.fail(f"an integer of at most {MAX_DIGITS} digits, or of base 16", start)
        try:
            return int(text, base)
        except ValueError:
            most = sys.get_int_max_str_digits()  # 0 means no limit; it may be below MAX_DIGITS
            is_long = bool(base & (base - 1)) and 0 < most < len(text)
            self.fail("fewer digits" if is_long else f"digits of base {base}", start)

    def unsigned(self, expected: str) -> int:
        """Reads an integer of up to 32 bits."""
        token = self.next()
        value = self.number(token) if token.kind is Kind.NUMBER else None
        if not isinstance(value, int):
            self.fail(expected, token.start)
        if value > 0xFFFFFFFF:
            self.fail(f"{expected} of at most 4294967295", token.start)
        return value

    def char(self) -> int:
        """Reads the character after a dollar sign."""
        if self.position >= len(self.text):
            self.fail("a character", self.position)
        char = self.text[self.position]
        self.position += 1
        return ord(self._escape() if char == "\\" else char)

    def string(self, start: int) -> str:
        """Reads the string after the quote at `start`, and the adjacent strings after it."""
        parts = [self._one_string(start)]
        while self.peek() == '"':
            self.position += 1
            parts.append(self._one_string(self.position - 1))
        return "".join(parts)

    def _one_string(self, start: int) -> str:
        triple = _TRIPLE.match(self.text, start)
        return self.quoted('"', start) if triple is None else self._triple_quoted(triple)

    def quoted(self, quote: str, start: int) -> str:
        """Reads the text up to the closing quote."""
        parts: list[str] = []
        while True:
            run = _PLAIN_RUN[quote].match(self.text, self.position)
            assert run is not None
            parts.append(run.group())
            self.position = run.end() + 1
            if run.end() >= len(self.text):
                self.fail(f"a closing {quote} for the one at column {start + 1}", len(self.text))
            if self.text[run.end()] == quote:
                return "".join(parts)
            parts.append(self._escape())

    def _escape(self) -> str:
        """Reads the character after a backslash."""
        found = _ESCAPE.match(self.text, self.position)
        if found is None:
            self.fail("an escape such as \\n, \\x{1F600} or \\101", self.position - 1)
        start, self.position = self.position, found.end()
        digits = found["hex"] or found["two"]
        if found["char"]:
            return _ESCAPED.get(found["char"], found["char"])
        if found["control"]:
            return chr(ord(found["control"]) & 31) if found["control"] != "\n" else "\n"
        code = int(found["octal"], 8) if found["octal"] else int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.fail("the code of a character", start - 1)
        return chr(code)

    def _triple_quoted(self, opening: re.Match[str]) -> str:
        """Reads a triple-quoted string, without the indentation of its last line.

        Source: OTP 27. Older releases read an empty string, a string and an empty string.
        """
        quotes = opening.group(1)
        ending = re.compile(f"\n([\x00-\x09\x0b-\x20\x80-\xa0]*){quotes}")
        found = ending.search(self.text, opening.end() - 1)
        if found is None:
            self.fail(f"a line with the closing {quotes}", len(self.text))
        self.position = found.end()
        indent = found.group(1)
        if found.start() < opening.end():
            return ""
        lines = self.text[opening.end() : found.start()].split("\n")
        if any(line.strip() and not line.startswith(indent) for line in lines):
            self.fail("lines with the indentation of the closing quotes", opening.end())
        return "\n".join(line[len(indent) :] for line in lines)
