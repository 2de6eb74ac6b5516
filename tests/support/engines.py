"""The QUIC engines, as parameters of tests that must pass on each."""

from __future__ import annotations

import importlib.util

import pytest

IS_BUILT = importlib.util.find_spec("quicdist_engine") is not None

needs_native = pytest.mark.skipif(
    not IS_BUILT, reason="the native engine is not built: make engine (needs cargo)"
)


def native() -> object:
    """The native engine as a parameter; skipped where it is not built."""
    return pytest.param("native", marks=needs_native)


ENGINES = ["aioquic", native()]
