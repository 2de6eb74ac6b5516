%% Calls that tell the called function how long the caller waits.
%%
%% A Python function reads the deadline with current_call(), and passes it on to its own calls.
-module(quicdist_call).

-export([call/4, call/5, call/6, execute/5]).

-define(TIMEOUT, 5000).
-define(OPTIONS, [{reply, error_only}, monitor]).

%% Calls a function as erpc:call/5, and fails in the same ways.
-spec call(node(), module(), atom(), [term()]) -> term().
call(Node, Module, Function, Args) ->
    call(Node, Module, Function, Args, ?TIMEOUT).

-spec call(node(), module(), atom(), [term()], timeout()) -> term().
call(Node, Module, Function, Args, Timeout) ->
    call(Node, Module, Function, Args, Timeout, make_ref()).

%% @private
%% Fails with {erpc, noconnection} also when the monitor fires: that of a process which ends with Node.
-spec call(node(), module(), atom(), [term()], timeout(), reference()) -> term().
call(Node, Module, Function, Args, Timeout, Monitor) ->
    Tag = make_ref(),
    Request = request(Node, Tag, Module, Function, Args, Timeout),
    receive
        {spawn_reply, Request, error, Reason} ->
            error({erpc, Reason});
        {'DOWN', Request, process, _, Reason} ->
            result(Tag, Reason);
        {'DOWN', Monitor, process, _, _} ->
            abandon(Request),
            error({erpc, noconnection})
    after Timeout ->
        abandon(Request),
        error({erpc, timeout})
    end.

request(Node, Tag, Module, Function, Args, infinity) ->
    erlang:spawn_request(Node, erpc, execute_call, [Tag, Module, Function, Args], ?OPTIONS);
request(Node, Tag, Module, Function, Args, Timeout) ->
    erlang:spawn_request(Node, ?MODULE, execute, [Tag, Module, Function, Args, Timeout], ?OPTIONS).

abandon(Request) ->
    _ = erlang:spawn_request_abandon(Request),
    _ = erlang:demonitor(Request, [flush]),
    receive {spawn_reply, Request, _, _} -> ok after 0 -> ok end.

result(Tag, {Tag, return, Value}) -> Value;
result(Tag, {Tag, throw, Reason}) -> throw(Reason);
result(Tag, {Tag, exit, Reason}) -> exit({exception, Reason});
result(Tag, {Tag, error, Reason, Stack}) -> error({exception, Reason, Stack});
result(_, noconnection) -> error({erpc, noconnection});
result(_, Reason) -> exit({signal, Reason}).

%% @private
-spec execute(reference(), module(), atom(), [term()], timeout()) -> no_return().
execute(Tag, Module, Function, Args, _Timeout) ->
    erpc:execute_call(Tag, Module, Function, Args).
