"""The options and limits of encoding and decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNBOUNDED = (1 << 63) - 1
"""The value of a limit that is disabled."""


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(_wrong_type(name, int, value))


def _wrong_type(name: str, expected: type, value: object) -> str:
    return f"{name} must be {expected.__name__}, not {type(value).__name__}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one term. Encoding and decoding raise EtfError if a term exceeds them.

    The depth of map keys has a fixed limit (quicdist.etf.maps.MAX_KEY_DEPTH), because Python hashes
    and compares keys recursively. Raises TypeError if a limit is no integer, and ValueError if it
    is negative.
    """

    max_depth: int = 1 << 16
    """Maximum nesting depth of containers."""
    max_terms: int = 1 << 22
    """Maximum total number of elements in all containers, without the characters of a STRING_EXT.

    An empty list takes one byte on the wire and eighty in memory. The default number of them takes
    a third of a GiB.
    """
    max_decompressed: int = 1 << 26
    """Maximum decompressed size in bytes of a compressed term. Larger terms are written
    uncompressed."""
    max_integer: int = 1 << 22
    """Maximum size in bytes of one integer. The limit of OTP is not higher."""
    max_bytes: int = UNBOUNDED
    """Maximum size in bytes of an encoded term without the version byte. A node sets it to
    `SessionLimits.max_message`. It does not apply to decoding, which is limited by its input."""

    def __post_init__(self) -> None:
        for name in ("max_depth", "max_terms", "max_decompressed", "max_integer", "max_bytes"):
            _check_integer(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the mapping between terms and Python objects.

    Raises TypeError or ValueError if a value is invalid.
    """

    binaries: Literal["bytes", "str", "memoryview"] = "bytes"
    """The type that binaries decode to. With "str", UTF-8 binaries become str and others bytes.

    With "memoryview", a binary of at least 64 KiB becomes a read-only memoryview of the decoded
    data, without a copy, and others bytes. A view keeps all of the data alive, so a binary that is
    less than an eighth of it becomes bytes. So do map keys and the free variables of funs.
    """
    strings: Literal["list", "bytes", "str"] = "list"
    """The type that STRING_EXT (a list of small integers) decodes to.

    "bytes" and "str" are not lossless: the value is encoded as a binary, and a map is rejected if
    two of its keys become equal.
    """
    none: Literal["undefined", "nil"] = "undefined"
    """The atom that None is encoded as."""
    compression: int = 0
    """The zlib level for `encode`, 1 to 9. A term is compressed only if this makes it shorter. 0
    disables compression."""
    native_records: bool = True
    """Whether native records are encoded. Releases before OTP 29 do not support them. A node raises
    an error for a native record to a peer without the flag NATIVE_RECORDS."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.binaries not in ("bytes", "str", "memoryview"):
            raise ValueError(
                f'binaries must be "bytes", "str" or "memoryview", not {self.binaries!r}'
            )
        if self.strings not in ("list", "bytes", "str"):
            raise ValueError(f'strings must be "list", "bytes" or "str", not {self.strings!r}')
        if self.none not in ("undefined", "nil"):
            raise ValueError(f'none must be "undefined" or "nil", not {self.none!r}')
        _check_integer("compression", self.compression)
        for name, value, kind in (
            ("native_records", self.native_records, bool),
            ("limits", self.limits, Limits),
        ):
            if not isinstance(value, kind):
                raise TypeError(_wrong_type(name, kind, value))
        if not 0 <= self.compression <= 9:
            raise ValueError(f"compression must be 0..9, not {self.compression!r}")


DEFAULT = Options()
"""The default options, which are lossless: a decoded term is encoded to an equal term."""
