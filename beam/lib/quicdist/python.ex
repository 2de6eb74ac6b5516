defmodule Quicdist.Python do
  @moduledoc """
  A Python node under a supervisor.

      children = [
        {Quicdist.Python, name: "4433@127.0.0.1", modules: ["calc.py"], venv: "python/.venv"}
      ]

      Supervisor.start_link(children, strategy: :one_for_one)
      3 = :erpc.call(:"4433@127.0.0.1", :calc, :add, [1, 2])

  The child starts when the node is up. The log lines of Python go to `Logger`. On shutdown the node
  drains. It ends with the Erlang VM, however that ends. If it crashes, the supervisor decides.

  Options:

    * `:name` - the name of the node, `port@ip` or `name@host`. Port 0 selects a free port;
      `node_name/1` returns the name then. Required.
    * `:modules` - Python modules or files, whose functions with `@export` are served.
    * `:script` - a script instead of modules. It takes the cookie from the environment variable
      `QUICDIST_COOKIE`, and prints `NAME is up` when it is a node. The README has an example.
    * `:venv` - a virtual environment; or `:uv` - a project of uv. By default the `quicdist`, or the
      `python3`, on the PATH.
    * `:args` - more options of `quicdist run`, or arguments of the script.
    * `:env`, `:cd` - the environment and the working directory.
    * `:cookie` - by default that of this node.
    * `:ready_timeout` - milliseconds until the node must be up, 30,000.
    * `:shutdown` - milliseconds for running calls to end, 5,000.
    * `:log` - a function of the level and the text of each line, instead of `Logger`.
    * `:events` - a function of the name, measurements and metadata of events, such as
      `&:telemetry.execute/3`. The names are `[:quicdist, :program, :ready]`,
      `[:quicdist, :program, :exit]` and, of a pool, `[:quicdist, :pool, :call]`.
    * `:id`, `:restart` - as in any child specification.
  """

  @doc "Returns the child specification."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    {restart, options} = Keyword.pop(options, :restart, :permanent)
    %{:quicdist_python.child_spec(to_map(options)) | restart: restart}
  end

  @doc "Starts the node and waits until it is up."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options), do: :quicdist_python.start_link(to_map(options))

  @doc "Returns the name of the node, with its real port."
  @spec node_name(GenServer.server()) :: node
  def node_name(python), do: :quicdist_python.node_name(python)

  @doc false
  def to_map(options) do
    Map.new(options, fn
      {:env, env} -> {:env, Enum.map(env, fn {k, v} -> {to_charlist(k), v && to_charlist(v)} end)}
      {key, value} -> {key, value}
    end)
  end
end
