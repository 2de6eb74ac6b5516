%% An Erlang node of the soak: like soak/python_node.py, on a stock node behind a gateway.
-module(soak).
-export([start/0]).

-define(REPORT_EVERY, 5000).

start() ->
    [Rate, Seed | Peers] = init:get_plain_arguments(),
    Me = spawn(fun() -> receiver_begins() end),
    Counts = counters:new(1, []),
    Each = list_to_float(Rate) / length(Peers),
    Quiet = atomics:new(1, []),
    [spawn(fun() -> sender(list_to_atom(Peer), Each, list_to_integer(Seed), Counts, Quiet) end)
     || Peer <- Peers],
    spawn(fun() -> reporter(Me, Counts) end),
    spawn(fun() -> obey(Quiet) end),
    ok.

receiver_begins() ->
    register(soak, self()),
    ok = net_kernel:monitor_nodes(true, [{node_type, all}]),
    receiver(#{}, #{}, #{}).

receiver(Last, Begun, Counts) ->
    receive
        {soak, Node, Incarnation, Number, Crc, Body} ->
            Before = maps:get({Node, Incarnation}, Last, 0),
            Found = found(Number, Before, maps:is_key(Node, Begun))
                ++ [{corrupt, 1} || erlang:crc32(Body) =/= Crc]
                ++ [{received, 1}, {bytes, byte_size(Body)}],
            receiver(Last#{{Node, Incarnation} => Number}, Begun#{Node => true},
                     lists:foldl(fun add/2, Counts, Found));
        {Change, Node, _} when Change =:= nodeup; Change =:= nodedown ->
            receiver(Last, maps:remove(Node, Begun), add({Change, 1}, Counts));
        {report, To} ->
            To ! {counts, Counts},
            receiver(Last, Begun, Counts);
        _ ->
            receiver(Last, Begun, Counts)
    end.

found(Number, Before, _) when Number =< Before -> [{twice, 1}];
found(Number, Before, true) when Number > Before + 1 -> [{lost, Number - Before - 1}];
found(_, _, _) -> [].

add({Key, Count}, Counts) ->
    maps:update_with(Key, fun(Old) -> Old + Count end, Count, Counts).

sender(Peer, Rate, Seed, Counts, Quiet) ->
    rand:seed(exsss, {Seed, erlang:phash2(node()), erlang:phash2(Peer)}),
    Bodies = [rand:bytes(Size) || Size <- [10, 100, 1000, 10000, 300000]],
    sender(Peer, Rate, list_to_tuple([{erlang:crc32(Body), Body} || Body <- Bodies]), 1,
           erlang:system_info(creation), Counts, Quiet).

sender(Peer, Rate, Bodies, Number, Incarnation, Counts, Quiet) ->
    timer:sleep(round(-math:log(rand:uniform()) * 1000 / Rate)),
    case atomics:get(Quiet, 1) of
        1 -> sender(Peer, Rate, Bodies, Number, Incarnation, Counts, Quiet);
        0 ->
            {Crc, Body} = element(kind(rand:uniform(100)), Bodies),
            {soak, Peer} ! {soak, node(), Incarnation, Number, Crc, Body},
            counters:add(Counts, 1, 1),
            sender(Peer, Rate, Bodies, Number + 1, Incarnation, Counts, Quiet)
    end.

kind(Dice) when Dice =< 40 -> 1;
kind(Dice) when Dice =< 70 -> 2;
kind(Dice) when Dice =< 90 -> 3;
kind(Dice) when Dice =< 99 -> 4;
kind(_) -> 5.

reporter(Me, Counts) ->
    timer:sleep(?REPORT_EVERY),
    Me ! {report, self()},
    receive
        {counts, Received} ->
            All = Received#{sent => counters:get(Counts, 1),
                            tasks => erlang:system_info(process_count),
                            connected => length(nodes(connected))},
            Fields = [io_lib:format("\"~s\": ~b", [Key, Value]) || {Key, Value} <- maps:to_list(All)],
            io:format("{~s}~n", [lists:join(", ", Fields)])
    after 30000 -> ok
    end,
    reporter(Me, Counts).

obey(Quiet) ->
    case io:get_line("") of
        "quiet\n" -> atomics:put(Quiet, 1, 1), obey(Quiet);
        Line when is_list(Line) -> obey(Quiet);
        _ -> halt(0)
    end.
