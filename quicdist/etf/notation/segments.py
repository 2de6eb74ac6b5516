"""Creation of binaries from segments. Source: Reference Manual, "Bit Syntax Expressions"."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from quicdist.etf.terms import BitString, Term

TYPES = ("integer", "float", "binary", "bitstring", "utf8", "utf16", "utf32")
ALIASES = {"bytes": "binary", "bits": "bitstring"}
_FLOATS = {16: "e", 32: "f", 64: "d"}


@dataclass(slots=True)
class Spec:
    """The specification of a segment, `:size/type-endian-unit:N`, with None for missing parts.

    The sign is not stored, because it applies only to matching.
    """

    size: int | None = None
    type: str | None = None
    endian: str | None = None
    unit: int | None = None

    def bits(self, size: int) -> int:
        """The size of a number in bits, with the default `size`."""
        return (size if self.size is None else self.size) * (self.unit or 1)

    @property
    def is_little(self) -> bool:
        """Whether the low byte comes first."""
        return self.endian == "little" or (self.endian == "native" and sys.byteorder == "little")


@dataclass(slots=True)
class Segments:
    """A binary under construction: complete bytes and the remaining bits.

    The `add` methods raise ValueError with the expected text. `fill` receives the number of bits of
    a sized segment and may also raise ValueError.
    """

    fill: Callable[[int], int]
    data: bytearray = field(default_factory=bytearray)
    rest: int = 0
    rest_bits: int = 0

    def whole(self) -> bytes | BitString:
        """The complete binary."""
        if not self.rest_bits:
            return bytes(self.data)
        last = self.rest << (8 - self.rest_bits)
        return BitString(bytes(self.data) + bytes((last,)), self.rest_bits)

    def add_text(self, text: str, spec: Spec) -> None:
        """Adds a string literal, with the same specification for each character."""
        kind = spec.type or "integer"
        if kind.startswith("utf"):
            self._add_bytes(_utf(text, kind, spec))
        elif kind not in ("integer", "float"):
            raise ValueError("a type for text: integer, float or utf8")
        elif kind == "integer" and spec.size is None and spec.unit is None:
            try:
                self._add_bytes(text.encode("latin-1"))
            except UnicodeEncodeError:
                # Erlang would keep the low byte of each.
                raise ValueError('"..."/utf8, because the characters are not latin-1') from None
        else:
            for char in text:
                self.add(ord(char), spec)

    def add_octets(self, octets: bytes) -> None:
        """Adds numbers without a specification as bytes."""
        self.fill(8 * len(octets))
        self._add_bytes(octets)

    def add(self, value: Term, spec: Spec) -> None:
        """Adds any other literal."""
        kind = spec.type or "integer"
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if kind in ("binary", "bitstring"):
            self._add_binary(value, kind, spec)
        elif kind == "float" and (is_int or isinstance(value, float)):
            self._add_float(value, spec)
        elif kind == "integer" and is_int:
            self._add_int(value, spec)
        elif is_int:
            if not (0 <= value < 0xD800 or 0xDFFF < value <= 0x10FFFF):
                raise ValueError("a character's code")
            self._add_bytes(_utf(chr(value), kind, spec))
        elif isinstance(value, float) and kind == "integer":
            raise ValueError("an integer (a float is written 1.0/float)")
        elif isinstance(value, (bytes, BitString)) and kind == "integer":
            raise ValueError("an integer (a binary in a binary is written <<1>>/binary)")
        else:
            raise ValueError(f"a value for the type {kind}")

    def _add_binary(self, value: Term, kind: str, spec: Spec) -> None:
        if isinstance(value, bytes):
            bits, data = len(value) * 8, value
        elif isinstance(value, BitString):
            bits, data = len(value.data) * 8 - 8 + value.bits, value.data
        else:
            raise ValueError(f"a binary for the type {kind}")
        unit = spec.unit or (8 if kind == "binary" else 1)
        wanted = bits if spec.size is None else spec.size * unit
        if wanted > bits:
            raise ValueError(f"a binary of at least {wanted} bits")
        if spec.size is None and bits % unit:
            raise ValueError(f"a binary of a multiple of {unit} bits (or the type bitstring)")
        whole, left = divmod(wanted, 8)
        self._add_bytes(data[:whole])
        if left:
            self._add_bits(data[whole] >> (8 - left), left)

    def _add_float(self, value: float, spec: Spec) -> None:
        bits = spec.bits(64)
        if bits not in _FLOATS:
            raise ValueError("a float of 16, 32 or 64 bits")
        try:
            data = struct.pack(("<" if spec.is_little else ">") + _FLOATS[bits], value)
        except (OverflowError, struct.error):
            raise ValueError(f"a number that fits a float of {bits} bits") from None
        self._add_bytes(data)

    def _add_int(self, value: int, spec: Spec) -> None:
        bits = self.fill(spec.bits(8))
        value &= (1 << bits) - 1
        if spec.is_little:
            whole, left = divmod(bits, 8)
            self._add_bytes((value & ((1 << (whole * 8)) - 1)).to_bytes(whole, "little"))
            self._add_bits(value >> (whole * 8), left)
        else:
            self._add_bits(value, bits)

    def _add_bytes(self, data: bytes) -> None:
        if self.rest_bits:
            self._add_bits(int.from_bytes(data, "big"), len(data) * 8)
        else:
            self.data += data

    def _add_bits(self, value: int, bits: int) -> None:
        value |= self.rest << bits
        bits += self.rest_bits
        whole, self.rest_bits = divmod(bits, 8)
        self.data += (value >> self.rest_bits).to_bytes(whole, "big")
        self.rest = value & ((1 << self.rest_bits) - 1)


def _utf(text: str, kind: str, spec: Spec) -> bytes:
    if spec.size is not None or spec.unit is not None:
        raise ValueError("a utf type without size and unit")
    order = "" if kind == "utf8" else "-le" if spec.is_little else "-be"
    return text.encode(kind.replace("utf", "utf-") + order)
