"""Python servers as seen by stock Erlang and Elixir."""

from __future__ import annotations

import asyncio

import pytest

from quicdist import CallError, NameTaken, NoProcess
from quicdist.otp import InitError, Stop, start
from tests.node.conftest import Beam, MakeNode, atom
from tests.otp.servers import Counter, Opaque, Trapping
from tests.support.erlang import NO_ELIXIR, elixir_libraries
from tests.support.waiting import until

pytestmark = pytest.mark.erlang

NOTHING_CAME = "receive M -> M after 0 -> none end"
WHY = "catch exit:{R, {gen_server, call, _}} -> R end"


async def test_calls_casts_and_messages(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        server = await start(node, Counter(3), name="counter")
        there = f"{{counter, '{node.name}'}}"
        assert await beam.eval(f"gen_server:call({there}, count)") == 3
        assert await beam.eval(f"gen_server:cast({there}, {{add, 4}})") == "ok"
        assert await beam.eval(f"gen_server:call({there}, count)") == 7
        assert await beam.eval(f"gen_server:call({there}, {{later, 0.05}})") == "later"
        assert await beam.eval(f"{there} ! hello, gen_server:call({there}, log)") == ["hello"]
        late = await beam.eval(f"try gen_server:call({there}, {{slow, 0.4}}, 100) {WHY}")
        assert late == "timeout"
        # Its answer precedes that of a later call.
        assert await beam.eval(f"gen_server:call({there}, count), {NOTHING_CAME}") == "none"
        both = await beam.eval(
            f"""gen_server:multi_call(['{node.name}', node()], counter, count)"""
        )
        assert both == ([(atom(node.name), 7)], [atom(beam.name)])
        asked = await beam.eval(
            f"""R = gen_server:send_request({there}, count),
            gen_server:receive_response(R, 20000)"""
        )
        assert asked == (atom("reply"), 7)
        # The same from Python.
        assert await node.gen_call("counter", atom("count")) == 7
        assert await node.gen_call(server.pid, atom("count")) == 7
        with pytest.raises(NameTaken):
            await start(node, Counter(), name="counter")


async def test_how_a_server_ends(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        told: list[object] = []
        cases = {
            "{stop, normal, bye}": (atom("bye"), atom("normal")),
            "{stop, enough, bye}": (atom("bye"), atom("enough")),
            "{exit, oops}": (atom("oops"), atom("oops")),
        }
        for request, (seen, reason) in cases.items():
            server = await start(node, Trapping(told), name="server")
            answer = await beam.eval(
                f"try gen_server:call({{server, '{node.name}'}}, {request}) {WHY}"
            )
            assert answer == seen
            assert await server.wait() == reason
            assert told.pop() == reason
        server = await start(node, Trapping(told), name="server")
        crash = await beam.eval(f"try gen_server:call({{server, '{node.name}'}}, crash) {WHY}")
        assert isinstance(crash, tuple)
        assert crash[0][:3] == (atom("python_error"), atom("ValueError"), b"no more")
        assert told.pop() == server.exit_reason
        assert await beam.eval(f"try gen_server:call({{server, '{node.name}'}}, count) {WHY}") == (
            "noproc"
        )
        with pytest.raises(NoProcess):
            await node.gen_call("server", 1)


async def test_timeouts(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        counter = Counter()
        await start(node, counter, name="counter")
        there = f"{{counter, '{node.name}'}}"
        assert await beam.eval(f"gen_server:call({there}, {{idle, 0.1}})") == "ok"
        await until(lambda: counter._log == [atom("timeout")])
        # Another call before it is over ends the timeout.
        await beam.eval(
            f"ok = gen_server:call({there}, {{idle, 2.0}}), gen_server:call({there}, count)"
        )
        await asyncio.sleep(2.5)
        assert counter._log == [atom("timeout")]


async def test_a_remote_sys_looks_into_it(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        server = await start(node, Counter(1), name="counter")
        there = f"{{counter, '{node.name}'}}"
        assert await beam.eval(f"sys:get_state({there})") == {atom("count"): 1}
        status = await beam.eval(f"sys:get_status({there})")
        assert status[:3] == (atom("status"), server.pid, (atom("module"), atom("Counter")))
        assert status[3][1] == "running"
        assert status[3][4][2] == (
            atom("data"),
            [([ord(c) for c in "State"], {atom("count"): 1})],
        )
        suspended = await beam.eval(
            f"""ok = sys:suspend({there}),
            gen_server:cast({there}, {{add, 1}}),
            R = (catch gen_server:call({there}, count, 200)),
            S = element(2, lists:split(1, element(4, sys:get_status({there})))),
            N = sys:get_state({there}),
            ok = sys:resume({there}),
            {{element(1, element(2, R)), hd(S), N, gen_server:call({there}, count)}}"""
        )
        assert suspended == (atom("timeout"), atom("suspended"), {atom("count"): 1}, 2)
        replaced = await beam.eval(
            f"try sys:replace_state({there}, fun(S) -> S end) catch error:R -> element(1, R) end"
        )
        assert replaced == "callback_failed"
        assert await beam.eval(f"sys:no_debug({there})") == "ok"
        await start(node, Opaque(), name="opaque")
        shown = await beam.eval(f"sys:get_state({{opaque, '{node.name}'}})")
        assert b"object object" in shown
        assert await beam.eval(f"sys:terminate({there}, done)") == "ok"
        assert await server.wait() == "done"


async def test_elixir_talks_to_it(beam: Beam, make_node: MakeNode) -> None:
    libraries = elixir_libraries()
    if libraries is None:
        pytest.skip(NO_ELIXIR)
    await beam.eval(f'code:add_path("{libraries}/elixir/ebin")')
    async with make_node() as node:
        await start(node, Counter(5), name="counter")
        there = f"{{counter, '{node.name}'}}"
        assert await beam.eval(f"'Elixir.GenServer':call({there}, count)") == 5
        assert await beam.eval(f"'Elixir.GenServer':cast({there}, {{add, 1}})") == "ok"
        assert await beam.eval(f"'Elixir.GenServer':call({there}, count, 1000)") == 6
        assert await beam.eval(f"'Elixir.GenServer':stop({there}, shutdown, 5000)") == "ok"
        assert node.whereis("counter") is None


async def test_exits_and_links(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        told: list[object] = []
        server = await start(node, Trapping(told), name="server")
        there = f"{{server, '{node.name}'}}"
        linked = await beam.eval(
            f"""P = spawn(fun() -> link(erpc_pid), ok end), exit(P, kill),
            Pid = element(2, sys:get_status({there})),
            Q = spawn(fun() -> link(Pid), exit(crashed) end),
            (fun F() -> case gen_server:call({there}, log) of [] -> F(); L -> {{Q, L}} end end)()"""
        )
        assert linked[1] == [(atom("EXIT"), linked[0], atom("crashed"))]
        await beam.eval(f"exit(element(2, sys:get_status({there})), kill), ok")
        assert await server.wait() == "killed"
        assert told == []


async def test_init_that_fails(make_node: MakeNode) -> None:
    class Failing(Counter):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self._error = error

        async def init(self) -> None:
            raise self._error

    async with make_node() as node:
        with pytest.raises(InitError) as caught:
            await start(node, Failing(Stop(atom("no"))), name="failing")
        assert caught.value.reason == "no"
        with pytest.raises(InitError, match="ZeroDivisionError"):
            await start(node, Failing(ZeroDivisionError("x")), name="failing")
        assert node.whereis("failing") is None


async def test_the_nodes_stop_ends_it_well(make_node: MakeNode) -> None:
    told: list[object] = []
    async with make_node() as node:
        server = await start(node, Trapping(told))
        await asyncio.sleep(0)
    assert told == ["shutdown"]
    assert server.exit_reason == "shutdown"


async def test_servers_call_servers(make_node: MakeNode) -> None:
    class Asking(Counter):
        async def handle_call(self, request: object, sender: object) -> object:
            return (await self.me.gen_call("counter", request), self.me.message_count)

    async with make_node() as node:
        await start(node, Counter(8), name="counter")
        asking = await start(node, Asking())
        assert await node.gen_call(asking.pid, atom("count")) == (8, 0)
        with pytest.raises(CallError):
            await node.gen_call(asking.pid, atom("crash"))
