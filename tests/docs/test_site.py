"""The built site: its search finds common words, and the reference has every public name.

`make docs` builds the site and runs these tests.
"""

from __future__ import annotations

import importlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SITE = DOCS / "_build" / "html"
LISTING = ("quicdist", "quicdist.otp", "quicdist.typed", "quicdist.gateway", "quicdist.etf")
"""Modules that list their names in `__all__`."""

OTHERS = (
    "quicdist.arrays",
    "quicdist.metrics.health",
    "quicdist.metrics.opentelemetry",
    "quicdist.metrics.prometheus",
)
ENTRY = re.compile(r"^(\S+) py:\w+ ", re.MULTILINE)

pytestmark = pytest.mark.skipif(
    not (SITE / "searchindex.js").exists(), reason="the site is not built: make docs"
)


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    """The search index, with `terms` (stems) and `titleterms`, and the pages that have them."""
    text = (SITE / "searchindex.js").read_text("utf-8")
    found: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    return found


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """The last parts of the names in the reference, from objects.inv."""
    data = (SITE / "objects.inv").read_bytes()
    text = zlib.decompress(data.split(b"\n", 4)[4]).decode()
    return set(ENTRY.findall(text))


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("numpi", "arrays"),  # the stem of numpy
        ("kubernet", "operations"),
        ("quickstart", "quickstart"),
        ("docker", "operations"),
        ("systemd", "operations"),
        ("phoenix", "join-phoenix"),
        ("liveview", "join-phoenix"),
        ("pythonx", "compare"),
        ("genserv", "otp-in-python"),
    ],
)
def test_search_finds_the_page(index: dict[str, Any], word: str, page: str) -> None:
    found = {**index["terms"], **index["titleterms"]}
    pages = [index["terms"].get(word, []), index["titleterms"].get(word, [])]
    numbers = {one for each in pages for one in ([each] if isinstance(each, int) else each)}
    assert word in found
    assert page in {index["docnames"][number] for number in numbers}


def public_names() -> set[tuple[str, str]]:
    """Returns the modules and names that users import."""
    found = {(name, each) for name in LISTING for each in importlib.import_module(name).__all__}
    for name in OTHERS:
        module = importlib.import_module(name)
        found |= {
            (name, each)
            for each, value in vars(module).items()
            if not each.startswith("_") and getattr(value, "__module__", "") == name
        }
    return found


def test_the_reference_has_every_public_name(documented: set[str]) -> None:
    last = {name.rpartition(".")[2] for name in documented}
    assert {one for one in public_names() if one[1] not in last} == set()


def test_each_page_is_of_one_kind() -> None:
    """Tutorial, how-to guides, reference or explanation (Diátaxis)."""
    text = (DOCS / "index.md").read_text("utf-8")
    captions = re.findall(r"^:caption: (.+)$", text, re.MULTILINE)
    assert captions == ["Tutorial", "How-to guides", "Reference", "Explanation"]
