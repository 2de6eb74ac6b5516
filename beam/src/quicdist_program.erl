%% A program of the operating system under a supervisor.
%%
%% The program lives as long as this process. It is started by a shell that waits for its standard
%% input to close, which happens in any death of the Erlang VM, and then ends the program: with
%% SIGTERM, and after a time with SIGKILL. start_link/1 returns when the program is ready. Its output
%% goes to the logger, but for the line that says that it is ready. If the program ends, this process
%% exits with {exited, Status, LastLines}, and the supervisor decides.
-module(quicdist_program).
-behaviour(gen_server).

-export([child_spec/2, start_link/1, ready/1, check_options/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, format_status/1]).
-export_type([options/0, events/0]).

-type options() ::
    #{%% The name or path of the program. Required.
      program := string() | binary(),
      args => [string() | binary()],
      %% A command and its first arguments, which runs the program, such as ["uv", "run"].
      launcher => [string() | binary()],
      env => [{string(), string() | false}],
      cd => string() | binary(),
      %% Returns true, or {true, Term}, for the line of output with which the program is ready.
      ready := fun((binary()) -> boolean() | {true, term()}),
      %% Milliseconds until it must be ready.
      ready_timeout => pos_integer(),
      %% Milliseconds that it has to end after SIGTERM.
      shutdown => pos_integer(),
      %% Called with the level and the text of each record, which may have several lines; by
      %% default logs them.
      log => fun((logger:level(), unicode:chardata()) -> term()),
      events => events()}.

-type events() :: fun(([atom()], map(), map()) -> term()).
%% Called with a name, measurements and metadata, as telemetry:execute/3:
%%   [quicdist, program, ready]  #{duration => Milliseconds}  #{program => Program}
%%   [quicdist, program, exit]   #{uptime => Milliseconds}    #{program => Program, status => Status}

-define(READY_TIMEOUT, 30000).
-define(SHUTDOWN, 8000).
-define(LINE_BYTES, 4096).
%% Milliseconds until a record is logged whose next lines have not arrived.
-define(FLUSH_TIME, 20).
%% The number of lines that an error shows.
-define(LAST, 10).

%% $1: seconds between SIGTERM and SIGKILL. A line on standard input, or its end, ends the program.
-define(SHELL,
        "grace=$1; shift\n"
        "exec 3<&0\n"
        "\"$@\" </dev/null 3<&- &\n"
        "child=$!\n"
        "(read -r line <&3; kill -TERM $child\n"
        " while [ $grace -gt 0 ] && kill -0 $child; do sleep 1; grace=$((grace - 1)); done\n"
        " kill -KILL $child) >/dev/null 2>&1 &\n"
        "watcher=$!\n"
        "wait $child\n"
        "status=$?\n"
        "kill -KILL $watcher 2>/dev/null\n"
        "exit $status\n").

-record(state, {port :: port(),
                options :: options(),
                started = erlang:monotonic_time(millisecond) :: integer(),
                ready = undefined :: term(),
                partial = <<>> :: binary(),
                lines = quicdist_log_lines:new() :: quicdist_log_lines:lines(),
                %% Whether a message `flush` is on its way.
                flushes = false :: boolean(),
                last = [] :: [binary()]}).

-spec child_spec(term(), options()) -> supervisor:child_spec().
child_spec(Id, Options) ->
    #{id => Id,
      start => {?MODULE, start_link, [Options]},
      restart => permanent,
      shutdown => maps:get(shutdown, Options, ?SHUTDOWN) + 2000,
      type => worker}.

%% Starts the program and waits until it is ready.
-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    gen_server:start_link(?MODULE, Options, []).

%% Returns the term that the function `ready` has returned.
-spec ready(gen_server:server_ref()) -> term().
ready(Program) ->
    gen_server:call(Program, ready).

%% @private
%% Raises {bad_option, Option} for an option that is not in Known, which may be a misspelled one.
-spec check_options([atom()], map()) -> ok.
check_options(Known, Options) ->
    [error({bad_option, Option}) || {Name, _} = Option <- maps:to_list(Options), not lists:member(Name, Known)],
    ok.

init(Options) ->
    process_flag(trap_exit, true),
    case command(Options) of
        {not_found, Program} ->
            {stop, {not_found, Program}};
        Command ->
            Timeout = maps:get(ready_timeout, Options, ?READY_TIMEOUT),
            %% The environment may have secrets, which a crash report would show.
            Kept = maps:remove(env, Options),
            State = #state{port = open(Command, Options), options = Kept},
            wait_until_ready(State, erlang:monotonic_time(millisecond) + Timeout)
    end.

%% The shell, which runs the program. A launcher runs the shell, and not the program: it may not pass
%% on a signal, and the program would outlive a launcher that is killed.
command(#{launcher := [Launcher | First], program := Program} = Options) ->
    case find(Launcher, Options) of
        false -> {not_found, Launcher};
        Path -> {Path, First ++ ["sh" | shell(Program, Options)]}
    end;
command(#{program := Program} = Options) ->
    case find(Program, Options) of
        false -> {not_found, Program};
        Path -> {os:find_executable("sh"), shell(Path, Options)}
    end.

shell(Program, Options) ->
    Grace = integer_to_list(max(1, maps:get(shutdown, Options, ?SHUTDOWN) div 1000)),
    ["-c", ?SHELL, "sh", Grace, Program | maps:get(args, Options, [])].

find(Program, Options) ->
    Name = unicode:characters_to_list(Program),
    case lists:member($/, Name) of
        true ->
            From = filename:absname(Name, unicode:characters_to_list(maps:get(cd, Options, "."))),
            case filelib:is_regular(From) of
                true -> filename:absname(From);
                false -> false
            end;
        false ->
            os:find_executable(Name)
    end.

open({Path, Args}, Options) ->
    Cd = [{cd, Directory} || {ok, Directory} <- [maps:find(cd, Options)]],
    Settings = [{args, Args}, {env, maps:get(env, Options, [])}, {line, ?LINE_BYTES}, binary, exit_status,
                stderr_to_stdout, hide | Cd],
    open_port({spawn_executable, Path}, Settings).

wait_until_ready(#state{port = Port} = State, Until) ->
    receive
        {Port, {data, Data}} ->
            case line(Data, State) of
                {none, Next} ->
                    wait_until_ready(Next, Until);
                {Line, Next} ->
                    case (maps:get(ready, State#state.options))(Line) of
                        false -> wait_until_ready(logged(Line, Next), Until);
                        true -> is_ready(Next#state{ready = true});
                        {true, Ready} -> is_ready(Next#state{ready = Ready})
                    end
            end;
        flush ->
            wait_until_ready(flushed(State), Until);
        {Port, {exit_status, Status}} ->
            _ = flushed(State),
            {stop, {exited, Status, lists:reverse(State#state.last)}};
        {'EXIT', Port, Reason} ->
            {stop, Reason};
        {'EXIT', _, Reason} ->
            stop(State),
            {stop, Reason}
    after max(0, Until - erlang:monotonic_time(millisecond)) ->
        stop(State),
        {stop, {not_ready, lists:reverse(State#state.last)}}
    end.

is_ready(State) ->
    event(ready, #{duration => age(State)}, #{}, State),
    {ok, State}.

event(Name, Measurements, Metadata, #state{options = #{events := Events} = Options}) ->
    Program = maps:get(program, Options),
    Events([quicdist, program, Name], Measurements, Metadata#{program => Program});
event(_, _, _, _) ->
    ok.

age(#state{started = Started}) -> erlang:monotonic_time(millisecond) - Started.

handle_call(ready, _From, #state{ready = Ready} = State) ->
    {reply, Ready, State};
handle_call(_, _From, State) ->
    {reply, {error, badarg}, State}.

handle_cast(_, State) ->
    {noreply, State}.

handle_info({Port, {data, Data}}, #state{port = Port} = State) ->
    case line(Data, State) of
        {none, Next} -> {noreply, Next};
        {Line, Next} -> {noreply, logged(Line, Next)}
    end;
handle_info({Port, {exit_status, Status}}, #state{port = Port, last = Last} = State) ->
    event(exit, #{uptime => age(State)}, #{status => Status}, State),
    {stop, {exited, Status, lists:reverse(Last)}, (flushed(State))#state{port = undefined}};
handle_info(flush, State) ->
    {noreply, flushed(State)};
handle_info({'EXIT', Port, Reason}, #state{port = Port} = State) ->
    {stop, Reason, State#state{port = undefined}};
handle_info({'EXIT', _, Reason}, State) ->
    {stop, Reason, State};
handle_info(_, State) ->
    {noreply, State}.

terminate(_Reason, #state{port = undefined}) -> ok;
terminate(_Reason, State) -> stop(State).

%% The part of the state that a crash report needs. The last lines are in its reason.
format_status(Status) ->
    maps:map(fun(state, #state{options = #{program := Program}, ready = Ready}) -> {Program, Ready};
                (_, Value) -> Value
             end, Status).

%% Asks the shell to end the program, and waits until it has.
stop(#state{port = Port, options = Options} = State) ->
    Timeout = maps:get(shutdown, Options, ?SHUTDOWN) + 1000,
    try port_command(Port, "stop\n")
    catch error:badarg -> ok
    end,
    wait_until_exit(State, erlang:monotonic_time(millisecond) + Timeout).

wait_until_exit(#state{port = Port} = State, Until) ->
    receive
        {Port, {data, Data}} ->
            case line(Data, State) of
                {none, Next} -> wait_until_exit(Next, Until);
                {Line, Next} -> wait_until_exit(logged(Line, Next), Until)
            end;
        flush ->
            wait_until_exit(flushed(State), Until);
        {Port, {exit_status, Status}} ->
            _ = flushed(State),
            event(exit, #{uptime => age(State)}, #{status => Status}, State)
    after max(0, Until - erlang:monotonic_time(millisecond)) ->
        _ = flushed(State),
        ok
    end.

%% A line longer than the bound is cut.
line({noeol, Data}, #state{partial = <<>>} = State) ->
    {none, State#state{partial = Data}};
line({noeol, _}, State) ->
    {none, State};
line({eol, Data}, #state{partial = <<>>} = State) ->
    {Data, State};
line({eol, _}, #state{partial = Partial} = State) ->
    {Partial, State#state{partial = <<>>}}.

logged(Line, #state{last = Last} = State) ->
    {Records, Lines} = quicdist_log_lines:add(Line, State#state.lines),
    log_records(Records, State),
    [erlang:send_after(?FLUSH_TIME, self(), flush) || not State#state.flushes],
    State#state{lines = Lines, flushes = true, last = lists:sublist([Line | Last], ?LAST)}.

flushed(State) ->
    {Records, Lines} = quicdist_log_lines:flush(State#state.lines),
    log_records(Records, State),
    State#state{lines = Lines, flushes = false}.

log_records(Records, #state{options = Options}) ->
    Log = maps:get(log, Options, fun log/2),
    [Log(Level, Text) || {Level, Text} <- Records],
    ok.

log(Level, Text) ->
    logger:log(Level, "~ts", [printable(Text)], #{domain => [quicdist]}).

printable(Text) ->
    case unicode:characters_to_list(Text) of
        List when is_list(List) -> List;
        _ -> binary_to_list(Text)
    end.
