%% A pool of Python nodes under a supervisor.
%%
%%     Pool = quicdist_pool:child_spec(#{name => models, size => 4,
%%                                       worker => #{name => "0@127.0.0.1", modules => ["model.py"]}}),
%%     quicdist_pool:call(models, model, predict, [Input]).
%%
%% A call or stream goes to the worker with the fewest of them. If that worker dies, the call exits with
%% {worker_down, Node}, and the supervisor starts another one.
-module(quicdist_pool).
-behaviour(supervisor).

-export([child_spec/1, start_link/1, call/4, call/5, open/5, nodes/1]).
-export([init/1, start_worker/3]).
-export_type([options/0]).

-type options() ::
    #{%% The registered name of the pool.
      name := atom(),
      size := pos_integer(),
      %% The options of each worker. Its node name needs port 0, or ~b for the number of the worker.
      worker := quicdist_python:options()}.
%% The function `events` of the worker options is called after each call with
%%   [quicdist, pool, call]  #{duration => Milliseconds}
%%                           #{pool => Pool, node => Node, module => Module, function => Function}

-define(TIMEOUT, 5000).

-spec child_spec(options()) -> supervisor:child_spec().
child_spec(#{name := Name} = Options) ->
    #{id => Name, start => {?MODULE, start_link, [Options]}, type => supervisor,
      shutdown => infinity}.

-spec start_link(options()) -> {ok, pid()} | ignore | {error, term()}.
start_link(#{name := Name} = Options) ->
    supervisor:start_link({local, Name}, ?MODULE, Options).

%% Calls a function on the worker with the fewest running calls and streams, as erpc:call/4.
-spec call(atom(), module(), atom(), [term()]) -> term().
call(Pool, Module, Function, Args) ->
    call(Pool, Module, Function, Args, ?TIMEOUT).

-spec call(atom(), module(), atom(), [term()], timeout()) -> term().
call(Pool, Module, Function, Args, Timeout) ->
    {Worker, Node} = least_loaded(Pool),
    count(Pool, Worker, 1),
    Began = erlang:monotonic_time(millisecond),
    Monitor = erlang:monitor(process, Worker),
    try quicdist_call:call(Node, Module, Function, Args, Timeout, Monitor)
    catch
        error:{erpc, noconnection} ->
            exit({worker_down, Node})
    after
        erlang:demonitor(Monitor, [flush]),
        count(Pool, Worker, -1),
        Metadata = #{pool => Pool, node => Node, module => Module, function => Function},
        Duration = erlang:monotonic_time(millisecond) - Began,
        (events(Pool))([quicdist, pool, call], #{duration => Duration}, Metadata)
    end.

%% Opens a stream from the worker with the fewest running calls and streams, as quicdist_stream:open/5.
-spec open(atom(), module(), atom(), [term()], quicdist_stream:options()) ->
          {ok, quicdist_stream:stream()} | {error, term()}.
open(Pool, Module, Function, Args, Options) ->
    {Worker, Node} = least_loaded(Pool),
    case quicdist_stream:open(Node, Module, Function, Args, Options) of
        {ok, Stream} ->
            count(Pool, Worker, 1),
            _ = spawn(fun() -> count_end(Pool, Worker, quicdist_stream:monitor(Stream)) end),
            {ok, Stream};
        {error, Reason} ->
            {error, Reason}
    end.

count_end(Pool, Worker, Monitor) ->
    receive {'DOWN', Monitor, process, _, _} -> count(Pool, Worker, -1) end.

events(Pool) ->
    [{events, Events}] = ets:lookup(Pool, events),
    Events.

%% The nodes of the workers that are up.
-spec nodes(atom()) -> [node()].
nodes(Pool) ->
    [Node || {_, _, Node, _} <- workers(Pool)].

least_loaded(Pool) ->
    case lists:keysort(4, workers(Pool)) of
        [{Worker, _, Node, _} | _] -> {Worker, Node};
        [] -> exit({no_worker, Pool})
    end.

%% A worker that has ended keeps its row until it is started again.
workers(Pool) ->
    [Row || {Worker, _, _, _} = Row <- ets:tab2list(Pool), is_process_alive(Worker)].

%% The row of a worker that has been replaced does not exist any more.
count(Pool, Worker, Change) ->
    try ets:update_counter(Pool, Worker, {4, Change}) of
        _ -> ok
    catch
        error:badarg -> ok
    end.

%% @private
init(#{name := Name, size := Size, worker := Worker} = Options) ->
    ok = quicdist_program:check_options([name, size, worker], Options),
    %% {events, Function}, and a row {Worker, Slot, Node, Calls} for each worker that has been up.
    Name = ets:new(Name, [named_table, public, {write_concurrency, true}]),
    true = ets:insert(Name, {events, maps:get(events, Worker, fun(_, _, _) -> ok end)}),
    Specs = [worker(Name, Slot, Worker) || Slot <- lists:seq(1, Size)],
    {ok, {#{strategy => one_for_one, intensity => 3 * Size, period => 30}, Specs}}.

worker(Pool, Slot, #{name := Given} = Options) ->
    Name = lists:flatten(string:replace(text(Given), "~b", integer_to_list(Slot))),
    Spec = quicdist_python:child_spec(Options#{name => Name, id => Slot}),
    Spec#{start => {?MODULE, start_worker, [Pool, Slot, Options#{name => Name}]}}.

%% @private
-spec start_worker(atom(), pos_integer(), quicdist_python:options()) ->
          {ok, pid()} | {error, term()}.
start_worker(Pool, Slot, Options) ->
    true = ets:match_delete(Pool, {'_', Slot, '_', '_'}),
    case quicdist_python:start_link(Options) of
        {ok, Python} ->
            true = ets:insert(Pool, {Python, Slot, quicdist_python:node_name(Python), 0}),
            {ok, Python};
        Error ->
            Error
    end.

text(Text) when is_atom(Text) -> atom_to_list(Text);
text(Text) -> unicode:characters_to_list(Text).
