venv = System.fetch_env!("QUICDIST_VENV")
port = String.to_integer(System.get_env("PORT", "5556"))
:ok = Quicdist.start_distribution(name: :"#{port}@127.0.0.1", cookie: :example, venv: venv)
{:ok, python} = Quicdist.Python.start_link(name: "0@127.0.0.1", modules: ["etl.py"], venv: venv)

# The rows are computed as Python takes them: a million need no more memory than a thousand.
rows =
  1..100_000
  |> Stream.map(fn number -> {Enum.at(["ann", "bob", "eve"], rem(number, 3)), number * 1.0} end)

table =
  :erpc.call(Quicdist.Python.node_name(python), :etl, :totals, [Quicdist.offer(rows)], :infinity)

# Explorer.DataFrame.load_ipc_stream!(table) makes a data frame of it.
IO.puts("an Arrow table of #{byte_size(table)} bytes")
GenServer.stop(python)
