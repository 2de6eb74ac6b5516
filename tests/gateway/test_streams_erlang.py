"""Stock Erlang nodes behind gateways keep the order of signals while datagrams are lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from quicdist import Node, Trust
from quicdist.cluster.policy import PeerRules, Policy
from tests.support.gatewayed import GatewayThread, gatewayed_erl, loopback_settings
from tests.support.lossy import LossyProxy, Weather
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.erlang

PAIRS = 30
"""More than there are data streams."""
COUNT = 60

ORDER = """
begin
Node = '$node',
Sender = fun(I) -> fun() ->
    register(list_to_atom("sender" ++ integer_to_list(I)), self()),
    {To, Name, Alias} = receive {Pid, N, A} -> Pid ! ready, receive go -> {Pid, N, A} end end,
    Reach = {To, {Name, node(To)}, Alias},
    [element(K rem 3 + 1, Reach) ! {K, binary:copy(<<0>>,
        case K rem 20 of 0 -> 200000; _ -> K end)} || K <- lists:seq(1, $count)],
    exit(finished)
end end,
Ends = fun Ends(0, Got) -> lists:reverse(Got);
           Ends(Left, Got) -> receive
               {K, _} when is_integer(K) -> Ends(Left, [K | Got]);
               {'EXIT', _, finished} -> Ends(Left - 1, [ended | Got]);
               {'DOWN', _, _, _, finished} -> Ends(Left - 1, [ended | Got])
           end end,
Main = self(),
Receiver = fun(I) -> fun() ->
    process_flag(trap_exit, true),
    Name = list_to_atom("receiver" ++ integer_to_list(I)),
    register(Name, self()),
    Pid = spawn_link(Node, Sender(I)),
    Pid ! {self(), Name, alias()},
    receive ready -> ok end,
    monitor(process, {list_to_atom("sender" ++ integer_to_list(I)), Node}),
    monitor(process, Pid),
    Pid ! go,
    Main ! {got, I, Ends(3, [])}
end end,
[spawn(Receiver(I)) || I <- lists:seq(1, $pairs)],
Wanted = lists:seq(1, $count) ++ [ended, ended, ended],
Wrong = [{I, Got} || I <- lists:seq(1, $pairs), Got <- [receive {got, I, G} -> G end],
         Got =/= Wanted],
io_lib:format("~0tp", [Wrong])
end.
"""


@contextlib.contextmanager
def lossy(target: GatewayThread, weather: Weather) -> Iterator[LossyProxy]:
    """Yields a proxy to the UDP port of a gateway, on the event loop of that gateway."""
    host, port = target.name.partition("@")[2], int(target.name.partition("@")[0])

    async def opened() -> LossyProxy:
        return LossyProxy((host, port), weather, seed=7)

    async def closed(proxy: LossyProxy) -> None:
        await proxy.__aexit__(None, None, None)

    proxy = asyncio.run_coroutine_threadsafe(opened(), target._loop).result(PATIENCE)
    yield proxy
    asyncio.run_coroutine_threadsafe(closed(proxy), target._loop).result(PATIENCE)


@pytest.mark.parametrize("alpn", ["quicdist/2", "quicdist/1"])
def test_messages_links_and_monitors_stay_in_order(alpn: str) -> None:
    weather = Weather(loss=0.03, reorder=0.1, duplicate=0.02)
    with contextlib.ExitStack() as stack:
        two = stack.enter_context(GatewayThread(replace(loopback_settings(), alpns=(alpn,))))
        proxy = stack.enter_context(lossy(two, weather))
        settings = loopback_settings()
        settings = replace(settings, alpns=(alpn,), routes={two.name: proxy.address})
        one = stack.enter_context(GatewayThread(settings))
        here = stack.enter_context(gatewayed_erl(one))
        stack.enter_context(gatewayed_erl(two))
        source = ORDER.replace("$node", two.name)
        source = source.replace("$pairs", str(PAIRS)).replace("$count", str(COUNT))
        assert here.eval(source) == b"[]"
        assert [each.alpn for each in one.gateway.stats().connections] == [alpn]
        assert proxy.dropped > 0


_PING_AGAIN = """
    Forget = fun Wait() -> lists:member('%s', nodes(connected)) andalso Wait() end,
    Forget(), atom_to_list(net_adm:ping('%s')).
"""
"""A ping over a connection that is about to close would fail."""


@pytest.mark.parametrize("policy", [None, Policy((PeerRules(nodes=("*",)),))])
async def test_a_python_node_and_a_gateway_use_streams(policy: Policy | None) -> None:
    """The BEAM node ignores the proof behind the name and sends a challenge."""
    settings = replace(loopback_settings(), alpns=("quicdist/2",), policy=policy)
    with GatewayThread(settings) as gateway, gatewayed_erl(gateway) as beam:
        async with Node("0@127.0.0.1", cookie="gatewayed", trust=Trust.nothing()) as node:
            await node.connect(gateway.name)
            assert node.peer(gateway.name).alpn == "quicdist/2"
            assert await node.ping(gateway.name)
            node.disconnect(gateway.name)
            await until(lambda: not node.nodes())
            asked = asyncio.to_thread(beam.eval, _PING_AGAIN % (node.name, node.name))
            assert await asyncio.wait_for(asked, PATIENCE) == b"pong"
            assert node.peer(gateway.name).alpn == "quicdist/2"
