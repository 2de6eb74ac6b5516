"""One lab for all tests, whose sites are made when a test first needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

from quicdist.gateway import emit_module
from tests.nat.kinds import Kind
from tests.nat.lab import Lab, Site
from tests.nat.lab import lab as made_lab
from tests.nat.namespaces import NotHere
from tests.nat.processes import gateway, relay
from tests.support.erlang import ERL

Sites: TypeAlias = Callable[[Kind, int], Site]
Up: TypeAlias = dict[str, Any]


class Gateways(Protocol):
    """Starts gateways."""

    def __call__(self, site: Site, name: str = "") -> Up:
        """Starts one at a site, and returns what it tells. Without a name the relay names it."""


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


@pytest.fixture
def gateways(lab: Lab, tmp_path: Path) -> Iterator[Gateways]:
    """Gateways beside a relay at the core; the Erlang module is in the folder of the test."""
    emit_module(tmp_path, erl=ERL)
    count = 0
    with ExitStack() as stack:
        stack.enter_context(relay(lab.core, tmp_path / "relay"))

        def start(site: Site, name: str = "") -> Up:
            nonlocal count
            count += 1
            process = gateway(site.node, tmp_path / f"gateway{count}", tmp_path, name)
            up: Up = stack.enter_context(process).read()
            return up

        yield start
