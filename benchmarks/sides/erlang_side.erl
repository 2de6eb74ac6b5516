%% Stock Erlang: a node that reads and echoes, or a node that drives it; see measuring.py.
%%
%%     erl -name ... -run erlang_side serve
%%     erl -name ... -run erlang_side drive NODE
-module(erlang_side).
-export([serve/0, drive/1]).

serve() ->
    register(echo, spawn(fun echo/0)),
    register(sink, spawn(fun sink/0)),
    say(["\"name\": \"", atom_to_list(node()), "\""]).

echo() ->
    receive
        {'$gen_call', {Pid, Tag}, Message} -> Pid ! {Tag, Message};
        {Pid, Message} -> Pid ! Message
    end,
    echo().

sink() ->
    receive
        {'$gen_call', {Pid, Tag}, Message} -> Pid ! {Tag, Message};
        {Pid, Message} -> Pid ! Message;
        _ -> ok
    end,
    sink().

drive([Name]) ->
    Node = list_to_atom(Name),
    true = net_kernel:connect_node(Node),
    say([]),
    listen(Node).

listen(Node) ->
    case io:get_line("") of
        eof ->
            halt();
        Line ->
            [What, Number] = string:lexemes(Line, " \n"),
            Seconds = try list_to_float(Number) catch error:_ -> list_to_integer(Number) end,
            say(do(list_to_atom(What), Node, trunc(Seconds * 1000000))),
            listen(Node)
    end.

do(round_trip, Node, For) ->
    Times = times(fun() -> ping(Node) end, For),
    [io_lib:format("\"count\": ~b, ", [length(Times)]), seconds(Times)];
do(connect, Node, For) ->
    Connect = fun() -> true = net_kernel:connect_node(Node) end,
    seconds(times(Connect, For, fun() -> disconnect(Node) end));
do(small, Node, For) ->
    flow(Node, binary:copy(<<"m">>, 64), 100, For);
do(bulk, Node, For) ->
    flow(Node, <<0:(8 * 1024 * 1024)>>, 1, For);
do(mixed, Node, For) ->
    Me = self(),
    spawn(fun() -> Me ! {flown, do(bulk, Node, For)} end),
    timer:sleep(For div 5000),
    Times = times(fun() -> ping(Node) end, For * 6 div 10),
    receive {flown, Flown} -> [Flown, ", ", seconds(Times)] end.

%% A node that still accepts the connection when it ends reports a crash (inet_tls_dist of OTP 25).
disconnect(Node) ->
    ping(Node),
    true = erlang:disconnect_node(Node).

ping(Node) ->
    {echo, Node} ! {self(), binary:copy(<<"m">>, 64)},
    receive Message when is_binary(Message) -> ok end.

flow(Node, Message, Batch, For) ->
    Began = now_us(),
    Count = put_until(Node, Message, Batch, Began + For, 0),
    {sink, Node} ! {self(), 1},
    receive 1 -> ok end,
    Took = now_us() - Began,
    io_lib:format("\"count\": ~b, \"rate\": ~f", [Count, Count * 1000000 / Took]).

put_until(Node, Message, Batch, Until, Count) ->
    put_some(Node, Message, Batch),
    case now_us() < Until of
        true -> put_until(Node, Message, Batch, Until, Count + Batch);
        false -> Count + Batch
    end.

put_some(_, _, 0) -> ok;
put_some(Node, Message, Batch) ->
    {sink, Node} ! Message,
    put_some(Node, Message, Batch - 1).

times(Once, For) -> times(Once, For, fun() -> ok end).

times(Once, For, Prepare) -> times(Once, Prepare, now_us() + For, []).

times(Once, Prepare, Until, Times) ->
    Prepare(),
    Began = now_us(),
    Once(),
    Done = now_us(),
    case Done < Until of
        true -> times(Once, Prepare, Until, [Done - Began | Times]);
        false -> [Done - Began | Times]
    end.

seconds(Times) ->
    Sorted = lists:sort(Times),
    Median = lists:nth(length(Sorted) div 2 + 1, Sorted),
    io_lib:format("\"seconds\": ~.9f", [Median / 1000000]).

now_us() -> erlang:monotonic_time(microsecond).

say(Fields) -> io:put_chars(["{", Fields, "}\n"]).
