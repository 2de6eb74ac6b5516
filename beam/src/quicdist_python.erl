%% A Python node under a supervisor.
%%
%%     Children = [quicdist_python:child_spec(#{id => calc, name => "4433@127.0.0.1",
%%                                              modules => ["calc.py"], venv => "python/.venv"})]
%%
%% The child starts when the node is up. Its log lines go to the logger. On shutdown it drains:
%% running calls have the time `shutdown` to end. It ends with the Erlang VM, however that ends.
-module(quicdist_python).

-export([child_spec/1, start_link/1, node_name/1]).
-export_type([options/0]).

-type options() ::
    #{id => term(),
      %% The name of the Python node: port@ip, or name@host. Port 0 selects a free port.
      name := string() | binary() | atom(),
      %% Python modules or files, whose functions with @export are served.
      modules => [string() | binary()],
      %% A script, instead of modules. It takes the cookie from QUICDIST_COOKIE, and must print
      %% "NAME is up" when it is a node.
      script => string() | binary(),
      %% A virtual environment, or a project of uv, or neither: then the `quicdist` on the PATH.
      venv => string() | binary(),
      uv => string() | binary(),
      %% More options of `quicdist run`, or arguments of the script.
      args => [string() | binary()],
      env => [{string(), string() | false}],
      cd => string() | binary(),
      cookie => atom() | string(),
      ready_timeout => pos_integer(),
      %% Milliseconds for running calls to end, 5000.
      shutdown => pos_integer(),
      log => fun((logger:level(), unicode:chardata()) -> term()),
      events => quicdist_program:events()}.

-define(SHUTDOWN, 5000).
-define(OPTIONS, [id, name, modules, script, venv, uv, args, env, cd, cookie, ready_timeout, shutdown, log,
                  events]).

-spec child_spec(options()) -> supervisor:child_spec().
child_spec(Options) ->
    #{id => maps:get(id, Options, maps:get(name, Options)),
      start => {?MODULE, start_link, [Options]},
      restart => permanent,
      shutdown => maps:get(shutdown, Options, ?SHUTDOWN) + 4000,
      type => worker}.

%% Starts the node and waits until it is up.
-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    quicdist_program:start_link(program(Options)).

%% The name of the node, with its real port.
-spec node_name(gen_server:server_ref()) -> node().
node_name(Python) ->
    quicdist_program:ready(Python).

program(Options) ->
    ok = quicdist_program:check_options(?OPTIONS, Options),
    Shutdown = maps:get(shutdown, Options, ?SHUTDOWN),
    {Program, Args} = command(Options),
    Given = maps:merge(launcher(Options), maps:with([cd, ready_timeout, log, events], Options)),
    Given#{program => Program,
           args => Args,
           env => env(Options),
           ready => fun is_up/1,
           shutdown => Shutdown + 2000}.

command(#{script := Script} = Options) ->
    interpreter("python", Options, [Script | maps:get(args, Options, [])]);
command(#{modules := [_ | _] = Modules, name := Name} = Options) ->
    Drain = io_lib:format("~.1f", [maps:get(shutdown, Options, ?SHUTDOWN) / 1000]),
    Run = ["run", text(Name) | Modules] ++ ["--drain", lists:flatten(Drain)]
        ++ maps:get(args, Options, []),
    interpreter("quicdist", Options, Run);
command(_) ->
    error({badarg, "modules or script is required"}).

interpreter(Program, #{venv := Venv}, Args) ->
    {filename:join([unicode:characters_to_list(Venv), "bin", Program]), Args};
interpreter(Program, #{uv := _}, Args) ->
    {Program, Args};
interpreter("python", _, Args) ->
    {"python3", Args};
interpreter(Program, _, Args) ->
    {Program, Args}.

launcher(#{uv := Project}) -> #{launcher => ["uv", "run", "--project", Project]};
launcher(_) -> #{}.

%% The cookie is passed in the environment: every user of the machine can read the command line.
env(Options) ->
    Cookie = [{"QUICDIST_COOKIE", text(Given)} || {ok, Given} <- [cookie(Options)]],
    Cookie ++ [{"PYTHONUNBUFFERED", "1"} | maps:get(env, Options, [])].

cookie(#{cookie := Cookie}) -> {ok, Cookie};
cookie(_) when node() =/= nonode@nohost -> {ok, erlang:get_cookie()};
cookie(_) -> error.

is_up(Line) ->
    case re:run(Line, "^(\\S+@\\S+) is up$", [{capture, all_but_first, list}]) of
        {match, [Name]} -> {true, list_to_atom(Name)};
        nomatch -> false
    end.

text(Text) when is_atom(Text) -> atom_to_list(Text);
text(Text) -> unicode:characters_to_list(Text).
