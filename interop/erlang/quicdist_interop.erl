%% The Erlang part of the interop harness, which runs on a peer under test.
%%
%% The harness compiles this source on the peer and controls it over a separate loopback TCP
%% connection, so that control never depends on the distribution under test. interop/actor.py is the
%% Python counterpart with the same names.
-module(quicdist_interop).
-behaviour(gen_server).

-export([main/1]).
%% Called by the other node, and by the process that it starts here.
-export([add/2, fail/1, start/0, serve/0]).
-export([init/1, handle_call/3, handle_cast/2]).
%% Scenarios that this node runs with the named node.
-export([ping/1, rpc/1, erpc/1, gen_call/1, echo/1, spawned/1, links/1, monitors/1, binary/2,
         ordered/2]).
%% The node itself.
-export([connected/0, connect/1, disconnect/1, await_gone/2, wrong_cookie/2, release/0]).

-define(SERVER, interop).
-define(TIMEOUT, 60000).    % milliseconds; only a hang takes so long

%% -- control: {Id, Function, Arguments} in, {Id, ok | error, Value} out ------------------------

main(Port) ->
    register(?SERVER, start()),
    {ok, _} = gen_server:start({local, ?MODULE}, ?MODULE, [], []),
    spawn(fun keep_server/0),
    {ok, Socket} = gen_tcp:connect({127,0,0,1}, Port, [binary, {packet, 4}, {active, false}]),
    Writer = spawn(fun() -> write(Socket) end),
    ok = gen_tcp:controlling_process(Socket, self()),
    Writer ! {0, ok, node()},
    read(Socket, Writer).

read(Socket, Writer) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Bytes} ->
            {Id, Function, Arguments} = binary_to_term(Bytes),
            spawn(fun() -> Writer ! answer(Id, Function, Arguments) end),
            read(Socket, Writer);
        {error, _} ->
            halt(0, [{flush, false}])
    end.

write(Socket) ->
    receive Answer -> ok = gen_tcp:send(Socket, term_to_binary(Answer)) end,
    write(Socket).

answer(Id, Function, Arguments) ->
    try {Id, ok, apply(?MODULE, Function, Arguments)}
    catch
        Class:Reason:Stack ->
            Text = io_lib:format("~p:~0tP at ~0tp", [Class, Reason, 12, place(Stack)]),
            {Id, error, unicode:characters_to_binary(Text)}
    end.

place(Stack) ->
    case [{F, proplists:get_value(line, Info)} || {?MODULE, F, _, Info} <- Stack] of
        [Here | _] -> Here;
        [] -> hd(Stack)
    end.

%% -- called by the other node -------------------------------------------------------------------

add(A, B) -> A + B.

fail(Reason) -> error(Reason).

start() -> spawn(fun serve/0).

serve() ->
    process_flag(trap_exit, true),
    serve(#{}).

%% State: the processes that watch links and monitors, and the last number of each sender.
serve(State) ->
    receive
        {From, {echo, Term}} ->
            From ! {self(), {echo, Term}},
            serve(State);
        {From, {digest, Binary}} ->
            From ! {self(), {digest, byte_size(Binary), erlang:md5(Binary)}},
            serve(State);
        {From, {item, I, Last, _Padding}} ->
            serve(count(From, I, Last, State));
        {From, {link, Pid}} ->
            link(Pid),
            From ! {self(), linked},
            serve(State#{Pid => From});
        {From, {monitor, Pid}} ->
            Ref = monitor(process, Pid),
            From ! {self(), monitored},
            serve(State#{Ref => From});
        {From, {register, Name}} ->
            register(Name, self()),
            From ! {self(), registered},
            serve(State);
        {_From, {die, Reason}} ->
            exit(Reason);
        {'EXIT', Pid, Reason} ->
            case State of
                #{Pid := Wants} -> Wants ! {self(), {exit, Pid, Reason}};
                #{} -> ignored
            end,
            serve(State);
        {'DOWN', Ref, process, _, Reason} ->
            #{Ref := Wants} = State,
            Wants ! {self(), {down, Reason}},
            serve(State)
    end.

count(From, I, Last, State) ->
    case maps:get({count, From}, State, 1) of
        I when I =:= Last ->
            From ! {self(), {ordered, Last}},
            maps:remove({count, From}, State);
        I ->
            State#{{count, From} => I + 1};
        Expected ->
            From ! {self(), {disorder, Expected, I}},
            State
    end.

%% A server registered under this module's name, restarted after each crash.
keep_server() ->
    Ref = monitor(process, ?MODULE),
    receive {'DOWN', Ref, process, _, _} -> ok end,
    {ok, _} = gen_server:start({local, ?MODULE}, ?MODULE, [], []),
    keep_server().

init([]) -> {ok, none}.

handle_call({add, A, B}, _From, State) -> {reply, add(A, B), State};
handle_call({fail, Reason}, _From, _State) -> fail(Reason).

handle_cast(_, State) -> {noreply, State}.

%% -- scenarios ----------------------------------------------------------------------------------

ping(Node) -> pong = net_adm:ping(Node), ok.

%% rpc:call uses erpc if both nodes support it; block_call uses the rex server.
rpc(Node) ->
    both(Node, fun rpc:call/5),
    both(Node, fun rpc:block_call/5).

both(Node, Call) ->
    3 = Call(Node, ?MODULE, add, [1, 2], ?TIMEOUT),
    {badrpc, {'EXIT', {oops, _}}} = Call(Node, ?MODULE, fail, [oops], ?TIMEOUT),
    {badrpc, {'EXIT', {undef, _}}} = Call(Node, ?MODULE, nothing, [], ?TIMEOUT),
    ok.

erpc(Node) ->
    3 = erpc:call(Node, ?MODULE, add, [1, 2], ?TIMEOUT),
    ok = try erpc:call(Node, ?MODULE, fail, [oops], ?TIMEOUT)
         catch error:{exception, oops, _} -> ok end,
    ok = try erpc:call(Node, ?MODULE, nothing, [], ?TIMEOUT)
         catch error:{exception, undef, _} -> ok end.

gen_call(Node) ->
    3 = gen_server:call({?MODULE, Node}, {add, 1, 2}, ?TIMEOUT),
    ok = try gen_server:call({?MODULE, Node}, {fail, oops}, ?TIMEOUT)
         catch exit:{{oops, _}, _} -> ok end.

%% Sends by name, and by the pid that answered.
echo(Node) ->
    {Server, {echo, one}} = ask({?SERVER, Node}, {echo, one}),
    Node = node(Server),
    Term = {self(), make_ref(), #{1 => a, 1.0 => b}, "text", <<5:3>>, [1 | 2], 1 bsl 100},
    {Server, {echo, Term}} = ask(Server, {echo, Term}),
    ok.

spawned(Node) ->
    process_flag(trap_exit, true),
    A = spawn(Node, ?MODULE, serve, []),
    {A, {echo, two}} = ask(A, {echo, two}),
    {B, Ref} = spawn_monitor(Node, ?MODULE, serve, []),
    B ! {self(), {die, {bye, 1}}},
    {bye, 1} = down(Ref, B),
    C = spawn_link(Node, ?MODULE, serve, []),
    C ! {self(), {die, {bye, 2}}},
    {bye, 2} = exit_of(C),
    %% The function is undefined.
    {D, None} = spawn_monitor(Node, ?MODULE, nothing, []),
    {undef, [{?MODULE, nothing, [], _} | _]} = down(None, D),
    ok.

links(Node) ->
    process_flag(trap_exit, true),
    %% The linked process exits; this process gets the reason.
    A = start_on(Node),
    link(A),
    A ! {self(), {die, {bye, 1}}},
    {bye, 1} = exit_of(A),
    %% This side exits; the linked process gets the reason.
    B = start_on(Node),
    Helper = spawn(fun() -> receive {die, Reason} -> exit(Reason) end end),
    {B, linked} = ask(B, {link, Helper}),
    Helper ! {die, {bye, 2}},
    receive {B, {exit, Helper, {bye, 2}}} -> ok
    after ?TIMEOUT -> error(link_to_us_not_broken) end,
    %% After unlink there is no exit signal.
    link(B),
    true = unlink(B),
    Ref = monitor(process, B),
    B ! {self(), {die, {bye, 3}}},
    {bye, 3} = down(Ref, B),
    receive {'EXIT', B, _} -> error(exit_after_unlink) after 0 -> ok end,
    %% exit/2, and a link to a dead process.
    C = start_on(Node),
    Killed = monitor(process, C),
    exit(C, kill),
    killed = down(Killed, C),
    link(C),
    noproc = exit_of(C),
    ok.

monitors(Node) ->
    A = start_on(Node),
    ByPid = monitor(process, A),
    A ! {self(), {die, {bye, 1}}},
    {bye, 1} = down(ByPid, A),
    Dead = monitor(process, A),
    noproc = down(Dead, A),
    Nobody = {interop_nobody, Node},
    noproc = down(monitor(process, Nobody), Nobody),
    B = start_on(Node),
    Named = {interop_named, Node},
    {B, registered} = ask(B, {register, interop_named}),
    ByName = monitor(process, Named),
    Dropped = monitor(process, B),
    true = demonitor(Dropped),
    B ! {self(), {die, {bye, 2}}},
    {bye, 2} = down(ByName, Named),
    receive {'DOWN', Dropped, _, _, _} -> error(down_after_demonitor) after 0 -> ok end,
    %% The peer monitors this process.
    C = start_on(Node),
    Helper = spawn(fun() -> receive {die, Reason} -> exit(Reason) end end),
    {C, monitored} = ask(C, {monitor, Helper}),
    Helper ! {die, {bye, 3}},
    receive {C, {down, {bye, 3}}} -> ok
    after ?TIMEOUT -> error(monitor_of_us_silent) end.

binary(Node, Size) ->
    Binary = << <<I:32>> || I <- lists:seq(1, Size div 4) >>,
    Digest = erlang:md5(Binary),
    {_, {digest, Size, Digest}} = ask({?SERVER, Node}, {digest, Binary}),
    ok.

ordered(Node, Count) ->
    Server = start_on(Node),
    _ = [Server ! {self(), {item, I, Count, padding(I)}} || I <- lists:seq(1, Count)],
    {Server, {ordered, Count}} = answer_of(Server),
    ok.

%% Every hundredth message is large, so that small messages have something to overtake.
padding(I) when I rem 100 =:= 0 -> binary:copy(<<I:32>>, 5000);
padding(_) -> <<>>.

start_on(Node) -> erpc:call(Node, ?MODULE, start, [], ?TIMEOUT).

ask(To, Request) ->
    To ! {self(), Request},
    answer_of(To).

answer_of(To) ->
    receive {Pid, Answer} when is_pid(Pid) -> {Pid, Answer}
    after ?TIMEOUT -> error({no_answer, To})
    end.

exit_of(Pid) ->
    receive {'EXIT', Pid, Reason} -> Reason
    after ?TIMEOUT -> error({no_exit, Pid})
    end.

down(Ref, What) ->
    receive {'DOWN', Ref, process, What, Reason} -> Reason
    after ?TIMEOUT -> error({no_down, What})
    end.

%% -- the node itself ----------------------------------------------------------------------------

release() -> list_to_atom(erlang:system_info(otp_release)).

connected() -> nodes(connected).

connect(Node) -> net_kernel:connect_node(Node).

disconnect(Node) -> erlang:disconnect_node(Node).

%% Returns the milliseconds until the node is disconnected.
await_gone(Node, Timeout) -> await_gone(Node, Timeout, erlang:monotonic_time(millisecond)).

await_gone(Node, Timeout, Since) ->
    Waited = erlang:monotonic_time(millisecond) - Since,
    case lists:member(Node, nodes(connected)) of
        false -> Waited;
        true when Waited > Timeout -> error({still_connected, Node});
        true -> timer:sleep(10), await_gone(Node, Timeout, Since)
    end.

wrong_cookie(Node, Wrong) ->
    Right = erlang:get_cookie(),
    erlang:set_cookie(Node, Wrong),
    try net_kernel:connect_node(Node)
    after erlang:set_cookie(Node, Right)
    end.
