"""How terms are read and written, and how much of them: frozen settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNBOUNDED = (1 << 63) - 1
"""No bound."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one term may cost; beyond it reading and writing end with EtfError.

    Map keys have a depth bound of their own (quicdist.etf.maps.MAX_KEY_DEPTH) that no setting
    lifts, because Python hashes and compares keys recursively.
    """

    max_depth: int = 1 << 16
    """Containers within containers."""
    max_terms: int = 1 << 22
    """Elements of all containers together; the characters of a STRING_EXT do not count.

    An empty list is one byte on the wire and eighty in memory: this many take a third of a GiB.
    """
    max_decompressed: int = 1 << 26
    """Bytes of a compressed term once decompressed; a larger one is written uncompressed."""
    max_integer: int = 1 << 22
    """Bytes of one integer; OTP's own limit is not above this."""
    max_bytes: int = UNBOUNDED
    """Bytes of a term as it is written, version byte excluded; writing stops there. A node sets it
    to `SessionLimits.max_message`. Reading is bounded by the bytes that are there."""

    def __post_init__(self) -> None:
        for name in ("max_depth", "max_terms", "max_decompressed", "max_integer", "max_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True)
class Options:
    """How terms map to Python where there is a choice."""

    binaries: Literal["bytes", "str"] = "bytes"
    """What binaries decode to; "str": those that are UTF-8 become str, the others stay bytes."""
    strings: Literal["list", "bytes", "str"] = "list"
    """What STRING_EXT (a list of small integers, as Erlang sends them) decodes to.

    Not lossless: it encodes as a binary then, and a map with keys that it makes one is refused.
    """
    none: Literal["undefined", "nil"] = "undefined"
    """The atom that None encodes as."""
    compression: int = 0
    """zlib level 1..9 for encode(), used where it makes the term shorter; 0 is off."""
    native_records: bool = True
    """Whether native records are written. Before OTP 29 no peer reads them: a node refuses to send
    one to a peer without NATIVE_RECORDS in its flags."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.binaries not in ("bytes", "str"):
            raise ValueError(f'binaries is "bytes" or "str", not {self.binaries!r}')
        if self.strings not in ("list", "bytes", "str"):
            raise ValueError(f'strings is "list", "bytes" or "str", not {self.strings!r}')
        if self.none not in ("undefined", "nil"):
            raise ValueError(f'none is "undefined" or "nil", not {self.none!r}')
        if not 0 <= self.compression <= 9:
            raise ValueError(f"compression is 0..9, not {self.compression!r}")


DEFAULT = Options()
"""Lossless: what is decoded encodes to the same term."""
