from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from quicdist.etf.settings import Options
from quicdist.etf.terms import Atom, Term

def decode(data: bytes | bytearray | memoryview, options: Options = ...) -> Term: ...
def decode_prefix(
    data: bytes | bytearray | memoryview, offset: int = 0, options: Options = ...
) -> tuple[Term, int]: ...
def decode_bare(
    data: bytes | bytearray | memoryview,
    offset: int = 0,
    options: Options = ...,
    atoms: Sequence[Atom] = (),
) -> tuple[Term, int]: ...
def encode(term: object, options: Options = ...) -> bytes: ...
def encode_bare(
    term: object, options: Options = ..., refs: dict[Atom, int] | None = None
) -> bytes: ...
def encode_parts(
    term: object, options: Options = ..., large: int = ...
) -> list[bytes | memoryview]: ...
def encode_bare_parts(
    term: object,
    options: Options = ...,
    refs: dict[Atom, int] | None = None,
    large: int = ...,
) -> list[bytes | memoryview]: ...
def encode_frame(
    term: object,
    options: Options,
    refs: dict[Atom, int] | None,
    atoms: tuple[Atom, ...],
    prefixes: dict[tuple[Atom, ...], bytes],
    most: int,
) -> bytes | list[bytes | memoryview]: ...
def split_frames(data: bytes, at: int, limit: int) -> tuple[list[bytes], int]: ...
def decode_run(
    queue: deque[Any],
    popleft: Callable[[], object],
    beginning: bytes,
    stream: int,
    longest: int,
    options: Options,
    atoms: tuple[Atom, ...] | None,
    most: int,
    room: int,
    overhead: int,
) -> tuple[list[tuple[Term, int]], int, int]: ...
