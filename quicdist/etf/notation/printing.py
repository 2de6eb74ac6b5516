"""Terms to text, on one line. Source: io_lib and io_lib_pretty of OTP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from quicdist.etf.notation.words import BARE_ATOM, MAX_DIGITS, RESERVED
from quicdist.etf.scalars import scalar
from quicdist.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)

_MAX_PRINTED_DEPTH = 1_000_000
"""Maximum printed depth. A deeper term is assumed to contain itself."""

_PRINTABLE = re.compile("[\t\n\v\f\r\b\x1b\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_CONTROL = {
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\b": "\\b",
    "\f": "\\f",
    "\x1b": "\\e",
    "\x7f": "\\d",
    "\\": "\\\\",
}
_ESCAPES = {
    code: _CONTROL.get(chr(code), f"\\{code:03o}") for code in [*range(32), *range(127, 160)]
}
_ESCAPES[ord("\\")] = "\\\\"
_STRING_ESCAPES = {**_ESCAPES, ord('"'): '\\"'}
_APOSTROPHE = "'"
_ATOM_ESCAPES = {**_ESCAPES, ord("'"): "\\'"}


SHOWN = 200
"""Default maximum number of characters of a term in an error text or log line."""

_DECIMAL_BITS = 14_300
"""Longer integers have more than MAX_DIGITS digits."""


def format_term(term: Term, *, node: str | None = None) -> str:
    """The term as one line in Erlang notation. A str is printed as the binary that it encodes to.

    The length of the text is not limited. Use `format_bounded` for errors and logs. With a `node`,
    identifiers of other nodes are printed with the name of their node. Without one, no names are
    printed.

    Raises TypeError if an object is not a term, and ValueError if a float is not finite or a
    container contains itself.
    """
    return "".join(_print(term, node, None))


def format_bounded(term: object, limit: int = SHOWN, *, node: str | None = None) -> str:
    """The first `limit` characters of `format_term(term)`, with "..." if the text is longer.

    The run time is also bounded, regardless of the size and depth of the term, as in
    `io_lib:format/3` with `chars_limit`. The function never raises: an object that is not a term
    is printed as `#Python<class>`.
    """
    out: list[str] = []
    try:
        for part in _print(term, node, limit):
            out.append(part)
    except Exception as error:  # raised by a class of the application
        out.append(f"...#Python<{type(error).__qualname__:.100}>")
    text = "".join(out)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _print(term: Term, node: str | None, limit: int | None) -> Iterator[str]:
    """The parts of the text, up to the part that exceeds `limit` characters."""
    out: list[str] = []
    stack: list[_Printing] = []
    pending = term
    room = limit
    while True:
        nested = _print_flat(pending, out, node, room)
        if nested is not None:
            if len(stack) >= _MAX_PRINTED_DEPTH:
                raise ValueError(f"nested deeper than {_MAX_PRINTED_DEPTH}, or contains itself")
            stack.append(nested)
        while stack:
            if room is not None:
                room -= sum(map(len, out))
                yield from out
                out.clear()
                if room < 0:
                    return
            try:
                separator, pending = next(stack[-1].items)
            except StopIteration:
                out.append(stack.pop().closing)
            else:
                out.append(separator)
                break
        else:
            yield from out
            return


@dataclass(slots=True)
class _Printing:
    """A partly printed container: its remaining terms, each with the text before it."""

    items: Iterator[tuple[str, Term]]
    closing: str


def _print_flat(term: Term, out: list[str], node: str | None, room: int | None) -> _Printing | None:
    """Prints a term without other terms inside, or the start of a container.

    With `room`, a long text is cut to somewhat more than `room` characters.
    """
    if isinstance(term, Atom):
        out.append(format_atom(term))
    elif isinstance(term, bool):
        out.append("true" if term else "false")
    elif isinstance(term, int):
        out.append(_format_int(term, room))
    elif isinstance(term, float):
        out.append(_format_float(term) if room is None or isfinite(term) else repr(term))
    elif isinstance(term, (bytes, bytearray, memoryview)):
        out.append(_format_binary(bytes(_beginning(term, room))))
    elif isinstance(term, str):
        text = term if room is None else term[: room + 2]
        out.append(_format_binary(str.encode(text, "utf-8", "surrogatepass")))
    elif isinstance(term, list):
        return _print_list(term, out, room)
    elif isinstance(term, tuple):
        out.append("{")
        return _Printing(_separated(term), "}")
    elif isinstance(term, Mapping):
        out.append("#{")
        return _Printing(_pairs(term), "}")
    elif isinstance(term, ImproperList):
        out.append("[")
        return _Printing(_improper(term), "]")
    elif isinstance(term, NativeRecord):
        out.append(f"#{format_atom(term.module)}:{format_atom(term.name)}{{")
        return _Printing(_fields(term), "}")
    else:
        return _print_special(term, out, node, room)
    return None


def _print_special(
    term: Term, out: list[str], node: str | None, room: int | None
) -> _Printing | None:
    number = scalar(term)
    if number is not None:
        return _print_flat(number, out, node, room)
    try:
        out.append(_format_special(term, node, room))
    except TypeError:
        if room is None:
            raise
        out.append(f"#Python<{type(term).__qualname__}>")
    return None


def _beginning(
    term: bytes | bytearray | memoryview, room: int | None
) -> bytes | bytearray | memoryview:
    """The start of a binary that prints longer than `room` characters.

    A character has up to four bytes.
    """
    if room is None or len(term) <= 4 * room + 8:
        return term
    most = 4 * room + 8
    if isinstance(term, memoryview):
        return term[:most]
    # Extend to the end of a character.
    while most > 4 * room + 4 and term[most] & 0xC0 == 0x80:
        most -= 1
    return term[:most]


def _print_list(term: list[Term], out: list[str], room: int | None) -> _Printing | None:
    if not term:
        out.append("[]")
        return None
    beginning = term if room is None else term[: room + 2]
    if not set(map(type, beginning)) <= {int}:
        out.append("[")
        return _Printing(_separated(term), "]")
    text = _as_text(beginning)
    if text is None and room is not None:
        out.append("[")
        return _Printing(_separated(term), "]")
    if text is None:
        out.append("[" + ",".join(map(_format_int, term)) + "]")
    else:
        out.append(_quote(text, '"', _STRING_ESCAPES))
    return None


def _as_text(codes: list[int]) -> str | None:
    """The text if the Erlang shell prints the integers as a string, otherwise None."""
    try:
        text = "".join(map(chr, codes))
    except (ValueError, OverflowError):
        return None
    return text if _PRINTABLE.fullmatch(text) else None


def _fields(term: NativeRecord) -> Iterator[tuple[str, Term]]:
    separator = ""
    for name, value in zip(term.names, term.values, strict=True):
        yield f"{separator}{format_atom(name)} = ", value
        separator = ","


def _separated(items: list[Term] | tuple[Term, ...]) -> Iterator[tuple[str, Term]]:
    separator = ""
    for item in items:
        yield separator, item
        separator = ","


def _improper(term: ImproperList) -> Iterator[tuple[str, Term]]:
    yield from _separated(tuple(term.items))
    yield "|", term.tail


def _pairs(term: Mapping[Term, Term]) -> Iterator[tuple[str, Term]]:
    separator = ""
    for key, value in term.items():
        yield separator, key
        yield " => ", value
        separator = ","


def _quote(text: str, quote: str, escapes: Mapping[int, str]) -> str:
    return quote + text.translate(escapes) + quote


def format_atom(name: str) -> str:
    """The atom in Erlang notation, quoted if necessary."""
    if BARE_ATOM.fullmatch(name) and name not in RESERVED:
        return str(name)
    return _quote(name, _APOSTROPHE, _ATOM_ESCAPES)


def _format_int(value: int, room: int | None = None) -> str:
    bits = value.bit_length()
    if bits <= 2000:
        return int.__repr__(value)
    sign = "-" if value < 0 else ""
    if bits > _DECIMAL_BITS:
        digits = (bits + 3) // 4
        left_out = 0 if room is None else max(0, digits - room - 1)
        return f"{sign}16#{abs(value) >> 4 * left_out:X}"
    try:
        text = int.__repr__(value)
    except ValueError:  # sys.set_int_max_str_digits()
        text = ""
    if text and len(text) <= MAX_DIGITS:
        return text
    return f"{sign}16#{abs(value):X}"


def _format_float(value: float) -> str:
    """The result of `float_to_list(Value, [short])` in Erlang: the shorter of two forms."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{value!r} is not an Erlang float")
    mantissa, _, exponent = f"{float(value)!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    power = int(exponent or 0) + len(whole) - 1
    digits = whole + fraction
    power -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if not digits:
        return f"{sign}0.0"
    scientific = f"{digits[0]}.{digits[1:] or '0'}e{power}"
    if power < 0:
        plain = "0." + "0" * (-power - 1) + digits
    else:
        padded = digits.ljust(power + 1, "0")
        plain = f"{padded[: power + 1]}.{padded[power + 1 :] or '0'}"
    fits = abs(value) < 2**53 and len(plain) <= len(scientific)
    return sign + (plain if fits else scientific)


def _format_binary(data: bytes) -> str:
    if not data:
        return "<<>>"
    try:
        text, suffix = data.decode(), "/utf8"
    except UnicodeDecodeError:
        text, suffix = data.decode("latin-1"), ""
    if not _PRINTABLE.fullmatch(text):
        return "<<" + ",".join(map(str, data)) + ">>"
    suffix = "" if len(text) == len(data) else suffix
    return "<<" + _quote(text, '"', _STRING_ESCAPES) + suffix + ">>"


def _format_bits(term: BitString, room: int | None) -> str:
    if room is not None and len(term.data) > room + 1:
        return "<<" + ",".join(map(str, term.data[: room + 1]))
    parts = [*map(str, term.data[:-1]), f"{term.data[-1] >> (8 - term.bits)}:{term.bits}"]
    return "<<" + ",".join(parts) + ">>"


def _format_special(term: Term, node: str | None, room: int | None) -> str:
    if term is None:
        return "undefined"
    if isinstance(term, BitString):
        return _format_bits(term, room)
    if isinstance(term, Export):
        return f"fun {format_atom(term.module)}:{format_atom(term.function)}/{term.arity}"
    if isinstance(term, Fun):
        return f"#Fun<{format_atom(term.module)}.{term.old_index}.{term.old_uniq}>"
    if isinstance(term, (Pid, Port, Reference)):
        text = str(term)
        if node is None or term.node == node:
            return text
        return text.replace("<0.", f"<{_quote(term.node, _APOSTROPHE, _ATOM_ESCAPES)}.", 1)
    raise TypeError(f"{type(term).__name__} is not an Erlang term")
