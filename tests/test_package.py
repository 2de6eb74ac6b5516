"""The public names and the cost of importing them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quicdist


@pytest.mark.parametrize("name", quicdist.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(quicdist, name) is not None
    assert name in dir(quicdist)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        quicdist.nothing_of_ours  # noqa: B018


@pytest.mark.io
def test_the_command_line_imports_no_node() -> None:
    source = "import quicdist.cli, sys; print(*(name for name in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"aioquic", "cryptography", "asyncio", "quicdist.node.node", "quicdist.etf"}
    assert not heavy.intersection(loaded)
