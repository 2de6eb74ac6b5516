%% A supervisor whose flags and children are its argument.
-module(quicdist_test_sup).
-behaviour(supervisor).

-export([start/2, init/1]).

%% Starts a supervisor that is not linked to the caller.
start(Flags, Children) ->
    {ok, Supervisor} = supervisor:start_link(?MODULE, {Flags, Children}),
    unlink(Supervisor),
    Supervisor.

init({Flags, Children}) -> {ok, {Flags, Children}}.
