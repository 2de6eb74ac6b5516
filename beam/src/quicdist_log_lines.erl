%% The log records in the lines that a Python program writes.
%%
%% A line that starts with a time and a level starts a record, such as `12:00:00 INFO text`. Indented
%% lines continue it, and so does a traceback. Any other line, as of print(), is a record of its own
%% with the level `info`, and a traceback without a record one with the level `error`.
-module(quicdist_log_lines).

-export([new/0, add/2, flush/1]).
-export_type([lines/0, log_record/0]).

-record(lines, {level = info :: logger:level(),
                %% The lines of the record that is not complete, the last one first.
                texts = [] :: [binary()],
                bytes = 0 :: non_neg_integer(),
                in_traceback = false :: boolean()}).

-opaque lines() :: #lines{}.
-type log_record() :: {logger:level(), binary()}.

%% A longer record is divided.
-define(RECORD_BYTES, 65536).
-define(TRACEBACK, "Traceback (most recent call last):").

-spec new() -> lines().
new() -> #lines{}.

%% Returns the records that are complete, because this line does not belong to them.
-spec add(binary(), lines()) -> {[log_record()], lines()}.
add(Line, Lines) ->
    case kind(Line, Lines) of
        {start, Level, Text} ->
            {Before, _} = flush(Lines),
            Started = appended(Text, #lines{level = Level, in_traceback = Line =:= <<?TRACEBACK>>}),
            {Records, Rest} = started(Started),
            {Before ++ Records, Rest};
        {continue, InTraceback} when Lines#lines.bytes < ?RECORD_BYTES ->
            {[], appended(Line, Lines#lines{in_traceback = InTraceback})};
        {continue, InTraceback} ->
            {Records, Flushed} = flush(Lines),
            {Records, appended(Line, Flushed#lines{in_traceback = InTraceback})}
    end.

%% Such a record rarely has more lines, so it does not wait for them.
started(#lines{level = Level} = Lines) when Level =:= debug; Level =:= info -> flush(Lines);
started(Lines) -> {[], Lines}.

%% Returns the record that is not complete, if there is one. Later lines may continue it.
-spec flush(lines()) -> {[log_record()], lines()}.
flush(#lines{texts = []} = Lines) ->
    {[], Lines};
flush(#lines{level = Level, texts = Texts} = Lines) ->
    Text = iolist_to_binary(lists:join($\n, lists:reverse(Texts))),
    {[{Level, Text}], Lines#lines{texts = [], bytes = 0}}.

appended(Text, #lines{texts = Texts, bytes = Bytes} = Lines) ->
    Lines#lines{texts = [Text | Texts], bytes = Bytes + byte_size(Text)}.

kind(<<?TRACEBACK>>, #lines{texts = [_ | _]}) -> {continue, true};
kind(<<?TRACEBACK>> = Line, _) -> {start, error, Line};
kind(<<First, _/binary>>, #lines{in_traceback = InTraceback}) when First =:= $\s; First =:= $\t ->
    {continue, InTraceback};
kind(Line, #lines{in_traceback = InTraceback}) ->
    case level(Line) of
        {Level, Text} -> {start, Level, Text};
        none when InTraceback -> {continue, false};
        none -> {start, info, Line}
    end.

level(<<_:8/binary, " ", Rest/binary>>) ->
    case binary:split(Rest, <<" ">>) of
        [<<"DEBUG">>, Text] -> {debug, Text};
        [<<"INFO">>, Text] -> {info, Text};
        [<<"WARNING">>, Text] -> {warning, Text};
        [<<"ERROR">>, Text] -> {error, Text};
        [<<"CRITICAL">>, Text] -> {critical, Text};
        _ -> none
    end;
level(_) ->
    none.
