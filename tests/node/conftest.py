"""Shared fixtures: nodes on loopback, and a stock Erlang node behind a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from quicdist import Identity, Node
from quicdist.etf import Atom, Term, decode
from tests.support.erlang import Erlang, erlang_available
from tests.support.gatewayed import GatewayThread, gatewayed_erl
from tests.support.waiting import PATIENCE

COOKIE = "node-tests"

MakeNode: TypeAlias = Callable[..., Node]


@pytest.fixture(scope="session")
def identity() -> Identity:
    """One certificate for all nodes of the run."""
    return Identity.ephemeral(["127.0.0.1"])


@pytest.fixture
def make_node(identity: Identity) -> MakeNode:
    """Returns a factory of nodes on free loopback ports, started with `async with`."""

    def make(**settings: Any) -> Node:
        given = {"name": "0@127.0.0.1", "cookie": COOKIE, "identity": identity, **settings}
        return Node(**given)

    return make


class Beam:
    """A stock Erlang node behind a gateway that evaluates Erlang source."""

    def __init__(self, erlang: Erlang, name: str) -> None:
        self.name = name
        self._erlang = erlang

    async def eval(self, source: str, **bindings: object) -> Term:
        """Evaluates Erlang source and returns the term. Bindings replace `$name` in the source."""
        for name, value in bindings.items():
            source = source.replace(f"${name}", str(value))
        wrapped = f"term_to_binary(begin {source} end)."
        asking = asyncio.get_running_loop().run_in_executor(None, self._erlang.eval, wrapped)
        try:
            return decode(await asyncio.wait_for(asyncio.shield(asking), PATIENCE))
        except TimeoutError:
            # Ends the thread's wait on cancellation; otherwise the loop would wait for the thread.
            self._erlang.kill()
            raise AssertionError(f"Erlang did not answer {source}") from None


@pytest.fixture(scope="session")
def beam() -> Iterator[Beam]:
    """One Erlang node for all tests of the run; each test uses new node names."""
    if not erlang_available():
        pytest.skip("no Erlang on the PATH: sudo apt-get install erlang-base")
    with GatewayThread() as gateway, gatewayed_erl(gateway, cookie=COOKIE) as erlang:
        yield Beam(erlang, gateway.name)


def atom(text: str) -> Atom:
    """Shorthand for tests that compare terms."""
    return Atom(text)
