"""Forged answers of a third node.

The node knows the references of pending calls and sends answers or DOWN messages that only the
called or monitored node may send.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from quicdist import Atom, CallTimeout, Mailbox, Node, Pid, Reference
from quicdist.etf import ImproperList, Term
from quicdist.protocol import signals
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from tests.node import exported
from tests.node.memory import Hub
from tests.node.test_hostile import end_of, make
from tests.support.waiting import until

FORGED = Atom("forged")
RETURN = Atom("return")


async def keep_silent(me: Mailbox) -> None:
    """A server that never answers."""
    while True:
        await me.receive()


@asynccontextmanager
async def trio() -> AsyncIterator[tuple[Node, Node, Node]]:
    """Yields A, B with exports and a mailbox that never answers, and C; A is connected to both."""
    hub = Hub()
    async with (
        make(hub) as a,
        make(hub, exports=[exported]) as b,
        make(hub) as c,
    ):
        b.spawn(keep_silent, name="silent")
        assert await a.ping(c.name)
        assert await a.ping(b.name)
        yield a, b, c


def forgeries(a: Node, b: Node, reference: Reference, to: Pid) -> Iterator[tuple[Signal, Payload]]:
    """Returns every kind of answer to `reference`, forged as from B."""
    server = Pid(Atom(b.name), 77, 0, b.creation)
    tag = ImproperList((Atom("alias"),), reference)
    answers: list[Term] = [(tag, FORGED), ([tag], FORGED)]
    for answer in answers:
        yield signals.Message(server, reference), answer
        yield signals.Message(server, reference, is_priority=True), answer
        yield signals.Message(server, to), answer
        yield signals.Message(None, to), answer
    for watched in (server, Atom("silent")):
        yield signals.Down(watched, to, reference), (reference, RETURN, FORGED)
        yield signals.Down(watched, to, reference), FORGED
    yield signals.SpawnReply(reference, to, 0, Atom("badopt")), NO_PAYLOAD
    yield signals.SpawnReply(reference, to, signals.SPAWN_MONITORED, server), NO_PAYLOAD


async def spray(a: Node, b: Node, c: Node) -> None:
    """C sends all forged answers for each pending call of A; returns when A has processed them."""
    before = a.system.calls.refused
    sent = 0
    for call in list(a.system.calls):
        for signal, payload in forgeries(a, b, call.reference, call.caller.pid):
            end_of(c, a).post(c.pid, signal, payload)
            sent += 1
    assert sent
    assert await c.ping(a.name)
    assert a.system.calls.refused > before
    assert end_of(a, c)


@pytest.mark.io
async def test_a_third_node_answers_no_call() -> None:
    async with trio() as (a, b, c), a.mailbox() as me:
        requests = [
            a.send_request(b.name, "py", "forever"),
            a.gen_send_request(("silent", b.name), 1),
            me.gen_send_request(("silent", b.name), 1),
        ]
        calls = [
            asyncio.create_task(a.call(b.name, "py", "slow", [0.5])),
            asyncio.create_task(a.rpc(b.name, "py", "slow", [0.5])),
        ]
        await until(lambda: len(a.system.calls) == 5)
        await spray(a, b, c)
        assert not any(request.is_answered for request in requests)
        assert await asyncio.gather(*calls) == ["done", "done"]
        for request in requests:
            with pytest.raises(CallTimeout):
                await request.receive_response(0)
        assert me.message_count == 0


async def test_a_third_node_answers_no_spawn_request() -> None:
    async with trio() as (a, b, c), a.mailbox() as me:
        end_of(b, a).connection.is_deaf = True  # type: ignore[attr-defined]
        request = me.spawn_request(b.name, "py", "forever", [], link=True, monitor=True)
        waiting = asyncio.create_task(me.spawn_remote(b.name, "py", "forever", timeout=None))
        await until(lambda: len(a.system.calls) == 2)
        await spray(a, b, c)
        assert not waiting.done()
        assert not me.drop(lambda message: message[0] in ("spawn_reply", "DOWN"))
        assert not me.links
        assert me.spawn_request_abandon(request)
        waiting.cancel()


async def test_a_third_node_ends_no_monitor() -> None:
    async with trio() as (a, b, c), a.mailbox() as me:
        silent = b.whereis("silent")
        assert silent is not None
        references = [me.monitor(silent), me.monitor(("silent", b.name))]
        assert await a.ping(b.name)
        for reference in references:
            for watched in (silent, Atom("silent")):
                down = signals.Down(watched, me.pid, reference)
                end_of(c, a).post(c.pid, down, FORGED)
        assert await c.ping(a.name)
        assert me.message_count == 0
        assert a.system.calls.refused == 4
        watchers = b.system.processes[silent].watchers
        assert set(references) <= set(watchers)
        # C knows the monitors of A at B and cannot remove them.
        assert await c.ping(b.name)
        async with c.mailbox() as evil:
            for reference in references:
                for watched in (silent, Atom("silent")):
                    end_of(c, b).post(c.pid, signals.Demonitor(evil.pid, watched, reference))
                    end_of(c, b).post(c.pid, signals.Monitor(evil.pid, watched, reference))
            assert await c.ping(b.name)
            assert {watchers[reference].pid for reference in references} == {me.pid}
        b.system.processes[silent].die(Atom("enough"))
        downs = [await me.receive(timeout=30) for _ in references]
        assert {down[4] for down in downs if isinstance(down, tuple)} == {"enough"}


async def test_the_node_that_was_asked_answers_once() -> None:
    async with trio() as (a, b, _), b.mailbox("server") as server:
        request = a.gen_send_request(("server", b.name), Atom("q"))
        message = await server.receive(timeout=30)
        assert isinstance(message, tuple)
        _, (_, tag), _ = message
        assert isinstance(tag, ImproperList)
        alias = tag.tail
        assert isinstance(alias, Reference)
        for answer in ((Atom("x"), 0), (tag, 1), (tag, 2)):
            await server.send(alias, answer)
        assert await request.receive_response(30) == 1
        assert not a.system.calls
        # OTP before 24 sends the answer to the pid.
        request = a.gen_send_request(("server", b.name), Atom("q"))
        message = await server.receive(timeout=30)
        assert isinstance(message, tuple)
        _, (pid, tag), _ = message
        await server.send(pid, (tag, 3))
        assert await request.receive_response(30) == 3


async def test_a_call_ends_with_its_caller_and_leaves_nothing() -> None:
    async with trio() as (a, b, _):
        async with a.mailbox() as me:
            request = me.gen_send_request(("silent", b.name), 1)
            silent = b.system.names[Atom("silent")]
            await until(lambda: silent.watchers)
        with pytest.raises(Exception, match="was ended"):
            await request.receive_response(30)
        await until(lambda: not silent.watchers)
        assert not a.system.calls
