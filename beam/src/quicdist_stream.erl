%% Streams between processes of different nodes, with flow control.
%%
%% A consumer opens a stream and takes lists of items:
%%
%%     {ok, Stream} = quicdist_stream:open(Node, model, generate, [Prompt]),
%%     ok = quicdist_stream:foreach(fun handle/1, Stream).
%%
%% A producer is a function whose result is a list, a lazy list (a function of no arguments that
%% returns [] or [Item | LazyList]), or in Elixir any Enumerable. Remote nodes start it with
%% start/6, or it is passed to them with offer/1.
%%
%% A consumer that must not wait, such as a gen_server, asks for items as messages:
%%
%%     ok = quicdist_stream:ask(Stream),
%%     receive {quicdist_stream, Stream, {items, Items}} -> ... end
%%
%% The protocol is described in docs/streams.md, its only description.
%%
%% A stream has a process of its own on the consumer's node: the one that opened the stream may have
%% a loop which would take messages that it does not know, as a GenStage does between two steps of an
%% enumeration.
-module(quicdist_stream).

-export([open/4, open/5, open_offer/1, open_offer/2, next/1, ask/1, cancel/1, foreach/2, to_list/1, monitor/1]).
-export([start/6, offer/1, withdraw/1]).
-export_type([stream/0, offer/0, options/0, answer/0]).

-record(stream, {consumer :: pid()}).

-record(consumer, {owner :: pid(),
                   owner_monitor :: reference(),
                   tag :: reference(),
                   producer :: pid(),
                   producer_monitor :: reference(),
                   max_items :: pos_integer(),
                   max_bytes :: pos_integer(),
                   %% {Items, Count, Bytes} of each message that has arrived and was not taken.
                   arrived = queue:new() :: queue:queue({[term()], pos_integer(), non_neg_integer()}),
                   %% Items and bytes that have arrived and were not acknowledged.
                   items = 0 :: non_neg_integer(),
                   bytes = 0 :: non_neg_integer(),
                   %% The part of them that was taken.
                   taken = {0, 0} :: {non_neg_integer(), non_neg_integer()},
                   %% Who waits for items.
                   asking = none :: none | ask | reference(),
                   ended = running :: running | done | {error, term()}}).

-record(window, {max_items :: pos_integer(),
                 max_bytes :: pos_integer(),
                 sizes = queue:new() :: queue:queue(non_neg_integer()),
                 items = 0 :: non_neg_integer(),
                 bytes = 0 :: non_neg_integer()}).

-record(producer, {consumer_monitor :: reference(),
                   tag :: reference(),
                   worker :: pid(),
                   worker_monitor :: reference(),
                   window :: #window{},
                   queue = queue:new() :: queue:queue({term(), non_neg_integer()}),
                   queued = 0 :: non_neg_integer(),
                   down = running :: running | {down, term()}}).

-opaque stream() :: #stream{}.
%% The consumer's end of a stream. The stream ends with the process that opened it.

-type answer() :: {items, [term(), ...]} | done | {error, term()}.
%% Items, the end of the stream after the last one, or the reason for which it ended early.

-type offer() :: {quicdist_stream, pid(), term()}.
%% A stream that a process offers. It can be opened once, on any node.

-type options() :: #{max_items => pos_integer(), max_bytes => pos_integer(), timeout => timeout()}.
%% The window of a stream, and the milliseconds in which it must start.

-define(MAX_ITEMS, 1024).
-define(MAX_BYTES, 1048576).
-define(TIMEOUT, 5000).
%% The size of the items that have arrived and were not acknowledged, as a multiple of the window,
%% which a consumer does not accept. Producers measure items by other means, within this factor.
-define(TOLERANCE, 32).
%% Bounds of one message, and of the items that the worker may be ahead of the producer.
-define(BATCH_ITEMS, 512).
-define(BATCH_BYTES, 65536).
%% Upper bounds of a window, whatever a consumer asks for.
-define(MOST_ITEMS, 65536).
-define(MOST_BYTES, 16777216).
%% Milliseconds that a cancelled producer has to end by itself.
-define(GRACE, 5000).

%% -- consumer ------------------------------------------------------------------------------------

%% Opens a stream of the items of Module:Function(Args...) on Node.
-spec open(node(), module(), atom(), [term()]) -> {ok, stream()} | {error, term()}.
open(Node, Module, Function, Args) ->
    open(Node, Module, Function, Args, #{}).

%% Raises {bad_option, {Name, Value}}.
-spec open(node(), module(), atom(), [term()], options()) -> {ok, stream()} | {error, term()}.
open(Node, Module, Function, Args, Options) ->
    open_origin({call, Node, Module, Function, Args}, Options).

%% Opens a stream that another process offers.
-spec open_offer(offer()) -> stream().
open_offer(Offer) ->
    open_offer(Offer, #{}).

-spec open_offer(offer(), options()) -> stream().
open_offer({?MODULE, Producer, Tag}, Options) when is_pid(Producer) ->
    {ok, Stream} = open_origin({offer, Producer, Tag}, Options),
    Stream.

open_origin(Origin, Options) ->
    [error({bad_option, Option}) || {_, _} = Option <- maps:to_list(Options), not is_option(Option)],
    Owner = self(),
    {Consumer, Monitor} = spawn_monitor(fun() -> consume(Owner, Origin, Options) end),
    receive
        {?MODULE, Consumer, started} ->
            erlang:demonitor(Monitor, [flush]),
            {ok, #stream{consumer = Consumer}};
        {'DOWN', Monitor, process, Consumer, {not_started, Reason}} ->
            {error, Reason};
        {'DOWN', Monitor, process, Consumer, Reason} ->
            {error, Reason}
    end.

is_option({timeout, infinity}) -> true;
is_option({timeout, Value}) -> is_integer(Value) andalso Value >= 0;
is_option({Name, Value}) when Name =:= max_items; Name =:= max_bytes -> is_integer(Value) andalso Value > 0;
is_option(_) -> false.

%% Waits for the next items and returns them. Acknowledges those that were returned before.
-spec next(stream()) -> {items, [term(), ...], stream()} | done | {error, term()}.
next(#stream{consumer = Consumer} = Stream) ->
    Request = erlang:monitor(process, Consumer, [{alias, reply_demonitor}]),
    Consumer ! {next, Request},
    receive
        {Request, {items, Items}} -> {items, Items, Stream};
        {Request, End} -> End;
        {'DOWN', Request, process, _, Reason} -> {error, Reason}
    end.

%% Asks for the next items, and acknowledges those that have arrived before. The answer comes as a
%% message {quicdist_stream, Stream, Answer} to the process that opened the stream.
-spec ask(stream()) -> ok.
ask(#stream{consumer = Consumer}) ->
    Consumer ! ask,
    ok.

%% Ends a stream. The remote generator is closed. No answer arrives afterwards.
-spec cancel(stream()) -> ok.
cancel(#stream{consumer = Consumer} = Stream) ->
    Monitor = erlang:monitor(process, Consumer),
    Consumer ! cancel,
    receive
        {'DOWN', Monitor, process, _, _} -> drop(Stream)
    end.

drop(Stream) ->
    receive
        {?MODULE, Stream, _} -> drop(Stream)
    after 0 -> ok
    end.

%% Calls Function for each item. Exits with the reason of the producer if the stream fails.
-spec foreach(fun((term()) -> term()), stream()) -> ok.
foreach(Function, Stream) ->
    case next(Stream) of
        {items, Items, Rest} ->
            try
                lists:foreach(Function, Items)
            catch
                Class:Reason:Stack ->
                    cancel(Stream),
                    erlang:raise(Class, Reason, Stack)
            end,
            foreach(Function, Rest);
        done ->
            ok;
        {error, Reason} ->
            exit(Reason)
    end.

%% Returns all items.
-spec to_list(stream()) -> [term()].
to_list(Stream) ->
    case next(Stream) of
        {items, Items, Rest} -> Items ++ to_list(Rest);
        done -> [];
        {error, Reason} -> exit(Reason)
    end.

%% @private
%% Monitors the process of a stream, which ends with the stream.
-spec monitor(stream()) -> reference().
monitor(#stream{consumer = Consumer}) ->
    erlang:monitor(process, Consumer).

%% The process of a consumer. It holds the items that have arrived and were not taken.
consume(Owner, Origin, Options) ->
    OwnerMonitor = erlang:monitor(process, Owner),
    Tag = erlang:alias(),
    MaxItems = maps:get(max_items, Options, ?MAX_ITEMS),
    MaxBytes = maps:get(max_bytes, Options, ?MAX_BYTES),
    Timeout = maps:get(timeout, Options, ?TIMEOUT),
    {Producer, ProducerMonitor} =
        start_producer(Origin, Tag, {MaxItems, MaxBytes}, OwnerMonitor, Timeout),
    Owner ! {?MODULE, self(), started},
    consumer(#consumer{owner = Owner, owner_monitor = OwnerMonitor, tag = Tag,
                       producer = Producer, producer_monitor = ProducerMonitor,
                       max_items = MaxItems, max_bytes = MaxBytes}).

start_producer({offer, Producer, OfferTag}, Tag, Window, _, _) ->
    Monitor = erlang:monitor(process, Producer),
    Producer ! {?MODULE, OfferTag, subscribe, self(), Tag, Window},
    {Producer, Monitor};
start_producer({call, Node, Module, Function, Args}, Tag, Window, OwnerMonitor, Timeout) ->
    Start = [self(), Tag, Window, Module, Function, Args],
    Request = erlang:spawn_request(Node, ?MODULE, start, Start, [monitor]),
    receive
        {spawn_reply, Request, ok, Producer} -> {Producer, Request};
        {spawn_reply, Request, error, Reason} -> exit({not_started, Reason});
        {'DOWN', OwnerMonitor, process, _, _} -> exit(normal)
    after Timeout ->
        %% A producer that starts later ends at once, because this process has ended.
        exit({not_started, timeout})
    end.

consumer(#consumer{owner_monitor = OwnerMonitor, producer_monitor = ProducerMonitor, tag = Tag} = State) ->
    receive
        {?MODULE, Tag, items, Items} ->
            answer(received(Items, State));
        {next, Request} ->
            answer(acknowledge(State#consumer{asking = Request}));
        ask ->
            answer(acknowledge(State#consumer{asking = ask}));
        {'DOWN', ProducerMonitor, process, _, normal} ->
            answer(State#consumer{ended = done});
        {'DOWN', ProducerMonitor, process, _, Reason} ->
            answer(State#consumer{ended = {error, Reason}});
        cancel ->
            cancel_producer(State);
        {'DOWN', OwnerMonitor, process, _, _} ->
            cancel_producer(State);
        _ ->
            consumer(State)
    end.

%% Items that exceed the window end the stream: they would fill the memory of a slow consumer.
received(Items, State) ->
    Bytes = erlang:external_size(Items),
    try length(Items) of
        0 -> State;
        Count -> received(Items, Count, Bytes, State)
    catch
        error:badarg -> fail(badarg, State)
    end.

received(Items, Count, Bytes, #consumer{items = AllItems, bytes = AllBytes} = State) ->
    Sum = AllBytes + Bytes,
    case AllItems + Count of
        More when More > State#consumer.max_items -> fail(flow_control, State);
        More when More > 1, Sum > ?TOLERANCE * State#consumer.max_bytes -> fail(flow_control, State);
        More ->
            Arrived = queue:in({Items, Count, Bytes}, State#consumer.arrived),
            State#consumer{arrived = Arrived, items = More, bytes = Sum}
    end.

fail(Reason, #consumer{producer_monitor = Monitor} = State) ->
    erlang:unalias(State#consumer.tag),
    erlang:demonitor(Monitor, [flush]),
    send_cancel(State),
    State#consumer{arrived = queue:new(), ended = {error, Reason}}.

cancel_producer(#consumer{ended = running} = State) ->
    send_cancel(State);
cancel_producer(_) ->
    ok.

send_cancel(#consumer{producer = Producer, tag = Tag}) ->
    Producer ! {?MODULE, Tag, cancel}.

acknowledge(#consumer{taken = {0, _}} = State) ->
    State;
acknowledge(#consumer{taken = {Items, Bytes}, producer = Producer, tag = Tag} = State) ->
    Producer ! {?MODULE, Tag, ack, Items},
    State#consumer{taken = {0, 0}, items = State#consumer.items - Items,
                   bytes = State#consumer.bytes - Bytes}.

%% Answers a process that waits. Returns after the end of the stream has been told.
answer(#consumer{asking = none} = State) ->
    consumer(State);
answer(#consumer{arrived = Arrived, ended = Ended} = State) ->
    case {queue:out(Arrived), Ended} of
        {{{value, {Items, Count, Bytes}}, Rest}, _} ->
            tell({items, Items}, State),
            {TakenItems, TakenBytes} = State#consumer.taken,
            consumer(State#consumer{arrived = Rest, asking = none,
                                    taken = {TakenItems + Count, TakenBytes + Bytes}});
        {{empty, _}, running} ->
            consumer(State);
        {{empty, _}, End} ->
            tell(End, State)
    end.

tell(Answer, #consumer{asking = ask, owner = Owner}) ->
    Owner ! {?MODULE, #stream{consumer = self()}, Answer};
tell(Answer, #consumer{asking = Request}) ->
    Request ! {Request, Answer}.

%% -- producer ------------------------------------------------------------------------------------

%% The main function of a producer that a consumer spawns.
-spec start(pid(), reference(), {pos_integer(), pos_integer()}, module(), atom(), [term()]) -> ok.
start(Consumer, Tag, Window, Module, Function, Args) ->
    produce(Consumer, Tag, Window, fun() -> apply(Module, Function, Args) end).

%% Offers the items of a list, a lazy list or an Enumerable to another process, for example as an
%% argument of a call. The producer ends when the calling process ends.
-spec offer(term()) -> offer().
offer(Items) ->
    Tag = make_ref(),
    Owner = self(),
    Producer = spawn(fun() -> wait_for_consumer(erlang:monitor(process, Owner), Tag, Items) end),
    {?MODULE, Producer, Tag}.

%% Ends the producer of an offer.
-spec withdraw(offer()) -> ok.
withdraw({?MODULE, Producer, _}) ->
    exit(Producer, shutdown),
    ok.

wait_for_consumer(Monitor, Tag, Items) ->
    receive
        {?MODULE, Tag, subscribe, Consumer, Alias, Window} ->
            erlang:demonitor(Monitor, [flush]),
            produce(Consumer, Alias, Window, fun() -> Items end);
        {?MODULE, Tag, cancel} ->
            ok;
        {'DOWN', Monitor, process, _, _} ->
            exit(shutdown);
        _ ->
            wait_for_consumer(Monitor, Tag, Items)
    end.

%% The worker runs the generator and passes items to this process, which sends all that have arrived
%% in one message: a slow generator's item is sent at once, a fast one's in batches.
produce(Consumer, Tag, {MaxItems, MaxBytes}, Open)
  when is_pid(Consumer), is_reference(Tag), is_integer(MaxItems), MaxItems > 0, is_integer(MaxBytes), MaxBytes > 0 ->
    process_flag(trap_exit, true),
    ConsumerMonitor = erlang:monitor(process, Consumer),
    Producer = self(),
    {Worker, WorkerMonitor} =
        spawn_opt(fun() -> work(Producer, Open) end, [monitor, link]),
    Window = #window{max_items = min(MaxItems, ?MOST_ITEMS), max_bytes = min(MaxBytes, ?MOST_BYTES)},
    loop(#producer{consumer_monitor = ConsumerMonitor, tag = Tag,
                   worker = Worker, worker_monitor = WorkerMonitor, window = Window});
produce(_, _, _, _) ->
    exit(badarg).

loop(#producer{queued = 0, down = {down, normal}}) ->
    ok;
loop(#producer{queued = 0, down = {down, Reason}}) ->
    exit(Reason);
loop(State) ->
    Wait = case State#producer.queued > 0 andalso is_open(State) of
               true -> 0;
               false -> infinity
           end,
    #producer{tag = Tag, consumer_monitor = ConsumerMonitor, worker = Worker,
              worker_monitor = WorkerMonitor} = State,
    receive
        {item, Worker, Item, Size} ->
            Queue = queue:in({Item, Size}, State#producer.queue),
            batch(State#producer{queue = Queue, queued = State#producer.queued + 1});
        {?MODULE, Tag, ack, Count} when is_integer(Count), Count > 0 ->
            loop(State#producer{window = acknowledged(Count, State#producer.window)});
        {?MODULE, Tag, cancel} ->
            stop(State, normal);
        {'DOWN', ConsumerMonitor, process, _, _} ->
            stop(State, normal);
        {'DOWN', WorkerMonitor, process, _, Reason} ->
            loop(State#producer{down = {down, Reason}});
        {'EXIT', Worker, _} ->
            loop(State);
        {'EXIT', _, Reason} ->
            stop(State, Reason);
        _ ->
            loop(State)
    after Wait ->
        loop(send(State))
    end.

batch(#producer{queued = Queued} = State) when Queued >= ?BATCH_ITEMS ->
    case is_open(State) of
        true -> loop(send(State));
        false -> loop(State)
    end;
batch(State) ->
    loop(State).

send(#producer{tag = Tag, worker = Worker} = State) ->
    {Items, Count, Bytes, Queue, Window} =
        take(State#producer.queue, State#producer.window, [], 0, 0),
    Tag ! {?MODULE, Tag, items, Items},
    Worker ! {sent, self(), Count, Bytes},
    State#producer{queue = Queue, queued = State#producer.queued - Count, window = Window}.

%% Ends the worker: at its next item, so that its cleanup runs, or after a time.
stop(#producer{worker = Worker, worker_monitor = Monitor}, Reason) ->
    Worker ! {halt, self()},
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after ?GRACE ->
        exit(Worker, kill)
    end,
    exit(Reason).

is_open(#producer{window = Window, queue = Queue}) ->
    {value, {_, Size}} = queue:peek(Queue),
    fits(Size, Window).

fits(_, #window{items = 0}) ->
    true;
fits(Size, #window{items = Items, bytes = Bytes, max_items = MaxItems, max_bytes = MaxBytes}) ->
    Items < MaxItems andalso Bytes + Size =< MaxBytes.

take(Queue, Window, Taken, Count, Bytes) when Count < ?BATCH_ITEMS, Bytes < ?BATCH_BYTES ->
    case queue:peek(Queue) of
        {value, {Item, Size}} ->
            case fits(Size, Window) of
                true ->
                    Rest = queue:drop(Queue),
                    take(Rest, sent(Size, Window), [Item | Taken], Count + 1, Bytes + Size);
                false ->
                    {lists:reverse(Taken), Count, Bytes, Queue, Window}
            end;
        empty ->
            {lists:reverse(Taken), Count, Bytes, Queue, Window}
    end;
take(Queue, Window, Taken, Count, Bytes) ->
    {lists:reverse(Taken), Count, Bytes, Queue, Window}.

sent(Size, #window{sizes = Sizes, items = Items, bytes = Bytes} = Window) ->
    Window#window{sizes = queue:in(Size, Sizes), items = Items + 1, bytes = Bytes + Size}.

acknowledged(0, Window) ->
    Window;
acknowledged(Count, #window{sizes = Sizes, items = Items, bytes = Bytes} = Window) ->
    case queue:out(Sizes) of
        {{value, Size}, Rest} ->
            acknowledged(Count - 1, Window#window{sizes = Rest, items = Items - 1,
                                                  bytes = Bytes - Size});
        {empty, _} ->
            exit(badarg)
    end.

%% -- worker --------------------------------------------------------------------------------------

work(Producer, Open) ->
    try reduce(Open(), {Producer, 0, 0})
    catch
        throw:{?MODULE, halted} -> ok
    end.

reduce(Items, State) when is_list(Items) ->
    lists:foldl(fun push/2, State, Items);
reduce(Lazy, State) when is_function(Lazy, 0) ->
    case Lazy() of
        [] -> State;
        [Item | Rest] -> reduce(Rest, push(Item, State))
    end;
reduce(Enumerable, State) ->
    'Elixir.Enum':reduce(Enumerable, State, fun push/2).

%% Passes an item to the producer. Waits while too many items or bytes are ahead of it.
push(Item, {Producer, Count, Bytes}) ->
    receive
        {halt, Producer} -> throw({?MODULE, halted})
    after 0 -> ok
    end,
    Size = erlang:external_size(Item),
    Producer ! {item, self(), Item, Size},
    wait({Producer, Count + 1, Bytes + Size}).

wait({Producer, Count, Bytes}) when Count >= 2 * ?BATCH_ITEMS; Bytes >= ?BATCH_BYTES ->
    receive
        {sent, Producer, SentCount, SentBytes} ->
            wait({Producer, Count - SentCount, Bytes - SentBytes});
        {halt, Producer} ->
            throw({?MODULE, halted})
    end;
wait(State) ->
    State.
