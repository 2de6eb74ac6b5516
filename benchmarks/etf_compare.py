"""Compares the term codec with alternatives, on terms that Erlang generated.

    python -m benchmarks.etf_compare [--rounds N] [--only WORD]

The candidates are the compiled and the pure Python codec of quicdist; other Python libraries for
the format, which decode the same bytes and encode the result; msgspec's MessagePack and orjson, on
the terms they support and with the same Python objects; and the BEAM. They are timed in turn, round
after round, so that a change of the machine's speed affects all of them. The medians are compared.
Missing libraries and unsupported items are reported.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from quicdist import etf
from quicdist.etf import Options

PURE_DECODE = sys.modules["quicdist.etf.decode"]
PURE_ENCODE = sys.modules["quicdist.etf.encode"]
SLICE = 0.004  # seconds of measurement for one candidate in one round

Timer = Callable[[int], float]  # repeats to seconds


class Beam:
    """A running Erlang process that holds the corpus."""

    def __init__(self) -> None:
        self._built = tempfile.TemporaryDirectory()
        source = Path(__file__).with_name("etf_corpus.erl")
        subprocess.run(["erlc", "-o", self._built.name, str(source)], check=True)
        self._process = subprocess.Popen(
            ["erl", "-noshell", "-noinput", "-pa", self._built.name, "-s", "etf_corpus", "main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, term: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = etf.encode(term)
        self._process.stdin.write(struct.pack(">I", len(request)) + request)
        self._process.stdin.flush()
        (size,) = struct.unpack(">I", self._process.stdout.read(4))
        return etf.decode(self._process.stdout.read(size))

    def timer(self, direction: str, name: bytes) -> Timer:
        ask, what = self.ask, etf.Atom(direction)
        return lambda repeats: float(ask((what, name, repeats))) / 1e9

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._built.cleanup()


def timer(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Timer:
    """Returns a timer that calls `function` with each argument in turn."""

    def run(repeats: int) -> float:
        if len(arguments) == 1:
            (argument,) = arguments
            began = time.perf_counter()
            for _ in range(repeats):
                function(argument)
            return time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(repeats):
            for argument in arguments:
                function(argument)
        return time.perf_counter() - began

    return run


def medians(timers: dict[str, Timer], rounds: int) -> dict[str, float]:
    """Returns the median seconds of one run of each timer."""
    repeats = {}
    for name, run in timers.items():
        count, took = 1, run(1)
        while took < SLICE / 4:
            count *= 4
            took = run(count)
        repeats[name] = max(1, int(count * SLICE / took))
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            gc.collect()
            samples[name].append(run(repeats[name]) / repeats[name])
    return {name: statistics.median(times) for name, times in samples.items()}


# ---- candidates ----


def our_codecs() -> dict[str, tuple[Callable[..., Any], Callable[..., bytes]]]:
    found: dict[str, tuple[Callable[..., Any], Callable[..., bytes]]] = {}
    try:
        core = import_module("quicdist.etf._compiled")
        found["compiled"] = core.decode, core.encode
    except ImportError as error:
        print(f"without the compiled core: {error}")
    found["pure"] = PURE_DECODE.decode, PURE_ENCODE.encode
    return found


def peer_codecs() -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]:
    found = {}
    for name, module, read, write in (
        ("erlpack", "erlpack", "unpack", "pack"),
        ("erlang_py", "erlang", "binary_to_term", "term_to_binary"),
        ("erlastic", "erlastic", "decode", "encode"),
    ):
        try:
            library = import_module(module)
            found[name] = getattr(library, read), getattr(library, write)
        except (ImportError, AttributeError) as error:
            print(f"without {name}: {error}")
    return found


def other_formats() -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]:
    found: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {}
    try:
        msgpack = import_module("msgspec.msgpack")
        found["msgspec"] = msgpack.Decoder().decode, msgpack.Encoder().encode
    except ImportError as error:
        print(f"without msgspec: {error}")
    try:
        orjson = import_module("orjson")
        found["orjson"] = orjson.loads, orjson.dumps
    except ImportError as error:
        print(f"without orjson: {error}")
    return found


def able(read: Callable[[bytes], Any], forms: list[bytes], size: int) -> list[bytes] | None:
    """Returns the encoded terms if the library decodes all of them, else None."""
    try:
        terms = [read(form) for form in forms]
    except Exception:
        return None
    return forms if len(terms) == size else None


def peer_timers(
    direction: str,
    peers: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]],
    new: list[bytes],
    old: list[bytes],
) -> dict[str, Timer]:
    """Returns the candidates for an item, with old atom encodings where a library needs them."""
    timers = {}
    for name, (read, write) in peers.items():
        forms = able(read, new, len(new)) or able(read, old, len(old))
        if forms is None:
            continue
        if direction == "decode":
            timers[name] = timer(read, forms)
            continue
        try:
            terms = [read(form) for form in forms]
            for term in terms:
                write(term)
        except Exception:
            continue
        timers[name] = timer(write, terms)
    return timers


# ---- tables ----


class Ratios:
    """Ratios of the time of other libraries to the time of quicdist, per item."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[str, float]] = {}

    def add(self, direction: str, other: str, item: str, ratio: float) -> None:
        self._values.setdefault((direction, other), {})[item] = ratio

    def show(self) -> None:
        for (direction, other), values in self._values.items():
            mean = statistics.geometric_mean(values.values())
            print(
                f"{direction}: {other} takes {mean:.2f} times as long "
                f"(geometric mean of {len(values)}; {min(values.values()):.2f} at least)"
            )
            faster = [f"{item} ({ratio:.2f})" for item, ratio in values.items() if ratio < 1]
            if faster:
                print(f"        and is faster at {', '.join(faster)}")
        for other in dict.fromkeys(other for _, other in self._values):
            both = [
                r for (_, o), values in self._values.items() if o == other for r in values.values()
            ]
            print(f"both ways: {other} takes {statistics.geometric_mean(both):.2f} times as long")


def compare_with_erlang_codecs(
    corpus: list[tuple[str, list[bytes], list[bytes]]], beam: Beam, rounds: int
) -> None:
    ours, peers = our_codecs(), peer_codecs()
    head = next(iter(ours))
    columns = [*ours, "beam", *peers]
    ratios = Ratios()
    for direction in ("decode", "encode"):
        print(f"\n{direction}: microseconds; in brackets the ratio to `{head}`")
        print(f"{'':26}{'bytes':>8}" + "".join(f"{name:>20}" for name in columns))
        for name, new, old in corpus:
            timers: dict[str, Timer] = {}
            for own, (read, write) in ours.items():
                if direction == "decode":
                    timers[own] = timer(read, new)
                else:
                    timers[own] = timer(write, [read(form) for form in new])
            timers["beam"] = beam.timer(direction, name.encode())
            timers |= peer_timers(direction, peers, new, old)
            times = medians(timers, rounds)
            row = f"{name:26}{sum(map(len, new)):8}"
            for column in columns:
                if column not in times:
                    row += f"{'cannot':>20}"
                    continue
                ratio = times[column] / times[head]
                shown = f"{times[column] * 1e6:.1f}"
                row += f"{shown:>20}" if column == head else f"{shown + f' ({ratio:.2f})':>20}"
            print(row, flush=True)
            best = min((times[peer] for peer in peers if peer in times), default=None)
            if best is not None:
                ratios.add(direction, f"the best peer against {head}", name, best / times[head])
            ratios.add(direction, f"BEAM against {head}", name, times["beam"] / times[head])
            if head == "compiled":
                ratios.add(direction, "pure against compiled", name, times["pure"] / times[head])
            if "erlang_py" in times:
                ratio = times["erlang_py"] / times["pure"]
                ratios.add(direction, "erlang_py against pure", name, ratio)
    print()
    ratios.show()


SHARED = (
    "map_of_1000",
    "nested_maps",
    "integers_10000",
    "floats_10000",
    "integers_of_64_bits_1000",
)


def compare_with_other_formats(
    corpus: list[tuple[str, list[bytes], list[bytes]]], rounds: int
) -> None:
    """Compares items that MessagePack and JSON support: the same objects, with str for binaries."""
    ours, others = our_codecs(), other_formats()
    head = next(iter(ours))
    text = Options(binaries="str")
    ratios = Ratios()
    corpus = [item for item in corpus if item[0] in SHARED]
    for direction in ("decode", "encode") if corpus and others else ():
        print(f"\n{direction}, binaries as str: microseconds (times as long as `{head}`)")
        print(f"{'':26}{head:>20}" + "".join(f"{name:>20}" for name in others))
        for name, new, _old in corpus:
            read, write = ours[head]
            (form,) = new
            term = read(form, text)
            timers = {head: timer(partial(read, options=text), [form])}
            if direction == "encode":
                timers = {head: timer(write, [term])}
            for other, (their_read, their_write) in others.items():
                data = their_write(term)
                assert their_read(data) == term
                timers[other] = (
                    timer(their_read, [data])
                    if direction == "decode"
                    else timer(their_write, [term])
                )
            times = medians(timers, rounds)
            row = f"{name:26}{times[head] * 1e6:20.1f}"
            for other in others:
                ratio = times[other] / times[head]
                ratios.add(direction, f"{other} against {head}", name, ratio)
                row += f"{f'{times[other] * 1e6:.1f} ({ratio:.2f})':>20}"
            print(row, flush=True)
    print()
    ratios.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="only items whose name contains this text")
    arguments = parser.parse_args()
    if shutil.which("erlc") is None:
        sys.exit("Erlang is required to generate the corpus: sudo apt-get install erlang-base")
    beam = Beam()
    try:
        corpus = [
            (
                name.decode(),
                [new for new, _ in forms],
                [old for _, old in forms],
            )
            for name, forms in beam.ask(etf.Atom("corpus"))
            if arguments.only in name.decode()
        ]
        release = subprocess.run(
            ["erl", "-noshell", "-eval", "io:put_chars(erlang:system_info(otp_release)), halt()."],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        print(f"Python {sys.version.split()[0]}, Erlang/OTP {release}, {os.cpu_count()} cores")
        # Other libraries recurse. The limit lets them attempt the deeply nested item.
        sys.setrecursionlimit(20_000)
        compare_with_erlang_codecs(corpus, beam, arguments.rounds)
        compare_with_other_formats(corpus, arguments.rounds)
    finally:
        beam.close()


if __name__ == "__main__":
    main()
