"""What meets bytes of strangers, one module a parser: each has a `check` that raises on a finding,
and `seeds` to begin with, taken from recordings of real nodes where there are any.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

NAMES = (
    "etf",
    "notation",
    "handshake",
    "control",
    "header",
    "session",
    "dialects",
    "epmd",
    "datagrams",
    "quic",
    "policy",
)


class Target(NamedTuple):
    """One parser."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def load(name: str) -> Target:
    """The target of that name."""
    module = importlib.import_module(f"fuzz.targets.{name}")
    return Target(module.check, module.seeds)
