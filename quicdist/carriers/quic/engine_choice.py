"""Which QUIC library an endpoint uses."""

from __future__ import annotations

import functools
import logging
import os
from importlib.metadata import PackageNotFoundError, version

_log = logging.getLogger("quicdist.quic")

AUTO = "auto"

MODULES = {"native": "native", "aioquic": "aioquic", "aioquic-plain": "aioquic"}
"""Adapter modules in `engine` by engine name. `aioquic-plain` is aioquic without quicdist's
optimizations."""

VARIABLE = "QUICDIST_ENGINE"
"""Environment variable with the engine that `auto` selects."""

NATIVE_SERIES = "0.2"
"""The series of quicdist-engine whose interface the adapter has. Another one would fail in each
connection."""

_told: set[str] = set()


def check(name: str, source: str = "") -> None:
    """Raises ValueError if there is no engine of that name. `source` is where it was read."""
    if name != AUTO and name not in MODULES:
        known = ", ".join([AUTO, *MODULES])
        where = f" in {source}" if source else ""
        raise ValueError(f"unknown QUIC engine {name!r}{where}: expected one of {known}")


def choose(name: str) -> str:
    """Returns the engine for a setting, and logs the choice once per process and engine.

    `auto` is the engine that the environment variable QUICDIST_ENGINE names, else the native engine
    if a fitting one is installed, else aioquic. Raises ValueError for an unknown name.
    """
    check(name)
    chosen, why = (name, "the settings name it") if name != AUTO else _automatic()
    if chosen not in _told:
        _told.add(chosen)
        extra = {"event": "engine", "engine": chosen, "reason": why}
        _log.info("the QUIC engine is %s: %s", chosen, why, extra=extra)
    return chosen


def _automatic() -> tuple[str, str]:
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted != AUTO:
        check(wanted, VARIABLE)
        return wanted, f"the environment variable {VARIABLE} names it"
    installed = native_version()
    if installed is None:
        return "aioquic", "quicdist-engine is not installed"
    if not fits(installed):
        return "aioquic", f"the installed quicdist-engine {installed} is not of {NATIVE_SERIES}"
    return "native", "quicdist-engine is installed"


@functools.cache
def native_version() -> str | None:
    """Returns the version of the installed quicdist-engine, or None."""
    try:
        return version("quicdist-engine")
    except PackageNotFoundError:
        return None


def fits(native: str) -> bool:
    """Whether the adapter can use this version of quicdist-engine."""
    return native.startswith(f"{NATIVE_SERIES}.")
