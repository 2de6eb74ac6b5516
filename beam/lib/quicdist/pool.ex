defmodule Quicdist.Pool do
  @moduledoc """
  A pool of Python nodes under a supervisor.

      children = [
        {Quicdist.Pool, name: :models, size: 4, worker: [name: "0@127.0.0.1", modules: ["model.py"]]}
      ]

      Quicdist.Pool.call(:models, :model, :predict, [input])

  A call goes to the worker with the fewest running calls. If that worker dies, the call exits with
  `{:worker_down, node}`, and the supervisor starts another one.
  """

  @doc "Returns the child specification. `:worker` has the options of `Quicdist.Python`."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: options |> to_map() |> :quicdist_pool.child_spec()

  @doc "Starts the pool and waits until all workers are up."
  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(options), do: options |> to_map() |> :quicdist_pool.start_link()

  @doc "Calls a function on the worker with the fewest running calls, as `:erpc.call/5`."
  @spec call(atom, module, atom, [term], timeout) :: term
  def call(pool, module, function, args, timeout \\ 5_000) do
    :quicdist_pool.call(pool, module, function, args, timeout)
  end

  @doc "Returns the nodes of the workers that are up."
  @spec nodes(atom) :: [node]
  def nodes(pool), do: :quicdist_pool.nodes(pool)

  defp to_map(options) do
    options |> Map.new() |> Map.update!(:worker, &Quicdist.Python.to_map/1)
  end
end
