"""Checks that the compiled codec leaks no memory for valid and invalid terms in both directions.

    python -m fuzz.leaks [ROUNDS]

A round is about six hundred calls; the default number of rounds makes a million decodings.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from quicdist import etf
from quicdist.etf import Atom, EtfError, Limits, Options

LOOSE = Options(binaries="str", strings="str", limits=Limits(max_depth=3, max_terms=8))
PACKED = Options(compression=6)
NODE = Atom("node@host")
PID = etf.Pid(NODE, 1 << 20, 2, 3)
FUN = etf.Fun(Atom("m"), 1, bytes(16), 70_000, 2**31, 3, PID, (10**6, [PID]))
TERMS: list[Any] = [
    [0, 256, -(2**31), 2**63, -(2**63), 2**64, -(2**70), 2**3000, 1.5, b"bytes", "é" * 9, "text"],
    [NODE, True, None, Atom("é" * 200), (), [], {}, (1, (2, (3000,)))],
    [PID, etf.Port(NODE, 2**40, 1), etf.Reference(NODE, (1, 2**31, 3000), 6), FUN],
    [etf.BitString(b"\xff\xff", 3), etf.ImproperList([1, 2000], 3000), etf.Export(NODE, NODE, 2)],
    {1: {b"key": [1, 2, 3000]}, Atom("a"): {"x": (1, 2)}, 2.5: [300, 1], (1, 2): 3},
    etf.ErlMap([(1, 2), (1.0, 3), (True, 4), ([1], 5), ({1: 2}, 6), (FUN, 7)]),
    {n * 1000: float(n) for n in range(70)},
    [bytearray(b"x"), memoryview(b"xyz")[::2], range, {"a": 1, b"a": 2}],
    [1.5] * 300,
    list(range(300)),
    "\ud800",
    etf.Pid(NODE, -1, 0, 0),
]


def calls(core: Any) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Returns the calls of one round."""
    encoded = []
    for term in TERMS:
        for options in (etf.DEFAULT, LOOSE, PACKED):
            yield core.encode, (term, options)
        yield core.encode_bare, (term, etf.DEFAULT, {})
        yield core.encode_parts, (term, etf.DEFAULT, 1)
        yield core.encode_bare_parts, (term, etf.DEFAULT, {}, 1)
        for most in (0, 1000):
            yield encode_frame, (core, term, most)
        try:
            encoded.append(core.encode(term))
            encoded.append(core.encode(term, PACKED))
        except EtfError:
            pass
    for data in encoded:
        for options in (etf.DEFAULT, LOOSE):
            yield core.decode, (data, options)
            yield core.decode_prefix, (bytearray(data), 0, options)
            step = max(1, len(data) // 8)
            for cut in range(0, len(data), step):
                yield core.decode, (data[:cut], options)
                yield core.decode, (data[:cut] + b"\xff" + data[cut + 1 :], options)
            yield core.decode_bare, (data, 1, options, [NODE])
            yield decode_run, (core, data, options)
        frames = b"\0\0\0\2ab" * 3 + data
        yield core.split_frames, (frames, 0, 100)


def encode_frame(core: Any, term: Any, most: int) -> None:
    """Encodes a frame with new refs, which the call may change."""
    core.encode_frame(term, etf.DEFAULT, {NODE: 0}, (NODE,), {(NODE,): b"head"}, most)


def decode_run(core: Any, data: bytes, options: Options) -> None:
    """Decodes a run from a new queue, which the call changes."""
    for atoms, payload in ((None, data), ((NODE,), data[1:])):
        queue = deque([(b"head" + payload, 1), (b"head" + payload, 1), (b"head\xff", 1)])
        core.decode_run(queue, queue.popleft, b"head", 1, 10**6, options, atoms, 9, 500, 8)


def run(core: Any, rounds: int) -> int:
    """Makes the calls `rounds` times and returns the number of decodings."""
    every = list(calls(core))
    for _ in range(rounds):
        for function, arguments in every:
            with suppress(EtfError):
                function(*arguments)
    return rounds * sum("decode" in function.__name__ for function, _ in every)


def growth(core: Any, rounds: int) -> int:
    """Returns the number of memory blocks that `rounds` further rounds leave allocated."""
    run(core, 3)
    gc.collect()
    before = sys.getallocatedblocks()
    run(core, rounds)
    gc.collect()
    return sys.getallocatedblocks() - before


def main() -> None:
    from quicdist.etf import _compiled

    per_round = run(_compiled, 1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000 // per_round + 1
    shared = (None, True, NODE, PID, NODE.encoded, 7, 255, etf.Pid, Atom, etf.DEFAULT)
    counts = [sys.getrefcount(one) for one in shared]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    left = growth(_compiled, rounds)
    print(
        f"{rounds * per_round} decodings in {time.monotonic() - began:.0f} s: {left} blocks leaked"
    )
    print("additional references to shared objects:", end=" ")
    print([sys.getrefcount(one) - count for one, count in zip(shared, counts, strict=True)])
    print(f"peak memory grew {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak} KiB")


if __name__ == "__main__":
    main()
