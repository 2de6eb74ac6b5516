venv = System.fetch_env!("QUICDIST_VENV")
port = String.to_integer(System.get_env("PORT", "5557"))
:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :example, venv: venv)

worker = [name: "0@127.0.0.1", modules: ["model.py"], venv: venv]
children = [{Quicdist.Pool, name: :models, size: 2, worker: worker}]
{:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

chunks = Enum.chunk_every(1..10_000, 100)

sum =
  chunks
  |> Task.async_stream(&Quicdist.Pool.call(:models, :model, :squares, [&1], 60_000),
    max_concurrency: 8,
    timeout: :infinity
  )
  |> Enum.reduce(0, fn {:ok, squares}, sum -> sum + Enum.sum(squares) end)

IO.puts("the sum of the squares is #{sum}")

try do
  Quicdist.Pool.call(:models, :model, :crash, [], 60_000)
catch
  :exit, {:worker_down, _} -> IO.puts("a worker crashed")
end

wait = fn wait ->
  length(Quicdist.Pool.nodes(:models)) == 2 || (Process.sleep(50) && wait.(wait))
end

wait.(wait)
IO.inspect(Quicdist.Pool.call(:models, :model, :squares, [[2, 3]]), charlists: :as_lists)
Supervisor.stop(supervisor)
