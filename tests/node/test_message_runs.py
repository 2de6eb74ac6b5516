"""Messages in a row to one receiver have the same effects as messages one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from quicdist import Mailbox, Node
from quicdist.cluster.peer import Peer, no_receiver
from quicdist.etf import Atom, Pid, Term
from quicdist.limits import MailboxLimits, WhenFull
from quicdist.protocol.packet import FramePacket
from quicdist.protocol.signals import Message
from tests.node.memory import Hub

NAMES = "holding", "dropping", "killed"
SMALL = MailboxLimits(low=400, high=800, hard=1600)
LIMITS = {
    "holding": SMALL,
    "dropping": MailboxLimits(low=400, high=800, hard=1600, when_full=WhenFull.DROP),
    "killed": MailboxLimits(low=400, high=800, hard=1600, when_full=WhenFull.KILL),
}
SENDER = Pid(Atom("0@127.0.0.1"), 5, 0, 7)


@dataclass
class Receiver:
    """A node with three mailboxes that reads the frames that a test passes to it."""

    node: Node
    peer: Peer
    sender: Peer
    mailboxes: dict[str, Mailbox]
    consumed: list[int] = field(default_factory=list)

    def frames(self, messages: Sequence[tuple[str, Term]]) -> list[FramePacket]:
        channel = self.sender.session.channel
        packets = []
        for name, payload in messages:
            mailbox = self.mailboxes.get(name)
            to = Atom("nobody") if mailbox is None else mailbox.pid
            signal = Message(SENDER, to if payload else Atom(name))
            frame = channel.frame(channel.encode(signal, payload))
            assert frame is not None
            packets.append(FramePacket(frame))
        return packets

    def state(self) -> object:
        """What an observer of the node can tell."""
        return (
            self.consumed,
            self.peer.is_held_back,
            self.peer._messages_received,
            len(self.peer._queue),
            [
                (each.is_alive, each.message_count, each.level.size, each.dropped)
                for each in self.mailboxes.values()
            ],
        )


async def receiver(stack: AsyncExitStack, *, takes_runs: bool) -> Receiver:
    hub = Hub()
    here = await stack.enter_async_context(Node("0@127.0.0.1", cookie="c", carriers=[hub]))
    there = await stack.enter_async_context(Node("0@127.0.0.1", cookie="c", carriers=[hub]))
    await there.connect(here.name)
    peer = here._running.connections.up[Atom(there.name)]
    if not takes_runs:
        peer.receiver_of_run = no_receiver
    mailboxes = {}
    for name in NAMES:
        mailboxes[name] = Mailbox(here._running.system, LIMITS[name])
        here._running.system.register(name, mailboxes[name])
    made = Receiver(here, peer, there._running.connections.up[Atom(here.name)], mailboxes)
    peer.connection.consumed = made.consumed.append  # type: ignore[method-assign, assignment]
    return made


payloads: st.SearchStrategy[Term] = st.one_of(
    st.binary(max_size=300), st.tuples(st.sampled_from([Atom("ok"), Atom("go")]), st.integers())
)
bursts = st.lists(st.tuples(st.sampled_from([*NAMES, "nobody"]), payloads), max_size=12)
long_bursts = st.tuples(st.sampled_from(NAMES), payloads, st.integers(1, 20)).map(
    lambda made: [made[:2]] * made[2]
)
steps = st.lists(st.one_of(bursts, long_bursts, st.sampled_from(NAMES)), max_size=8)


async def go_through(done: list[list[tuple[str, Term]] | str], *, takes_runs: bool) -> list[object]:
    seen: list[object] = []
    async with AsyncExitStack() as stack:
        here = await receiver(stack, takes_runs=takes_runs)
        for step in done:
            if isinstance(step, str):
                mailbox = here.mailboxes[step]
                while mailbox.is_alive and mailbox.message_count:
                    seen.append(await mailbox.receive())
                await asyncio.sleep(0)  # the peer resumes in the next iteration
            else:
                seen.append(here.peer.packets_received(here.frames(step)))
            seen.append(here.state())
    return seen


@settings(max_examples=25, deadline=None)
@given(steps)
def test_a_run_has_the_effects_of_its_messages(done: list[list[tuple[str, Term]] | str]) -> None:
    with_runs = asyncio.run(go_through(done, takes_runs=True))
    assert with_runs == asyncio.run(go_through(done, takes_runs=False))


async def test_a_run_pauses_the_peer_at_the_message_that_fills_the_mailbox() -> None:
    async with AsyncExitStack() as stack:
        here = await receiver(stack, takes_runs=True)
        mailbox = here.mailboxes["holding"]
        burst = here.frames([("holding", bytes(200))] * 10)
        here.peer.packets_received(burst)
        assert here.peer.is_held_back
        assert mailbox.level.size > SMALL.high
        size = mailbox.level.size // mailbox.message_count
        assert mailbox.level.size - size <= SMALL.high
        assert len(here.peer._queue) == len(burst) - mailbox.message_count


async def test_the_receiver_of_a_run_is_looked_up_again_after_its_end() -> None:
    async with AsyncExitStack() as stack:
        here = await receiver(stack, takes_runs=True)
        table = here.node._running.system
        first, second = (here.mailboxes[name] for name in ("holding", "dropping"))
        to_first, to_second = (Message(SENDER, each.pid) for each in (first, second))
        to_name = Message(SENDER, Atom("holding"))
        for _ in range(2):
            assert table.receiver_of_run(to_first) is first
            assert table.receiver_of_run(to_second) is second
            assert table.receiver_of_run(to_name) is first
        assert table.receiver_of_run(to_first) is first
        table.unregister("holding")
        table.unregister("dropping")
        table.register("holding", second)
        assert table.receiver_of_run(to_name) is second
        first.die(Atom("normal"))
        assert table.receiver_of_run(to_first) is None
        assert table.receiver_of_run(to_second) is second
