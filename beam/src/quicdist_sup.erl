%% The supervisor of the gateway.
-module(quicdist_sup).
-behaviour(supervisor).

-export([start_link/0, start_gateway/1]).
-export([init/1]).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% Starts the gateway, once. Returns when it is up, or with the reason for which it did not start.
-spec start_gateway(quicdist_program:options()) -> {ok, pid()} | {error, term()}.
start_gateway(Options) ->
    case supervisor:start_child(?MODULE, quicdist_program:child_spec(gateway, Options)) of
        {ok, Pid} when is_pid(Pid) -> {ok, Pid};
        {error, {Reason, Child}} when element(1, Child) =:= child -> {error, Reason};
        {error, Reason} -> {error, Reason}
    end.

init([]) ->
    {ok, {#{strategy => one_for_one, intensity => 5, period => 30}, []}}.
