"""Against stock Erlang: spawning in both directions, aliases, and the output of group leaders."""

from __future__ import annotations

from typing import Any

import pytest

from quicdist import (
    AliasMode,
    Mailbox,
    NoConnection,
    Pid,
    Reference,
)
from quicdist.etf import Term, encode
from tests.node import exported
from tests.node.conftest import Beam, MakeNode, atom
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.erlang

# A group leader process that forwards output as {Pid, Text} to the process that started it.
COLLECTOR = """
Me = self(),
Leader = spawn(fun F() -> receive
    {io_request, P, R, {put_chars, unicode, T}} ->
        P ! {io_reply, R, ok}, Me ! {self(), unicode:characters_to_binary(T)}, F() end end),
group_leader(Leader, self()),
Lines = fun(Count) -> iolist_to_binary([receive {Leader, T} -> T after 20000 -> late end
    || _ <- lists:seq(1, Count)]) end,
"""


async def get(me: Mailbox, match: Any = None) -> Term:
    return await me.receive(match, timeout=PATIENCE)


# -- from Python to Erlang -------------------------------------------------------------------------


async def test_spawn_there_with_link_and_monitor(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        plain = await me.spawn_remote(beam.name, "erlang", "send", [me.pid, atom("hi")])
        assert plain.reference is None
        assert plain.pid.node == beam.name
        assert await get(me) == "hi"

        watched = await me.spawn_remote(beam.name, "erlang", "exit", [atom("bye")], monitor=True)
        assert await get(me) == (
            atom("DOWN"),
            watched.reference,
            atom("process"),
            watched.pid,
            atom("bye"),
        )
        assert me.demonitor(watched.reference or me.alias()) is False

        me.trap_exit = True
        linked = await me.spawn_remote(beam.name, "timer", "sleep", [atom("infinity")], link=True)
        links = await node.call(beam.name, "erlang", "process_info", [linked.pid, atom("links")])
        assert links == (atom("links"), [me.pid])
        me.exit(linked.pid, atom("enough"))
        assert await get(me) == (atom("EXIT"), linked.pid, atom("enough"))


async def test_a_linked_child_there_dies_with_its_parent(beam: Beam, make_node: MakeNode) -> None:
    async def parent(me: Mailbox) -> None:
        child = await me.spawn_remote(beam.name, "timer", "sleep", [atom("infinity")], link=True)
        await me.send(watcher.pid, child.pid)
        await me.receive()

    async with make_node() as node, node.mailbox() as watcher:
        process = node.spawn(parent)
        watch = watcher.monitor(await get(watcher))
        await node.ping(beam.name)
        watcher.exit(process.pid, atom("crash"))
        down = await get(watcher)
        assert (down[1], down[4]) == (watch, "crash")


async def test_spawn_request_there(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        asked = me.spawn_request(
            beam.name, "erlang", "exit", [1], monitor=True, reply_tag=(atom("my"), 7)
        )
        tag, reference, ok, pid = await get(me)
        assert (tag, reference, ok) == ((atom("my"), 7), asked, "ok")
        assert await get(me) == (atom("DOWN"), asked, atom("process"), pid, 1)
        lost = me.spawn_request("1@127.0.0.1", "erlang", "exit", [1])
        expected = (atom("spawn_reply"), lost, atom("error"), atom("noconnection"))
        assert await get(me) == expected
        with pytest.raises(NoConnection):
            await me.spawn_remote("1@127.0.0.1", "erlang", "exit", [1], timeout=None)


async def test_an_abandoned_linked_child_is_ended(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:
        await node.connect(beam.name)
        for link, left in ((True, []), (False, [atom("there")])):
            name = atom(f"abandoned_{link}".lower())
            asked = me.spawn_request(
                beam.name,
                "erl_eval",
                "expr",
                [
                    await beam.eval(
                        f"""{{ok, T, _}} = erl_scan:string(
                        "begin register({name}, self()), timer:sleep(infinity) end."),
                        {{ok, [E]}} = erl_parse:parse_exprs(T), E"""
                    ),
                    [],
                ],
                link=link,
                monitor=True,
            )
            assert me.spawn_request_abandon(asked) is True
            assert me.spawn_request_abandon(asked) is False
            await node.ping(beam.name)
            await node.ping(beam.name)
            # is_process_alive is a signal too, sent after the exit signal.
            there = f"[there || P <- [whereis({name})], is_pid(P), is_process_alive(P)]"
            assert await beam.eval(there) == left
        assert me.message_count == 0
        await beam.eval("exit(whereis(abandoned_false), kill), ok")


# -- from Erlang to Python -------------------------------------------------------------------------


async def test_a_beam_spawns_exported_functions(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        sources = [
            "spawn('$py', py, tell, [self(), hi])",
            "spawn_link('$py', py, tell, [self(), hi])",
            "spawn('$py', erlang, apply, [fun py:tell/2, [self(), hi]])",
            "proc_lib:spawn('$py', py, tell, [self(), hi])",
            "element(1, spawn_monitor('$py', py, tell, [self(), hi]))",
        ]
        for source in sources:
            pid = await beam.eval(
                f"P = {source}, receive hi -> P after 20000 -> late end", py=node.name
            )
            assert isinstance(pid, Pid)
            assert pid.node == node.name


async def test_how_spawned_functions_end(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        cases: dict[str, Term] = {
            "py, echo, [1]": atom("normal"),
            "py, fail, [exit, oops]": atom("oops"),
            'os, cmd, ["id"]': None,
            "py, hidden, []": (atom("undef"), [(atom("py"), atom("hidden"), [], [])]),
            "erlang, apply, [fun() -> 1 end, []]": None,
        }
        for mfa, expected in cases.items():
            reason = await beam.eval(
                f"""{{P, R}} = spawn_monitor('{node.name}', {mfa}),
                receive {{'DOWN', R, process, P, X}} -> X after 20000 -> late end"""
            )
            if expected is None:
                assert reason[0] == "undef"
            else:
                assert reason == expected
        crashed = await beam.eval(
            f"""process_flag(trap_exit, true),
            P = spawn_link('{node.name}', py, fail, [error, oops]),
            receive {{'EXIT', P, X}} -> X after 20000 -> late end"""
        )
        assert crashed[0] == "oops"
        assert isinstance(crashed[1], list)


async def test_spawn_request_here(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        answers = await beam.eval(
            """R = spawn_request('$py', py, forever, [],
                [monitor, link, {reply_tag, mine}]),
            receive {mine, R, ok, P} -> ok end,
            process_flag(trap_exit, true),
            exit(P, stop),
            receive {'DOWN', R, process, P, A} -> ok end,
            receive {'EXIT', P, B} -> ok end,
            {A, B, node(P)}""",
            py=node.name,
        )
        assert answers == (atom("stop"), atom("stop"), atom(node.name))
        # The request id of a spawn with an alias is the alias.
        aliased = await beam.eval(
            """{P, R} = spawn_opt('$py', py, forever, [],
                [{monitor, [{alias, reply_demonitor}]}]),
            spawn('$py', py, tell, [R, first]),
            One = receive first -> first after 20000 -> late end,
            spawn('$py', py, tell, [R, second]),
            exit(P, stop),
            pong = net_adm:ping('$py'),
            spawn('$py', py, tell, [self(), last]),
            last = receive last -> last after 20000 -> late end,
            Two = receive second -> second after 0 -> none end,
            {One, Two, receive {'DOWN', R, _, _, _} -> down after 0 -> none end}""",
            py=node.name,
        )
        assert aliased == (atom("first"), atom("none"), atom("none"))


# -- aliases -------------------------------------------------------------------------------------


async def test_aliases_of_ours_seen_from_there(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node, node.mailbox() as me:

        async def told(alias: Reference, what: str) -> bool:
            """Whether a message that a BEAM sends to an alias arrives."""
            await node.call(beam.name, "erlang", "send", [alias, atom(what)])
            # Sent after it by the same node to the pid of the same process.
            await node.call(beam.name, "erlang", "send", [me.pid, atom("mark")])
            seen = []
            while (message := await get(me)) != "mark":
                seen.append(message)
            return seen == [what]

        plain = me.alias()
        assert await told(plain, "one")
        assert await told(plain, "two")
        me.unalias(plain)
        assert not await told(plain, "three")

        once = me.alias(mode=AliasMode.REPLY_DEMONITOR)
        assert await told(once, "one")
        assert not await told(once, "two")

        for mode in AliasMode:
            watch = me.monitor(("kernel_sup", beam.name), alias=mode)
            assert await told(watch, "one")
            assert me.demonitor(watch) is (mode is not AliasMode.REPLY_DEMONITOR)
            assert await told(watch, "two") is (mode is AliasMode.EXPLICIT_UNALIAS)

        for mode in AliasMode:
            child = await me.spawn_remote(
                beam.name, "erlang", "exit", [atom("x")], monitor=True, alias=mode
            )
            assert child.reference is not None
            assert (await get(me))[:2] == (atom("DOWN"), child.reference)
            assert await told(child.reference, "two") is (mode is AliasMode.EXPLICIT_UNALIAS)


# -- group leaders -------------------------------------------------------------------------------


async def test_print_reaches_the_callers_shell(beam: Beam, make_node: MakeNode) -> None:
    async with make_node(exports=[exported]) as node:
        for call in (
            "erpc:call('$py', py, greet, [<<\"Joe\">>])",
            "rpc:call('$py', py, greet, [<<\"Joe\">>])",
            "rpc:block_call('$py', py, greet, [<<\"Joe\">>])",
            "spawn('$py', py, greet, [<<\"Joe\">>])",
            "spawn('$py', py, greet_and_wait, [<<\"Joe\">>])",
            "rpc:cast('$py', py, greet, [<<\"Joe\">>])",
        ):
            printed = await beam.eval(
                # print() writes its arguments one by one.
                f"{COLLECTOR} {call}, Lines(4)",
                py=node.name,
            )
            assert printed == b"hello, Joe\n", call


async def test_a_python_process_is_a_group_leader(beam: Beam, make_node: MakeNode) -> None:
    printed: list[str] = []
    async with make_node() as node, node.mailbox() as me, node.group_leader(printed.append) as out:
        child = await me.spawn_remote(
            beam.name,
            "io",
            "format",
            [b"~p ~ts ~5.2f~n", [(atom("a"), {b"k": [1, 2]}), "é→".encode(), 2.5]],
            group_leader=out,
            monitor=True,
        )
        down = await get(me)
        assert (down[1], down[4]) == (child.reference, "normal")
        assert "".join(printed) == '{a,#{<<"k">> => [1,2]}} é→  2.50\n'

        printed.clear()
        await beam.eval(
            """group_leader(binary_to_term($gl), self()), io:put_chars("one\\n"),
            io:format("~s~n", [<<"two">>]), io:nl(), io:write({x, "y"}),
            eof = io:get_line("? "), ok""",
            gl=await _as_binary(beam, out),
        )
        assert "".join(printed) == "one\ntwo\n\n{x,[121]}"
        failed = await beam.eval(
            """group_leader(binary_to_term($gl), self()),
            try io:format("~s", [not_text_but_ok, 2]) catch error:R -> R end""",
            gl=await _as_binary(beam, out),
        )
        assert failed == "badarg"


async def test_a_leader_is_set_from_elsewhere(beam: Beam, make_node: MakeNode) -> None:
    printed: list[str] = []
    async with make_node() as node, node.mailbox() as me, node.group_leader(printed.append) as out:
        sleeper = await me.spawn_remote(beam.name, "timer", "sleep", [atom("infinity")], link=True)
        me.set_group_leader(out, sleeper.pid)
        info = await node.call(
            beam.name, "erlang", "process_info", [sleeper.pid, atom("group_leader")]
        )
        assert info == (atom("group_leader"), out)
        leader = await node.call(beam.name, "erlang", "whereis", [atom("user")])
        await me.send(("net_kernel", beam.name), atom("nothing"))
        await node.call(beam.name, "erlang", "group_leader", [leader, me.pid])
        assert me.group_leader == leader


async def _as_binary(beam: Beam, pid: Pid) -> str:
    return f"<<{','.join(str(byte) for byte in encode(pid))}>>"
