"""The processes at the two ends of a path, which take orders and answer with lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path as File
from typing import Any

from benchmarks.drivers import hear
from benchmarks.wan.network import HERE, THERE, Path, Spaces, network

ENGINES = ["aioquic", *(["native"] if find_spec("quicdist_engine") else [])]
"""The installed engines."""
ALPNS = ("quicdist/1", "quicdist/2")

_ROOT = File(__file__).parents[2]


class Sides:
    """The two processes of one candidate on one path."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces
        self._all: list[subprocess.Popen[str]] = []

    def start(self, space: str, *words: str) -> subprocess.Popen[str]:
        """Starts a process at one end. Raises Absent if it does not start."""
        process = subprocess.Popen(
            self._spaces.command(space, words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_ROOT,
        )
        self._all.append(process)
        return process

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


def start_ours(sides: Sides, spaces: Spaces, settings: Mapping[str, Any]) -> subprocess.Popen[str]:
    """Starts quicdist_side.py at both ends; returns the driver. Raises Absent."""
    words = (sys.executable, "-m", "benchmarks.wan.quicdist_side", json.dumps(settings))
    server = sides.start(spaces.there, *words, THERE)
    name = hear(server)["name"]
    driver = sides.start(spaces.here, *words, HERE, name)
    hear(driver)
    return driver


def each_variant(program: str, path: Path, seed: int = 1) -> Iterator[tuple[str, str, Spaces]]:
    """Yields each installed engine and ALPN with a new path between two namespaces."""
    for engine in ENGINES:
        for alpn in ALPNS:
            with network(program, path, seed) as spaces:
                yield engine, alpn, spaces
