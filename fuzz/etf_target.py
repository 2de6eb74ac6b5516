"""Fuzz target that compares the compiled codec with the pure Python codec.

The first byte of an input selects the options, the rest is a term. `python -m fuzz.etf_target DIR`
writes the seed corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fuzz.sanitized
from quicdist import etf
from quicdist.etf import Atom, EtfDecodeError, EtfEncodeError, Limits, Options
from quicdist.etf import _compiled as core
from tests.etf.exactly import exactly

PURE_DECODE: Any = sys.modules["quicdist.etf.decode"]
PURE_ENCODE: Any = sys.modules["quicdist.etf.encode"]
assert etf
assert fuzz.sanitized
SMALL = Limits(max_depth=4, max_terms=10, max_integer=9, max_decompressed=40)
OPTIONS = [
    Options(binaries=binaries, strings=strings, limits=limits)
    for binaries in ("bytes", "str")
    for strings in ("list", "bytes", "str")
    for limits in (Limits(max_decompressed=1 << 16), SMALL)
]
ATOMS = [Atom("ok"), Atom("true"), Atom("node@host"), Atom("")]


def check(data: bytes) -> None:
    """Checks that both cores decode `data` alike and encode the resulting term alike."""
    options = OPTIONS[data[0] % len(OPTIONS)] if data else OPTIONS[0]
    atoms = ATOMS if data and data[0] & 128 else []
    body = data[1:]
    compare(PURE_DECODE.decode, core.decode, b"\x83" + body, options)
    term = compare(PURE_DECODE.decode_bare, core.decode_bare, body, 0, options, atoms)
    if term is None:
        return
    compare(PURE_ENCODE.encode, core.encode, term[0])
    one: dict[Atom, int] = {}
    other: dict[Atom, int] = {}
    expected, _ = outcome(PURE_ENCODE.encode_bare, term[0], etf.DEFAULT, one)
    found, _ = outcome(core.encode_bare, term[0], etf.DEFAULT, other)
    if expected != found or list(one.items()) != list(other.items()):
        raise AssertionError(f"with refs: {expected!r} by the pure core, now {found!r}")


def compare(pure: Any, compiled: Any, *arguments: Any) -> Any:
    """Returns the value of both cores; None if both raise an error."""
    expected, value = outcome(pure, *arguments)
    found, _ = outcome(compiled, *arguments)
    if expected != found:
        raise AssertionError(f"{pure.__name__}: {expected!r} by the pure core, now {found!r}")
    return value


def outcome(function: Any, *arguments: Any) -> tuple[Any, Any]:
    try:
        value = function(*arguments)
    except EtfDecodeError as error:
        return ("decode error", error.offset, error.reason), None
    except EtfEncodeError as error:
        return ("encode error", error.path, error.reason), None
    return exactly(value), value


def write_seeds(folder: Path) -> None:
    """Writes one file per term, with all types."""
    node = Atom("node@host")
    pid = etf.Pid(node, 1, 2, 3)
    fun = etf.Fun(Atom("m"), 1, bytes(16), 1, 2, 3, pid, (1, [pid]))
    terms = [
        [0, 255, 256, -1, 2**31, 2**63, -(2**70), 2**3000, 1.5, b"bytes", "é", "text"],
        [Atom("ok"), True, None, Atom("é" * 200), (), [], {}, (1, (2, (3,)))],
        [pid, etf.Port(node, 2**40, 1), etf.Reference(node, (1, 2, 3, 4, 5), 6)],
        [etf.BitString(b"\xff", 3), etf.ImproperList([1, 2], 3), etf.Export(node, node, 2), fun],
        {1: {b"key": [1, 2, 3]}, Atom("a"): {"x": (1, 2)}, 2.5: [300, 1], (1, 2): 3},
        etf.ErlMap([(1, 2), (1.0, 3), (True, 4), ([1], 5), ({1: 2}, 6), (fun, 7)]),
        {n: n for n in range(70)},
        [float(n) for n in range(40)],
        list(range(300)),
    ]
    for place, term in enumerate(terms):
        for name, data in (
            ("whole", PURE_ENCODE.encode_bare(term)),
            ("refs", PURE_ENCODE.encode_bare(term, refs={})),
            ("packed", PURE_ENCODE.encode(term, Options(compression=9))[1:]),
        ):
            for choice in (0, 6, 128):
                (folder / f"{place}-{name}-{choice}").write_bytes(bytes((choice,)) + data)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
