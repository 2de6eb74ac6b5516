%% The corpus of etf_compare.py, and the BEAM's own times for it.
%%
%% Reads and writes external terms in packets with a 4-byte length on standard input and output:
%% corpus -> [{Name, Terms}]; {Direction, Name, Repeats} -> nanoseconds for all repeats.
-module(etf_corpus).
-export([main/0]).

main() ->
    process_flag(trap_exit, true),
    Corpus = corpus(),
    serve(open_port({fd, 0, 1}, [{packet, 4}, binary]), Corpus).

serve(Port, Corpus) ->
    receive
        {Port, {data, Request}} ->
            port_command(Port, term_to_binary(answer(binary_to_term(Request), Corpus))),
            serve(Port, Corpus);
        {'EXIT', Port, _} ->
            halt(0, [{flush, false}])
    end.

%% Atoms as the distribution encodes them (UTF-8), and as releases before 26 store them (Latin-1),
%% for libraries that only support the latter.
answer(corpus, Corpus) ->
    [{atom_to_binary(Name), [{new(T), old(T)} || T <- Terms]} || {Name, Terms} <- Corpus];
answer({Direction, Name, Repeats}, Corpus) ->
    {_, Terms} = lists:keyfind(binary_to_existing_atom(Name), 1, Corpus),
    timed(Direction, Terms, Repeats).

new(Term) -> term_to_binary(Term, [{minor_version, 2}]).
old(Term) -> term_to_binary(Term, [{minor_version, 1}]).

%% Runs in a separate process, whose heap has no other garbage.
timed(Direction, Terms, Repeats) ->
    Self = self(),
    spawn_link(fun() ->
        Begin = case Direction of
            decode ->
                All = [new(T) || T <- Terms],
                erlang:garbage_collect(),
                B = erlang:monotonic_time(nanosecond),
                decode(All, Repeats),
                B;
            encode ->
                erlang:garbage_collect(),
                B = erlang:monotonic_time(nanosecond),
                encode(Terms, Repeats),
                B
        end,
        Self ! {took, erlang:monotonic_time(nanosecond) - Begin}
    end),
    receive {took, Time} -> Time end.

decode(_, 0) -> ok;
decode(All, N) -> decode_each(All), decode(All, N - 1).

decode_each([]) -> ok;
decode_each([B | More]) -> binary_to_term(B), decode_each(More).

encode(_, 0) -> ok;
encode(All, N) -> encode_each(All), encode(All, N - 1).

encode_each([]) -> ok;
encode_each([T | More]) -> term_to_binary(T, [{minor_version, 2}]), encode_each(More).

corpus() ->
    Pid = pid(94),
    Call = fun(Function, Arguments) ->
        {call, example, Function, Arguments, Pid}
    end,
    [
        {rpc_call, [{'$gen_call', {Pid, [alias | make_ref()]}, Call(lookup, [<<"key">>, 1, [{timeout, 5000}]])}]},
        {control_messages, [
            {6, Pid, '', rex},
            {22, Pid, pid(95)},
            {19, Pid, pid(95), make_ref()},
            {21, pid(95), Pid, make_ref(), normal},
            {29, make_ref(), Pid, pid(1), {example, start, 2}, [monitor, link]}
        ]},
        {proplist, [[{binary_to_atom(<<"option_", (integer_to_binary(N))/binary>>), value(N)} || N <- seq(40)]]},
        {map_of_40, [maps:from_list([{binary_to_atom(<<"field_", (integer_to_binary(N))/binary>>), value(N)} || N <- seq(40)])]},
        {map_of_1000, [maps:from_list([{<<"key:", (integer_to_binary(N))/binary>>, N} || N <- seq(1000)])]},
        {nested_maps, [json()]},
        {records_1000, [[{person, N, <<"Grace Hopper">>, N rem 90, active, 1.5 * N} || N <- seq(1000)]]},
        {integers_10000, [[N * 37 - 100000 || N <- seq(10000)]]},
        {small_integers_10000, [list_to_tuple([N rem 256 || N <- seq(10000)])]},
        {floats_10000, [[N / 7 || N <- seq(10000)]]},
        {integers_of_64_bits_1000, [[16#7FFFFFFFFFFFFFFF - N * 1000003 || N <- seq(1000)]]},
        {integers_of_4096_bits_100, [[(1 bsl 4096) - N * 1000003 || N <- seq(100)]]},
        {small_binaries_1000, [[<<N:32, "0123456789ab">> || N <- seq(1000)]]},
        {pids_1000, [[pid(N) || N <- seq(1000)]]},
        {references_1000, [[make_ref() || _ <- seq(1000)]]},
        {atoms_1000, [[binary_to_atom(<<"atom_", (integer_to_binary(N))/binary>>) || N <- seq(1000)]]},
        {atoms_10000, [[binary_to_atom(<<"atom_", (integer_to_binary(N))/binary>>) || N <- seq(10000)]]},
        {atoms_of_utf8_1000, [[binary_to_atom(<<"π_größe_"/utf8, (integer_to_binary(N))/binary>>) || N <- seq(1000)]]},
        {depth_1000, [lists:foldl(fun(N, Inner) -> {node, N rem 200, [Inner]} end, leaf, seq(500))]}
    ].

seq(N) -> lists:seq(1, N).

pid(N) -> list_to_pid("<0." ++ integer_to_list(N) ++ ".0>").

value(N) ->
    case N rem 4 of
        0 -> N * 1000;
        1 -> <<"a value of some length">>;
        2 -> true;
        3 -> [N, 2.5, <<"x">>]
    end.

%% A typical answer of an HTTP interface.
json() ->
    #{
        <<"total">> => 100,
        <<"next">> => <<"/users?page=2">>,
        <<"users">> => [
            #{
                <<"id">> => 184467 + N,
                <<"name">> => <<"Grace Hopper">>,
                <<"email">> => <<"grace@example.org">>,
                <<"admin">> => N rem 2 =:= 0,
                <<"score">> => N * 0.75,
                <<"tags">> => [<<"navy">>, <<"cobol">>, <<"compiler">>],
                <<"address">> => #{<<"city">> => <<"Arlington">>, <<"zip">> => <<"22201">>, <<"lat">> => 38.88}
            }
         || N <- seq(100)
        ]
    }.
