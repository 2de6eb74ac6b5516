-module(quicdist_stream_tests).

-include_lib("eunit/include/eunit.hrl").

-export([numbers/1, failing/0, waiting/1]).

numbers(From) -> fun() -> [From | numbers(From + 1)] end.

failing() -> fun() -> [1 | fun() -> error(oops) end] end.

%% Yields one item and then waits. Its process is known to the test.
waiting(Test) ->
    fun() -> Test ! {generator, self()}, [1 | fun() -> receive never -> [] end end] end.

open(Function, Args) -> open(Function, Args, #{}).

open(Function, Args, Options) ->
    {ok, Stream} = quicdist_stream:open(node(), ?MODULE, Function, Args, Options),
    Stream.

take(0, Stream, Taken) ->
    ok = quicdist_stream:cancel(Stream),
    lists:append(lists:reverse(Taken));
take(Count, Stream, Taken) ->
    {items, Items, Next} = quicdist_stream:next(Stream),
    take(Count - 1, Next, [Items | Taken]).

a_list_is_a_stream_test() ->
    {ok, Stream} = quicdist_stream:open(node(), lists, seq, [1, 10000]),
    ?assertEqual(lists:seq(1, 10000), quicdist_stream:to_list(Stream)).

an_endless_generator_is_taken_in_order_test() ->
    Items = take(20, open(numbers, [0], #{max_items => 7}), []),
    ?assertEqual(lists:seq(0, length(Items) - 1), Items).

a_message_is_within_the_window_test() ->
    {items, Items, Stream} = quicdist_stream:next(open(numbers, [0], #{max_items => 5})),
    ?assert(length(Items) =< 5),
    quicdist_stream:cancel(Stream).

items_before_an_error_arrive_test() ->
    {items, [1], Stream} = quicdist_stream:next(open(failing, [])),
    ?assertMatch({error, {oops, [_ | _]}}, quicdist_stream:next(Stream)).

a_missing_function_is_an_error_test() ->
    ?assertMatch({error, {undef, _}}, quicdist_stream:next(open(missing, []))).

the_generator_ends_with_the_consumer_test() ->
    Test = self(),
    {Consumer, Monitor} = spawn_monitor(fun() ->
        {items, _, _} = quicdist_stream:next(open(numbers, [0])),
        Test ! opened,
        receive never -> ok end
    end),
    receive opened -> ok end,
    Producers = producers(),
    ?assertNotEqual([], Producers),
    exit(Consumer, kill),
    receive {'DOWN', Monitor, _, _, killed} -> ok end,
    wait_until(fun() -> producers() =:= [] end).

nothing_arrives_after_a_cancel_test() ->
    {items, _, Stream} = quicdist_stream:next(open(numbers, [0])),
    ok = quicdist_stream:cancel(Stream),
    wait_until(fun() -> producers() =:= [] end),
    ?assertEqual({messages, []}, process_info(self(), messages)).

a_generator_that_does_not_return_is_killed_test_() ->
    {timeout, 20, fun() ->
        {items, [1], Stream} = quicdist_stream:next(open(waiting, [self()])),
        receive {generator, Generator} -> ok end,
        ok = quicdist_stream:cancel(Stream),
        wait_until(fun() -> not is_process_alive(Generator) end)
    end}.

an_offer_is_opened_by_another_process_test() ->
    Offer = quicdist_stream:offer(lists:seq(1, 3000)),
    Stream = quicdist_stream:open_offer(Offer),
    ?assertEqual(lists:seq(1, 3000), quicdist_stream:to_list(Stream)).

an_offer_ends_with_its_process_test() ->
    Test = self(),
    spawn(fun() -> Test ! {offer, quicdist_stream:offer([1])} end),
    receive {offer, {_, Producer, _}} -> ok end,
    wait_until(fun() -> not is_process_alive(Producer) end).

a_withdrawn_offer_is_an_error_test() ->
    Offer = quicdist_stream:offer([1]),
    ok = quicdist_stream:withdraw(Offer),
    ?assertMatch({error, _}, quicdist_stream:next(quicdist_stream:open_offer(Offer))).

foreach_cancels_when_the_function_raises_test() ->
    Stream = open(numbers, [0]),
    ?assertError(enough, quicdist_stream:foreach(fun(_) -> error(enough) end, Stream)),
    wait_until(fun() -> producers() =:= [] end).

items_arrive_as_messages_when_they_are_asked_for_test() ->
    {ok, Stream} = quicdist_stream:open(node(), lists, seq, [1, 10000]),
    ?assertEqual(lists:seq(1, 10000), asked(Stream)).

asked(Stream) ->
    ok = quicdist_stream:ask(Stream),
    receive
        {quicdist_stream, Stream, {items, Items}} -> Items ++ asked(Stream);
        {quicdist_stream, Stream, done} -> []
    end.

the_consumer_of_a_stream_ends_with_it_test() ->
    {ok, Stream} = quicdist_stream:open(node(), lists, seq, [1, 3]),
    [1, 2, 3] = quicdist_stream:to_list(Stream),
    ?assertMatch({error, noproc}, quicdist_stream:next(Stream)),
    ?assertEqual(ok, quicdist_stream:cancel(Stream)).

a_producer_that_exceeds_the_window_is_cancelled_test() ->
    Test = self(),
    Producer = spawn(fun() ->
        Tag = receive {quicdist_stream, offered, subscribe, _, Given, {4, _}} -> Given end,
        Tag ! {quicdist_stream, Tag, items, [1, 2, 3]},
        Tag ! {quicdist_stream, Tag, items, [4, 5]},
        receive {quicdist_stream, Tag, cancel} -> Test ! cancelled end
    end),
    Stream = quicdist_stream:open_offer({quicdist_stream, Producer, offered}, #{max_items => 4}),
    receive cancelled -> ok end,
    ?assertEqual({error, flow_control}, quicdist_stream:next(Stream)).

an_option_that_does_not_exist_is_an_error_test() ->
    ?assertError({bad_option, {window, 1}}, open(numbers, [0], #{window => 1})),
    ?assertError({bad_option, {max_items, 0}}, open(numbers, [0], #{max_items => 0})).

producers() ->
    [P || P <- processes(),
          {_, {quicdist_stream, _, _}} <- [process_info(P, current_function)]].

wait_until(Condition) ->
    case Condition() of
        true -> ok;
        false -> timer:sleep(10), wait_until(Condition)
    end.
