"""One lab for all tests, whose sites are made when a test first needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.nat.kinds import Kind
from tests.nat.lab import Lab, Site
from tests.nat.lab import lab as made_lab
from tests.nat.namespaces import NotHere

Sites: TypeAlias = Callable[[Kind, int], Site]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    try:
        with made_lab() as found:
            yield found
    except NotHere as why:
        pytest.skip(f"no NATs on this machine: {why}")


@pytest.fixture(scope="session")
def sites(lab: Lab) -> Sites:
    return sites_of(lab)


def sites_of(lab: Lab) -> Sites:
    """Returns a function that returns the site of a kind with a number, 0 or 1."""
    found: dict[tuple[Kind, int], Site] = {}

    def site(kind: Kind, number: int) -> Site:
        if (kind, number) not in found:
            found[kind, number] = lab.site(kind)
        return found[kind, number]

    return site
