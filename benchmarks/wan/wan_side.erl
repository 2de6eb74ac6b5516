%% Stock Erlang at one end of a path; see quicdist_side.py.
%%
%%     erl -name ... -run wan_side serve
%%     erl -name ... -run wan_side drive NODE
-module(wan_side).
-export([serve/0, drive/1]).
-define(ASKING, 10).
-define(PAUSE, 50).

serve() ->
    register(echo, spawn(fun echo/0)),
    register(sink, spawn(fun sink/0)),
    say(["\"name\": \"", atom_to_list(node()), "\""]).

echo() ->
    receive {Pid, Message} -> Pid ! Message end,
    echo().

sink() ->
    receive
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

do(bulk, Node, For) ->
    rate(flow(Node, For));
do(start, Node, Count) ->
    times(start(Node, Count div 1000000));
do(ping, Node, For) ->
    times(asked(Node, For));
do(mixed, Node, For) ->
    Me = self(),
    spawn_link(fun() -> Me ! {flown, flow(Node, For)} end),
    timer:sleep(For div 4000),
    [spawn_link(fun() -> Me ! {asked, asked(Node, For div 2)} end) || _ <- lists:seq(1, ?ASKING)],
    Times = [receive {asked, Some} -> Some end || _ <- lists:seq(1, ?ASKING)],
    Rate = receive {flown, Flown} -> Flown end,
    [rate(Rate), ", ", times(lists:append(Times))].

flow(Node, For) ->
    Message = <<0:(8 * 1024 * 1024)>>,
    Began = now_us(),
    Count = put_until(Node, Message, Began + For, 0),
    {sink, Node} ! {self(), 1},
    receive 1 -> ok end,
    Count * 1048576 * 1000000 / (now_us() - Began).

%% The first messages of a connection: 1, 4, 16 and so on.
start(Node, Count) ->
    Marks = [M || M <- [1, 4, 16, 64, 256, 1024, 4096, 16384], M =< Count],
    Me = self(),
    Began = now_us(),
    spawn_link(fun() ->
        Message = <<0:(8 * 1024 * 1024)>>,
        [begin
             {sink, Node} ! Message,
             lists:member(N, Marks) andalso ({sink, Node} ! {Me, N})
         end || N <- lists:seq(1, lists:last(Marks))]
    end),
    [receive M -> now_us() - Began end || M <- Marks].

put_until(Node, Message, Until, Count) ->
    {sink, Node} ! Message,
    case now_us() < Until of
        true -> put_until(Node, Message, Until, Count + 1);
        false -> Count + 1
    end.

asked(Node, For) -> asked(Node, now_us() + For, []).

asked(Node, Until, Times) ->
    Began = now_us(),
    {echo, Node} ! {self(), binary:copy(<<"m">>, 64)},
    receive Message when is_binary(Message) -> ok end,
    Done = now_us(),
    timer:sleep(?PAUSE),
    case now_us() < Until of
        true -> asked(Node, Until, [Done - Began | Times]);
        false -> [Done - Began | Times]
    end.

rate(Rate) -> io_lib:format("\"rate\": ~f", [Rate]).

times(Times) ->
    Seconds = [io_lib:format("~.6f", [Each / 1000000]) || Each <- Times],
    ["\"times\": [", lists:join(",", Seconds), "]"].

now_us() -> erlang:monotonic_time(microsecond).

say(Fields) -> io:put_chars(["{", Fields, "}\n"]).
