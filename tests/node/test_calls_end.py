"""Each call of a Python node by stock Erlang ends with an answer or an error.

This holds for every behavior of the function, even with the timeout `infinity`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import pytest

from quicdist import CallError, CallNotPossible, Mailbox, Node, current_process
from quicdist.etf import Atom, Term
from quicdist.limits import NodeLimits
from quicdist.otp import gen_server, global_names, pg, pubsub
from quicdist.runtime.calls import CallRequest
from tests.node import exported
from tests.node.conftest import Beam, MakeNode, atom
from tests.node.memory import Hub
from tests.node.test_hostile import make
from tests.support import loops
from tests.support.waiting import PATIENCE, until

FUNCTIONS = [
    "unencodable",
    "cancel_itself",
    "end_itself",
    "fail_unencodably",
    "leave",
    "nothing",
    "stop",
]

CALLS = {
    "gen_server": "gen_server:call({py, N}, $function, infinity)",
    "gen_server with a timeout": "gen_server:call({py, N}, $function, 30000)",
    "gen_statem": "gen_statem:call({py, N}, $function, infinity)",
    "send_request": "gen_server:receive_response("
    "gen_server:send_request({py, N}, $function), infinity)",
    "multi_call": "gen_server:multi_call([N], py, $function)",
    "rex": "gen_server:call({rex, N}, {call, py, $function, [], group_leader()}, infinity)",
    "block_call": "rpc:block_call(N, py, $function, [])",
    "C node": "begin {rex, N} ! {self(), {call, py, $function, [], user}}, "
    "receive {rex, Answer} -> Answer end end",
    "rpc": "rpc:call(N, py, $function, [])",
    "erpc": "erpc:call(N, py, $function, [])",
    "server_call": "rpc:server_call(N, py, py, $function)",
    "multi_server_call": "rpc:multi_server_call([N], py, $function)",
    "spawn": "begin {_, Ref} = spawn_opt(N, py, $function, [], [monitor]), "
    "receive {'DOWN', Ref, _, _, Reason} -> Reason end end",
}


class Server(gen_server.GenServer):
    """Answers one request with an object that is not a term, and others with the request."""

    async def handle_call(self, request: Term, sender: gen_server.From) -> Term:
        match request:
            case "unencodable":
                return object()
            case "cancel":
                raise asyncio.CancelledError
            case ("sleep", float() | int() as seconds):
                await asyncio.sleep(seconds)
        return request


@pytest.fixture
async def node(make_node: MakeNode, beam: Beam) -> AsyncIterator[Node]:
    async with make_node(exports=[exported]) as one:
        await one.connect(beam.name)
        yield one


@pytest.mark.erlang
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_gives_no_term_ends(
    node: Node, beam: Beam, call: str, function: str
) -> None:
    source = CALLS[call].replace("$function", function)
    ended = await beam.eval(
        f"N = '{node.name}', try {{returned, {source}}} catch C:R -> {{C, R}} end"
    )
    assert isinstance(ended, tuple)
    if ended[0] == "returned":
        failures = ["badrpc", "error", "python_error", "killed", "cancelled", "undef"]
        if call == "spawn":
            # The result is not requested.
            failures.append("normal")
        assert any(word in str(ended[1]) for word in failures) or ended[1] == ([], [node.name])


@pytest.mark.erlang
@pytest.mark.parametrize("call", CALLS)
async def test_every_form_of_call_is_answered(node: Node, beam: Beam, call: str) -> None:
    source = CALLS[call].replace("$function", "end_at_once")
    answer = await beam.eval(f"N = '{node.name}', {source}")
    plain = atom("done")
    expected = {
        "send_request": (atom("reply"), plain),
        "multi_call": ([(atom(node.name), plain)], []),
        "multi_server_call": ([plain], []),
        "spawn": atom("normal"),
    }
    assert answer == expected.get(call, plain)


@pytest.mark.erlang
async def test_broadcasts_through_rex(node: Node, beam: Beam) -> None:
    async with node.mailbox("here") as me:
        answer = await beam.eval(
            """{rpc:sbcast(['$py'], here, hello), rpc:sbcast(['$py'], nobody, hello),
            rpc:abcast(['$py'], here, again),
            rpc:eval_everywhere(['$py'], py, tell, [self(), told]),
            receive told -> told end}""",
            py=node.name,
        )
        assert answer == (
            ([atom(node.name)], []),
            ([], [atom(node.name)]),
            atom("abcast"),
            atom("abcast"),
            atom("told"),
        )
        assert [await me.receive(timeout=PATIENCE) for _ in "ab"] == ["hello", "again"]


SERVERS = ["rex", "net_kernel", "py", "pg", "'Elixir.My.Adapter'", "server", "leader"]


@pytest.mark.erlang
@pytest.mark.parametrize("server", SERVERS)
async def test_sys_gen_event_and_unknown_calls_end(node: Node, beam: Beam, server: str) -> None:
    pg.start(node)
    pubsub.start(node, "My")
    await gen_server.start(node, Server(), name="server")
    async with node.group_leader(lambda _: None) as leader:
        node.register("leader", leader)
        name = f"{{{server}, '{node.name}'}}"
        ask = "fun(F) -> try {returned, F()} catch C:_ -> C end end"
        states = await beam.eval(
            f"S = {name}, Ask = {ask}, "
            "[Ask(F) || F <- [fun() -> sys:get_state(S, infinity) end, "
            "fun() -> element(1, sys:get_status(S, infinity)) end, "
            "fun() -> sys:resume(S, infinity) end, "
            "fun() -> sys:no_debug(S, infinity) end, "
            "fun() -> sys:replace_state(S, fun(X) -> X end, infinity) end, "
            "fun() -> gen_event:call(S, handler, query, infinity) end, "
            "fun() -> gen_event:which_handlers(S) end, "
            "fun() -> gen_server:call(S, {what, is, this}, infinity), ok end]]"
        )
        assert isinstance(states, list)
        assert states[1:4] == [
            (atom("returned"), atom("status")),
            (atom("returned"), atom("ok")),
            (atom("returned"), atom("ok")),
        ]
        if server != "server":
            assert states[0] == (atom("returned"), {})
            suspended = await beam.eval(f"sys:suspend({name}, infinity)")
            assert suspended == (atom("error"), atom("notsup"))
        assert states[5:7] == [atom("exit"), atom("exit")]
        assert await beam.eval("net_adm:ping('$py')", py=node.name) == "pong"


@pytest.mark.erlang
@pytest.mark.parametrize("service", ["rex", "net_kernel", "pg"])
async def test_a_request_that_no_service_knows_ends(node: Node, beam: Beam, service: str) -> None:
    pg.start(node)
    ended = await beam.eval(f"rpc:server_call('{node.name}', {service}, {service}, what)")
    assert ended == (atom("error"), atom("nodedown"))


@pytest.mark.erlang
@pytest.mark.parametrize("request_", ["unencodable", "cancel"])
async def test_a_server_whose_answer_is_no_term_ends(node: Node, beam: Beam, request_: str) -> None:
    await gen_server.start(node, Server(), name="server")
    ended = await beam.eval(
        f"try gen_server:call({{server, '{node.name}'}}, {request_}, infinity) "
        "catch exit:{R, _} -> {exit, R} end"
    )
    assert isinstance(ended, tuple)
    assert ended[0] == "exit"


# -- drain ---------------------------------------------------------------------------------------


@pytest.mark.erlang
async def test_a_node_that_drains_ends_its_calls_and_takes_no_new_ones(
    node: Node, beam: Beam
) -> None:
    groups = pg.start(node, "drained")
    await gen_server.start(node, Server(), name="server")
    me = node.spawn(_wait, name="worker")
    groups.join(atom("workers"), me.pid)
    await beam.eval("pg:start(drained)")
    size = "length(pg:get_members(drained, workers))"
    while await beam.eval(size) != 1:
        await asyncio.sleep(0.01)
    await beam.eval(
        """register(asker, spawn(fun() ->
            Answer = erpc:call('$py', py, await_message, [running]),
            receive {tell, To} -> To ! {answer, Answer} end end))""",
        py=node.name,
    )
    await until(lambda: node.whereis("running"))
    draining = asyncio.create_task(node.drain(PATIENCE))
    while await beam.eval(size) != 0:
        await asyncio.sleep(0.01)
    assert not draining.done()
    refused = await beam.eval(
        """Ask = fun(F) -> try F() catch C:R -> {C, R} end end,
        [Ask(F) || F <- [fun() -> erpc:call('$py', py, add, [1, 2]) end,
        fun() -> rpc:call('$py', py, add, [1, 2]) end,
        fun() -> rpc:block_call('$py', py, add, [1, 2]) end,
        fun() -> element(1, element(2, catch gen_server:call({py, '$py'}, {add, 1, 2}))) end,
        fun() -> element(1, element(2, catch gen_server:call({server, '$py'}, hello))) end,
        fun() -> net_adm:ping('$py') end]]""",
        py=node.name,
    )
    draining_atom, badrpc = atom("draining"), atom("badrpc")
    assert isinstance(refused, list)
    assert refused[0] == (atom("error"), (atom("erpc"), draining_atom))
    assert isinstance(refused[1], tuple)
    assert refused[1][0] == badrpc
    assert refused[2:] == [(badrpc, draining_atom), draining_atom, draining_atom, atom("pong")]
    await node.send("running", atom("end_now"))
    asked = "asker ! {tell, self()}, receive {answer, Answer} -> Answer end"
    assert await beam.eval(asked) == "end_now"
    assert await draining


async def _wait(me: Mailbox) -> None:
    await me.receive()


async def test_a_drain_has_its_time() -> None:
    hub = Hub()
    async with make(hub, exports=[exported]) as one, make(hub) as two:
        request = two.send_request(one.name, "py", "forever")
        await until(lambda: one.system._work_left() == 1)
        assert not await one.drain(0.01)
        with pytest.raises(CallNotPossible, match="draining"):
            await two.call(one.name, "py", "add", [1, 2])
        with pytest.raises(CallError, match="draining"):
            await two.gen_call(("py", one.name), (Atom("add"), 1, 2))
        # The node continues.
        assert await one.call(one.name, "py", "add", [1, 2]) == 3
        assert await one.ping(two.name)
        assert not request.is_answered
        await one.stop()
        with pytest.raises(CallError, match="shutdown"):
            await request.receive_response(PATIENCE)


@pytest.mark.io
async def test_a_drain_waits_for_what_servers_have_taken() -> None:
    hub = Hub()
    async with make(hub) as one, make(hub) as two:
        await gen_server.start(one, Server(), name="server")
        sleep = (Atom("sleep"), 0.05)
        requests = [two.gen_send_request(("server", one.name), sleep) for _ in range(3)]
        server = one.system.names[Atom("server")]
        assert isinstance(server, Mailbox)
        await until(lambda: server.message_count == 2)
        assert await one.drain(PATIENCE)
        assert [await request.receive_response(PATIENCE) for request in requests] == [sleep] * 3


# -- invalid arguments ---------------------------------------------------------------------


async def test_arguments_of_the_wrong_type_are_type_errors_at_once() -> None:
    hub = Hub()
    async with make(hub) as one, one.mailbox() as me:
        # Does not await an answer: no process would give one.
        there: Any = "1@10.0.0.1"
        bad_args: list[Any] = ["abc", b"abc", {1: 2}, {1}, 5, None]
        none: Any = None
        calls: list[Callable[[], Any]] = [
            *(functools.partial(one.call, there, "m", "f", bad) for bad in bad_args),
            *(functools.partial(one.rpc, there, "m", "f", bad) for bad in bad_args),
            *(functools.partial(one.cast, there, "m", "f", bad) for bad in bad_args),
            *(functools.partial(one.multicall, [there], "m", "f", bad) for bad in bad_args),
            *(functools.partial(me.spawn_remote, there, "m", "f", bad) for bad in bad_args),
            lambda: one.call(there, "m", none),
            lambda: one.call(there, none, "f"),
            lambda: one.call(none, "m", "f"),
            lambda: one.gen_call(("x", none), 1),
            lambda: one.multicall(there, "m", "f"),
            lambda: one.multi_call(there, "name", 1),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="must be"):
                await asyncio.wait_for(call(), PATIENCE)
        for send in (one.send_request, me.spawn_request):
            with pytest.raises(TypeError, match="args must be a list"):
                send(there, "m", "f", bad_args[0])


def with_timeout(one: Node, me: Mailbox, request: CallRequest) -> dict[str, Callable[[Any], Any]]:
    """Every function of the faces that takes a timeout, by name."""
    there = "1@10.0.0.1"
    return {
        "Node.call": lambda t: one.call(there, "m", "f", timeout=t),
        "Node.drain": lambda t: one.drain(timeout=t),
        "Node.gen_call": lambda t: one.gen_call(("x", there), 1, timeout=t),
        "Node.multi_call": lambda t: one.multi_call([there], "name", 1, timeout=t),
        "Node.multicall": lambda t: one.multicall([there], "m", "f", timeout=t),
        "Node.ping": lambda t: one.ping(there, timeout=t),
        "Node.rpc": lambda t: one.rpc(there, "m", "f", timeout=t),
        "Node.stream": lambda t: anext(aiter(one.stream(there, "m", "f", timeout=t))),
        "Mailbox.gen_call": lambda t: me.gen_call(("x", there), 1, timeout=t),
        "Mailbox.receive": lambda t: me.receive(timeout=t),
        "Mailbox.spawn_remote": lambda t: me.spawn_remote(there, "m", "f", timeout=t),
        "CallRequest.answered": request.answered,
        "CallRequest.receive_response": request.receive_response,
        "global_names.register": lambda t: global_names.register(one, "n", me.pid, timeout=t),
        "global_names.unregister": lambda t: global_names.unregister(one, "n", timeout=t),
        "global_names.whereis": lambda t: global_names.whereis(one, "n", timeout=t),
        "global_names.send": lambda t: global_names.send(one, "n", 1, timeout=t),
        "global_names.sync": lambda t: global_names.sync(one, timeout=t),
    }


WRONG_TIMEOUTS = [
    *(("5", TypeError), (True, TypeError), (object(), TypeError), ([1], TypeError)),
    *((-1, ValueError), (-0.5, ValueError), (math.nan, ValueError), (-math.inf, ValueError)),
]


@pytest.mark.parametrize(("timeout", "kind"), WRONG_TIMEOUTS, ids=lambda one: str(one)[:8])
async def test_a_wrong_timeout_is_an_error_at_once(timeout: Any, kind: type[Exception]) -> None:
    async with make(Hub()) as one, one.mailbox() as me:
        functions = with_timeout(one, me, one.gen_send_request(("x", one.name), 1))
        answers = {name: await result(one, timeout) for name, one in functions.items()}
    text = f"timeout must be a number of seconds or None, not {timeout!r}"
    assert answers == dict.fromkeys(functions, repr(kind(text)))


async def result(function: Callable[[Any], Any], timeout: object) -> object:
    try:
        return await asyncio.wait_for(function(timeout), PATIENCE)
    except Exception as error:
        return repr(error)


def test_every_function_with_a_timeout_was_tried() -> None:
    faces: dict[str, Any] = {
        "Node": Node,
        "Mailbox": Mailbox,
        "CallRequest": CallRequest,
        "global_names": global_names,
    }
    found = {
        f"{face}.{name}"
        for face, owner in faces.items()
        for name, function in vars(owner).items()
        if not name.startswith("_")
        and inspect.isfunction(function)
        and function.__module__ == inspect.getmodule(owner).__name__  # type: ignore[union-attr]
        and "timeout" in inspect.signature(function).parameters
    }
    nothing: Any = mock.Mock()
    assert found == set(with_timeout(nothing, nothing, nothing))


async def test_names_of_the_wrong_type_are_type_errors() -> None:
    async with make(Hub()) as one, one.mailbox() as me:
        calls: list[Callable[[Any], Any]] = [
            one.disconnect,
            one.peer,
            one.whereis,
            lambda name: one.register(name, me.pid),
            one.unregister,
            me.monitor_node,
        ]
        bad: list[Any] = [5, b"x", ("a",)]
        for name in bad:
            for call in calls:
                with pytest.raises(TypeError, match="must be a str, not"):
                    call(name)
            with pytest.raises(TypeError, match="must be a str, not"):
                await one.connect(name)


# -- eager tasks ---------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="asyncio.eager_task_factory is of 3.12"
)
async def test_a_function_that_ends_at_once_is_answered_in_an_eager_task() -> None:
    hub = Hub()
    loop = asyncio.get_running_loop()
    loops.set_eager(loop)
    try:
        async with (
            make(hub, exports=[exported], limits=NodeLimits()) as one,
            make(hub) as two,
            two.mailbox() as me,
        ):
            assert await two.call(one.name, "py", "end_at_once") == "done"
            assert await two.rpc(one.name, "py", "end_at_once") == "done"
            assert await two.gen_call(("py", one.name), Atom("end_at_once")) == "done"
            spawned = await me.spawn_remote(one.name, "py", "end_at_once", monitor=True)
            down = await me.receive(timeout=PATIENCE)
            assert down == ("DOWN", spawned.reference, "process", spawned.pid, "normal")
            me.trap_exit = True
            spawned = await me.spawn_remote(one.name, "py", "nothing", link=True)
            ended = await me.receive(timeout=PATIENCE)
            assert isinstance(ended, tuple)
            assert ended[:2] == ("EXIT", spawned.pid)
            local = two.spawn(_end, link=me)
            assert await me.receive(timeout=PATIENCE) == ("EXIT", local.pid, "normal")
    finally:
        loop.set_task_factory(None)


async def _end(me: Mailbox) -> None:
    assert current_process.get() is me


async def test_a_call_for_which_no_process_can_be_started_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub()
    async with make(hub, exports=[exported]) as one, make(hub) as two:

        def spawn(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(one._running.spawner, "spawn", spawn)
        for _ in range(2):
            with pytest.raises(CallNotPossible, match="system_limit"):
                await two.call(one.name, "py", "add", [1, 2])
            for call in (two.gen_call(("py", one.name), 1), two.rpc(one.name, "py", "add")):
                with pytest.raises(CallError, match="MemoryError"):
                    await call
        monkeypatch.undo()
        assert one.system._work_left() == 0
        assert await two.call(one.name, "py", "add", [1, 2]) == 3


async def test_no_signal_is_lost_alone_while_a_connection_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quicdist.cluster.connection_manager._MAX_QUEUED", 3)
    hub = Hub()
    async with make(hub) as a, make(hub, exports=[exported]) as b, a.mailbox() as me:
        calls = [a.send_request(b.name, "py", "add", [one, 1]) for one in range(10)]
        assert [await call.receive_response(30) for call in calls] == list(range(1, 11))
        a.disconnect(b.name)
        await until(lambda: not a.nodes())
        references = [me.monitor(("nobody", b.name)) for _ in range(5)]
        downs = [await me.receive(timeout=30) for _ in references]
        assert {down[1] for down in downs if isinstance(down, tuple)} == set(references)
        assert {down[4] for down in downs if isinstance(down, tuple)} <= {"noconnection", "noproc"}
