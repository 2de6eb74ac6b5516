defmodule Quicdist do
  @moduledoc """
  Python nodes for Elixir.

    * `start_distribution/1` makes this VM a node over QUIC, with a supervised gateway.
    * `Quicdist.Python` and `Quicdist.Pool` start Python nodes under a supervisor.
    * `stream/5`, `subscribe/5`, `open/2` and `offer/1` are streams from and to Python nodes.

      for token <- Quicdist.stream(:"4433@10.0.0.7", :model, :generate, ["Once upon"]) do
        IO.write(token)
      end

  The Erlang interface and the messages of the protocol are in `:quicdist_stream`.
  """

  defmodule StreamError do
    @moduledoc """
    A stream could not be started, or its generator raised an error. `reason` is the exit reason of
    the producer, such as `:noconnection`, `:undef`, or the error of a Python function.
    """
    defexception [:reason]

    @impl true
    def message(%{reason: reason}), do: "the stream ended with #{describe(reason)}"

    defp describe({{:python_error, type, text, _trace}, _stack}), do: "#{type}: #{text}"
    defp describe({:python_error, type, text, _trace}), do: "#{type}: #{text}"
    defp describe({:undef, [{module, function, args, _} | _]}) when is_list(args) do
      "undef: #{Exception.format_mfa(module, function, length(args))} is not exported"
    end

    defp describe(reason), do: inspect(reason)
  end

  @doc """
  Starts a gateway and then the distribution of this VM, over QUIC.

      :ok = Quicdist.start_distribution(name: :"5555@10.0.0.7", cookie: :secret)

  The VM must have been started without a name and with
  `ERL_AFLAGS="-start_epmd false -epmd_module quicdist_epmd"`.

  Options: `:name` (`port@ip`), `:cookie`, `:program` (the quicdist program) or `:venv` (a virtual
  environment that has it), `:args` (more options of `quicdist gateway`), `:env`, `:ready_timeout`.
  """
  @spec start_distribution(keyword) :: :ok | {:error, term}
  def start_distribution(options), do: :quicdist.start_distribution(Quicdist.Python.to_map(options))

  @doc """
  Calls a function as `:erpc.call/5`, and tells it how long the caller waits.

  A Python function reads the deadline with `current_call()`, and its own calls end with it.
  """
  @spec call(node, module, atom, [term], timeout) :: term
  def call(node, module, function, args, timeout \\ 5_000) do
    :quicdist_call.call(node, module, function, args, timeout)
  end

  @type option ::
          {:max_items, pos_integer} | {:max_bytes, pos_integer} | {:timeout, timeout}

  @doc """
  Returns an enumerable of the items that an exported generator of `node` yields.

  The generator starts when the enumeration starts, and ends with the process that enumerates. It is closed
  when the enumeration ends, also early, as with `Enum.take/2`. At most `:max_items` items (1024)
  and `:max_bytes` bytes (1 MiB) are sent and not yet enumerated. The generator must start within
  `:timeout` milliseconds (5000).

  The enumeration raises `Quicdist.StreamError`.
  """
  @spec stream(node, module, atom, [term], [option]) :: Enumerable.t()
  def stream(node, module, function, args \\ [], options \\ []) do
    enumerable(fn -> :quicdist_stream.open(node, module, function, args, Map.new(options)) end)
  end

  @doc false
  def enumerable(open) do
    resource(fn ->
      case open.() do
        {:ok, stream} -> stream
        {:error, reason} -> raise StreamError, reason: reason
      end
    end)
  end

  @doc """
  Starts a stream whose items arrive as messages, for a process that must not wait.

  The caller gets `{:quicdist_stream, stream, answer}`: first, and once after each `ask/1`. The answer
  is `{:items, items}`, `:done`, or `{:error, reason}`. In a LiveView:

      def handle_info({:quicdist_stream, stream, {:items, tokens}}, socket) do
        Quicdist.ask(stream)
        {:noreply, update(socket, :text, &(&1 <> Enum.join(tokens)))}
      end

  The stream ends with the calling process, or with `cancel/1`. The options are those of `stream/5`.
  """
  @spec subscribe(node, module, atom, [term], [option]) ::
          {:ok, :quicdist_stream.stream()} | {:error, term}
  def subscribe(node, module, function, args \\ [], options \\ []) do
    asked(:quicdist_stream.open(node, module, function, args, Map.new(options)))
  end

  @doc false
  def asked(opened) do
    with {:ok, stream} <- opened do
      ask(stream)
      {:ok, stream}
    end
  end

  @doc """
  Asks for the next items of a stream of `subscribe/5`.

  Items that were received before are acknowledged, so the generator goes on.
  """
  @spec ask(:quicdist_stream.stream()) :: :ok
  def ask(stream), do: :quicdist_stream.ask(stream)

  @doc "Ends a stream of `subscribe/5`. The remote generator is closed, and no message follows."
  @spec cancel(:quicdist_stream.stream()) :: :ok
  def cancel(stream), do: :quicdist_stream.cancel(stream)

  @doc """
  Returns an enumerable of the items of a stream that another process offers, for example one that
  a Python caller passed as an argument. It can be enumerated once.
  """
  @spec open(:quicdist_stream.offer(), [option]) :: Enumerable.t()
  def open(offer, options \\ []) do
    resource(fn -> :quicdist_stream.open_offer(offer, Map.new(options)) end)
  end

  @doc """
  Offers an enumerable to a process of another node. The result is a term to pass as an argument.

  The enumerable runs in a process of this node, at the speed of the consumer. It ends with the
  calling process if it has not been opened.
  """
  @spec offer(Enumerable.t()) :: :quicdist_stream.offer()
  def offer(enumerable), do: :quicdist_stream.offer(enumerable)

  defp resource(open) do
    Stream.resource(open, &next/1, &:quicdist_stream.cancel/1)
  end

  defp next(stream) do
    case :quicdist_stream.next(stream) do
      {:items, items, stream} -> {items, stream}
      :done -> {:halt, stream}
      {:error, reason} -> raise StreamError, reason: reason
    end
  end
end
