"""Signals from one process to another arrive in order, however the receiver is addressed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from quicdist import Identity, Mailbox, Node, Quic, Table
from quicdist.etf import Atom, Reference
from quicdist.limits import CarrierLimits, NodeLimits, SessionLimits
from quicdist.protocol import signals
from quicdist.protocol.channel import Head
from quicdist.protocol.streams import MAX_DATA_FRAME
from quicdist.protocol.wire import ALTACT_ALIAS, Op
from tests.node.conftest import COOKIE, Beam, MakeNode, atom
from tests.node.memory import Hub
from tests.support.lossy import LossyProxy, Weather
from tests.support.waiting import PATIENCE

COUNT = 3000
PROCESSES, SHORT = 20, 90
"""More processes than data streams, and the number of messages of each."""


def ways(me: Mailbox, alias: Reference) -> tuple[Any, ...]:
    """Returns a pid, an alias and a name of a process."""
    assert me.name is not None
    return me.pid, alias, (str(me.name), str(me.pid.node))


async def arrived(me: Mailbox) -> list[Any]:
    return [await me.receive(timeout=PATIENCE) for _ in range(COUNT)]


async def send_by_all_ways(sender: Mailbox, to: Mailbox) -> None:
    reach = ways(to, to.alias())
    for number in range(COUNT):
        # Some are large and thus fragmented; other frames may be sent between fragments.
        size = 200_000 if number % 500 == 0 else number % 7
        await sender.send(reach[number % 3], (number, bytes(size)))


@pytest.mark.io
async def test_under_loss(identity: Identity) -> None:
    weather = Weather(loss=0.03, reorder=0.1, duplicate=0.02)
    async with Node("0@127.0.0.1", cookie=COOKIE, identity=identity) as two:
        port = int(two.name.partition("@")[0])
        async with LossyProxy(("127.0.0.1", port), weather, seed=5) as proxy:
            table = Table({two.name: "quic:{}:{}".format(*proxy.address)})
            async with (
                Node("0@127.0.0.1", cookie=COOKIE, identity=identity, lookups=[table]) as one,
                one.mailbox("a") as a,
                two.mailbox("b") as b,
            ):
                await one.connect(two.name)
                both = asyncio.gather(send_by_all_ways(a, b), send_by_all_ways(b, a))
                seen = await asyncio.gather(arrived(a), arrived(b))
                await both
                for messages in seen:
                    assert [number for number, _ in messages] == list(range(COUNT))
                assert proxy.dropped > 0


async def send_and_end(me: Mailbox) -> None:
    """Sends numbers by all ways to a process that asks for it, and ends."""
    to, alias, name = await me.receive()
    reach = to, alias, (name, str(to.node))
    for number in range(SHORT):
        size = 100_000 if number % 30 == 0 else number
        await me.send(reach[number % 3], (number, bytes(size)))


async def collect(me: Mailbox, other: Node, number: int) -> list[Any]:
    """Returns what arrives from a process, whose end is reported in three ways."""
    sender = ("sender" + str(number), other.name)
    pid = other.whereis(sender[0])
    assert pid is not None
    me.trap_exit = True
    me.link(pid)
    me.monitor(sender)
    me.monitor(pid)
    await me.send(sender, (me.pid, me.alias(), Atom(str(me.name))))
    got: list[Any] = []
    while got.count("ended") < 3:
        message = await me.receive(timeout=PATIENCE)
        got.append(message[0] if type(message[0]) is int else "ended")
    return got


@pytest.mark.io
@pytest.mark.parametrize("alpn", ["quicdist/2", "quicdist/1"])
async def test_many_processes_that_send_and_end_under_loss(identity: Identity, alpn: str) -> None:
    """The messages come first, then the exit signal and the two DOWN messages."""
    weather = Weather(loss=0.05, reorder=0.1, duplicate=0.02)
    quic = [Quic(listen_alpns=[alpn])]
    async with Node("0@127.0.0.1", cookie=COOKIE, identity=identity, carriers=quic) as two:
        port = int(two.name.partition("@")[0])
        async with LossyProxy(("127.0.0.1", port), weather, seed=9) as proxy:
            table = Table({two.name: "quic:{}:{}".format(*proxy.address)})
            async with (
                Node("0@127.0.0.1", cookie=COOKIE, identity=identity, lookups=[table]) as one,
                AsyncExitStack() as stack,
            ):
                await one.connect(two.name)
                assert one.peer(two.name).alpn == alpn
                collecting = []
                for number in range(PROCESSES):
                    two.spawn(send_and_end, name=f"sender{number}")
                    me = await stack.enter_async_context(one.mailbox(f"receiver{number}"))
                    collecting.append(collect(me, two, number))
                for got in await asyncio.gather(*collecting):
                    assert got == [*range(SHORT), "ended", "ended", "ended"]
                assert proxy.dropped > 0


@pytest.mark.io
@pytest.mark.parametrize("fragment_size", [64 * 1024, 2 * 1024 * 1024])
async def test_only_frames_of_moderate_size_use_data_streams(
    identity: Identity, fragment_size: int
) -> None:
    """The peer stores the incomplete frames of all streams."""
    limits = NodeLimits(session=SessionLimits(fragment_size=fragment_size))
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, identity=identity, limits=limits) as one,
        Node("0@127.0.0.1", cookie=COOKIE, identity=identity) as two,
        two.mailbox("box") as box,
    ):
        await one.connect(two.name)
        outbox = one._running.connections.up[Atom(two.name)].outbox
        assert outbox.has_data_streams is (fragment_size <= MAX_DATA_FRAME)
        await one.send(("box", two.name), bytes(3 * MAX_DATA_FRAME))
        assert await box.receive(timeout=PATIENCE) == bytes(3 * MAX_DATA_FRAME)


@pytest.mark.io
@pytest.mark.parametrize("small", ["dialer", "listener"])
async def test_a_node_with_small_frames_uses_one_stream(identity: Identity, small: str) -> None:
    """Peers that behave well could exceed the limit with an incomplete frame on each stream."""
    limited = CarrierLimits(max_frame=1024 * 1024)
    dials = [Quic(limits=limited if small == "dialer" else CarrierLimits())]
    listens = [Quic(limits=limited if small == "listener" else CarrierLimits())]
    async with (
        Node("0@127.0.0.1", cookie=COOKIE, identity=identity, carriers=dials) as one,
        Node("0@127.0.0.1", cookie=COOKIE, identity=identity, carriers=listens) as two,
    ):
        await one.connect(two.name)
        assert one.peer(two.name).alpn == "quicdist/1"
        outbox = one._running.connections.up[Atom(two.name)].outbox
        assert not outbox.has_data_streams


@pytest.mark.erlang
async def test_with_a_beam(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox("me") as me, node.mailbox("other") as other:
        alias = me.alias()
        # The BEAM's process receives the alias in a message and sends its three addresses.
        asked = asyncio.ensure_future(
            beam.eval(
                """register(sink, self()), A = alias(),
                {me, '$py'} ! {self(), A},
                {P, B} = receive {theirs, X, Y} -> {X, Y} end,
                Reach = {P, B, {me, '$py'}},
                [element(N rem 3 + 1, Reach) ! {N, binary:copy(<<0>>,
                    case N rem 500 of 0 -> 200000; _ -> 1 end)} || N <- lists:seq(0, $last)],
                L = [receive {m, N} -> N end || _ <- lists:seq(0, $last)],
                unregister(sink), unalias(A), L =:= lists:seq(0, $last)""",
                py=node.name,
                last=COUNT - 1,
            )
        )
        pid, theirs = await me.receive(timeout=PATIENCE)
        await me.send(pid, (atom("theirs"), me.pid, alias))
        assert [number for number, _ in await arrived(me)] == list(range(COUNT))
        reach = pid, theirs, ("sink", beam.name)
        for number in range(COUNT):
            await other.send(reach[number % 3], (atom("m"), number))
        assert await asked is True


async def test_aliases_are_sent_to_as_otp_28_does() -> None:
    """OTP 30 will remove ALIAS_SEND; a peer that supports ALTACT_SIG_SEND receives that."""
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as two,
        two.mailbox() as me,
    ):
        await one.connect(two.name)
        peer = one._running.connections.up[Atom(two.name)]
        seen: list[object] = []
        address = peer.session.channel.address

        def watched(signal: signals.Message | signals.SpawnRequest, stream: int = 0) -> Head:
            seen.append(peer.session.channel._forms.ahead(signal)[:2])
            return address(signal, stream)

        peer.session.channel.address = watched  # type: ignore[method-assign]
        alias = me.alias()
        await one.send(alias, "hello")
        assert await me.receive(timeout=PATIENCE) == b"hello"
        assert seen == [(Op.ALTACT_SIG_SEND, ALTACT_ALIAS)]


async def test_a_priority_message_is_one_like_others() -> None:
    """Since OTP 28 priority messages need a priority alias of the receiver.

    Python processes create none, so the messages are delivered as ordinary ones.
    """
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as two,
        two.mailbox() as me,
    ):
        await one.connect(two.name)
        await one.send(me.pid, "first")
        for to in (me.pid, me.alias()):
            urgent = signals.Message(one.pid, to, is_priority=True)
            one.system.emit(Atom(two.name), one.pid, urgent, "urgent")
        await one.send(me.pid, "last")
        got = [await me.receive(timeout=PATIENCE) for _ in range(4)]
        assert got == [b"first", b"urgent", b"urgent", b"last"]


async def test_who_sends_on_and_on_lets_others_have_their_turn() -> None:
    hub = Hub()
    async with (
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as one,
        Node("0@127.0.0.1", cookie="c", carriers=[hub]) as two,
        one.mailbox() as me,
        two.mailbox() as you,
    ):
        await one.connect(two.name)
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        # Much less than any watermark.
        for number in range(64):
            await me.send(you.pid, (number, bytes(4000)))
        assert turns > 2
        assert [(await you.receive(timeout=PATIENCE))[0] for _ in range(64)] == list(range(64))
