"""Fuzz targets for the parsers of untrusted input, one module per parser.

Each module has `check`, which raises an error on a finding, and `seeds`, which yields the seed
corpus, from recordings of real nodes where they exist.
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
    "relay",
)


class Target(NamedTuple):
    """One parser."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def load(name: str) -> Target:
    """Returns the target of that name."""
    module = importlib.import_module(f"fuzz.targets.{name}")
    return Target(module.check, module.seeds)
