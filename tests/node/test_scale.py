"""Operations whose cost does not depend on the number of objects, counted in steps, not seconds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicdist import Atom, Mailbox, Node
from quicdist.etf import Pid, Term
from quicdist.protocol import signals
from quicdist.runtime.backpressure import HERE
from tests.node.memory import Hub
from tests.node.test_two_nodes import get, make
from tests.support.waiting import until

BACKLOG = 5000


class Looks:
    """A match function that counts its calls."""

    def __init__(self, wanted: Term) -> None:
        self._wanted = wanted
        self.count = 0

    def __call__(self, message: Term) -> bool:
        self.count += 1
        return bool(message == self._wanted)


def fill(me: Mailbox, *messages: Any) -> None:
    for message in messages:
        me.deliver(message, HERE)


async def test_a_match_looks_at_each_message_once_while_it_waits() -> None:
    async with make(Hub()) as node, node.mailbox() as me:
        fill(me, *range(BACKLOG))
        looks = Looks("wanted")
        waiting = asyncio.ensure_future(get(me, looks))
        for _ in range(3):
            await asyncio.sleep(0)
            fill(me, "other")
        fill(me, "wanted")
        assert await waiting == "wanted"
        assert looks.count == BACKLOG + 4


async def test_what_was_there_before_a_mark_is_not_looked_at() -> None:
    async with make(Hub()) as node, node.mailbox() as me:
        fill(me, *range(BACKLOG))
        mark = me.mark()
        fill(me, "other", "wanted")
        looks = Looks("wanted")
        assert await me.receive(looks, timeout=0, since=mark) == "wanted"
        assert looks.count == 2
        # Skipped messages are older than the next mark and keep their positions.
        again = me.mark()
        fill(me, "later")
        assert await me.receive(since=again, timeout=0) == "later"
        assert [await me.receive() for _ in range(BACKLOG + 1)] == [*range(BACKLOG), "other"]


async def test_a_mark_holds_whatever_is_taken_out_in_between() -> None:
    async with make(Hub()) as node, node.mailbox() as me:
        fill(me, *range(10))
        await me.receive(lambda message: message == 7)
        mark = me.mark()
        fill(me, *range(10, 20))
        await me.receive(lambda message: message == 15)
        assert me.drop(lambda message: message in (3, 11, 19), since=mark) == 2
        assert await me.receive(lambda message: message >= 12, since=mark) == 12
        rest = [await me.receive() for _ in range(me.message_count)]
        assert rest == [*range(7), 8, 9, 10, 13, 14, 16, 17, 18]
        assert me.level.size == 0


async def test_a_match_that_raises_loses_nothing() -> None:
    async with make(Hub()) as node, node.mailbox() as me:
        fill(me, 1, "x", 2)
        with pytest.raises(TypeError):
            await me.receive(lambda message: message > 1, timeout=0)
        with pytest.raises(TypeError):
            me.drop(lambda message: message > 0)
        assert [await me.receive() for _ in range(3)] == [1, "x", 2]


async def test_a_call_does_not_look_at_the_backlog_of_its_caller() -> None:
    async with make(Hub()) as node, node.mailbox() as me:
        looked: list[Term] = []

        class Watched(tuple[Any, ...]):
            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                looked.append(self)
                return super().__eq__(other)

            __hash__ = tuple.__hash__

        fill(me, *(("DOWN", Watched((n,)), 1, 2, 3) for n in range(BACKLOG)))
        assert await me.gen_call("net_kernel", (Atom("is_auth"), Atom(node.name))) == "yes"
        assert not looked
        assert me.message_count == BACKLOG


async def test_a_lost_node_concerns_only_who_has_something_there() -> None:
    told: list[Mailbox] = []

    class Told(Mailbox):
        def node_lost(self, node: Atom) -> None:
            told.append(self)
            super().node_lost(node)

    async with make(Hub()) as node:
        boxes = [Told(node.system, node._limits.mailbox) for _ in range(5)]
        there = Pid(Atom("9@127.0.0.1"), 1, 0, 7)
        linked, watched = boxes[:2]
        linked.trap_exit = True
        node.system.handlers[signals.Link](signals.Link(there, linked.pid), None, HERE)
        reference = node.system.identifiers.reference()
        monitor = signals.Monitor(there, watched.pid, reference)
        node.system.handlers[signals.Monitor](monitor, None, HERE)
        node.system.node_lost(there.node)
        assert told == [linked, watched]
        assert await get(linked) == ("EXIT", there, "noconnection")
        node.system.node_lost(there.node)
        assert told == [linked, watched]


async def test_the_dead_leave_no_trace_of_what_they_were_tied_to() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two:
        await one.connect(two.name)

        async def tied(node: Node) -> None:
            async with node.mailbox() as me, two.mailbox() as other:
                me.link(other.pid)
                me.monitor(other.pid)
                me.monitor_node(two.name)
                me.unlink(other.pid)

        for _ in range(10):
            await tied(one)
        await until(lambda: not two.system._tied)
        assert not one.system._tied
