"""Access to both cores, and checks that they behave alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from quicdist import etf
from quicdist.etf import (
    DEFAULT,
    Atom,
    EtfDecodeError,
    EtfEncodeError,
    Options,
    Term,
)
from tests.etf.exactly import exactly

assert etf  # the package has functions with the names of its modules
PURE_DECODE: Any = sys.modules["quicdist.etf.decode"]
PURE_ENCODE: Any = sys.modules["quicdist.etf.encode"]

Outcome = tuple[str, Any, Any]


def compiled() -> Any:
    """Returns the compiled core; skips the calling test module if there is none."""
    return pytest.importorskip("quicdist.etf._compiled", reason="the compiled core is not built")


def pure() -> ModuleType:
    """The pure Python core in the shape of the compiled one."""
    module = ModuleType("pure")
    for name in ("decode", "decode_prefix", "decode_bare"):
        setattr(module, name, getattr(PURE_DECODE, name))
    for name in ("encode", "encode_bare", "encode_parts", "encode_bare_parts"):
        setattr(module, name, getattr(PURE_ENCODE, name))
    return module


def core_at_work() -> str:
    """The core that quicdist.etf uses in this process."""
    return str(import_module("quicdist.etf.codec").CORE)


def outcome(function: Callable[..., Any], *arguments: Any) -> Outcome:
    """The outcome of a call: a value, or a codec error with its position and reason."""
    try:
        value = function(*arguments)
    except EtfDecodeError as error:
        return "decode error", error.offset, error.reason
    except EtfEncodeError as error:
        return "encode error", error.path, error.reason
    except Exception as error:
        return "error", type(error), str(error)
    return "value", exactly(value), None


def same_decoding(core: Any, data: bytes, options: Options = DEFAULT) -> Outcome:
    """Checks that both cores decode `data` alike, as a whole and inside other terms."""
    expected = outcome(PURE_DECODE.decode, data, options)
    assert outcome(core.decode, data, options) == expected
    return expected


def same_bare_decoding(
    core: Any, data: bytes, offset: int, options: Options, atoms: Sequence[Atom]
) -> None:
    """Checks that both cores decode `data` at `offset` alike."""
    expected = outcome(PURE_DECODE.decode_bare, data, offset, options, atoms)
    assert outcome(core.decode_bare, data, offset, options, atoms) == expected
    assert outcome(core.decode_bare, memoryview(data), offset, options, list(atoms)) == expected


def same_encoding(core: Any, term: Term, options: Options = DEFAULT) -> Outcome:
    """Checks that both cores encode `term` to equal bytes or errors, with and without refs.

    It also checks that the parts are equal and that their concatenation is those bytes.
    """
    expected = outcome(PURE_ENCODE.encode, term, options)
    assert outcome(core.encode, term, options) == expected
    expected_refs: dict[Atom, int] = {}
    refs: dict[Atom, int] = {}
    with_refs = outcome(PURE_ENCODE.encode_bare, term, options, expected_refs)
    assert outcome(core.encode_bare, term, options, refs) == with_refs
    if with_refs[0] == "value":
        assert list(refs.items()) == list(expected_refs.items())
    for large in (1, 4096):
        parts = outcome(PURE_ENCODE.encode_parts, term, options, large)
        assert outcome(core.encode_parts, term, options, large) == parts
        assert outcome(_joined, core.encode_parts, term, options, large) == expected
        bare_parts = outcome(PURE_ENCODE.encode_bare_parts, term, options, {}, large)
        refs = {}
        assert outcome(core.encode_bare_parts, term, options, refs, large) == bare_parts
        assert outcome(_joined, core.encode_bare_parts, term, options, {}, large) == with_refs
        if with_refs[0] == "value":
            assert list(refs.items()) == list(expected_refs.items())
    return expected


def _joined(encode: Callable[..., list[bytes]], *arguments: Any) -> bytes:
    return b"".join(encode(*arguments))


def mutations(data: bytes, draw: Callable[[int], int], count: int) -> Iterator[bytes]:
    """Returns `data` with bytes changed, inserted, removed or moved; `draw(n)` returns 0..n-1."""
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(1 + draw(3)):
            at = draw(len(changed) + 1)
            what = draw(5)
            if what == 0:
                changed[at : at + 1] = bytes((draw(256),))
            elif what == 1:
                changed[at:at] = bytes((TAGS[draw(len(TAGS))],))
            elif what == 2:
                del changed[at : at + 1 + draw(4)]
            elif what == 3:
                changed[at : at + 4] = changed[draw(len(changed) + 1) :][:4]
            else:
                changed[at : at + 1] = bytes((TAGS[draw(len(TAGS))],))
        yield bytes(changed)


TAGS = bytes((67, 70, 77, 80, 82, 88, 89, 90, *range(97, 122), 131, 0, 1, 255))
