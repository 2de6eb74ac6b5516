%% The BEAM side of benchmarks/arrays.py. Each way has a function that sends a payload to Python and
%% one that gets a payload from it; both return when the payload is a binary or an array there.
%%
%%     erl ... -run arrays_side node NAME
%%     erl ... -run arrays_side port PYTHON BYTES
%%     erl ... -run arrays_side http URL
%%
%% Orders on standard input: `take` or `give`. The answer is a line of JSON.
-module(arrays_side).
-export([node/1, port/1, http/1]).

node([Name]) ->
    Node = list_to_atom(Name),
    true = net_kernel:connect_node(Node),
    Payload = erpc:call(Node, arrays, give, [], infinity),
    listen(fun
        (take) -> ok = erpc:call(Node, arrays, take, [Payload], infinity);
        (give) -> {tensor, _, _, Binary} = erpc:call(Node, arrays, give, [], infinity),
                  true = byte_size(Binary) > 0
    end).

port([Python, Bytes]) ->
    Arguments = ["-m", "benchmarks.sides.arrays_side", "port", Bytes],
    Port = open_port({spawn_executable, Python}, [{packet, 4}, binary, {args, Arguments}]),
    Ask = fun(What) ->
        true = port_command(Port, What),
        receive {Port, {data, Data}} -> Data end
    end,
    Payload = Ask(<<"give">>),
    listen(fun
        (take) -> <<"ok">> = Ask([<<"take">>, Payload]);
        (give) -> true = byte_size(Ask(<<"give">>)) > 0;
        (copies) -> Ask(<<"copies">>)
    end).

http([Url]) ->
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(ssl),
    Settings = [{ssl, [{verify, verify_none}]}],
    Get = fun() ->
        {ok, {{_, 200, _}, _, Body}} =
            httpc:request(get, {Url, []}, Settings, [{body_format, binary}]),
        Body
    end,
    Payload = Get(),
    listen(fun
        (take) -> {ok, {{_, 200, _}, _, _}} =
            httpc:request(post, {Url, [], "application/octet-stream", Payload}, Settings, []);
        (give) -> true = byte_size(Get()) > 0
    end).

listen(Do) ->
    io:put_chars("{}\n"),
    listen_on(Do).

listen_on(Do) ->
    case io:get_line("") of
        eof ->
            halt();
        Line ->
            What = list_to_existing_atom(string:trim(Line)),
            {Took, Value} = timer:tc(Do, [What]),
            Copies = if What =:= copies -> Value; true -> <<"null">> end,
            io:format("{\"seconds\": ~.6f, \"copies\": ~s}~n", [Took / 1000000, Copies]),
            erlang:garbage_collect(),
            listen_on(Do)
    end.
