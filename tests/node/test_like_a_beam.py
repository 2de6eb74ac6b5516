"""A Python process behaves like an Erlang process.

Stock Erlang runs the same operations with both, and the results must be equal.
"""

from __future__ import annotations

import asyncio

import pytest

from quicdist import ErlangExit, Mailbox, current_process, export
from quicdist.etf import Pid, Reference, Term
from tests.node.conftest import Beam, MakeNode, atom

pytestmark = pytest.mark.erlang


@export(module="alike")
async def process(trap: bool, observer: Pid) -> None:
    """Executes orders and forwards all other messages."""
    me: Mailbox = current_process.get()
    me.trap_exit = trap
    await me.send(observer, (atom("up"), me.pid))
    while True:
        match await me.receive():
            case ("ping", Pid() as to):
                await me.send(to, (atom("pong"), me.pid))
            case ("exit", reason):
                raise ErlangExit(reason)
            case ("link", Pid() as other):
                me.link(other)
            case ("unlink", Pid() as other):
                me.unlink(other)
            case ("kill", Pid() as other, reason):
                me.exit(other, reason)
            case ("send", (Pid() | Reference()) as to, what):
                await me.send(to, what)
            case ("return", _):
                return
            case other:
                await me.send(observer, (atom("got"), me.pid, other))


@export(module="timer")
async def sleep(milliseconds: int) -> None:
    await asyncio.sleep(milliseconds / 1000)


BEAMS_OWN = """
fun(Trap, Observer) ->
    process_flag(trap_exit, Trap),
    Observer ! {up, self()},
    (fun F() -> receive
        {ping, To} -> To ! {pong, self()}, F();
        {exit, Reason} -> exit(Reason);
        {link, Other} -> link(Other), F();
        {unlink, Other} -> unlink(Other), F();
        {kill, Other, Reason} -> exit(Other, Reason), F();
        {send, To, What} -> To ! What, F();
        {return, _} -> ok;
        Other -> Observer ! {got, self(), Other}, F()
    end end)()
end
"""

# Spawn(Trap, Options) returns a process. Next() returns the next message, with names in place of
# pids and references. Seen() is like Next(), but returns `nothing` if no message arrives before
# the answer of another process of that node. Arrived() waits for a message and leaves it.
SCENARIOS = {
    "exit signals": """
        [begin
            P = Spawn(Trap, [monitor]), exit(P, Reason), {Reason, Trap, Fate(P)}
        end || Trap <- [true, false], Reason <- [normal, shutdown, kill, {a, "b"}]]""",
    "links that break": """
        [begin
            P = Spawn(Trap, [monitor]),
            C = spawn(fun() -> link(P), receive {die, R} -> exit(R) end end),
            Ping(P), M = monitor(process, C), C ! {die, Reason},
            receive {'DOWN', M, process, C, Reason} -> Settle() end,
            {Reason, Trap, Fate(P)}
        end || Trap <- [true, false], Reason <- [normal, shutdown, kill, killed, {a, "b"}]]""",
    "how its end is seen": """
        [begin
            P = Spawn(false, []), monitor(process, P), monitor(process, P), link(P), link(P),
            P ! End, {End, [Next() || _ <- lists:seq(1, 3)], Seen()}
        end || End <- [{exit, normal}, {exit, kill}, {exit, <<1:3>>}, {return, 1}]]""",
    "it is gone already": """
        P = Spawn(false, [monitor]), P ! {return, 1}, A = Next(),
        link(P), B = Next(), monitor(process, P), C = Next(),
        monitor(process, {nobody, node(P)}), D = Next(),
        exit(P, x), P ! y, unlink(P), {A, B, C, D, Seen()}""",
    "it links and unlinks": """
        P = Spawn(true, []), C = spawn(fun() -> receive {die, R} -> exit(R) end end),
        P ! {link, C}, Ping(P), A = element(2, process_info(C, links)) =:= [P],
        P ! {unlink, C}, Ping(P), B = element(2, process_info(C, links)),
        P ! {link, C}, Ping(P), C ! {die, z}, D = Next(),
        P ! {link, C}, {A, B, D, Next(), Seen()}""",
    "unlinked, nothing comes": """
        P = Spawn(false, []), link(P), unlink(P), P ! {exit, x},
        R = monitor(process, P), {element(1, Next()), demonitor(R, [flush]), Seen()}""",
    "it sends exit signals": """
        P = Spawn(true, []),
        [begin
            {C, M} = spawn_monitor(fun() -> process_flag(trap_exit, Trap), Me ! ready,
                receive {'EXIT', P, R} -> exit({trapped, R}); go -> ok end end),
            ready = Next(),
            P ! {kill, C, Reason}, Ping(P), Settle(), C ! go,
            receive {'DOWN', M, process, C, Fate1} -> {Trap, Reason, Fate1} end
        end || Trap <- [true, false], Reason <- [normal, kill, {a, "b"}]]""",
    "links at the spawn": """
        P = Spawn(false, [link, monitor]), exit(P, x), A = lists:sort([Next(), Next()]),
        Q = Spawn(false, [link]), Q ! {return, 1}, {A, Next(), Seen()}""",
    "tags and aliases of monitors": """
        P = Spawn(true, []),
        R1 = monitor(process, P, [{alias, reply_demonitor}]),
        P ! {send, R1, one}, P ! {send, R1, two}, Ping(P), A = [Seen(), Seen()],
        R2 = monitor(process, P, [{alias, explicit_unalias}, {tag, {my, tag}}]),
        R3 = monitor(process, P, [{alias, demonitor}]), demonitor(R3),
        P ! {send, R2, three}, P ! {send, R3, four}, Ping(P), B = [Seen(), Seen()],
        P ! {exit, over}, {A, B, Next(), unalias(R2), unalias(R3), Seen()}""",
    "a demonitor flushes": """
        P = Spawn(true, []), R = monitor(process, P), P ! {exit, x}, Arrived(),
        {demonitor(R, [flush, info]), Seen()}""",
    "an exit of it with a link to itself and others": """
        P = Spawn(true, [monitor]), P ! {link, P}, P ! {link, self()}, Ping(P),
        P ! {kill, P, normal}, A = Seen(), P ! {kill, P, kill},
        {A, lists:sort([Next(), Next()]), Seen()}""",
    "spawn requests": """
        [begin
            spawn_request('$node', timer, sleep, [0], Options),
            {Options, lists:sort([Next() || _ <- Messages]), Seen()}
        end || {Messages, Options} <- [{[1], []}, {[1, 2], [monitor]}, {[1, 2], [link]},
            {[1, 2, 3], [link, monitor, {priority, high}]},
            {[1, 2], [monitor, {reply_tag, {my, tag}}]}, {[1], [monitor, {reply, no}]},
            {[1], [monitor, {reply, error_only}]}, {[1, 2], [link, {reply, success_only}]},
            {[1, 2], [{monitor, [{tag, {my, tag}}, {alias, reply_demonitor}]},
                {min_heap_size, 1000}]}]]""",
    "spawns of what there is not": """
        [begin
            Function(), {lists:sort([Next() || _ <- Messages]), Seen()}
        end || {Messages, Function} <- [
            {[1, 2], fun() -> spawn_request('$node', no_module, f, [1, x], [monitor]) end},
            {[1], fun() -> spawn_request('$node', timer, no_function, [], [link, {reply, no}]) end},
            {[1], fun() -> spawn_monitor('$node', timer, sleep, [1, 2, 3]) end},
            {[1], fun() -> spawn_link('$node', no_module, f, []) end}]]""",
    "spawns by way of proc_lib": """
        proc_lib:spawn_link('$node', timer, sleep, [0]), A = Next(),
        proc_lib:spawn_opt('$node', timer, sleep, [0], [monitor]), {A, Next(), Seen()}""",
    "it kills itself with normal": """
        P = Spawn(false, [monitor]), P ! {kill, P, normal}, Next()""",
}

HARNESS = """
    Me = self(),
    Old = process_flag(trap_exit, true),
    Show = fun Show(T) ->
        if T =:= Me -> me; is_pid(T) -> pid; is_reference(T) -> ref;
            is_tuple(T) -> list_to_tuple([Show(E) || E <- tuple_to_list(T)]);
            is_list(T) -> [Show(E) || E <- T];
            T =:= '$node'; T =:= node() -> its_node;
            true -> T
        end
    end,
    Spawn = fun(Trap, Options) ->
        $spawn, receive {up, P} -> P end
    end,
    Ping = fun(P) -> P ! {ping, Me}, receive {pong, P} -> ok after 20000 -> no_pong end end,
    Another = Spawn(true, []),
    Settle = fun() -> [Ping(Another) || _ <- lists:seq(1, 20)], timer:sleep(20) end,
    Next = fun() -> receive M -> Show(M) after 20000 -> nothing end end,
    Seen = fun() ->
        receive M -> Show(M) after 0 ->
            Settle(), receive M -> Show(M) after 0 -> nothing end
        end
    end,
    Arrived = fun Arrived() ->
        {message_queue_len, Length} = process_info(Me, message_queue_len),
        Length > 0 orelse begin timer:sleep(1), Arrived() end
    end,
    Fate = fun(P) ->
        P ! {ping, Me},
        receive
            {'DOWN', _, process, P, R} -> {down, R};
            {got, P, G} -> receive {pong, P} -> {got, Show(G)} after 20000 -> no_pong end;
            {pong, P} -> lives
        after 20000 -> nothing end
    end,
    Value = begin $scenario end,
    process_flag(trap_exit, Old),
    Another ! {return, 1},
    (fun Flush() -> receive _ -> Flush() after 0 -> ok end end)(),
    Value
"""


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_it(beam: Beam, make_node: MakeNode, scenario: str) -> None:
    async with make_node(exports=[process, sleep]) as node:
        await node.connect(beam.name)
        source = HARNESS.replace("$scenario", SCENARIOS[scenario])
        seen: list[Term] = []
        for spawn, where in (
            (f"Own = {BEAMS_OWN}, spawn_opt(fun() -> Own(Trap, Me) end, Options)", beam.name),
            ("spawn_opt('$node', alike, process, [Trap, Me], Options)", node.name),
        ):
            asked = source.replace("$spawn", spawn).replace("$node", where)
            seen.append(await beam.eval(asked))
        assert seen[1] == seen[0]
        assert seen[0] != atom("nothing")
