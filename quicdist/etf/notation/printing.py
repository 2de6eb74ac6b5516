"""Terms to text, on one line. Source: io_lib and io_lib_pretty of OTP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quicdist.etf.notation.words import BARE_ATOM, MAX_DIGITS, RESERVED
from quicdist.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
    Term,
)

_MAX_PRINTED_DEPTH = 1_000_000
"""Deeper is taken for a list that contains itself."""

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


def format_term(term: Term, *, node: str | None = None) -> str:
    """The term on one line of Erlang notation. `str` prints as the binary that it encodes to.

    With a `node`, the identifiers of all other nodes print with the name of theirs; without one
    none does.

    Raises `TypeError` for an object that is no term, `ValueError` for a float that Erlang does
    not have and for a list that contains itself.
    """
    out: list[str] = []
    stack: list[_Printing] = []
    pending = term
    while True:
        nested = _print_flat(pending, out, node)
        if nested is not None:
            if len(stack) >= _MAX_PRINTED_DEPTH:
                raise ValueError(f"nested deeper than {_MAX_PRINTED_DEPTH}, or in itself")
            stack.append(nested)
        while stack:
            try:
                separator, pending = next(stack[-1].items)
            except StopIteration:
                out.append(stack.pop().closing)
            else:
                out.append(separator)
                break
        else:
            return "".join(out)


@dataclass(slots=True)
class _Printing:
    """A container half printed: what is still to come, each with what goes before it."""

    items: Iterator[tuple[str, Term]]
    closing: str


def _print_flat(term: Term, out: list[str], node: str | None) -> _Printing | None:
    """Prints a term that contains no other; of one that does, its opening."""
    if isinstance(term, Atom):
        out.append(format_atom(term))
    elif isinstance(term, bool):
        out.append("true" if term else "false")
    elif isinstance(term, int):
        out.append(_format_int(term))
    elif isinstance(term, float):
        out.append(_format_float(term))
    elif isinstance(term, (bytes, bytearray, memoryview)):
        out.append(_format_binary(bytes(term)))
    elif isinstance(term, str):
        out.append(_format_binary(term.encode("utf-8", "surrogatepass")))
    elif isinstance(term, list):
        return _print_list(term, out)
    elif isinstance(term, tuple):
        out.append("{")
        return _Printing(_separated(term), "}")
    elif isinstance(term, Mapping):
        out.append("#{")
        return _Printing(_pairs(term), "}")
    elif isinstance(term, ImproperList):
        out.append("[")
        return _Printing(_improper(term), "]")
    else:
        out.append(_format_special(term, node))
    return None


def _print_list(term: list[Term], out: list[str]) -> _Printing | None:
    if not term:
        out.append("[]")
    elif not set(map(type, term)) <= {int}:
        out.append("[")
        return _Printing(_separated(term), "]")
    else:
        text = _as_text(term)
        if text is None:
            out.append("[" + ",".join(map(_format_int, term)) + "]")
        else:
            out.append(_quote(text, '"', _STRING_ESCAPES))
    return None


def _as_text(codes: list[int]) -> str | None:
    """The characters that Erlang's shell takes the integers for."""
    try:
        text = "".join(map(chr, codes))
    except (ValueError, OverflowError):
        return None
    return text if _PRINTABLE.fullmatch(text) else None


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
    """The atom of this name, quoted where Erlang needs that."""
    if BARE_ATOM.fullmatch(name) and name not in RESERVED:
        return str(name)
    return _quote(name, _APOSTROPHE, _ATOM_ESCAPES)


def _format_int(value: int) -> str:
    if value.bit_length() <= 2000:
        return int.__repr__(value)
    try:
        text = int.__repr__(value)
    except ValueError:  # sys.set_int_max_str_digits()
        text = ""
    if text and len(text) <= MAX_DIGITS:
        return text
    sign = "-" if value < 0 else ""
    return f"{sign}16#{abs(value):X}"


def _format_float(value: float) -> str:
    """Erlang's `float_to_list(Value, [short])`: the shorter of two forms of the fewest digits."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{value!r} is no Erlang float")
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


def _format_bits(term: BitString) -> str:
    parts = [*map(str, term.data[:-1]), f"{term.data[-1] >> (8 - term.bits)}:{term.bits}"]
    return "<<" + ",".join(parts) + ">>"


def _format_special(term: Term, node: str | None) -> str:
    if term is None:
        return "undefined"
    if isinstance(term, BitString):
        return _format_bits(term)
    if isinstance(term, Export):
        return f"fun {format_atom(term.module)}:{format_atom(term.function)}/{term.arity}"
    if isinstance(term, Fun):
        return f"#Fun<{format_atom(term.module)}.{term.old_index}.{term.old_uniq}>"
    if isinstance(term, (Pid, Port, Reference)):
        text = str(term)
        if node is None or term.node == node:
            return text
        return text.replace("<0.", f"<{_quote(term.node, _APOSTROPHE, _ATOM_ESCAPES)}.", 1)
    raise TypeError(f"{type(term).__name__} is no Erlang term")
