"""Against stock Erlang: how the BEAM and a Python node see each other."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from quicdist import (
    CallError,
    CallTimeout,
    ErrorClass,
    Mailbox,
    NoConnection,
    Node,
    NodeDown,
    NodeUp,
    NoProcess,
    Pid,
    ProcessExited,
    Reference,
)
from quicdist.etf import Atom, Term
from quicdist.protocol import signals
from quicdist.protocol.signals import NO_TOKEN
from quicdist.runtime.process_table import Handler
from quicdist.runtime.system_process import reply
from tests.node import exported
from tests.node.conftest import Beam, MakeNode, atom
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.erlang

OK = atom("ok")


async def monitored(beam: Beam, node: Node) -> list[Pid]:
    """Returns the BEAM processes that the node monitors, except net_kernel."""
    source = """[P || P <- processes() -- [whereis(net_kernel)],
        {monitored_by, L} <- [process_info(P, monitored_by)],
        Q <- L, is_pid(Q), node(Q) =:= '$py']"""
    found = await beam.eval(source, py=node.name)
    assert isinstance(found, list)
    return found


async def is_unmonitored(beam: Beam, node: Node) -> bool:
    return not await monitored(beam, node)


async def get(me: Mailbox, match: Any = None) -> Term:
    return await me.receive(match, timeout=PATIENCE)


# -- connections ---------------------------------------------------------------------------------


async def test_ping_both_ways(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        assert await node.ping(beam.name)
        assert await beam.eval("net_adm:ping('$py')", py=node.name) == "pong"
        assert node.nodes() == [beam.name]
        assert atom(node.name) in await beam.eval("nodes(hidden)")
        assert atom(node.name) not in await beam.eval("nodes()")


async def test_a_beam_connects_first(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        with node.events() as events:
            assert await beam.eval("net_adm:ping('$py')", py=node.name) == "pong"
            assert await anext(events) == NodeUp(beam.name, False, "quicdist")
            assert await beam.eval("erlang:disconnect_node('$py')", py=node.name) is True
            down = await asyncio.wait_for(anext(events), PATIENCE)
            assert isinstance(down, NodeDown)
            assert down.node == beam.name
        assert node.nodes() == []


async def test_connects_that_cross(beam: Beam, make_node: MakeNode) -> None:
    for _ in range(15):
        async with make_node() as node:
            ours, theirs = await asyncio.gather(
                node.ping(beam.name), beam.eval("net_adm:ping('$py')", py=node.name)
            )
            assert (ours, theirs) == (True, "pong")
            assert node.nodes() == [beam.name]


async def test_a_visible_node_shows(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(visible=True) as node:
        assert await node.ping(beam.name)
        assert atom(node.name) in await beam.eval("nodes()")


async def test_the_beam_sees_us_go_at_once(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        await node.connect(beam.name)
        await beam.eval(
            """Me = self(), P = spawn(fun() ->
                monitor_node('$py', true), Me ! watching,
                Down = receive {nodedown, N} -> N end,
                receive {down, Asker} -> Asker ! {down, Down} end
            end), receive watching -> register(node_watcher, P) end""",
            py=node.name,
        )
    down = "node_watcher ! {down, self()}, receive {down, N} -> N after 20000 -> late end"
    assert await beam.eval(down) == atom(node.name)


async def test_a_wrong_cookie(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(cookie="another") as node:
        assert not await node.ping(beam.name)
        with pytest.raises(NoConnection, match=beam.name):
            await node.connect(beam.name)
        assert await beam.eval("net_adm:ping('$py')", py=node.name) == "pang"


async def test_a_new_incarnation(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        await node.connect(beam.name)
        name = node.name
        async with node.mailbox("me") as me:
            old = me.pid
        creation = node.creation
    again = Node(name, cookie="node-tests")
    async with again:
        assert again.creation != creation
        assert again.creation > 3
        assert await again.ping(beam.name)
        async with again.mailbox("me") as me:
            await me.send(old, b"for nobody")
            await beam.eval("{me, '$py'} ! hello, ok", py=name)
            assert await get(me) == "hello"


async def test_a_result_beyond_a_limit_costs_its_call_alone(
    beam: Beam, make_node: MakeNode
) -> None:
    async with make_node() as node, node.mailbox() as me:
        monitor = me.monitor(("rex", beam.name))
        with pytest.raises(CallError, match=r"Limits\.max_terms"):
            await node.call(beam.name, "lists", "duplicate", [5_000_000, []], timeout=PATIENCE)
        with pytest.raises(CallError, match=r"Limits\.max_terms"):
            await node.rpc(beam.name, "lists", "duplicate", [5_000_000, []], timeout=PATIENCE)
        with pytest.raises(CallError, match=r"SessionLimits\.max_message"):
            await node.call(beam.name, "binary", "copy", [b"x", 129 << 20], timeout=PATIENCE)
        assert await node.ping(beam.name)
        assert me.demonitor(monitor)


# -- messages ------------------------------------------------------------------------------------


async def test_messages_by_name_and_pid(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox("py") as me:
        await beam.eval(
            """register(echo, spawn(fun F() -> receive {P, M} -> P ! {self(), M}, F() end end)),
            ok"""
        )
        try:
            message = {b"n": 1, b"xs": [1, 2.5, b"bin"], atom("a"): (atom("b"),)}
            await me.send(("echo", beam.name), (me.pid, message))
            echo, answer = await get(me)
            assert answer == message
            await me.send(echo, (me.pid, 2))
            assert await get(me) == (echo, 2)
            await beam.eval("{py, '$py'} ! by_name, ok", py=node.name)
            assert await get(me) == "by_name"
        finally:
            await beam.eval("exit(whereis(echo), kill), ok")


async def test_an_unknown_name_there_is_silence(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        await me.send(("nobody_here", beam.name), 1)
        await beam.eval(
            "{nobody_here, '$py'} ! x, {global_name_server, '$py'} ! y, ok", py=node.name
        )
        assert await node.ping(beam.name)


async def test_ten_thousand_messages_in_order(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox("py") as me:
        sending = asyncio.create_task(
            beam.eval("[{py, '$py'} ! {n, N} || N <- lists:seq(1, 10000)], ok", py=node.name)
        )
        for number in range(1, 10_001):
            assert await get(me) == (atom("n"), number)
        assert await sending == OK
        collecting = asyncio.create_task(
            beam.eval(
                """register(sink, self()), {py, '$py'} ! ready,
                L = [receive {m, N} -> N end || _ <- lists:seq(1, 10000)],
                unregister(sink), L =:= lists:seq(1, 10000)""",
                py=node.name,
            )
        )
        assert await get(me) == "ready"
        for number in range(1, 10_001):
            await me.send(("sink", beam.name), (atom("m"), number))
        assert await collecting is True


async def test_large_binaries_both_ways(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        for size in (1, 20):
            data = bytes(range(256)) * 4096 * size
            assert await node.call(
                beam.name, "erlang", "md5", [data], timeout=PATIENCE
            ) == await beam.eval(
                "erlang:md5(binary:copy(list_to_binary(lists:seq(0, 255)), $n))", n=4096 * size
            )
            same = await beam.eval(
                """B = binary:copy(list_to_binary(lists:seq(0, 255)), $n),
                B =:= erpc:call('$py', py, echo, [B])""",
                n=4096 * size,
                py=node.name,
            )
            assert same is True


# -- calls out -----------------------------------------------------------------------------------


async def test_erpc_and_rpc_out(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        for call in (node.call, node.rpc):
            assert await call(beam.name, "lists", "sum", [[1, 2, 3]]) == 6
            assert await call(beam.name, "erlang", "node") == atom(beam.name)
            with pytest.raises(CallError) as caught:
                await call(beam.name, "erlang", "error", [atom("oops")])
            assert (caught.value.kind, caught.value.reason) == (ErrorClass.ERROR, "oops")
            assert caught.value.stack
            with pytest.raises(CallError) as caught:
                await call(beam.name, "erlang", "exit", [atom("enough")])
            assert (caught.value.kind, caught.value.reason) == (ErrorClass.EXIT, "enough")
            with pytest.raises(CallError, match="undef"):
                await call(beam.name, "no_module", "f", [1])
        with pytest.raises(CallError) as caught:
            await node.call(beam.name, "erlang", "throw", [7])
        assert (caught.value.kind, caught.value.reason) == (ErrorClass.THROW, 7)
        assert await node.rpc(beam.name, "erlang", "throw", [7]) == 7


async def test_a_call_that_takes_too_long_leaves_nothing_behind(
    beam: Beam, make_node: MakeNode
) -> None:
    async with make_node() as node:
        with pytest.raises(CallTimeout):
            await node.call(beam.name, "timer", "sleep", [700], timeout=0.2)
        calling = asyncio.create_task(node.call(beam.name, "timer", "sleep", [700_000]))
        await until(lambda: monitored(beam, node))
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        # The node ends a monitor when it knows the process, which the BEAM node tells it later.
        await until(lambda: is_unmonitored(beam, node))


async def test_what_a_called_function_prints_is_logged(
    beam: Beam, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    caplog.set_level(logging.INFO, "quicdist.io")
    async with make_node() as node:
        assert await node.call(beam.name, "io", "put_chars", [b"hello from there\n"]) == OK
        assert await node.call(beam.name, "io", "format", [b"~p~n", [[1, 2]]]) == OK
        for part in ("a line", " without an end"):
            assert await node.call(beam.name, "io", "put_chars", [part]) == OK
    assert caplog.messages == ["hello from there", "[1,2]", "a line without an end"]


async def test_what_a_called_function_prints_goes_where_it_is_wanted(
    beam: Beam, make_node: MakeNode
) -> None:
    printed: list[str] = []
    async with make_node(on_output=printed.append) as node:
        assert await node.call(beam.name, "io", "put_chars", [b"hello\nfrom there"]) == OK
    assert printed == ["hello\nfrom there"]


# -- calls in ------------------------------------------------------------------------------------


async def test_erpc_and_rpc_in(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        for module in ("rpc", "erpc"):
            call = f"{module}:call('{node.name}', py, "
            assert await beam.eval(f"{call} add, [1, 2])") == 3
            assert await beam.eval(f"{call} add_later, [1, 2])") == 3
            assert await beam.eval(f"{call} optional, [2])") == 20
            assert await beam.eval(f"{call} thread_inline, [])") is True
            assert await beam.eval(f"{call} thread_plain, [])") is False
        assert await beam.eval("rpc:block_call('$py', py, add, [1, 2])", py=node.name) == 3
        assert await beam.eval(
            "rpc:multicall(['$py', node()], erlang, node, [])", py=node.name
        ) != await beam.eval("rpc:multicall([node()], erlang, node, [])")


async def test_errors_become_erlang_errors(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        caught = await beam.eval(
            """try erpc:call('$py', py, boom, [<<"that">>]) catch C:R -> {C, R} end""",
            py=node.name,
        )
        kind, (exception, (python_error, name, text, trace), stack) = caught
        assert (kind, exception, python_error, name) == (
            "error",
            "exception",
            "python_error",
            "ValueError",
        )
        assert text == b"cannot do that"
        assert trace.startswith(b"Traceback (most recent call last):")
        assert b"exported.py" in trace
        assert b"quicdist/node" not in trace
        assert stack[0][1] == "explode"
        assert stack[-1][:3] == (atom("py"), atom("boom"), 1)
        badrpc, (exit_, (reason, _)) = await beam.eval(
            """rpc:call('$py', py, boom, [<<"that">>])""", py=node.name
        )
        assert (badrpc, exit_, reason[1]) == ("badrpc", "EXIT", "ValueError")
        for kind_, expected in (
            ("throw", (atom("throw"), atom("x"))),
            ("exit", (atom("exit"), (atom("exception"), atom("x")))),
        ):
            caught = await beam.eval(
                "try erpc:call('$py', py, fail, [$k, x]) catch C:R -> {C, R} end",
                py=node.name,
                k=kind_,
            )
            assert caught == expected
        caught = await beam.eval(
            "try erpc:call('$py', py, unencodable, []) catch C:R -> {C, R} end", py=node.name
        )
        assert "EtfEncodeError" in str(caught)


async def test_what_is_not_exported_is_undef(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        for mfa in ("py, hidden, []", "py, add, [1]", "os, getcwd, []", "erlang, halt, []"):
            answer = await beam.eval(f"try erpc:call('{node.name}', {mfa}) catch error:R -> R end")
            assert answer[:2] == (atom("exception"), atom("undef"))
            module, function, _ = mfa.split(", ", 2)
            assert answer[2][0][:2] == (atom(module), atom(function))
        spawned = await beam.eval(
            """R = spawn_request('$py', os, getcwd, [], [monitor]),
            receive {spawn_reply, R, error, E} -> E; {'DOWN', R, _, _, X} -> X end""",
            py=node.name,
        )
        assert spawned == (atom("undef"), [(atom("os"), atom("getcwd"), [], [])])


async def test_gen_server_call(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        call = f"gen_server:call({{py, '{node.name}'}}, "
        assert await beam.eval(f"{call} {{add, 1, 2}})") == 3
        assert await beam.eval(f"{call} thread_inline)") is True
        failed = await beam.eval(
            f"""try {call} {{boom, <<"x">>}}) catch exit:{{R, {{gen_server, call, _}}}} -> R end"""
        )
        assert failed[0][:2] == (atom("python_error"), atom("ValueError"))
        undefined = await beam.eval(
            f"try {call} nonsense) catch exit:{{R, {{gen_server, call, _}}}} -> R end"
        )
        assert undefined == (atom("undef"), [(atom("py"), atom("nonsense"), [], [])])
        # The server is unchanged.
        assert await beam.eval(f"{call} {{add, 1, 2}})") == 3
        late = await beam.eval(f"try {call} {{slow, 0.6}}, 100) catch exit:{{R, _}} -> R end")
        assert late == "timeout"
        # Its answer arrives before the answer to a call that ends later.
        assert (
            await beam.eval(f"{call} {{slow, 0.8}}), receive X -> X after 0 -> none end") == "none"
        )


async def test_a_call_in_ends_with_its_caller_s_link(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        answer = await beam.eval(
            """R = spawn_request('$py', erpc, execute_call, [make_ref(), py, forever, []],
                              [link, monitor]),
            P = receive {spawn_reply, R, ok, Q} -> Q end,
            exit(P, stop),
            A = receive {'EXIT', P, X} -> X end, B = receive {'DOWN', R, process, P, Y} -> Y end,
            {A, B}""",
            py=node.name,
        )
        assert answer == (atom("stop"), atom("stop"))


# -- trace tokens ---------------------------------------------------------------------------------


async def test_everything_with_a_trace_token(beam: Beam, make_node: MakeNode) -> None:
    """A BEAM with sequential tracing sends each signal in its trace token form."""
    async with make_node(exports=[exported]) as node, node.mailbox("me") as me:
        me.trap_exit = True
        alias = me.alias()
        kinds: set[tuple[type, type | None]] = set()
        handlers = node.system.handlers
        for kind, handler in list(handlers.items()):

            def noted(control: Any, *rest: Any, handler: Handler = handler) -> None:
                if getattr(control, "token", NO_TOKEN) is not NO_TOKEN:
                    kinds.add((type(control), type(control.to) if hasattr(control, "to") else None))
                handler(control, *rest)

            handlers[kind] = noted
        asked = asyncio.create_task(
            beam.eval(
                """register(traced, self()), {me, '$py'} ! ready,
                {P, Alias} = receive {_, _} = X -> X end, unregister(traced),
                seq_trace:set_token(label, {any, <<"term">>}), seq_trace:set_token(send, true),
                P ! by_pid, {me, '$py'} ! by_name, Alias ! by_alias, exit(P, exit2),
                spawn(fun() -> link(P), exit(because) end),
                Answers = [erpc:call('$py', py, add, [1, 2]), rpc:call('$py', py, add, [3, 4]),
                    gen_server:call({calc, '$py'}, {add, 5, 6})],
                R = spawn_request('$py', py, add, [1, 1], [monitor]),
                Reply = receive {spawn_reply, R, O, _} -> O end,
                Down = receive {'DOWN', R, process, _, D} -> D end,
                seq_trace:set_token([]), {Answers, Reply, Down}""",
                py=node.name,
            )
        )
        assert await get(me) == "ready"
        async with node.mailbox("calc") as calc:
            await me.send(("traced", beam.name), (me.pid, alias))
            assert [await get(me) for _ in range(3)] == ["by_pid", "by_name", "by_alias"]
            exits = set()
            for _ in range(2):
                kind, _, reason = await get(me)
                assert kind == "EXIT"
                exits.add(reason)
            assert exits == {"exit2", "because"}
            tag, sender, request = await get(calc)
            assert (tag, request) == ("$gen_call", (atom("add"), 5, 6))
            reply(node.system, calc.pid, sender, 11)
            assert await asked == ([3, 7, 11], atom("ok"), atom("normal"))
            receivers = {(signals.Message, kind) for kind in (Pid, Atom, Reference)}
            assert kinds >= {*receivers, (signals.Exit, Pid), (signals.SpawnRequest, None)}


# -- links, monitors, exits ----------------------------------------------------------------------


SPAWN = "spawn(fun F() -> receive {link, P} -> link(P), F(); {exit, R} -> exit(R); " + (
    "{unlink, P} -> unlink(P), F(); {tell, P} -> P ! {links, process_info(self(), links)}, F() "
    "end end)"
)


async def test_links_both_ways(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        me.trap_exit = True
        other: Pid = await beam.eval(SPAWN)
        me.link(other)
        await me.send(other, (atom("tell"), me.pid))
        assert await get(me) == (atom("links"), (atom("links"), [me.pid]))
        me.unlink(other)
        await me.send(other, (atom("tell"), me.pid))
        assert await get(me) == (atom("links"), (atom("links"), []))
        me.link(other)
        await me.send(other, (atom("exit"), (atom("because"), 1)))
        assert await get(me) == (atom("EXIT"), other, (atom("because"), 1))
        me.link(other)
        assert await get(me) == (atom("EXIT"), other, atom("noproc"))


async def test_our_end_reaches_the_linked(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        for reason, body in (
            ("normal", None),
            ("python_error", ValueError("no")),
        ):
            waiting = asyncio.create_task(
                beam.eval(
                    """register(waiting, self()),
                    P = receive {pid, Q} -> Q end, link(P), M = monitor(process, P), P ! go,
                    A = receive {'EXIT', P, X} -> X end,
                    B = receive {'DOWN', M, process, P, Y} -> Y end,
                    unregister(waiting), {A, B}"""
                )
            )

            async def run(me: Mailbox, error: Exception | None = body) -> None:
                while await node.call(beam.name, "erlang", "whereis", [atom("waiting")]) == (
                    "undefined"
                ):
                    await asyncio.sleep(0.02)
                await me.send(("waiting", beam.name), (atom("pid"), me.pid))
                assert await get(me) == "go"
                if error is not None:
                    raise error

            node.spawn(run)
            by_link, by_monitor = await waiting
            assert by_link == by_monitor
            if reason == "normal":
                assert by_link == "normal"
            else:
                (kind, name, text, _), _ = by_link
                assert (kind, name, text) == ("python_error", "ValueError", b"no")


async def test_a_deadly_signal_cancels(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        cleaned = []

        async def run(me: Mailbox) -> None:
            try:
                await me.receive()
            finally:
                cleaned.append(me.exit_reason)

        for source, reason in (("stop", "stop"), ("kill", "killed"), ("{a, 1}", (atom("a"), 1))):
            process = node.spawn(run)
            await node.connect(beam.name)
            async with node.mailbox("watch") as me:
                reference = me.monitor(process.pid)
                await node.call(beam.name, "erlang", "exit", [process.pid, parse(source)])
                down = await get(me)
                assert down == (atom("DOWN"), reference, atom("process"), process.pid, reason)
            await asyncio.sleep(0)
            assert cleaned[-1] == reason
            normal = node.spawn(run)
            await node.call(beam.name, "erlang", "exit", [normal.pid, atom("normal")])
            assert await node.ping(beam.name)
            assert normal.is_alive


def parse(source: str) -> Term:
    from quicdist.etf.notation import parse_term

    return parse_term(source)


async def test_a_deadly_signal_in_an_async_with(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:

        async def victim() -> None:
            async with node.mailbox("victim") as me:
                await node.call(beam.name, "erlang", "exit", [me.pid, atom("out")])
                await me.receive(timeout=PATIENCE)

        with pytest.raises(ProcessExited) as caught:
            await victim()
        assert caught.value.reason == "out"
        # The task continues.
        await asyncio.sleep(0)
        assert await node.ping(beam.name)


async def test_monitors(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        other: Pid = await beam.eval(
            "P = spawn(fun() -> receive {exit, R} -> exit(R) end end), register(watched, P), P"
        )
        by_pid = me.monitor(other)
        by_name = me.monitor(("watched", beam.name))
        undone = me.monitor(other)
        assert isinstance(by_pid, Reference)
        assert me.demonitor(undone)
        assert not me.demonitor(undone)
        assert await node.ping(beam.name)
        await me.send(other, (atom("exit"), atom("gone")))
        downs = {(await get(me))[1:] for _ in range(2)}
        process, gone = atom("process"), atom("gone")
        assert downs == {
            (by_pid, process, other, gone),
            (by_name, process, (atom("watched"), atom(beam.name)), gone),
        }
        for target in (other, ("watched", beam.name)):
            reference = me.monitor(target)
            down = await get(me)
            assert (down[1], down[4]) == (reference, "noproc")


async def test_a_beam_monitors_our_names(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        async with node.mailbox("watched_py"):
            py = atom(node.name)
            # The acknowledgement of the second implies that the first was received.
            assert await beam.eval(
                """Me = self(), P = spawn(fun() ->
                    M = monitor(process, {watched_py, '$py'}),
                    N = monitor(process, {nobody, '$py'}),
                    Me ! receive {'DOWN', N, _, W, R} -> {nobody, {W, R}} end,
                    B = receive {'DOWN', M, _, W2, R2} -> {W2, R2} end,
                    receive {watched, Asker} -> Asker ! {watched, B} end
                end), register(name_watcher, P), receive {nobody, A} -> A end""",
                py=node.name,
            ) == ((atom("nobody"), py), atom("noproc"))
        watched = "name_watcher ! {watched, self()}, receive {watched, B} -> B end"
        assert await beam.eval(watched) == ((atom("watched_py"), py), atom("normal"))


async def test_a_lost_connection_ends_what_depends_on_it(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        me.trap_exit = True
        other: Pid = await beam.eval(SPAWN)
        me.link(other)
        reference = me.monitor(other)
        assert await node.ping(beam.name)

        async def is_called() -> bool:
            return len(await monitored(beam, node)) == 2

        calling = asyncio.create_task(node.call(beam.name, "timer", "sleep", [700_000]))
        await until(is_called)
        assert node.disconnect(beam.name)
        with pytest.raises(NoConnection):
            await calling
        noconnection = atom("noconnection")
        assert [await get(me), await get(me)] == [
            (atom("DOWN"), reference, atom("process"), other, noconnection),
            (atom("EXIT"), other, noconnection),
        ]


async def test_an_unreachable_node(make_node: MakeNode) -> None:
    from quicdist import NodeLimits

    async with make_node(limits=NodeLimits(connect_timeout=0.5)) as node, node.mailbox() as me:
        nowhere = "1@127.0.0.1"
        reference = me.monitor(("x", nowhere))
        down = await get(me)
        assert (down[1], down[4]) == (reference, "noconnection")
        with pytest.raises(NoConnection, match="1@127"):
            await me.send(("x", nowhere), 1)
        with pytest.raises(NoConnection):
            await node.call(nowhere, "erlang", "node")
        assert not await node.ping(nowhere)
        with pytest.raises(NoProcess):
            await me.send("nobody_here", 1)
