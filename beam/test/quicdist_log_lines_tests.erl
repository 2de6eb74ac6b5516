-module(quicdist_log_lines_tests).

-include_lib("eunit/include/eunit.hrl").

records(Lines) ->
    {Records, Last} = lists:foldl(fun(Line, {Records, State}) ->
                                          {More, Next} = quicdist_log_lines:add(Line, State),
                                          {Records ++ More, Next}
                                  end, {[], quicdist_log_lines:new()}, Lines),
    {More, _} = quicdist_log_lines:flush(Last),
    Records ++ More.

a_line_with_a_time_and_a_level_is_a_record_test() ->
    Lines = [<<"12:00:00 DEBUG one">>, <<"12:00:00 INFO two">>, <<"12:00:01 WARNING three">>,
             <<"12:00:01 ERROR four">>, <<"12:00:02 CRITICAL five words">>],
    Expected = [{debug, <<"one">>}, {info, <<"two">>}, {warning, <<"three">>}, {error, <<"four">>},
                {critical, <<"five words">>}],
    ?assertEqual(Expected, records(Lines)).

an_indented_line_continues_a_record_test() ->
    Lines = [<<"12:00:00 ERROR calc:add raised">>, <<"    Traceback (most recent call last):">>,
             <<"    ValueError: no">>, <<"12:00:00 INFO next">>],
    Error = <<"calc:add raised\n    Traceback (most recent call last):\n    ValueError: no">>,
    ?assertEqual([{error, Error}, {info, <<"next">>}], records(Lines)).

a_printed_line_does_not_have_the_level_of_the_record_before_it_test() ->
    Lines = [<<"12:00:00 ERROR failed">>, <<"printed">>, <<"printed again">>],
    ?assertEqual([{error, <<"failed">>}, {info, <<"printed">>}, {info, <<"printed again">>}], records(Lines)).

a_traceback_is_an_error_test() ->
    Traceback = [<<"Traceback (most recent call last):">>, <<"  File \"a.py\", line 1">>, <<"ValueError: no">>],
    Text = <<"Traceback (most recent call last):\n  File \"a.py\", line 1\nValueError: no">>,
    ?assertEqual([{error, Text}, {info, <<"printed">>}], records(Traceback ++ [<<"printed">>])),
    ?assertEqual([{warning, <<"bad\n", Text/binary>>}], records([<<"12:00:00 WARNING bad">> | Traceback])).

a_record_that_was_flushed_is_continued_with_its_level_test() ->
    {[], One} = quicdist_log_lines:add(<<"12:00:00 ERROR failed">>, quicdist_log_lines:new()),
    {[{error, <<"failed">>}], Two} = quicdist_log_lines:flush(One),
    {[], Three} = quicdist_log_lines:add(<<"    more">>, Two),
    ?assertMatch({[{error, <<"    more">>}], _}, quicdist_log_lines:flush(Three)).

a_long_record_is_divided_test() ->
    Lines = [<<"12:00:00 INFO start">> | lists:duplicate(100, binary:copy(<<" ">>, 4096))],
    Records = records(Lines),
    ?assert(length(Records) > 1),
    ?assert(lists:all(fun({info, Text}) -> byte_size(Text) < 80000 end, Records)),
    ?assertEqual(100 * 4097 + 5, lists:sum([byte_size(Text) + 1 || {_, Text} <- Records]) - 1).
