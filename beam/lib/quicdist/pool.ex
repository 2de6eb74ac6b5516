defmodule Quicdist.Pool do
  @moduledoc """
  A pool of Python nodes under a supervisor.

      children = [
        {Quicdist.Pool, name: :models, size: 4, worker: [name: "0@127.0.0.1", modules: ["model.py"]]}
      ]

      Quicdist.Pool.call(:models, :model, :predict, [input])
      Quicdist.Pool.stream(:models, :model, :generate, [prompt]) |> Enum.each(&IO.write/1)

  A call or stream goes to the worker with the fewest of them. If that worker dies, a call exits with
  `{:worker_down, node}`, and the supervisor starts another one.
  """

  @doc "Returns the child specification. `:worker` has the options of `Quicdist.Python`."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: options |> to_map() |> :quicdist_pool.child_spec()

  @doc "Starts the pool and waits until all workers are up."
  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(options), do: options |> to_map() |> :quicdist_pool.start_link()

  @doc "Calls a function on the worker with the fewest running calls and streams, as `:erpc.call/5`."
  @spec call(atom, module, atom, [term], timeout) :: term
  def call(pool, module, function, args, timeout \\ 5_000) do
    :quicdist_pool.call(pool, module, function, args, timeout)
  end

  @doc "Returns an enumerable of the items of a generator on such a worker, as `Quicdist.stream/5`."
  @spec stream(atom, module, atom, [term], [Quicdist.option()]) :: Enumerable.t()
  def stream(pool, module, function, args \\ [], options \\ []) do
    Quicdist.enumerable(fn -> :quicdist_pool.open(pool, module, function, args, Map.new(options)) end)
  end

  @doc "Starts a stream from such a worker, whose items arrive as messages, as `Quicdist.subscribe/5`."
  @spec subscribe(atom, module, atom, [term], [Quicdist.option()]) ::
          {:ok, :quicdist_stream.stream()} | {:error, term}
  def subscribe(pool, module, function, args \\ [], options \\ []) do
    Quicdist.asked(:quicdist_pool.open(pool, module, function, args, Map.new(options)))
  end

  @doc "Returns the nodes of the workers that are up."
  @spec nodes(atom) :: [node]
  def nodes(pool), do: :quicdist_pool.nodes(pool)

  defp to_map(options) do
    options |> Map.new() |> Map.update!(:worker, &Quicdist.Python.to_map/1)
  end
end
