"""Compares the speed of the term codec with other Python libraries that can be imported.

    python benchmarks/etf.py [--rounds N]

Each library decodes the same bytes and encodes the result. They are timed in turn, round after
round, so that a change of the machine's speed affects all of them. The medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from quicdist.etf import Atom, ImproperList, Pid, Reference, decode, encode

NODE = Atom("4433@127.0.0.1")
PID = Pid(NODE, 94, 0, 1700000000)
REF = Reference(NODE, (1, 2, 3), 1700000000)


def cases() -> dict[str, Any]:
    """Returns the terms to measure: typical messages between nodes, and each type in bulk."""
    user = {
        Atom("id"): 184467,
        Atom("name"): b"Grace Hopper",
        Atom("admin"): True,
        Atom("score"): 99.5,
        Atom("tags"): [b"navy", b"cobol", b"compiler"],
        Atom("address"): {Atom("city"): b"Arlington", Atom("zip"): b"22201"},
    }
    call = (Atom("$gen_call"), (PID, ImproperList([Atom("alias")], REF)), (Atom("get"), b"key"))
    return {
        "gen_server call": call,
        "control message": (6, PID, Atom(""), Atom("rex")),
        "map": user,
        "100 maps": [user] * 100,
        "tuples": [(Atom("point"), n, -n, n * 1000) for n in range(200)],
        "atoms": [Atom(f"atom{n % 50}") for n in range(500)],
        "small integers": [n % 256 for n in range(70_000)],
        "integers": [n * 1_000_003 % 2**31 for n in range(5000)],
        "big integers": [2**64 + n for n in range(1000)],
        "floats": [n / 7 for n in range(5000)],
        "binaries": [b"0123456789abcdef"] * 1000,
        "text": [list(b"GET /index.html")] * 300,
        "1 MiB binary": (Atom("data"), bytes(1 << 20)),
        "nested": nest(200),
    }


def nest(depth: int) -> Any:
    term: Any = 0
    for n in range(depth):
        term = (Atom("cons"), n, [term])
    return term


def peers() -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]:
    """Returns the libraries that can be imported, as name to (decode, encode)."""
    found: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
        "quicdist": (decode, encode)
    }
    for name, module, read, write in (
        ("erlang_py", "erlang", "binary_to_term", "term_to_binary"),
        ("erlastic", "erlastic", "decode", "encode"),
        ("erlpack", "erlpack", "unpack", "pack"),
    ):
        try:
            library = import_module(module)
            found[name] = getattr(library, read), getattr(library, write)
        except (ImportError, AttributeError) as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def timed(function: Callable[[Any], Any], argument: Any, repeats: int) -> float:
    """Returns the mean time of one call in seconds, over `repeats` calls."""
    began = time.perf_counter()
    for _ in range(repeats):
        function(argument)
    return (time.perf_counter() - began) / repeats


def compare(
    candidates: dict[str, tuple[Callable[[Any], Any], Any]], rounds: int
) -> dict[str, float]:
    """Returns the median seconds of each library; a library that raises an error is left out."""
    able = {}
    for name, (function, argument) in candidates.items():
        try:
            repeats = max(1, int(0.005 / max(timed(function, argument, 1), 1e-7)))
            able[name] = function, argument, repeats
        except Exception as error:
            print(f"{name} cannot: {error!r:.70}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, (function, argument, repeats) in able.items():
            times[name].append(timed(function, argument, repeats))
    return {name: statistics.median(samples) for name, samples in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    everyone = peers()
    ratios: dict[tuple[str, str], list[float]] = {}
    print(f"Python {sys.version.split()[0]}; microseconds, and the ratio to quicdist")
    for direction in ("decode", "encode"):
        others = [name for name in everyone if name != "quicdist"]
        print(f"\n{direction:20}{'bytes':>9}{'quicdist':>11}" + "".join(f"{n:>22}" for n in others))
        for case, term in cases().items():
            data = encode(term)
            candidates: dict[str, tuple[Callable[[Any], Any], Any]] = {}
            for name, (read, write) in everyone.items():
                if direction == "decode":
                    candidates[name] = read, data
                else:
                    try:
                        candidates[name] = write, read(data)
                    except Exception as error:
                        print(f"{name} cannot read {case}: {error!r:.60}", file=sys.stderr)
            medians = compare(candidates, rounds)
            ours = medians["quicdist"]
            line = f"{case:20}{len(data):9}{ours * 1e6:11.1f}"
            for name in others:
                if name in medians:
                    ratio = medians[name] / ours
                    ratios.setdefault((direction, name), []).append(ratio)
                    line += f"{medians[name] * 1e6:12.1f} ({ratio:6.2f}x)"
                else:
                    line += f"{'-':>22}"
            print(line)
    print()
    for (direction, name), values in ratios.items():
        mean = statistics.geometric_mean(values)
        print(f"{direction}: {name} takes {mean:.2f} times as long (geometric mean)")


if __name__ == "__main__":
    main()
