"""Against stock Erlang: calls of its gen_servers and gen_statems."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from quicdist import CallError, CallTimeout, NoConnection, NodeLimits, NoProcess, Pid
from quicdist.etf import EtfEncodeError
from tests.node import exported
from tests.node.conftest import Beam, MakeNode, atom

pytestmark = pytest.mark.erlang

PATIENT = NodeLimits(connect_timeout=20.0)

SERVER = """
-module(gen_probe).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
init([]) -> {ok, 0}.
handle_call(count, _, N) -> {reply, N, N};
handle_call(who, {Pid, _}, N) -> {reply, Pid, N};
handle_call({slow, Ms}, _, N) -> timer:sleep(Ms), {reply, slept, N};
handle_call({later, Ms}, From, N) -> erlang:send_after(Ms, self(), {reply, From}), {noreply, N};
handle_call(crash, _, _) -> error(oops);
handle_call(stop, _, N) -> {stop, enough, N};
handle_call(disconnect, {Pid, _}, N) -> erlang:disconnect_node(node(Pid)), {noreply, N}.
handle_cast({add, K}, N) -> {noreply, N + K}.
handle_info({reply, From}, N) -> gen_server:reply(From, later), {noreply, N}.
"""

STATEM = """
-module(statem_probe).
-export([init/1, callback_mode/0, open/3, closed/3]).
callback_mode() -> state_functions.
init([]) -> {ok, closed, nil}.
closed({call, From}, open, D) -> {next_state, open, D, [{reply, From, opened}]};
closed(cast, open, D) -> {next_state, open, D}.
open({call, From}, open, D) -> {keep_state, D, [{reply, From, was_open}]}.
"""


async def load(beam: Beam, source: str) -> None:
    """Compiles and loads a module on the BEAM."""
    literal = source.replace("\\", "\\\\").replace('"', '\\"')
    await beam.eval(
        f"""Split = fun Split(Rest, Done) -> case erl_scan:tokens([], Rest, 1) of
            {{done, {{ok, T, _}}, More}} ->
                {{ok, F}} = erl_parse:parse_form(T), Split(More, [F | Done]);
            _ -> lists:reverse(Done) end end,
        {{ok, M, B}} = compile:forms(Split("{literal}", [])),
        {{module, M}} = code:load_binary(M, "probe", B), ok"""
    )


@pytest.fixture
async def probe(beam: Beam) -> AsyncIterator[Beam]:
    await load(beam, SERVER)
    await load(beam, STATEM)
    await beam.eval(
        """{ok, _} = gen_server:start({local, probe}, gen_probe, [], []),
        {ok, _} = gen_statem:start({local, door}, statem_probe, [], []), ok"""
    )
    yield beam
    await beam.eval("[catch exit(whereis(P), kill) || P <- [probe, door]], ok")


async def test_calls_and_casts(probe: Beam, make_node: MakeNode) -> None:
    async with make_node(limits=PATIENT) as node, node.mailbox() as me:
        server = ("probe", probe.name)
        for caller, pid in ((node, node.pid), (me, me.pid)):
            before = await caller.gen_call(server, atom("count"))
            assert isinstance(before, int)
            await caller.gen_cast(server, (atom("add"), 5))
            assert await caller.gen_call(server, atom("count")) == before + 5
            assert await caller.gen_call(server, atom("who")) == pid
            assert await caller.gen_call(server, (atom("later"), 20)) == "later"
            process = await node.call(probe.name, "erlang", "whereis", [atom("probe")])
            assert isinstance(process, Pid)
            assert await caller.gen_call(process, atom("count")) == before + 5
        door = ("door", probe.name)
        assert await node.gen_call(door, atom("open")) == "opened"
        assert await me.gen_call(door, atom("open")) == "was_open"
        await me.gen_cast(("nobody", probe.name), 1)
        await me.gen_cast(("nobody", "1@127.0.0.1"), 1)


async def test_how_calls_fail(probe: Beam, make_node: MakeNode) -> None:
    async with make_node(limits=PATIENT) as node, node.mailbox() as me:
        server = ("probe", probe.name)

        async def asked_later(to: Any, request: Any, *, timeout: float | None = 30.0) -> Any:
            return await me.gen_send_request(to, request).receive_response(timeout)

        async def restart() -> None:
            await probe.eval("{ok, _} = gen_server:start({local, probe}, gen_probe, [], []), ok")

        callers: list[Callable[..., Any]] = [node.gen_call, me.gen_call, asked_later]
        for call in callers:
            with pytest.raises(NoProcess):
                await call(("nobody", probe.name), 1)
            with pytest.raises(NoConnection):
                await call(("nobody", "1@127.0.0.1"), 1)
            with pytest.raises(NoProcess):
                await call("nobody_here", 1)
            with pytest.raises(CallTimeout):
                await call(server, (atom("slow"), 400), timeout=0.1)
            assert await call(server, atom("count"), timeout=10) == 0
            with pytest.raises(CallError) as caught:
                await call(server, atom("crash"))
            assert caught.value.reason == "oops"
            assert caught.value.stack
            await restart()
            with pytest.raises(CallError) as caught:
                await call(server, atom("stop"))
            assert caught.value.reason == "enough"
            await restart()
            with pytest.raises(NoConnection):
                await call(server, atom("disconnect"))
        # None leaves state behind, nor do late answers: the answer to another call arrives after
        # them.
        assert await me.gen_call(server, atom("count")) is not None
        assert me.message_count == 0
        assert not me.aliases
        assert not me.monitoring


async def test_multi_call(probe: Beam, make_node: MakeNode) -> None:
    async with make_node(limits=PATIENT) as node, make_node() as other:
        answers, bad = await node.multi_call(
            [probe.name, other.name, "1@127.0.0.1"], "probe", atom("count")
        )
        assert answers == {probe.name: 0}
        assert bad == [other.name, "1@127.0.0.1"]


# -- erpc ----------------------------------------------------------------------------------------


async def test_multicall_and_cast_out(beam: Beam, make_node: MakeNode) -> None:
    async with (
        make_node(limits=PATIENT) as node,
        make_node(exports=[exported]) as other,
        node.mailbox("me") as me,
    ):
        names = [beam.name, other.name, "1@127.0.0.1"]
        one, two, three = await node.multicall(names, "erlang", "abs", [-3])
        assert one == 3
        assert isinstance(two, CallError)
        assert two.reason == "undef"
        assert isinstance(three, NoConnection)
        for name, module, function in (
            (beam.name, "erlang", "send"),
            (other.name, "py", "tell"),
            (node.name, "nothing", "nothing"),
            ("1@127.0.0.1", "nothing", "nothing"),
        ):
            await node.cast(name, module, function, [me.pid, atom(module)])
        assert {await me.receive(timeout=30), await me.receive(timeout=30)} == {"erlang", "py"}


async def test_erpc_of_a_beam(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node, node.mailbox() as me:
        answers = await beam.eval(
            """R = erpc:send_request('$py', py, add, [1, 2]),
            A = erpc:receive_response(R, 20000),
            S = erpc:send_request('$py', py, add_later, [3, 4]),
            {response, B} = erpc:wait_response(S, 20000),
            C = erpc:multicall(['$py', node(), '1@127.0.0.1'], erlang, abs, [-1], 20000),
            D = erpc:multicall(['$py'], py, add, [1, 1]),
            E = erpc:call('$py', fun py:self_pid/0),
            {A, B, [element(1, X) || X <- C], D, node(E)}""",
            py=node.name,
        )
        assert answers == (
            3,
            7,
            [atom("error"), atom("ok"), atom("error")],
            [(atom("ok"), 2)],
            atom(node.name),
        )
        collected = await beam.eval(
            """C = lists:foldl(
                fun(N, Acc) -> erpc:send_request('$py', py, add, [N, N], {n, N}, Acc) end,
                erpc:reqids_new(), [1, 2, 3]),
            (fun F(In, Left) ->
                case erpc:receive_response(Left, 20000, true) of
                    no_request -> lists:sort(In);
                    {Response, Label, Rest} -> F([{Label, Response} | In], Rest)
                end
            end)([], C)""",
            py=node.name,
        )
        assert collected == [((atom("n"), one), 2 * one) for one in (1, 2, 3)]
        pid = await beam.eval(
            """register(told, self()), ok = erpc:cast('$py', py, tell, [self(), hi]),
            ok = erpc:multicast(['$py'], py, tell, [self(), hi]),
            unregister(told), [receive hi -> 1 after 20000 -> 0 end || _ <- [1, 2]]""",
            py=node.name,
        )
        assert pid == [1, 1]
        assert me.message_count == 0


async def test_requests_whose_answer_is_asked_for_later(probe: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        late = node.send_request(probe.name, "timer", "sleep", [100_000])
        requests = [node.send_request(probe.name, "erlang", "abs", [-one]) for one in range(20)]
        bad = node.send_request(probe.name, "erlang", "abs", [atom("x")])
        nowhere = node.send_request("1@127.0.0.1", "erlang", "abs", [1])
        noproc = node.gen_send_request(("nobody", probe.name), 1)
        assert [await one.receive_response(30) for one in requests] == list(range(20))
        with pytest.raises(CallError, match="badarg"):
            await bad.receive_response(30)
        with pytest.raises(NoConnection):
            await nowhere.receive_response(30)
        with pytest.raises(NoProcess):
            await noproc.receive_response(30)
        assert not await late.answered(0.01)
        assert not late.is_answered
        with pytest.raises(CallTimeout, match="timer:sleep/1"):
            await late.receive_response(0.01)
        with pytest.raises(CallTimeout, match="abandoned"):
            await late.receive_response()
        assert not late.abandon()
        # A completed call stays complete.
        assert await requests[7].answered()
        assert await requests[7].receive_response(0) == 7
        assert not requests[7].abandon()


async def test_requests_of_a_process(probe: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        server = ("probe", probe.name)
        await me.send(me.pid, atom("before"))
        late = me.gen_send_request(server, (atom("later"), 100_000))
        who, count = (me.gen_send_request(server, atom(what)) for what in ("who", "count"))
        nobody = me.gen_send_request(("nobody", probe.name), 1)
        await me.send(me.pid, atom("behind"))
        assert await count.receive_response(30) == 0
        assert await who.answered(30)
        assert await who.receive_response(0) == me.pid
        assert await who.receive_response() == me.pid
        assert not who.abandon()
        with pytest.raises(NoProcess):
            await nobody.receive_response(30)
        assert not await late.answered(0.01)
        with pytest.raises(CallTimeout, match="a call of"):
            await late.receive_response(0.01)
        with pytest.raises(CallTimeout, match="abandoned"):
            await late.receive_response()
        assert not late.abandon()
        with pytest.raises(EtfEncodeError):
            me.gen_send_request(server, {1, 2})
        assert not me.aliases
        assert not me.monitoring
        assert [await me.receive(), await me.receive()] == ["before", "behind"]
        assert me.message_count == 0
