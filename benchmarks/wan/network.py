"""A wide-area path on this machine: two network namespaces and the emulator between them.

Requires Linux, root, iproute2 and a C compiler. `path.c` is compiled for each run into a temporary
directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File

from benchmarks.drivers import Absent

HERE, THERE = "10.98.0.1", "10.98.0.2"
_DEVICE = "wan0"
_MTU = 1500


@dataclass(frozen=True)
class Path:
    """A path: round trip in ms, rate in Mbit/s, loss in percent, and queue in ms at that rate."""

    rtt: float
    rate: float
    loss: float
    queue: float

    @property
    def kind(self) -> str:
        """The round trip and the rate."""
        rate = f"{self.rate / 1000:g} Gbit/s" if self.rate >= 1000 else f"{self.rate:g} Mbit/s"
        return f"{self.rtt:g} ms, {rate}"

    def __str__(self) -> str:
        return f"{self.kind}, {self.loss:g} % lost"


@dataclass(frozen=True)
class Spaces:
    """The names of the two namespaces."""

    here: str
    there: str

    def command(self, space: str, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", space, *words]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"{' '.join(command)}: {done.stderr.strip()}")


def check() -> None:
    """Raises Absent if this machine cannot emulate a path."""
    if os.geteuid() != 0:
        raise Absent("network namespaces need root")
    for tool in ("ip", "cc"):
        if shutil.which(tool) is None:
            raise Absent(f"there is no `{tool}`")
    if not File("/dev/net/tun").exists():
        raise Absent("there is no /dev/net/tun")


@contextlib.contextmanager
def built() -> Iterator[str]:
    """Compiles the emulator and returns its path. Raises Absent."""
    source = File(__file__).with_name("path.c")
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/path"
        _run("cc", "-O2", "-Wall", "-Wextra", "-o", program, str(source))
        yield program


@contextlib.contextmanager
def network(
    program: str, path: Path, seed: int = 1, options: Sequence[str] = ()
) -> Iterator[Spaces]:
    """Yields an emulated path. `options` are those of path.c. Raises Absent."""
    spaces = Spaces(f"cg{os.getpid()}a", f"cg{os.getpid()}b")
    with contextlib.ExitStack() as stack:
        for space in (spaces.here, spaces.there):
            _run("ip", "netns", "add", space)
            stack.callback(subprocess.run, ["ip", "netns", "delete", space], check=False)
            _run("ip", "-n", space, "link", "set", "lo", "up")
        words = [
            path.rtt / 2 * 1000,
            path.loss * 10_000,
            path.rate * 125_000,
            path.queue * 1000,
            seed,
        ]
        emulator = subprocess.Popen(
            [program, spaces.here, spaces.there, *(str(round(word)) for word in words), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(emulator.wait)
        stack.callback(emulator.terminate)
        assert emulator.stdout is not None
        if emulator.stdout.readline() != "ready\n":
            raise Absent("the path emulator did not start")
        for space, address in ((spaces.here, HERE), (spaces.there, THERE)):
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", _DEVICE)
            _run("ip", "-n", space, "link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", "10000")
            _run("ip", "-n", space, "link", "set", _DEVICE, "up")
        yield spaces
