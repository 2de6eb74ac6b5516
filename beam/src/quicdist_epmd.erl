%% An EPMD module that uses a quicdist gateway on this machine instead of an EPMD.
%%
%%   erl -name 5555@10.0.0.7 -start_epmd false -epmd_module quicdist_epmd -pa DIR
%%
%% The gateway listens on 127.0.0.1, at the first of these ports that is set:
%%   1. QUICDIST_GATEWAY_EPMD in the environment
%%   2. ERL_EPMD_PORT in the environment (or -epmd_port)
%%   3. the number before the @ of this node's own name
%%   4. 4369
%% It sends requests of the EPMD protocol, with full node names.
%%
%% A release runs in embedded mode and does not load modules from -pa. Put this file into the src
%% folder of one of its applications instead.
%%
%% The module runs before the file server is started, so it can use sockets but not files.
-module(quicdist_epmd).
-behaviour(gen_server).

%% The functions that kernel and net_kernel call in an EPMD module.
-export([start_link/0, register_node/2, register_node/3, address_please/3,
         port_please/2, port_please/3, listen_port_please/2, names/0, names/1]).
-export([start/0, stop/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(LOOPBACK, {127, 0, 0, 1}).
-define(VERSION, 6).        % of the distribution handshake: OTP 23 and newer
-define(TIMEOUT, 5000).     % milliseconds for an answer; net_kernel is blocked until then
-define(EPMD_PORT, "4369").
-define(RETRY, 1000).       % milliseconds between attempts to reach the gateway again

-define(ALIVE2_REQ, 120).
-define(ALIVE2_RESP, 121).
-define(ALIVE2_X_RESP, 118).
-define(PORT_PLEASE2_REQ, 122).
-define(PORT2_RESP, 119).
-define(NAMES_REQ, 110).

start() -> gen_server:start({local, ?MODULE}, ?MODULE, [], []).

start_link() -> gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

stop() -> gen_server:stop(?MODULE).

%% The port to listen on. OTP calls this first, and passes the host only here.
listen_port_please(Name, Host) ->
    gen_server:cast(?MODULE, {host, text(Name), host(Host)}),
    {ok, fixed_port()}.

register_node(Name, Port) -> register_node(Name, Port, inet).

%% With the creation -1 OTP chooses a new creation at each start.
register_node(Name, Port, _Family) ->
    gen_server:call(?MODULE, {register, text(Name), Port}, infinity).

%% Returns the port with the address, because port_please/2 may be called without the host.
address_please(Name, Host, Family) ->
    case look_up(Name, Host, ?TIMEOUT) of
        {ok, Port} -> {ok, loopback(Family), Port, ?VERSION};
        none -> {error, nxdomain};
        {error, Reason} -> {error, Reason}
    end.

%% An inet6 socket reaches 127.0.0.1 by its IPv4-mapped address (RFC 4291, 2.5.5.2).
loopback(inet6) -> {0, 0, 0, 0, 0, 16#ffff, 16#7f00, 1};
loopback(_Inet) -> ?LOOPBACK.

port_please(Name, Host) -> port_please(Name, Host, ?TIMEOUT).

port_please(Name, Host, Timeout) ->
    case look_up(Name, Host, Timeout) of
        {ok, Port} -> {port, Port, ?VERSION};
        _ -> noport
    end.

names() -> names(own_host()).

%% The nodes of this machine that are registered with the gateway, without their host.
names(Host) ->
    case ask([?NAMES_REQ], ?TIMEOUT) of
        {ok, <<_GatewayPort:32, Lines/binary>>} ->
            {ok, [NamePort || Line <- binary:split(Lines, <<"\n">>, [global]),
                              NamePort <- name_on(host(Host), Line)]};
        _ ->
            {error, address}
    end.

%% The process that holds the registration.

init([]) ->
    {ok, #{host => undefined, name => undefined, port => 0, socket => undefined}}.

handle_call({register, _, _}, _From, #{name := Taken} = State) when Taken =/= undefined ->
    {reply, {error, already_registered}, State};
handle_call({register, Name, Port}, _From, #{host := Host0} = State) ->
    Host = case Host0 of undefined -> own_host(); _ -> Host0 end,
    Wanted = State#{name := whole(Name, Host), port := Port},
    case register_now(Wanted) of
        {ok, Socket} ->
            {reply, {ok, -1}, Wanted#{socket := Socket}};
        refused ->
            {reply, {error, duplicate_name}, State};
        {error, Reason} ->
            error_logger:warning_msg(
              "quicdist_epmd: no gateway for ~ts at 127.0.0.1:~p (~p); asking again "
              "until there is one~n",
              [maps:get(name, Wanted), gateway_port(maps:get(name, Wanted)), Reason]),
            retry(),
            {reply, {ok, -1}, Wanted}
    end;
handle_call(_, _From, State) ->
    {reply, {error, badarg}, State}.

handle_cast({host, _Name, Host}, #{name := undefined} = State) ->
    {noreply, State#{host := Host}};
handle_cast(_, State) ->
    {noreply, State}.

handle_info({tcp_closed, Socket}, #{socket := Socket} = State) ->
    error_logger:warning_msg("quicdist_epmd: the gateway is gone; registering again "
                             "when it is back~n"),
    retry(),
    {noreply, State#{socket := undefined}};
handle_info(register_again, #{socket := undefined} = State) ->
    case register_now(State) of
        {ok, Socket} ->
            error_logger:info_msg("quicdist_epmd: registered with the gateway~n"),
            {noreply, State#{socket := Socket}};
        _ ->
            retry(),
            {noreply, State}
    end;
handle_info(_, State) ->
    {noreply, State}.

retry() -> erlang:send_after(?RETRY, self(), register_again).

register_now(#{name := Name, port := Port}) ->
    Bytes = unicode:characters_to_binary(Name),
    Request = [?ALIVE2_REQ, <<Port:16, $M, 0, ?VERSION:16, 5:16, (byte_size(Bytes)):16>>,
               Bytes, <<0:16>>],
    case connect(gateway_port(Name), ?TIMEOUT) of
        {ok, Socket} ->
            case send_and_receive(Socket, Request) of
                {ok, <<?ALIVE2_X_RESP, 0, _Creation:32>>} -> kept(Socket);
                {ok, <<?ALIVE2_RESP, 0, _Creation:16>>} -> kept(Socket);
                {ok, <<_, 1, _/binary>>} -> gen_tcp:close(Socket), refused;
                {ok, _} -> gen_tcp:close(Socket), {error, no_gateway};
                Error -> gen_tcp:close(Socket), Error
            end;
        Error ->
            Error
    end.

send_and_receive(Socket, Request) ->
    case send(Socket, Request) of
        ok -> gen_tcp:recv(Socket, 0, ?TIMEOUT);
        Error -> Error
    end.

kept(Socket) ->
    ok = inet:setopts(Socket, [{active, true}]),
    {ok, Socket}.

%% The gateway sends one answer to one question and closes the connection.

look_up(Name, Host, Timeout) ->
    Whole = unicode:characters_to_binary(whole(text(Name), host(Host))),
    case ask([?PORT_PLEASE2_REQ, Whole], Timeout) of
        {ok, <<?PORT2_RESP, 0, Port:16, _/binary>>} -> {ok, Port};
        {ok, <<?PORT2_RESP, _, _/binary>>} -> none;
        {ok, _} -> {error, no_gateway};
        Error -> Error
    end.

ask(Request, Timeout) ->
    case connect(gateway_port(atom_to_list(node())), Timeout) of
        {ok, Socket} ->
            Answer = case send(Socket, Request) of
                         ok -> receive_all(Socket, Timeout, <<>>);
                         Error -> Error
                     end,
            gen_tcp:close(Socket),
            Answer;
        Error ->
            Error
    end.

receive_all(Socket, Timeout, Before) ->
    case gen_tcp:recv(Socket, 0, Timeout) of
        {ok, Data} -> receive_all(Socket, Timeout, <<Before/binary, Data/binary>>);
        {error, closed} -> {ok, Before};
        Error -> Error
    end.

connect(undefined, _Timeout) ->
    {error, gateway_port_unknown};
connect(Port, Timeout) ->
    gen_tcp:connect(?LOOPBACK, Port, [inet, binary, {active, false}, {nodelay, true}], Timeout).

send(Socket, Request) ->
    gen_tcp:send(Socket, [<<(iolist_size(Request)):16>>, Request]).

%% Names, hosts and ports.

gateway_port(OwnName) ->
    first_port([fun() -> os:getenv("QUICDIST_GATEWAY_EPMD") end,
                fun() -> argument(epmd_port) end,
                fun() -> hd(split_at(OwnName)) end,
                fun() -> ?EPMD_PORT end]).

first_port([]) ->
    undefined;
first_port([Source | Others]) ->
    try list_to_integer(Source()) of
        Port when Port > 0, Port < 65536 -> Port;
        _ -> first_port(Others)
    catch
        error:badarg -> first_port(Others)
    end.

%% As in OTP: -erl_epmd_port, or the kernel parameter of OTP 26 and newer.
fixed_port() ->
    case application:get_env(kernel, erl_epmd_node_listen_port) of
        {ok, Port} when is_integer(Port) -> Port;
        _ ->
            try list_to_integer(argument(erl_epmd_port))
            catch error:badarg -> 0
            end
    end.

argument(Flag) ->
    case init:get_argument(Flag) of
        {ok, [[Value | _] | _]} -> Value;
        _ -> undefined
    end.

own_host() ->
    case split_at(atom_to_list(node())) of
        [_, "nohost"] -> {ok, Host} = inet:gethostname(), Host;
        [_, Host] -> Host
    end.

name_on(Host, Line) ->
    case binary:split(Line, <<" ">>, [global]) of
        [<<"name">>, Whole, <<"at">>, <<"port">>, Port] ->
            [Name | NameHost] = split_at(unicode:characters_to_list(Whole)),
            case NameHost =:= [Host] orelse is_this_machine(Host) of
                true -> [{Name, binary_to_integer(Port)}];
                false -> []
            end;
        _ ->
            []
    end.

is_this_machine("localhost") -> true;
is_this_machine("127.0.0.1") -> true;
is_this_machine(Host) -> {ok, Host} =:= inet:gethostname() orelse Host =:= own_host().

whole(Name, Host) ->
    case lists:member($@, Name) of
        true -> Name;
        false -> Name ++ "@" ++ Host
    end.

split_at(Name) ->
    case lists:splitwith(fun(C) -> C =/= $@ end, Name) of
        {Left, [$@ | Right]} -> [Left, Right];
        {Left, []} -> [Left]
    end.

text(Name) when is_atom(Name) -> atom_to_list(Name);
text(Name) when is_binary(Name) -> unicode:characters_to_list(Name);
text(Name) -> Name.

host(Address) when is_tuple(Address) -> inet:ntoa(Address);
host(Host) -> text(Host).
