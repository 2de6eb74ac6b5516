%% Distribution over QUIC for this Erlang VM, through a gateway that it supervises.
%%
%% The VM must be started with
%%
%%     ERL_AFLAGS="-start_epmd false -epmd_module quicdist_epmd"
%%
%% and without a name. Then
%%
%%     ok = quicdist:start_distribution(#{name => '5555@10.0.0.7', cookie => secret}).
-module(quicdist).

-export([start_distribution/1]).
-export_type([options/0]).

-define(OPTIONS, [name, cookie, program, venv, args, env, ready_timeout, log, events]).

-type options() ::
    #{%% The name of this node: port@ip.
      name := node(),
      cookie => atom(),
      %% The quicdist program, or a virtual environment that has it. By default that on the PATH.
      program => string() | binary(),
      venv => string() | binary(),
      %% More options of `quicdist gateway`.
      args => [string() | binary()],
      env => [{string(), string() | false}],
      ready_timeout => pos_integer(),
      log => fun((logger:level(), unicode:chardata()) -> term()),
      events => quicdist_program:events()}.

%% Starts the gateway and then net_kernel. The gateway is restarted if it ends; the connections of
%% this node end with it. Returns an error if the VM cannot be distributed, with its reason.
%% Raises {bad_option, Option}.
-spec start_distribution(options()) -> ok | {error, term()}.
start_distribution(#{name := Name} = Options) ->
    ok = quicdist_program:check_options(?OPTIONS, Options),
    case {init:get_argument(epmd_module), node()} of
        {{ok, [["quicdist_epmd"] | _]}, nonode@nohost} ->
            {ok, _} = application:ensure_all_started(quicdist),
            start_gateway(Name, Options);
        {{ok, [["quicdist_epmd"] | _]}, Node} ->
            {error, {already_distributed, Node}};
        _ ->
            {error, {missing_flags, "-start_epmd false -epmd_module quicdist_epmd"}}
    end.

start_gateway(Name, Options) ->
    Given = maps:with([env, ready_timeout, log, events], Options),
    Program = Given#{program => program(Options),
                     args => ["gateway", atom_to_list(Name), "--json" | maps:get(args, Options, [])],
                     ready => fun is_up/1,
                     shutdown => 3000},
    case quicdist_sup:start_gateway(Program) of
        {ok, _} -> start_net_kernel(Name, Options);
        {error, Reason} -> {error, {gateway, Reason}}
    end.

start_net_kernel(Name, Options) ->
    ok = application:set_env(kernel, inet_dist_use_interface, {127, 0, 0, 1}),
    Domain = case lists:member($., atom_to_list(Name)) of
                 true -> longnames;
                 false -> shortnames
             end,
    case net_kernel:start([Name, Domain]) of
        {ok, _} ->
            [erlang:set_cookie(Cookie) || {ok, Cookie} <- [maps:find(cookie, Options)]],
            ok;
        {error, Reason} ->
            _ = supervisor:terminate_child(quicdist_sup, gateway),
            _ = supervisor:delete_child(quicdist_sup, gateway),
            {error, {net_kernel, Reason}}
    end.

program(#{program := Program}) -> Program;
program(#{venv := Venv}) -> filename:join([unicode:characters_to_list(Venv), "bin", "quicdist"]);
program(_) -> "quicdist".

is_up(Line) ->
    re:run(Line, "^{\"status\": *\"up\"", [{capture, none}]) =:= match.
