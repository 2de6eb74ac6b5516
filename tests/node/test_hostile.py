"""Hostile peers with the cookie: their actions affect only their own connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from quicdist import (
    Atom,
    CallError,
    CallNotPossible,
    Mailbox,
    MailboxLimits,
    Node,
    NodeDown,
    NodeLimits,
    Pid,
    WhenFull,
)
from quicdist.carriers.base import CloseReason
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.peer import Peer
from quicdist.etf import DEFAULT, EtfDecodeError, EtfEncodeError, Limits, Options, Reference, decode
from quicdist.limits import SessionLimits
from quicdist.protocol import signals
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake_messages import Name, build_name
from quicdist.protocol.packet import Packet
from quicdist.runtime.backpressure import Backpressure
from tests.node import exported
from tests.node.memory import Hub, MemoryCarrier
from tests.support.waiting import PATIENCE, until

KIB = 1024
ELSEWHERE = Atom("1@10.0.0.1")


def make(hub: Hub, **settings: Any) -> Node:
    return Node("0@127.0.0.1", **{"cookie": "c", "carriers": [hub], **settings})


def end_of(one: Node, two: Node) -> Peer:
    """Returns `one`'s end of its connection to `two`."""
    return one._running.connections.up[Atom(two.name)]


def reference(node: str, number: int) -> Reference:
    return Reference(Atom(node), (number & 0x3FFFF, number >> 18, 1), 9)


@pytest.mark.parametrize(
    "kind",
    [
        *("link", "unlink", "unlink_ack", "monitor", "demonitor"),
        *("exit", "exit2", "altact", "spawn"),
    ],
)
async def test_a_signal_in_another_nodes_name_ends_the_connection(kind: str) -> None:
    hub = Hub()
    stranger = Pid(ELSEWHERE, 1, 0, 9)
    async with make(hub) as one, make(hub) as two, two.mailbox("victim") as victim:
        victim.trap_exit = True
        await one.connect(two.name)
        mfa = (Atom("erpc"), Atom("execute_call"), 4)
        spoofed: dict[str, tuple[signals.Signal, Any]] = {
            "link": (signals.Link(stranger, victim.pid), None),
            "monitor": (signals.Monitor(stranger, Atom("victim"), reference(ELSEWHERE, 1)), None),
            "exit": (signals.Exit(stranger, victim.pid), Atom("boo")),
            "exit2": (signals.ExitSignal(stranger, victim.pid), Atom("boo")),
            "altact": (signals.ExitSignal(stranger, victim.pid, is_priority=True), Atom("boo")),
            "unlink": (signals.Unlink(1, stranger, victim.pid), None),
            "unlink_ack": (signals.UnlinkAck(1, stranger, victim.pid), None),
            "demonitor": (
                signals.Demonitor(stranger, victim.pid, reference(ELSEWHERE, 1)),
                None,
            ),
            "spawn": (
                signals.SpawnRequest(reference(ELSEWHERE, 1), stranger, stranger, mfa, []),
                [],
            ),
        }
        control, payload = spoofed[kind]
        with two.events() as events:
            if payload is None:
                end_of(one, two).post(one.pid, control)
            else:
                end_of(one, two).post(one.pid, control, payload)
            event = await asyncio.wait_for(events.__anext__(), PATIENCE)
            assert isinstance(event, NodeDown)
            assert "pid of another node" in event.reason
        assert not victim.watchers
        assert not victim.links
        assert not victim.message_count


async def ask_in_vain(one: Node, two: Node) -> None:
    """Sends requests to `two` and does not read the answers."""
    peer = end_of(one, two)
    deaf = Backpressure("the deaf", 0, 0, 0)
    peer._held_by.add(deaf)
    deaf.held.add(peer)
    for number in range(20_000):
        pid = Pid(Atom(one.name), number, 0, one.creation)
        peer.post(pid, signals.Monitor(pid, Atom("nobody"), reference(one.name, number)))
    await until(lambda: end_of(two, one)._held_by)
    deaf.resume_all()


async def test_who_asks_and_reads_no_answer_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    limits = NodeLimits(unread_answers=256 * KIB)
    async with make(hub) as one, make(hub, limits=limits) as two:
        await one.connect(two.name)
        with caplog.at_level(logging.WARNING, "quicdist.node"):
            await ask_in_vain(one, two)
        assert "the backlog of answers" in caplog.text
        assert end_of(two, one)._answers.size < 512 * KIB
        # Reading resumes the traffic.
        await until(lambda: end_of(one, two).outbox.is_empty and end_of(two, one).outbox.is_empty)
        assert end_of(two, one)._answers.size == 0
        assert await one.ping(two.name)
        assert await two.ping(one.name)


@pytest.mark.virtual_clock
async def test_who_never_reads_its_answers_is_down() -> None:
    hub = Hub()
    limits = NodeLimits(unread_answers=64 * KIB, net_ticktime=0.4)
    async with make(hub) as one, make(hub, limits=limits) as two:
        await one.connect(two.name)
        with two.events() as events:
            peer = end_of(one, two)
            peer._held_by.add(Backpressure("the deaf", 0, 0, 0))
            for number in range(20_000):
                pid = Pid(Atom(one.name), number, 0, one.creation)
                peer.post(pid, signals.Monitor(pid, Atom("nobody"), reference(one.name, number)))
            event = await asyncio.wait_for(events.__anext__(), PATIENCE)
        assert isinstance(event, NodeDown)
        assert "read no answers" in event.reason


FEW_TERMS = Options(limits=Limits(max_terms=1000))


async def test_a_term_of_too_many_parts_costs_its_message_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    async with (
        make(hub) as one,
        make(hub, terms=FEW_TERMS) as two,
        two.mailbox("basin") as basin,
        one.mailbox("watcher") as watcher,
    ):
        monitor = watcher.monitor(basin.pid)
        with caplog.at_level(logging.WARNING, "quicdist.node"):
            for _ in range(50):
                await one.send(("basin", two.name), [[]] * 1001)
            await one.send(("basin", two.name), b"next")
            assert await basin.receive(timeout=PATIENCE) == b"next"
        lines = [record for record in caplog.records if "dropped" in record.getMessage()]
        assert "(Message, " in lines[0].getMessage()
        assert "Limits.max_terms" in lines[0].getMessage()
        assert len(lines) <= 10
        assert two.stats().traffic.messages_refused == 50
        assert watcher.demonitor(monitor)


@pytest.mark.io
async def test_an_answer_that_cannot_be_read_ends_its_call_and_nothing_else() -> None:
    hub = Hub()
    async with (
        make(hub, terms=FEW_TERMS) as one,
        make(hub, exports=[exported]) as two,
        one.mailbox() as me,
        two.mailbox("echo") as echo,
    ):

        async def serve() -> None:
            while True:
                _, (pid, tag), request = await echo.receive()
                await echo.send(pid if request == b"pid" else tag.tail, (tag, [[]] * 1001))

        serving = asyncio.ensure_future(serve())
        limit = r"Limits\.max_terms"
        other = asyncio.ensure_future(one.call(two.name, "py", "slow", [0.05], timeout=PATIENCE))
        with pytest.raises(CallError, match=limit):
            await one.call(two.name, "py", "wide", [1001], timeout=PATIENCE)
        with pytest.raises(CallError, match=limit):
            await one.gen_call(("echo", two.name), b"x", timeout=PATIENCE)
        with pytest.raises(CallError, match=limit):
            await me.gen_call(("echo", two.name), b"x", timeout=PATIENCE)
        # Calls with invalid arguments are answered as well.
        with pytest.raises(CallNotPossible, match="badarg"):
            await two.call(one.name, "py", "echo", [[[]] * 1001], timeout=PATIENCE)
        await other
        assert one.stats().traffic.messages_refused == 4
        assert not me.message_count
        # No monitors are left.
        await until(lambda: not echo.watchers)
        serving.cancel()


def _is_tied(process: Mailbox, node: str) -> bool:
    return bool(process.links.count(node) and process.watchers)


async def test_a_reason_that_cannot_be_read_is_another_reason() -> None:
    hub = Hub()
    async with make(hub, terms=FEW_TERMS) as one, make(hub) as two, one.mailbox() as me:
        me.trap_exit = True
        for _ in range(2):
            target = two.spawn(lambda its: its.receive())
            me.link(target.pid)
            monitor = me.monitor(target.pid)
            await until(partial(_is_tied, target, one.name))
            target.die([[]] * 1001)
            messages = [await me.receive(timeout=PATIENCE) for _ in range(2)]
            assert {message[0] for message in messages} == {"EXIT", "DOWN"}
            for message in messages:
                assert message[-1][0] == "undecodable"
                assert b"Limits.max_terms" in message[-1][1]
            assert not me.demonitor(monitor)


def test_a_small_frame_does_not_take_a_gigabyte() -> None:
    count = DEFAULT.limits.max_terms + 1
    assert count * 80 < 512 * 1024 * 1024
    with pytest.raises(EtfDecodeError, match="terms"):
        decode(b"\x83l" + count.to_bytes(4, "big") + b"j" * (count + 1))


class Mute:
    """The owner of a connection without traffic."""

    def packets_received(self, packets: Sequence[Packet]) -> int:
        return 0

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        pass


@pytest.mark.virtual_clock
async def test_who_claims_a_name_without_the_cookie_stops_nobody_from_connecting() -> None:
    hub = Hub(delay=0.03)
    async with make(hub) as one, make(hub) as two:
        low, high = sorted((one, two), key=lambda node: node.name)
        stranger = MemoryCarrier(hub)
        place = TransportAddress(Transport.QUIC, "127.0.0.1", int(low.name.partition("@")[0]))

        async def knock() -> None:
            while True:
                connection = await stranger.dial(low.name, place, PATIENCE)
                connection.handler = Mute()
                connection.send_handshake(build_name(Name(int(DEFAULT_FLAGS), 4, high.name)))

        knocking = [asyncio.create_task(knock()) for _ in range(10)]
        await asyncio.sleep(0.1)
        await low.connect(high.name)
        assert await low.ping(high.name)
        for one_knocking in knocking:
            one_knocking.cancel()


# -- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "monitor"])
async def test_a_peer_ties_so_many_of_its_processes_to_ours_and_no_more(kind: str) -> None:
    hub = Hub()
    limits = NodeLimits(links_and_monitors=100)
    async with (
        make(hub) as one,
        make(hub, limits=limits) as two,
        make(hub) as three,
        two.mailbox("target") as target,
    ):
        target.trap_exit = True
        await one.connect(two.name)
        await three.connect(two.name)

        def tie(by: Node, number: int) -> None:
            pid = Pid(Atom(by.name), number, 0, by.creation)
            signal: signals.Signal = signals.Link(pid, target.pid)
            if kind == "monitor":
                signal = signals.Monitor(pid, target.pid, reference(by.name, number))
            end_of(by, two).post(pid, signal)

        with two.events() as events:
            for number in range(1000):
                tie(three, number % 50)
                tie(one, number)
            event = await asyncio.wait_for(events.__anext__(), PATIENCE)
        assert isinstance(event, NodeDown)
        assert event.node == one.name
        assert "links and monitors (limit: 100)" in event.reason
        await until(lambda: two._running.system.links_and_monitors_of(Atom(one.name)) == 0)
        assert await three.ping(two.name)
        if kind == "link":  # linking the same process again keeps one link
            await until(lambda: two._running.system.links_and_monitors_of(Atom(three.name)) == 50)


async def test_ties_that_ended_do_not_count() -> None:
    hub = Hub()
    async with (
        make(hub) as one,
        make(hub, limits=NodeLimits(links_and_monitors=40)) as two,
        two.mailbox("target") as target,
        one.mailbox() as me,
    ):
        for _ in range(200):
            me.demonitor(me.monitor(target.pid))
        assert await one.ping(two.name)
        await until(lambda: two._running.system.links_and_monitors_of(Atom(one.name)) == 0)


async def test_an_answer_that_no_peer_would_take_is_an_error_and_no_end() -> None:
    hub = Hub()
    limits = NodeLimits(session=SessionLimits(max_message=300_000))
    async with (
        make(hub, limits=limits) as one,
        make(hub, limits=limits, exports=[exported]) as two,
    ):
        with one.events() as events:
            with pytest.raises(EtfEncodeError, match=r"SessionLimits\.max_message is 300000"):
                await one.send(("nobody", two.name), bytes(300_000))
            with pytest.raises(CallError, match="max_message"):
                await one.call(two.name, "py", "zeros", [300_000])
            assert len(await one.call(two.name, "py", "zeros", [200_000])) == 200_000
            with pytest.raises(EtfEncodeError, match=r"Limits\.max_depth"):
                await one.send(("nobody", two.name), exported.nested(70_000))
            with pytest.raises(EtfEncodeError, match=r"Limits\.max_terms"):
                await one.send(("nobody", two.name), [[]] * 5_000_000)
            with pytest.raises(CallError, match="max_depth"):
                await one.call(two.name, "py", "nested", [70_000])
            assert await one.ping(two.name)
            await events.__anext__()  # up
            assert not events._queue


@pytest.mark.parametrize("by", ["size", "length"])
async def test_a_full_mailbox_may_drop(by: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    drop = WhenFull.DROP
    limits = (
        MailboxLimits(high=20_000, low=10_000, hard=50_000, when_full=drop)
        if by == "size"
        else MailboxLimits(messages=50, when_full=drop)
    )
    async with make(hub) as one, make(hub) as two, two.mailbox("slow", limits=limits) as slow:
        other = one.spawn(lambda me: me.receive(), name="other")
        watched = slow.monitor(("other", one.name))
        with caplog.at_level(logging.WARNING, "quicdist.node"):
            for number in range(200):
                await one.send(("slow", two.name), (number, bytes(1000)))
            # No sender is delayed.
            assert await one.ping(two.name)
            other.die(Atom("done"))
            await until(lambda: slow._fresh and slow._fresh[-1][0][0] == "DOWN")
        assert "messages dropped" in caplog.text
        assert slow.dropped == 201 - slow.message_count
        assert 30 < slow.message_count <= 51
        first = [await slow.receive() for _ in range(slow.message_count - 1)]
        assert [message[0] for message in first] == list(range(len(first)))
        assert (await slow.receive())[1] == watched
        await one.send(("slow", two.name), "room again")
        assert await slow.receive(timeout=PATIENCE) == b"room again"


@pytest.mark.virtual_clock
async def test_a_full_mailbox_may_end_its_process() -> None:
    hub = Hub()
    limits = NodeLimits(mailbox=MailboxLimits(messages=50, when_full=WhenFull.KILL))
    async with make(hub) as one, make(hub, limits=limits) as two, one.mailbox() as me:

        async def sleep(slow: Mailbox) -> None:
            await asyncio.sleep(PATIENCE)

        slow = two.spawn(sleep, name="slow")
        watched = me.monitor(slow.pid)
        for number in range(60):
            await me.send(("slow", two.name), number)
        message = await me.receive(timeout=PATIENCE)
        assert message == ("DOWN", watched, "process", slow.pid, "killed")
        assert await one.ping(two.name)
