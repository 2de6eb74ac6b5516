"""The choice of the core, and the use of both cores in one process."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.etf.core import compiled, core_at_work, pure

WHICH = "import quicdist.etf.codec as codec; print(codec.CORE)"
PARTS = ("encode_parts", "encode_bare_parts")
WITHOUT = "import sys; sys.modules['quicdist.etf._compiled'] = None; "


def ask(source: str, switch: str) -> str:
    environment = {**os.environ, "QUICDIST_PURE_PYTHON": switch}
    result = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.mark.io
def test_the_switch_forces_the_pure_one() -> None:
    assert ask(WHICH, "1") == "python"


@pytest.mark.io
def test_without_the_extension_the_pure_one_does_it() -> None:
    assert ask(WITHOUT + WHICH, "") == "python"


@pytest.mark.io
@pytest.mark.skipif(not find_spec("quicdist.etf._compiled"), reason="no compiled core is built")
def test_with_it_the_compiled_one() -> None:
    assert ask(WHICH, "") == "compiled"


def test_this_run_says_which() -> None:
    switched = bool(os.environ.get("QUICDIST_PURE_PYTHON"))
    built = find_spec("quicdist.etf._compiled") is not None
    assert core_at_work() == ("compiled" if built and not switched else "python")


def test_signatures_are_the_same() -> None:
    core = compiled()
    for name in ("decode", "decode_prefix", "decode_bare", "encode", "encode_bare", *PARTS):
        ours = inspect.signature(getattr(core, name)).parameters.values()
        theirs = inspect.signature(getattr(pure(), name)).parameters.values()
        assert [(p.name, p.kind, p.default is p.empty) for p in ours] == [
            (p.name, p.kind, p.default is p.empty) for p in theirs
        ]
        assert (
            getattr(core, name).__doc__.split(".")[0]
            == (getattr(pure(), name).__doc__.split(".")[0])
        )
