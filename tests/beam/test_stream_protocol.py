"""The Python and the Erlang side of streams follow the table in docs/streams.md.

A process that sends the documented terms by itself is the consumer or the producer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from quicdist import CallError, Mailbox, Node, StreamWindow, export
from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from tests.node.conftest import Beam, MakeNode
from tests.support.stream_protocol import message, start_arguments, with_values
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.erlang

MOST_ITEMS = 65_536
SIDES = ["python", "erlang"]


@export(module="lists")
def seq(first: int, last: int) -> range:
    """The function of the same name in Erlang."""
    return range(first, last + 1)


@pytest_asyncio.fixture
async def nodes(make_node: MakeNode) -> AsyncIterator[tuple[Node, Node]]:
    """The node of the process that sends terms by itself, and a Python node that streams."""
    async with make_node(exports=[offer, cancelled]) as one, make_node(exports=[seq]) as two:
        yield one, two


class Raw:
    """A consumer of numbers that sends the documented terms."""

    def __init__(self, me: Mailbox, tag: Reference, producer: Pid) -> None:
        self.me = me
        self.tag = tag
        self.producer = producer

    @classmethod
    async def start(cls, me: Mailbox, node: str, last: int, window: tuple[int, int]) -> Raw:
        tag = me.alias()
        values: dict[str, Term] = {
            "Consumer": me.pid,
            "Tag": tag,
            "MaxItems": window[0],
            "MaxBytes": window[1],
            "Module": Atom("lists"),
            "Function": Atom("seq"),
            "Args": [1, last],
        }
        args = with_values(start_arguments(), values)
        assert isinstance(args, list)
        spawned = await me.spawn_remote(node, "quicdist_stream", "start", args, monitor=True)
        return cls(me, tag, spawned.pid)

    async def items(self) -> list[Term]:
        received = await self.me.receive()
        assert isinstance(received, tuple)
        items = received[-1]
        assert isinstance(items, list)
        assert received == message("items", Tag=self.tag, Items=items)
        return items

    async def send(self, step: str, **values: Term) -> None:
        await self.me.send(self.producer, message(step, Tag=self.tag, **values))

    async def end(self) -> Term:
        """Returns the reason for which the producer ended. No items arrive before."""
        kind, _, what, pid, reason = await self.me.receive()
        assert (kind, what, pid) == ("DOWN", "process", self.producer)
        return reason


def node_of(side: str, nodes: tuple[Node, Node], beam: Beam) -> str:
    return str(nodes[1].name) if side == "python" else beam.name


@pytest.mark.parametrize("side", SIDES)
async def test_a_producer_sends_items_as_they_are_acknowledged(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        raw = await Raw.start(me, node_of(side, nodes, beam), 5, (2, 10_000))
        items: list[Term] = []
        while len(items) < 5:
            arrived = await raw.items()
            assert len(arrived) <= 2
            items += arrived
            await raw.send("ack", Count=len(arrived))
        assert items == [1, 2, 3, 4, 5]
        assert await raw.end() == "normal"


@pytest.mark.parametrize("side", SIDES)
async def test_a_producer_ends_when_it_is_cancelled(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        raw = await Raw.start(me, node_of(side, nodes, beam), 10**6, (1, 10_000))
        assert await raw.items() == [1]
        await raw.send("cancel")
        assert await raw.end() == "normal"


@pytest.mark.parametrize("side", SIDES)
async def test_a_producer_bounds_an_absurd_demand(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        raw = await Raw.start(me, node_of(side, nodes, beam), 10**5, (10**30, 10**30))
        received = 0
        while received < MOST_ITEMS:
            received += len(await raw.items())
        await raw.send("cancel")
        assert await raw.end() == "normal"
        assert received == MOST_ITEMS


@pytest.mark.parametrize("side", SIDES)
async def test_a_producer_ends_when_more_is_acknowledged_than_was_sent(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        raw = await Raw.start(me, node_of(side, nodes, beam), 10, (1, 10_000))
        assert await raw.items() == [1]
        await raw.send("ack", Count=10**9)
        assert "badarg" in str(await raw.end())


@pytest.mark.parametrize("side", SIDES)
async def test_a_producer_ignores_what_is_no_message_of_its_stream(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        raw = await Raw.start(me, node_of(side, nodes, beam), 2, (1, 10_000))
        assert await raw.items() == [1]
        for step, values in (
            ("ack", {"Count": 0}),
            ("ack", {"Count": -1}),
            ("ack", {"Count": Atom("true")}),
            ("items", {"Items": [1]}),
        ):
            await raw.send(step, **values)
        await me.send(raw.producer, message("cancel", Tag=me.alias()))
        await me.send(raw.producer, Atom("hello"))
        await raw.send("ack", Count=1)
        assert await raw.items() == [2]
        await raw.send("ack", Count=1)
        assert await raw.end() == "normal"


MAX_ITEMS, MAX_BYTES = 4, 1000
Produce = Callable[[Mailbox, Reference], Awaitable[None]]
_offers: list[Term] = []


@export(module="raw")
def offer() -> Term:
    """Returns the offer of the current test."""
    return _offers[-1]


_cancelled: list[asyncio.Event] = []


@export(module="raw")
async def cancelled() -> Term:
    """Waits until the producer of the current test was cancelled."""
    async with asyncio.timeout(PATIENCE):
        await _cancelled[-1].wait()
    return Atom("ok")


async def wait_until_cancelled(me: Mailbox, tag: Reference) -> None:
    """Goes on as a producer that ignores a cancellation."""
    cancel = message("cancel", Tag=tag)
    await me.receive(lambda received: received == cancel)
    _cancelled[-1].set()
    await asyncio.Event().wait()


class Offering:
    """A producer that offers a stream by itself, and waits for the end after `produce`."""

    def __init__(self, node: Node, produce: Produce) -> None:
        _cancelled.append(asyncio.Event())
        tag = Atom("my_offer")

        async def main(me: Mailbox) -> None:
            subscribed = await me.receive()
            assert isinstance(subscribed, tuple)
            _, _, _, consumer, alias, _ = subscribed
            assert isinstance(alias, Reference)
            window = {"MaxItems": MAX_ITEMS, "MaxBytes": MAX_BYTES}
            assert subscribed == message(
                "subscribe", OfferTag=tag, Consumer=consumer, Tag=alias, **window
            )
            await produce(me, alias)

        self.pid = node.spawn(main).pid
        _offers.append(message("offer", Producer=self.pid, OfferTag=tag))


async def consume(side: str, nodes: tuple[Node, Node], beam: Beam) -> Term:
    """Returns the items of the offer, or the reason for which the stream ended."""
    if side == "python":
        stream = nodes[1].open_stream(offer(), window=StreamWindow(MAX_ITEMS, MAX_BYTES))
        try:
            return [item async for item in stream]
        except CallError as error:
            return error.reason
    source = """
        Offer = erpc:call('$node', raw, offer, []),
        Options = #{max_items => $items, max_bytes => $bytes},
        Stream = quicdist_stream:open_offer(Offer, Options),
        try quicdist_stream:to_list(Stream) catch exit:Reason -> Reason end
    """
    return await beam.eval(source, node=nodes[0].name, items=MAX_ITEMS, bytes=MAX_BYTES)


@pytest.mark.parametrize("side", SIDES)
async def test_a_consumer_acknowledges_items_and_ends_with_the_producer(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async def produce(me: Mailbox, tag: Reference) -> None:
        for number in range(3):
            await me.send(tag, message("items", Tag=tag, Items=[number] * MAX_ITEMS))
            acknowledged = 0
            while acknowledged < MAX_ITEMS:
                received = await me.receive()
                assert isinstance(received, tuple)
                given = received[-1]
                assert isinstance(given, int)
                assert received == message("ack", Tag=tag, Count=given)
                acknowledged += given
            assert acknowledged == MAX_ITEMS

    Offering(nodes[0], produce)
    assert await consume(side, nodes, beam) == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([1] * (MAX_ITEMS + 1), "flow_control"),
        ([b"x", bytes(100 * MAX_BYTES)], "flow_control"),
        (Atom("none"), "badarg"),
        (ImproperList([1], 2), "badarg"),
    ],
    ids=["items", "bytes", "no list", "improper list"],
)
async def test_a_consumer_ends_a_stream_that_breaks_the_rules(
    side: str, items: Term, reason: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async def produce(me: Mailbox, tag: Reference) -> None:
        await me.send(tag, message("items", Tag=tag, Items=items))
        await wait_until_cancelled(me, tag)

    Offering(nodes[0], produce)
    assert await consume(side, nodes, beam) == reason
    await cancelled()


@pytest.mark.parametrize("side", SIDES)
async def test_a_consumer_that_takes_nothing_ends_a_stream_that_breaks_the_rules(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async def produce(me: Mailbox, tag: Reference) -> None:
        for number in range(MAX_ITEMS + 1):
            await me.send(tag, message("items", Tag=tag, Items=[number]))
        await wait_until_cancelled(me, tag)

    Offering(nodes[0], produce)
    if side == "python":
        stream = nodes[1].open_stream(offer(), window=StreamWindow(MAX_ITEMS, MAX_BYTES))
        with pytest.raises(CallError, match="flow_control"):
            [await cancelled() async for _ in stream]
        return
    source = """
        Offer = erpc:call('$node', raw, offer, []),
        Stream = quicdist_stream:open_offer(Offer, #{max_items => $items, max_bytes => $bytes}),
        erpc:call('$node', raw, cancelled, [], infinity),
        quicdist_stream:next(Stream)
    """
    answer = await beam.eval(source, node=nodes[0].name, items=MAX_ITEMS, bytes=MAX_BYTES)
    assert answer == (Atom("error"), Atom("flow_control"))


@pytest.mark.parametrize("side", SIDES)
async def test_one_item_is_allowed_whatever_its_size(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    large = bytes(1000 * MAX_BYTES)

    async def produce(me: Mailbox, tag: Reference) -> None:
        for _ in range(2):
            await me.send(tag, message("items", Tag=tag, Items=[large]))
            assert await me.receive() == message("ack", Tag=tag, Count=1)

    Offering(nodes[0], produce)
    assert await consume(side, nodes, beam) == [large, large]


@pytest.mark.parametrize("side", SIDES)
async def test_an_empty_message_of_items_changes_nothing(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async def produce(me: Mailbox, tag: Reference) -> None:
        for items in ([], [1], []):
            await me.send(tag, message("items", Tag=tag, Items=items))

    Offering(nodes[0], produce)
    assert await consume(side, nodes, beam) == [1]


@pytest.mark.parametrize("side", SIDES)
async def test_a_malformed_subscription_ends_the_producer(
    side: str, nodes: tuple[Node, Node], beam: Beam
) -> None:
    async with nodes[0].mailbox() as me:
        if side == "python":
            async with nodes[1].offer_stream([1]) as offered:
                reason = await subscribe_badly(me, offered)
        else:
            source = """
                Raw = self(),
                spawn(fun() ->
                    register('$name', self()),
                    Raw ! registered,
                    receive {From, give} -> From ! quicdist_stream:offer([1]) end,
                    receive done -> ok end
                end),
                receive registered -> ok end
            """
            await beam.eval(source, name="offering")
            await me.send(("offering", beam.name), (me.pid, Atom("give")))
            reason = await subscribe_badly(me, await me.receive())
            await me.send(("offering", beam.name), Atom("done"))
        assert "badarg" in str(reason)


async def subscribe_badly(me: Mailbox, offered: Term) -> Term:
    """Opens an offer with a window of no items. Returns the exit reason of the producer."""
    assert isinstance(offered, tuple)
    _, producer, tag = offered
    assert isinstance(producer, Pid)
    assert offered == message("offer", Producer=producer, OfferTag=tag)
    me.monitor(producer)
    values: dict[str, Term] = {"MaxItems": 0, "MaxBytes": 1}
    subscribe = message("subscribe", OfferTag=tag, Consumer=me.pid, Tag=me.alias(), **values)
    await me.send(producer, subscribe)
    down = await me.receive()
    assert isinstance(down, tuple)
    return down[-1]
