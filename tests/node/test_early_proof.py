"""The handshake of `quicdist/2` between nodes: which messages they send, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from quicdist import NoConnection, Quic
from quicdist.errors import Cause
from quicdist.etf import Atom
from quicdist.protocol.dialects.base import Step
from quicdist.protocol.dialects.single_stream import SingleStreamDialect
from quicdist.protocol.role import Role
from tests.node.conftest import MakeNode
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Role, str]]:
    """The handshake messages of all connections: who sends them, and their tags."""
    said: list[tuple[Role, str]] = []
    handshake_bytes = SingleStreamDialect.handshake_bytes

    def noted(dialect: SingleStreamDialect, message: bytes) -> Sequence[Step]:
        said.append((dialect.role, chr(message[0])))
        return handshake_bytes(dialect, message)

    monkeypatch.setattr(SingleStreamDialect, "handshake_bytes", noted)
    return said


EARLY = [(Role.DIALER, "N"), (Role.LISTENER, "s"), (Role.LISTENER, "p")]


async def test_a_name_and_its_answer_connect_two_nodes(
    make_node: MakeNode, said: list[tuple[Role, str]]
) -> None:
    async with make_node() as one, make_node() as two:
        assert await one.ping(two.name)
        assert said == EARLY
        one.disconnect(two.name)
        await until(lambda: not two.nodes())
        said.clear()
        assert await two.ping(one.name)
        assert said == EARLY


async def test_quicdist_1_has_challenges(make_node: MakeNode, said: list[tuple[Role, str]]) -> None:
    old = [Quic(dial_alpns=["quicdist/1"], listen_alpns=["quicdist/1"])]
    async with make_node(carriers=old) as one, make_node() as two:
        assert await two.ping(one.name)
        assert [tag for _, tag in said] == ["N", "s", "N", "r", "a"]


async def test_a_node_that_has_restarted_is_reached_as_fast(
    make_node: MakeNode, said: list[tuple[Role, str]]
) -> None:
    name = f"{free_port()}@127.0.0.1"
    async with make_node() as one:
        for _ in range(2):
            said.clear()
            async with make_node(name=name):
                assert await one.ping(name)
                assert said == EARLY
            await until(lambda: not one.nodes())


async def test_the_listener_may_send_first(make_node: MakeNode) -> None:
    """It is up when it has accepted the proof, before the dialer has checked its own one."""
    async with make_node() as one, make_node() as two, one.mailbox("box") as box:
        with two.events() as events:
            await one.connect(two.name)
            await asyncio.wait_for(anext(aiter(events)), PATIENCE)
            for number in range(100):
                await two.send(("box", one.name), number)
        assert [await box.receive(timeout=PATIENCE) for _ in range(100)] == list(range(100))


async def test_a_wrong_cookie_is_said_at_once_and_dialed_once(
    make_node: MakeNode, said: list[tuple[Role, str]], caplog: pytest.LogCaptureFixture
) -> None:
    async with make_node() as one, make_node(cookie="another") as two:
        with pytest.raises(NoConnection, match="has another cookie than this node") as caught:
            await two.connect(one.name)
        assert caught.value.cause is Cause.COOKIE
        assert caught.value.is_refusal
        assert said == [(Role.DIALER, "N"), (Role.LISTENER, "s")]
        [refused] = [
            each for each in caplog.records if getattr(each, "event", "") == "peer_refused"
        ]
        assert getattr(refused, "cause", "") == Cause.COOKIE.value
        assert not one.nodes()


async def test_nodes_that_dial_each_other_have_one_connection(make_node: MakeNode) -> None:
    async with make_node() as one, make_node() as two:
        for _ in range(5):
            await asyncio.gather(one.connect(two.name), two.connect(one.name))
            await until(lambda: one.nodes() == [two.name] and two.nodes() == [one.name])
            one.disconnect(two.name)
            await until(lambda: not one.nodes() and not two.nodes())


async def test_a_connection_that_the_dialer_has_lost_is_replaced(
    make_node: MakeNode, said: list[tuple[Role, str]]
) -> None:
    """The listener still has it, so it asks: `alive`, and the dialer answers `true`."""
    async with make_node() as one, make_node() as two:
        assert await two.ping(one.name)
        said.clear()
        del two._running.connections.up[Atom(one.name)]
        assert await two.ping(one.name)
        assert said == [EARLY[0], (Role.LISTENER, "s"), (Role.DIALER, "s"), EARLY[2]]
        assert one.nodes() == [two.name]
