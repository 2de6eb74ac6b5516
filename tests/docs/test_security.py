"""Every claim of the security page refers to an existing test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
CLAIMS = PAGE.partition("## What an attacker can do")[2]


def test_every_claim_names_a_test_that_there_is() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", CLAIMS)
    assert len(named) > 20
    for file, test in named:
        source = (ROOT / file).read_text()
        assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (file, test)


def test_every_claim_says_what_shows_it() -> None:
    rows = [row for row in CLAIMS.splitlines() if row.startswith("| ")]
    for row in rows:
        shown = row.rstrip(" |").rpartition(" | ")[2]
        assert shown == "shown by" or shown.startswith(("`tests/", "nothing: ")), row
