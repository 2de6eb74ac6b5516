"""Streams between Python nodes and real BEAM nodes behind a gateway, in both directions."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from quicdist import CallError, NoConnection, Node, StreamWindow, export, open_stream
from quicdist.etf import Atom, Term
from quicdist.kernel.streams.consumer import Consumer
from tests.node import exported
from tests.node.conftest import COOKIE, Beam, MakeNode
from tests.support.gatewayed import GatewayThread, gatewayed_erl
from tests.support.waiting import PATIENCE, settled, until

pytestmark = pytest.mark.erlang


@export(module="py")
async def total(offer: Term) -> int:
    """Adds the items of a stream that the caller offers."""
    return sum([item async for item in open_stream(offer)])


@pytest_asyncio.fixture
async def node(make_node: MakeNode) -> AsyncIterator[Node]:
    exported.closed.clear()
    async with make_node(exports=[exported, total]) as started:
        yield started


OPEN = "{ok, S} = quicdist_stream:open('$node', py, $function, [$count])"


PRODUCERS = """
    [P || P <- processes(),
          {_, {quicdist_stream, _, _}} <- [process_info(P, current_function)]]
"""


@pytest.mark.parametrize("function", ["count", "count_in_thread", "count_inline"])
async def test_erlang_takes_all_items_in_order(node: Node, beam: Beam, function: str) -> None:
    source = f"{OPEN}, quicdist_stream:to_list(S) =:= lists:seq(0, $count - 1)"
    assert await beam.eval(source, node=node.name, function=function, count=20_000) is True


async def test_erlang_cancels(node: Node, beam: Beam) -> None:
    source = f"""
        {OPEN}, {{items, [First | _], S2}} = quicdist_stream:next(S),
        quicdist_stream:cancel(S2), timer:sleep(50), {{First, process_info(self(), messages)}}
    """
    answer = await beam.eval(source, node=node.name, function="count", count=10**9)
    assert answer == (0, (Atom("messages"), []))
    await until(lambda: exported.closed == ["count"])


async def test_the_generator_is_closed_when_the_erlang_process_ends(node: Node, beam: Beam) -> None:
    source = f"""
        {{_, M}} = spawn_monitor(fun() -> {OPEN}, {{items, _, _}} = quicdist_stream:next(S) end),
        receive {{'DOWN', M, _, _, Reason}} -> Reason end
    """
    answer = await beam.eval(source, node=node.name, function="count", count=10**9)
    assert answer == "normal"
    await until(lambda: exported.closed == ["count"])


async def test_a_python_error_ends_the_stream_in_erlang(node: Node, beam: Beam) -> None:
    source = f"""
        {OPEN}, {{items, Items, S2}} = quicdist_stream:next(S),
        {{Items, element(1, element(2, quicdist_stream:next(S2)))}}
    """
    items, error = await beam.eval(source, node=node.name, function="fail_after", count=3)
    assert items == [0, 1, 2]
    assert error[:2] == ("python_error", "ValueError")


async def test_python_takes_the_items_of_an_erlang_list(node: Node, beam: Beam) -> None:
    stream = node.stream(beam.name, "lists", "seq", [1, 20_000])
    assert [item async for item in stream] == list(range(1, 20_001))


async def test_python_takes_two_streams_of_items_that_grow_when_decoded(
    node: Node, beam: Beam
) -> None:
    """A stream whose items wait for those of another one does not pause the connection."""
    streams = [
        aiter(node.stream(beam.name, "lists", "duplicate", [100, [[]] * 20_000])) for _ in range(2)
    ]
    first = await anext(streams[0])
    await settled(lambda: sum(each.level.size for each in _consumers(node)))
    async with asyncio.timeout(PATIENCE):
        assert await anext(streams[1]) == first == [[]] * 20_000
        assert await node.call(beam.name, "erlang", "node", []) == beam.name


def _consumers(node: Node) -> list[Consumer]:
    return [each for each in node.system.processes.values() if isinstance(each, Consumer)]


async def test_python_cancels_an_endless_erlang_generator(node: Node, beam: Beam) -> None:
    await beam.eval(
        """
        Module = [{attribute, 1, module, endless}, {attribute, 1, export, [{from, 1}]}
                  | [element(2, erl_parse:parse_form(element(2, erl_scan:string(Text))))
                     || Text <- ["from(N) -> fun() -> [N | from(N + 1)] end."]]],
        {ok, endless, Binary} = compile:forms(Module),
        {module, endless} = code:load_binary(endless, "endless.erl", Binary), ok
        """
    )
    window = StreamWindow(items=10)
    async for item in node.stream(beam.name, "endless", "from", [0], window=window):
        if item == 5000:
            break
    async with asyncio.timeout(PATIENCE):
        while await beam.eval(PRODUCERS):
            pass


async def test_an_erlang_error_ends_the_stream_in_python(node: Node, beam: Beam) -> None:
    with pytest.raises(CallError, match="badarith"):
        [item async for item in node.stream(beam.name, "erlang", "div", [1, 0])]


async def test_an_erlang_process_offers_a_stream(node: Node, beam: Beam) -> None:
    source = """
        Offer = quicdist_stream:offer(lists:seq(1, 5000)),
        erpc:call('$node', py, total, [Offer])
    """
    assert await beam.eval(source, node=node.name) == sum(range(1, 5001))


async def test_erlang_opens_an_offer_of_python(node: Node, beam: Beam) -> None:
    source = """
        spawn(fun() ->
            register(summing, self()),
            receive {From, Offer} ->
                From ! lists:sum(quicdist_stream:to_list(quicdist_stream:open_offer(Offer)))
            end
        end), ok
    """
    await beam.eval(source)
    async with node.mailbox() as me, node.offer_stream(range(3000)) as offer:
        await me.send(("summing", beam.name), (me.pid, offer))
        assert await me.receive() == sum(range(3000))


async def test_erlang_sends_items_larger_than_the_window(node: Node, beam: Beam) -> None:
    window = StreamWindow(items=2, bytes=1000)
    stream = node.stream(beam.name, "lists", "duplicate", [5, bytes(100_000)], window=window)
    assert [item async for item in stream] == [bytes(100_000)] * 5


async def test_the_stream_fails_when_the_beam_ends(ebin: str, node: Node) -> None:
    with GatewayThread() as gateway, gatewayed_erl(gateway, "-pa", ebin, cookie=COOKIE) as erlang:
        stream = aiter(node.stream(gateway.name, "lists", "seq", [1, 10**6]))
        assert await anext(stream) == 1
        erlang.kill()
        with pytest.raises((NoConnection, CallError)):
            async for _ in stream:
                pass


needs_elixir = pytest.mark.skipif(
    shutil.which("elixir") is None, reason="no Elixir: sudo apt-get install elixir"
)


@needs_elixir
async def test_elixir_enumerates_a_python_generator(node: Node, beam: Beam) -> None:
    source = """
        S = 'Elixir.Quicdist':stream('$node', py, count, [1000000000]),
        {'Elixir.Enum':take(S, 1500) =:= lists:seq(0, 1499),
         'Elixir.Enum':to_list('Elixir.Quicdist':stream('$node', py, count_in_thread, [3]))}
    """
    assert await beam.eval(source, node=node.name) == (True, [0, 1, 2])
    await until(lambda: sorted(exported.closed) == ["count", "count_in_thread"])


@needs_elixir
async def test_elixir_zips_two_streams(node: Node, beam: Beam) -> None:
    source = """
        S = 'Elixir.Quicdist':stream('$node', py, count, [10]),
        T = 'Elixir.Quicdist':stream('$node', py, count_in_thread, [1000000000]),
        'Elixir.Enum':count('Elixir.Stream':zip(S, T))
    """
    assert await beam.eval(source, node=node.name) == 10
    await until(lambda: sorted(exported.closed) == ["count", "count_in_thread"])


@needs_elixir
async def test_elixir_raises_a_stream_error(node: Node, beam: Beam) -> None:
    source = """
        S = 'Elixir.Quicdist':stream('$node', py, fail_after, [3]),
        try 'Elixir.Enum':to_list(S) catch error:E -> 'Elixir.Exception':message(E) end
    """
    expected = b"the stream ended with ValueError: no more numbers"
    assert await beam.eval(source, node=node.name) == expected


@needs_elixir
async def test_elixir_offers_an_enumerable(node: Node, beam: Beam) -> None:
    source = """
        Stream = 'Elixir.Stream':iterate(1, fun(N) -> N + 1 end),
        Offer = 'Elixir.Quicdist':offer('Elixir.Stream':take(Stream, 2000)),
        erpc:call('$node', py, total, [Offer])
    """
    assert await beam.eval(source, node=node.name) == sum(range(1, 2001))
